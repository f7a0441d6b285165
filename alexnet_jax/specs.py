"""The checked, frozen sections of a config: what every other module is given instead of a ConfigDict."""

import typing
from dataclasses import dataclass

OPERATIONS = ("act", "lrn", "spatial_norm", "pool", "batch_norm", "dropout")


@dataclass(frozen=True)
class PoolSpec:
    """§3.4. `rounding='ceil'` keeps a last window that hangs over the border, as layer.py of 2012 does."""

    kind: typing.Literal["max", "average"]
    window: int
    stride: int
    rounding: typing.Literal["ceil", "floor"]


@dataclass(frozen=True)
class ConvSpec:
    """A convolution ('local': its own kernels at every place) and what follows it, read left to right."""

    kind: typing.Literal["conv", "local"]
    features: int
    kernel: int
    stride: int
    pad: tuple[int, int]
    """Zeros before and after, in both directions."""
    groups: int
    init_std: float
    bias: float
    then: tuple[str, ...]
    pool: PoolSpec | None = None


@dataclass(frozen=True)
class FCSpec:
    """A fully-connected row; `features=None` stands for the number of classes."""

    features: int | None
    groups: int
    init_std: float
    bias: float
    before: tuple[str, ...]
    then: tuple[str, ...]


@dataclass(frozen=True)
class LRNSpec:
    """§3.3: b = a / (k + alpha * sum of squares over n maps)^beta; alpha is per squared term."""

    k: float
    n: int
    alpha: float
    beta: float


@dataclass(frozen=True)
class SpatialNormSpec:
    """The same-map normalization of the 2012 code over size x size places; its constant term is 1."""

    size: int
    alpha: float
    beta: float


@dataclass(frozen=True)
class BatchNormSpec:
    momentum: float
    epsilon: float


@dataclass(frozen=True)
class DropoutSpec:
    """`scale_at='test'` multiplies by 1 - rate at test time (§4.2); 'train' divides by it in training."""

    rate: float
    scale_at: typing.Literal["test", "train"]


@dataclass(frozen=True)
class ModelSpec:
    num_classes: int | None
    """None: counted from the data."""
    activation: typing.Literal["relu", "tanh", "scaled_tanh", "abs_tanh", "sigmoid", "softplus"]
    lrn: bool
    overlapping_pooling: bool
    towers: int
    init: typing.Literal["gaussian", "he", "glorot"]
    compute_dtype: typing.Literal["float32", "bfloat16"]
    lrn_constants: LRNSpec
    spatial_norm: SpatialNormSpec
    batch_norm: BatchNormSpec
    dropout: DropoutSpec
    convs: tuple[tuple[str, ConvSpec], ...]
    fcs: tuple[tuple[str, FCSpec], ...]


@dataclass(frozen=True)
class DataSpec:
    source: typing.Literal["digits", "synthetic", "folder", "arrays", "cifar10", "tfds", "store"]
    path: str | None
    name: str | None
    image_size: int
    classes: tuple[str, ...]
    validation: float
    shuffle: typing.Literal["epoch", "once"]
    threads: int
    prefetch: int


@dataclass(frozen=True)
class AugmentSpec:
    resize: int | None
    crop_size: int
    crop: typing.Literal["random", "center"]
    crop_chunk: int
    flip: bool
    mean: typing.Literal["pixel", "image_center", "channel", "none", "standardize"]
    scale: float
    color_std: float
    color_basis: typing.Literal["std", "eigenvalue"]
    color_rescale: bool
    color_off_epoch: float | None


@dataclass(frozen=True)
class OptimizerSpec:
    kind: typing.Literal["momentum", "adam"]
    momentum: float
    weight_decay: float
    layer_weight_decay: dict[str, float]


@dataclass(frozen=True)
class RateSpec:
    """A learning rate over time: rate(t) starts at `learning_rate`.

    plateau: times `factor`, at most `max_drops` times, when the validation error has not fallen by
        `min_improvement` for `patience` evaluations.
    epochs: times `factor` when each of `drops` epochs has passed; no drops means constant.
    exp, dexp, linear: the 2012 program's lr.cu; `target` is the total reduction, `plateaus` the levels of dexp.
    """

    kind: typing.Literal["plateau", "epochs", "exp", "dexp", "linear"]
    learning_rate: float
    factor: float = 0.1
    max_drops: int = 3
    patience: int = 5
    min_improvement: float = 0.001
    drops: tuple[float, ...] = ()
    target: float = 1.0
    plateaus: int = 1


@dataclass(frozen=True)
class ScheduleSpec:
    weights: RateSpec
    biases: RateSpec | None
    """None: the rate of the weights times `bias_factor`."""
    bias_factor: float
    layer_factors: dict[str, tuple[tuple[float, float], ...]]
    """Layer -> ((from epoch, factor), ...), times both of its rates; factor 0 freezes it."""


@dataclass(frozen=True)
class TrainSpec:
    epochs: float
    max_steps: int | None
    batch_size: int
    accumulate: int
    loss: typing.Literal["cross_entropy", "mse"]
    log_every: int
    checkpoint_every: int
    keep_every: int | None


@dataclass(frozen=True)
class EvaluationSpec:
    every_epochs: float
    batch_size: int
    views: typing.Literal["center", "ten", "nine"]
    final_views: tuple[str, ...]


@dataclass(frozen=True)
class Config:
    name: str
    seed: int
    model: ModelSpec
    data: DataSpec
    augment: AugmentSpec
    optimizer: OptimizerSpec
    schedule: ScheduleSpec
    train: TrainSpec
    evaluation: EvaluationSpec
