"""The checked, frozen sections of a config: what every other module is given instead of a ConfigDict.

A new key needs a default that means what was done before there was the key, and no default may change: the config.json
of older run folders and weights files is read by these (tests/config/test_schema.py).

The type of a number says its range; a `float` alone may be any finite number.
"""

import math
import typing
import unicodedata
from dataclasses import dataclass
from pathlib import Path


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


class AtMost(float):
    """Above it a number makes no sense, and something would overflow, or never end."""

    def __contains__(self, number: float) -> bool:
        return number <= float(self)

    def __str__(self) -> str:
        return f"at most {float(self):,.0f}" if self < 1e15 else f"at most {float(self):g}"


class Length(int):
    """The most values that a tuple may have."""

    def __contains__(self, values: typing.Sized) -> bool:
        return len(values) <= int(self)

    def __str__(self) -> str:
        return f"at most {int(self):,} values"


class _Unicode:
    """Of names, which go into files; paths may have any bytes."""

    def __contains__(self, text: str) -> bool:
        return not any(unicodedata.category(letter) == "Cs" for letter in text)

    def __str__(self) -> str:
        return "UTF-8"


MOST_STEPS = 2**31 - 1
"""The number of a step is an int32 on the device."""
LARGEST = 1e30
"""Of numbers that have no limit by their meaning: far from the ends of float32."""
Count = typing.Annotated[int, Range(1), AtMost(2**24)]
Steps = typing.Annotated[int, Range(1), AtMost(MOST_STEPS)]
Threads = typing.Annotated[int, Range(1), AtMost(4096)]
Pixels = typing.Annotated[int, Range(1), AtMost(8192)]
Window = typing.Annotated[int, Range(1), AtMost(1024)]
"""Of kernels, pools and their strides, in pixels; of normalization, in maps."""
Features = typing.Annotated[int, Range(1), AtMost(2**20)]
Pad = typing.Annotated[int, Range(0), AtMost(1024)]
NaturalNumber = typing.Annotated[int, Range(0), AtMost(4096)]
Finite = typing.Annotated[float, Range(-LARGEST), AtMost(LARGEST)]
Positive = typing.Annotated[float, Range(0, ends="()"), AtMost(LARGEST)]
NotNegative = typing.Annotated[float, Range(0), AtMost(LARGEST)]
Epochs = typing.Annotated[float, Range(0, ends="()"), AtMost(1e6)]
Duration = typing.Annotated[float, Range(0, ends="()"), AtMost(1e9)]
Share = typing.Annotated[float, Range(0, 1)]
Text = typing.Annotated[str, _Unicode()]
MOST_ROWS = 100
MOST_CLASSES = 2**20
MOST_OPERATIONS = 32
"""Of a row."""
Operation = typing.Literal["act", "lrn", "spatial_norm", "pool", "batch_norm", "dropout"]
FCOperation = typing.Literal["act", "batch_norm", "dropout"]
Exif = typing.Literal["ignore", "apply"]
Views = typing.Literal["center", "ten", "nine", "dense"]
VIEWS: tuple[str, ...] = typing.get_args(Views)


def seen(view: str) -> str:
    """One of VIEWS in words: 'center crop', 'ten views' ..."""
    return "center crop" if view == "center" else f"{view} views"


class _ModuleIn:
    """The name of a module in this folder of the package."""

    def __init__(self, folder: str):
        self._folder = Path(__file__).parent / folder

    def _names(self) -> list[str]:
        return sorted(path.stem for path in self._folder.glob("[!_]*.py"))

    def __contains__(self, name: str) -> bool:
        return name in self._names()

    def __str__(self) -> str:
        return f"one of {', '.join(self._names())}"


@dataclass(frozen=True)
class PoolSpec:
    """§3.4. `rounding='ceil'` keeps a last window that hangs over the border, as layer.py of 2012 does."""

    kind: typing.Literal["max", "average"]
    window: Window
    stride: Window
    rounding: typing.Literal["ceil", "floor"]


@dataclass(frozen=True)
class ConvSpec:
    """A convolution ('local': its own kernels at every place) and what follows it, read left to right."""

    kind: typing.Literal["conv", "local"]
    features: Features
    kernel: Window
    stride: Window
    pad: tuple[Pad, Pad]
    """Zeros before and after, in both directions."""
    groups: Features
    init_std: NotNegative
    bias: Finite
    then: typing.Annotated[tuple[Operation, ...], Length(MOST_OPERATIONS)]
    pool: PoolSpec | None = None


@dataclass(frozen=True)
class FCSpec:
    """A fully-connected row; `features=None` stands for the number of classes."""

    features: Features | None
    groups: Features
    init_std: NotNegative
    bias: Finite
    before: typing.Annotated[tuple[FCOperation, ...], Length(MOST_OPERATIONS)]
    then: typing.Annotated[tuple[FCOperation, ...], Length(MOST_OPERATIONS)]


@dataclass(frozen=True)
class LRNSpec:
    """§3.3: b = a / (k + alpha * sum of squares over n maps)^beta; alpha is per squared term."""

    k: Positive
    n: Window
    alpha: NotNegative
    beta: NotNegative
    within_towers: bool = True
    """Whether a window ends with the maps of its tower. False: it runs over all maps of the layer."""


@dataclass(frozen=True)
class SpatialNormSpec:
    """The same-map normalization of the 2012 code over size x size places; its constant term is 1."""

    size: typing.Annotated[int, Range(1), AtMost(64)]
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
    num_classes: typing.Annotated[int, Range(2), AtMost(MOST_CLASSES)] | None
    """None: counted from the data."""
    activation: typing.Literal["relu", "tanh", "scaled_tanh", "abs_tanh", "sigmoid", "softplus"]
    lrn: bool
    overlapping_pooling: bool
    towers: Features
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
    name: Text | None
    image_size: Pixels
    classes: typing.Annotated[tuple[Text, ...], Length(MOST_CLASSES)]
    validation: Share
    shuffle: typing.Literal["epoch", "once"]
    threads: Threads
    prefetch: NaturalNumber
    placement: typing.Literal["auto", "device", "host"]
    exif: Exif = "ignore"
    """'apply': photos are turned as their EXIF orientation says; 'ignore': as they are stored."""
    skip_unreadable: bool = False
    """Of source 'folder', train on the images that can be decoded; the run records the others."""


@dataclass(frozen=True)
class AugmentSpec:
    resize: Pixels | None
    crop_size: Pixels
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
    extra: typing.Annotated[
        tuple[typing.Annotated[str, _ModuleIn("data/pipeline/augmentations")], ...], Length(32)
    ] = ()
    """Further augmentations, applied in this order."""


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
    drops: typing.Annotated[tuple[Positive, ...], Length(1000)] = ()
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
    epochs: Epochs
    max_steps: Steps | None
    batch_size: Count
    accumulate: Count
    split_towers: bool
    """§3.2: each tower of the net on a device of its own."""
    loss: typing.Literal["cross_entropy", "mse"]
    log_every: Steps
    checkpoint_every: Steps
    keep_every: Steps | None
    stall_seconds: Duration
    label_smoothing: Share = 0.0
    """Of cross_entropy: the target is 1 - this for the label, plus this / classes for each class."""
    keep_powers_of_two: bool = False
    """Save, and keep, the checkpoints of steps 0, 1, 2, 4, 8 ...: how a net comes to be what it is."""
    checkpoint_minutes: typing.Annotated[float, Range(0), AtMost(1e9)] = 10.0
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
    every_epochs: Epochs
    batch_size: Count
    """Crops that go through the net together: with ten views, of a tenth as many images."""
    views: Views
    final_views: tuple[Views, ...]


@dataclass(frozen=True)
class Config:
    name: Text
    seed: typing.Annotated[int, Range(0, 2**32)]
    """32 bits: jax.random.key drops those above."""
    model: ModelSpec
    data: DataSpec
    augment: AugmentSpec
    optimizer: OptimizerSpec
    schedule: ScheduleSpec
    train: TrainSpec
    evaluation: EvaluationSpec
