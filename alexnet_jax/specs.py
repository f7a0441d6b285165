"""The checked, frozen sections of a config: what every other module is given instead of a ConfigDict.

A new key needs a default that means what was done before there was the key, and no default may change: the config.json
of older run folders and weights files is read by these (tests/test_schema.py).

The type of a number says its range; a `float` alone may be any finite number.
"""

import math
import typing
from dataclasses import dataclass


@dataclass(frozen=True)
class Range:
    """The numbers from `low` to `high`; in `ends` a round bracket leaves that end out, as in mathematics."""

    low: float
    high: float = math.inf
    ends: typing.Literal["[)", "()", "(]"] = "[)"

    def __contains__(self, number: float) -> bool:
        above = number > self.low or (self.ends[0] == "[" and number == self.low)
        return above and (number < self.high or (self.ends[1] == "]" and number == self.high))

    def __str__(self) -> str:
        if self.high < math.inf:
            return f"in {self.ends[0]}{self.low}, {self.high}{self.ends[1]}"
        return f"at least {self.low}" if self.ends[0] == "[" else f"above {self.low}"


Count = typing.Annotated[int, Range(1)]
NaturalNumber = typing.Annotated[int, Range(0)]
Positive = typing.Annotated[float, Range(0, ends="()")]
NotNegative = typing.Annotated[float, Range(0)]
Share = typing.Annotated[float, Range(0, 1)]
Operation = typing.Literal["act", "lrn", "spatial_norm", "pool", "batch_norm", "dropout"]
FCOperation = typing.Literal["act", "batch_norm", "dropout"]
Exif = typing.Literal["ignore", "apply"]
Views = typing.Literal["center", "ten", "nine", "dense"]
VIEWS: tuple[str, ...] = typing.get_args(Views)


def seen(view: str) -> str:
    """One of VIEWS in words: 'center crop', 'ten views' ..."""
    return "center crop" if view == "center" else f"{view} views"


@dataclass(frozen=True)
class PoolSpec:
    """§3.4. `rounding='ceil'` keeps a last window that hangs over the border, as layer.py of 2012 does."""

    kind: typing.Literal["max", "average"]
    window: Count
    stride: Count
    rounding: typing.Literal["ceil", "floor"]


@dataclass(frozen=True)
class ConvSpec:
    """A convolution ('local': its own kernels at every place) and what follows it, read left to right."""

    kind: typing.Literal["conv", "local"]
    features: Count
    kernel: Count
    stride: Count
    pad: tuple[NaturalNumber, NaturalNumber]
    """Zeros before and after, in both directions."""
    groups: Count
    init_std: NotNegative
    bias: float
    then: tuple[Operation, ...]
    pool: PoolSpec | None = None


@dataclass(frozen=True)
class FCSpec:
    """A fully-connected row; `features=None` stands for the number of classes."""

    features: Count | None
    groups: Count
    init_std: NotNegative
    bias: float
    before: tuple[FCOperation, ...]
    then: tuple[FCOperation, ...]


@dataclass(frozen=True)
class LRNSpec:
    """§3.3: b = a / (k + alpha * sum of squares over n maps)^beta; alpha is per squared term."""

    k: Positive
    n: Count
    alpha: NotNegative
    beta: NotNegative
    within_towers: bool = True
    """Whether a window ends with the maps of its tower. False: it runs over all maps of the layer."""


@dataclass(frozen=True)
class SpatialNormSpec:
    """The same-map normalization of the 2012 code over size x size places; its constant term is 1."""

    size: Count
    alpha: NotNegative
    beta: NotNegative


@dataclass(frozen=True)
class BatchNormSpec:
    momentum: Share
    epsilon: Positive


@dataclass(frozen=True)
class DropoutSpec:
    """`scale_at='test'` multiplies by 1 - rate at test time (§4.2); 'train' divides by it in training."""

    rate: Share
    scale_at: typing.Literal["test", "train"]


@dataclass(frozen=True)
class ModelSpec:
    num_classes: typing.Annotated[int, Range(2)] | None
    """None: counted from the data."""
    activation: typing.Literal["relu", "tanh", "scaled_tanh", "abs_tanh", "sigmoid", "softplus"]
    lrn: bool
    overlapping_pooling: bool
    towers: Count
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
    image_size: Count
    classes: tuple[str, ...]
    validation: Share
    shuffle: typing.Literal["epoch", "once"]
    threads: Count
    prefetch: NaturalNumber
    placement: typing.Literal["auto", "device", "host"]
    exif: Exif = "ignore"
    """'apply': photos are turned as their EXIF orientation says; 'ignore': as they are stored."""
    skip_unreadable: bool = False
    """Of source 'folder', train on the images that can be decoded; the run records the others."""


@dataclass(frozen=True)
class AugmentSpec:
    resize: Count | None
    crop_size: Count
    crop: typing.Literal["random", "center", "random_resized"]
    """In training. 'random_resized': boxes of random size and shape, resized (Szegedy et al., 2015)."""
    crop_chunk: Count
    flip: bool
    mean: typing.Literal["pixel", "image_center", "channel", "none", "standardize"]
    scale: Positive
    color_std: NotNegative
    color_basis: typing.Literal["std", "eigenvalue"]
    color_rescale: bool
    color_off_epoch: NotNegative | None
    min_area: typing.Annotated[float, Range(0, 1, ends="(]")] = 0.08
    """Of 'random_resized': the least share of an image that a box holds."""


@dataclass(frozen=True)
class OptimizerSpec:
    """`momentum` is the rule of §5. `adam` (Kingma and Ba, 2015) has no weight decay; that of `adamw` is apart from the
    gradient (Loshchilov and Hutter, 2019)."""

    kind: typing.Literal["momentum", "adam", "adamw"]
    momentum: Share
    """Of `momentum` alone."""
    weight_decay: NotNegative
    """Of kernels."""
    layer_weight_decay: dict[str, NotNegative]
    """Row -> the decay of its kernel, where it differs."""
    bias_weight_decay: NotNegative = 0.0
    """Of the biases of all rows. The scale and offset of batch normalization never decay."""
    b1: Share = 0.9
    """adam, adamw: of the running mean of the gradient."""
    b2: Share = 0.999
    """adam, adamw: of the running mean of its square."""
    epsilon: Positive = 1e-8
    """adam, adamw: added to the root of that mean."""


@dataclass(frozen=True)
class RateSpec:
    """A learning rate over time: rate(t) starts at `learning_rate`.

    plateau: times `factor`, at most `max_drops` times, when the validation error has not fallen by
        `min_improvement` for `patience` evaluations.
    epochs: times `factor` when each of `drops` epochs has passed; no drops means constant.
    exp, dexp, linear: the 2012 program's lr.cu; `target` is the total reduction, `plateaus` the levels of dexp.
    cosine: half a cosine, down to 0 at the end (Loshchilov and Hutter, 2017, without restarts).
    """

    kind: typing.Literal["plateau", "epochs", "exp", "dexp", "linear", "cosine"]
    learning_rate: NotNegative
    factor: typing.Annotated[float, Range(0, 1, ends="(]")] = 0.1
    max_drops: NaturalNumber = 3
    patience: Count = 5
    min_improvement: Share = 0.001
    drops: tuple[Positive, ...] = ()
    target: Positive = 1.0
    plateaus: Count = 1


@dataclass(frozen=True)
class ScheduleSpec:
    weights: RateSpec
    biases: RateSpec | None
    """None: the rate of the weights times `bias_factor`."""
    bias_factor: NotNegative
    layer_factors: dict[str, tuple[tuple[NotNegative, NotNegative], ...]]
    """Layer -> ((from epoch, factor), ...), times both of its rates; factor 0 freezes it."""


@dataclass(frozen=True)
class TrainSpec:
    epochs: Positive
    max_steps: Count | None
    batch_size: Count
    accumulate: Count
    split_towers: bool
    """§3.2: each tower of the net on a device of its own."""
    loss: typing.Literal["cross_entropy", "mse"]
    log_every: Count
    checkpoint_every: Count
    keep_every: Count | None
    stall_seconds: Positive
    label_smoothing: Share = 0.0
    """Of cross_entropy: the target is 1 - this for the label, plus this / classes for each class."""
    keep_powers_of_two: bool = False
    """Save, and keep, the checkpoints of steps 0, 1, 2, 4, 8 ...: how a net comes to be what it is."""
    checkpoint_minutes: NotNegative = 10.0
    """Save also when this much time has passed since the last checkpoint; 0: by steps alone."""
    matmul_precision: typing.Literal["default", "highest"] = "default"
    """Of float32 products and convolutions. 'default': TF32 where the device has it; 'highest': float32."""
    deterministic: bool = False
    """On a GPU: only kernels that give the same bits each time. CPUs always do."""
    exact: bool = True
    """Dropout masks that depend on the example alone. False: one draw for a layer and device, faster on GPUs."""
    steps_per_dispatch: Count = 1
    """Steps that the devices are given at once, where all images lie on them."""


@dataclass(frozen=True)
class EvaluationSpec:
    every_epochs: Positive
    batch_size: Count
    """Crops that go through the net together: with ten views, of a tenth as many images."""
    views: Views
    final_views: tuple[Views, ...]


@dataclass(frozen=True)
class Config:
    name: str
    seed: typing.Annotated[int, Range(0, 2**32)]
    """32 bits: jax.random.key drops those above."""
    model: ModelSpec
    data: DataSpec
    augment: AugmentSpec
    optimizer: OptimizerSpec
    schedule: ScheduleSpec
    train: TrainSpec
    evaluation: EvaluationSpec
