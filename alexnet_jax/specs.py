"""The frozen, checked form of a config, which every module takes instead of a ConfigDict.

A new key needs a default under which older configs mean what they did, and no default may change: config.json of
older run folders and weights files is read with these classes (tests/config/test_schema.py).

The type of a number has its range; a plain `float` may be any finite number.
"""

import math
import typing
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Range:
    """An interval of numbers."""

    low: float
    high: float = math.inf
    #: Brackets as in mathematics: a round one excludes its end.
    ends: typing.Literal["[)", "()", "(]"] = "[)"

    def __contains__(self, number: float) -> bool:
        above = number > self.low or (self.ends[0] == "[" and number == self.low)
        return above and (number < self.high or (self.ends[1] == "]" and number == self.high))

    def __str__(self) -> str:
        if self.high < math.inf:
            return f"in {self.ends[0]}{self.low}, {self.high}{self.ends[1]}"
        return f"at least {self.low}" if self.ends[0] == "[" else f"above {self.low}"


class AtMost(float):
    """An upper limit, above which something would overflow or never end."""

    def __contains__(self, number: float) -> bool:
        return number <= float(self)

    def __str__(self) -> str:
        return f"at most {float(self):,.0f}" if self < 1e15 else f"at most {float(self):g}"


class Length(int):
    """The maximum length of a tuple."""

    def __contains__(self, values: typing.Sized) -> bool:
        return len(values) <= int(self)

    def __str__(self) -> str:
        return f"at most {int(self):,} values"


@dataclass(frozen=True)
class Condition:
    """Any other condition on a value; `words` describes it in error messages."""

    words: str
    holds: Callable[[typing.Any], bool]

    def __contains__(self, value: typing.Any) -> bool:
        return self.holds(value)

    def __str__(self) -> str:
        return self.words


def _is_unicode(text: str) -> bool:
    return not any(unicodedata.category(letter) == "Cs" for letter in text)


class Registered(str):
    """Marks a str that names an entry of a registry in alexnet_jax.model.operations, such as "operation"."""


#: A step number is an int32 on the device.
MOST_STEPS = 2**31 - 1
#: Limit of numbers whose meaning sets none, well within the range of float32.
LARGEST = 1e30
Count = typing.Annotated[int, Range(1), AtMost(2**24)]
Steps = typing.Annotated[int, Range(1), AtMost(MOST_STEPS)]
Threads = typing.Annotated[int, Range(1), AtMost(4096)]
Pixels = typing.Annotated[int, Range(1), AtMost(8192)]
#: Size or stride of a kernel or pool, in pixels, or of a normalization, in maps.
Window = typing.Annotated[int, Range(1), AtMost(1024)]
Features = typing.Annotated[int, Range(1), AtMost(2**20)]
Pad = typing.Annotated[int, Range(0), AtMost(1024)]
NaturalNumber = typing.Annotated[int, Range(0), AtMost(4096)]
Finite = typing.Annotated[float, Range(-LARGEST), AtMost(LARGEST)]
Positive = typing.Annotated[float, Range(0, ends="()"), AtMost(LARGEST)]
NotNegative = typing.Annotated[float, Range(0), AtMost(LARGEST)]
Epochs = typing.Annotated[float, Range(0, ends="()"), AtMost(1e6)]
Duration = typing.Annotated[float, Range(0, ends="()"), AtMost(1e9)]
Share = typing.Annotated[float, Range(0, 1)]
#: A name that is written to files; paths may hold any bytes.
Text = typing.Annotated[str, Condition("UTF-8", _is_unicode)]
MOST_LAYERS = 100
MOST_CLASSES = 2**20
#: Of one layer.
MOST_OPERATIONS = 32
Operation = typing.Annotated[str, Registered("operation")]
FCOperation = typing.Annotated[str, Registered("dense operation")]
Exif = typing.Literal["ignore", "apply"]
Views = typing.Literal["center", "ten", "nine", "dense"]
VIEWS: tuple[str, ...] = typing.get_args(Views)


def views_in_words(view: str) -> str:
    """One of VIEWS in words, such as "center crop" and "ten views"."""
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
    """A pooling operation (§3.4)."""

    kind: typing.Literal["max", "average"]
    window: Window
    stride: Window
    #: 'ceil' keeps a last window that extends over the border, as layer.py of 2012 does.
    rounding: typing.Literal["ceil", "floor"]


@dataclass(frozen=True)
class ConvSpec:
    """A convolutional layer: a convolution, then the operations `ops` in order."""

    #: 'local' has separate kernels at every position.
    kind: typing.Literal["conv", "local"]
    features: Features
    kernel: Window
    stride: Window
    #: Zeros before and after the image, in both directions.
    pad: tuple[Pad, Pad]
    groups: Features
    #: Standard deviation of the initial kernels, for model.init='gaussian'.
    init_std: NotNegative
    #: Initial value of the biases.
    bias: Finite
    #: The config key is "then".
    ops: typing.Annotated[tuple[Operation, ...], Length(MOST_OPERATIONS)] = field(
        metadata={"key": "then"}
    )
    #: The pool that the operation 'pool' refers to.
    pool: PoolSpec | None = None
    #: Always empty; code can thus treat both kinds of layers alike.
    pre_ops: typing.ClassVar[tuple[()]] = ()


@dataclass(frozen=True)
class FCSpec:
    """A fully-connected layer: the operations `pre_ops`, the product with the weights, then `ops`."""

    #: None: the number of classes.
    features: Features | None
    groups: Features
    #: Standard deviation of the initial weights, for model.init='gaussian'.
    init_std: NotNegative
    #: Initial value of the biases.
    bias: Finite
    #: The config key is "before".
    pre_ops: typing.Annotated[tuple[FCOperation, ...], Length(MOST_OPERATIONS)] = field(
        metadata={"key": "before"}
    )
    #: The config key is "then".
    ops: typing.Annotated[tuple[FCOperation, ...], Length(MOST_OPERATIONS)] = field(
        metadata={"key": "then"}
    )


@dataclass(frozen=True)
class LRNSpec:
    """Local response normalization (§3.3): b = a / (k + alpha * sum of squares over n maps)^beta."""

    k: Positive
    n: Window
    #: Multiplies each squared term, not their mean.
    alpha: NotNegative
    beta: NotNegative
    #: Whether a window ends at the border of its tower; otherwise it spans all maps of the layer.
    within_towers: bool = True


@dataclass(frozen=True)
class SpatialNormSpec:
    """Normalization over size x size pixels of one map, as in the 2012 code; its constant term is 1."""

    size: typing.Annotated[int, Range(1), AtMost(64)]
    alpha: NotNegative
    beta: NotNegative


@dataclass(frozen=True)
class BatchNormSpec:
    """Batch normalization (Ioffe and Szegedy, 2015)."""

    momentum: Share
    epsilon: Positive


@dataclass(frozen=True)
class DropoutSpec:
    """Dropout (§4.2)."""

    rate: Share
    #: 'test' multiplies by 1 - rate at test time, as the paper; 'train' divides by it in training.
    scale_at: typing.Literal["test", "train"]


@dataclass(frozen=True)
class ModelSpec:
    """The network."""

    #: None: counted from the data.
    num_classes: typing.Annotated[int, Range(2), AtMost(MOST_CLASSES)] | None
    activation: typing.Annotated[str, Registered("activation")]
    #: Ablation switch: False removes the normalizations (config/switches.py).
    lrn: bool
    #: Ablation switch: False makes each pool's window as large as its stride.
    overlapping_pooling: bool
    #: Number of towers (§3.2), for LRN and split_towers; which maps a layer takes as input depends on its groups.
    towers: Features
    init: typing.Literal["gaussian", "he", "glorot"]
    compute_dtype: typing.Literal["float32", "bfloat16"]
    lrn_constants: LRNSpec
    spatial_norm: SpatialNormSpec
    batch_norm: BatchNormSpec
    dropout: DropoutSpec
    #: Layers by name, first to last.
    convs: tuple[tuple[str, ConvSpec], ...]
    fcs: tuple[tuple[str, FCSpec], ...]

    @property
    def layers(self) -> tuple[tuple[str, ConvSpec | FCSpec], ...]:
        """All layers by name, first to last."""
        return (*self.convs, *self.fcs)


#: Sources of images that read no files.
NO_FILES = ("digits", "synthetic")
#: Sources of encoded images that are listed before any is decoded; 'folder' recognizes the others.
LISTED = ("folder", "kaggle", "huggingface", "webdataset", "labels_csv")


@dataclass(frozen=True)
class DataSpec:
    """The dataset."""

    source: typing.Literal[
        "digits", "synthetic", "folder", "arrays", "cifar10", "tfds", "store",
        "kaggle", "huggingface", "webdataset", "labels_csv",
    ]  # fmt: skip
    #: A file or folder; None for a source without one.
    path: str | None
    #: Name of a tfds dataset.
    name: Text | None
    #: Size at which images are stored, in pixels.
    image_size: Pixels
    #: Classes to keep; empty: all.
    classes: typing.Annotated[tuple[Text, ...], Length(MOST_CLASSES)]
    #: Share of 'train' that becomes 'val', drawn by the seed.
    validation: Share
    shuffle: typing.Literal["epoch", "once"]
    threads: Threads
    #: Batches that are prepared ahead.
    prefetch: NaturalNumber
    #: Where the images are kept during training.
    placement: typing.Literal["auto", "device", "host"]
    #: 'apply': images are rotated by their EXIF orientation; 'ignore': they are used as stored.
    exif: Exif = "ignore"
    #: For the sources LISTED: train without the images that cannot be decoded, which the run records.
    skip_unreadable: bool = False
    #: Processes that decode images, in sets that are not decoded once and kept. None: one per core; 0: threads decode.
    workers: NaturalNumber | None = None


@dataclass(frozen=True)
class AugmentSpec:
    """Preprocessing and augmentation of images."""

    #: Size to which images are resized on the device; None: they are not resized.
    resize: Pixels | None
    crop_size: Pixels
    #: Crops in training. 'random_resized': boxes of random size and shape, resized (Szegedy et al., 2015).
    crop: typing.Literal["random", "center", "random_resized"]
    #: Consecutive images of a batch that share the position of their crop and their flip.
    crop_chunk: Count
    flip: bool
    #: What is subtracted from the pixels.
    mean: typing.Literal["pixel", "image_center", "channel", "none", "standardize"]
    #: Factor by which centered pixels are multiplied.
    scale: Positive
    #: Standard deviation of the color noise of §4.1; 0: none.
    color_std: NotNegative
    #: Whether a principal component is multiplied by its standard deviation or by its eigenvalue.
    color_basis: typing.Literal["std", "eigenvalue"]
    #: Divide noisy images by 1 + color_std.
    color_rescale: bool
    #: Epoch from which there is no color noise.
    color_off_epoch: NotNegative | None
    #: For crop='random_resized': minimum area of a box, as a share of the image's.
    min_area: typing.Annotated[float, Range(0, 1, ends="(]")] = 0.08
    #: Names of further augmentations, applied in this order.
    extra: typing.Annotated[
        tuple[typing.Annotated[str, _ModuleIn("data/pipeline/augmentations")], ...], Length(32)
    ] = ()


@dataclass(frozen=True)
class OptimizerSpec:
    """The update rule.

    `momentum` is that of §5. `lars` (You, Gitman and Ginsburg, 2017) multiplies it by a trust ratio for each array of
    parameters. `adam` (Kingma and Ba, 2015) has no weight decay; `adamw` has decoupled weight decay (Loshchilov and
    Hutter, 2019).
    """

    kind: typing.Literal["momentum", "adam", "adamw", "lars"]
    #: For momentum and lars.
    momentum: Share
    #: Decay of kernels.
    weight_decay: NotNegative
    #: Layer -> decay of its kernel, where it differs.
    layer_weight_decay: dict[str, NotNegative]
    #: Decay of biases. The scale and offset of batch normalization never decay.
    bias_weight_decay: NotNegative = 0.0
    #: For adam and adamw: decay of the first moment.
    b1: Share = 0.9
    #: For adam and adamw: decay of the second moment.
    b2: Share = 0.999
    #: For adam and adamw: added to the square root of the second moment.
    epsilon: Positive = 1e-8
    #: For lars: eta, the step at learning rate 1 relative to the norm of the parameters.
    trust_coefficient: Positive = 0.001
    #: For lars: the parameters that have a trust ratio; the others use their learning rate as it is.
    trust_ratio: typing.Literal["all", "kernels"] = "all"


@dataclass(frozen=True)
class RateSpec:
    """A learning-rate schedule, which starts at `learning_rate`.

    plateau: multiplied by `factor`, at most `max_drops` times, when the validation error has not fallen by
        `min_improvement` for `patience` evaluations.
    epochs: multiplied by `factor` after each of `drops` epochs; without drops it is constant.
    exp, dexp, linear: as lr.cu of the 2012 program; `target` is the total reduction, `plateaus` the levels of dexp.
    cosine: half a cosine that ends at 0 (Loshchilov and Hutter, 2017, without restarts).
    poly: multiplied by (1 - progress) ** `power`, which ends at 0, as Caffe's policy of this name.
    """

    kind: typing.Literal["plateau", "epochs", "exp", "dexp", "linear", "cosine", "poly"]
    learning_rate: NotNegative
    factor: typing.Annotated[float, Range(0, 1, ends="(]")] = 0.1
    max_drops: NaturalNumber = 3
    patience: Count = 5
    min_improvement: Share = 0.001
    drops: typing.Annotated[tuple[Positive, ...], Length(1000)] = ()
    target: Positive = 1.0
    plateaus: Count = 1
    power: Positive = 2.0
    #: During this many epochs the rate rises linearly from 0 to `learning_rate`; the schedule then goes on as it
    #: would without a warm-up.
    warmup_epochs: NotNegative = 0.0


@dataclass(frozen=True)
class ScheduleSpec:
    """The learning rates of weights and biases."""

    weights: RateSpec
    #: None: the rate of the weights times `bias_factor`.
    biases: RateSpec | None
    bias_factor: NotNegative
    #: Layer -> ((from epoch, factor), ...) that multiply both of its rates; factor 0 freezes it.
    layer_factors: dict[str, tuple[tuple[NotNegative, NotNegative], ...]]


@dataclass(frozen=True)
class TrainSpec:
    """The training loop."""

    epochs: Epochs
    #: Maximum number of steps, if less than in `epochs`; None: no limit.
    max_steps: Steps | None
    batch_size: Count
    #: Number of parts in which the gradient of a batch is computed, to save memory.
    accumulate: Count
    #: Place each tower on a device of its own (§3.2).
    split_towers: bool
    loss: typing.Literal["cross_entropy", "mse"]
    #: Steps between lines of metrics.jsonl.
    log_every: Steps
    #: Steps between checkpoints.
    checkpoint_every: Steps
    #: Keep each checkpoint whose step is a multiple of this.
    keep_every: Steps | None
    #: Abort the run when a step takes longer.
    stall_seconds: Duration
    #: For cross_entropy: the target is 1 - this for the label, plus this / classes for each class.
    label_smoothing: Share = 0.0
    #: Save and keep the checkpoints of steps 0, 1, 2, 4, 8, ...
    keep_powers_of_two: bool = False
    #: Also save when this much time has passed since the last checkpoint; 0: never.
    checkpoint_minutes: typing.Annotated[float, Range(0), AtMost(1e9)] = 10.0
    #: Precision of float32 products and convolutions. 'default': TF32 if the device has it; 'highest': float32.
    matmul_precision: typing.Literal["default", "highest"] = "default"
    #: Use only deterministic kernels on a GPU. CPUs always do.
    deterministic: bool = False
    #: Dropout masks depend on the example alone. False: one draw per layer and device, faster on GPUs.
    exact: bool = True
    #: Steps that are dispatched together if all images are on the devices.
    steps_per_dispatch: Count = 1
    #: Make at least this many steps, where `epochs` amounts to fewer; `max_steps` still limits them.
    min_steps: Steps | None = None
    #: End when the validation error has not fallen during this share of the steps, and report the best checkpoint.
    patience: typing.Annotated[float, Range(0, 1, ends="(]")] | None = None
    #: Weights that a new run begins from, as far as they fit: what --init-from accepts.
    init_from: Text | None = None
    #: Split the units of fully-connected layers over the devices that share a batch (Krizhevsky, 2014).
    split_dense: bool = False
    #: Where metrics are written besides metrics.jsonl (alexnet_jax/train/writers.py).
    writers: tuple[typing.Literal["tensorboard", "csv"], ...] = ("tensorboard",)


@dataclass(frozen=True)
class EvaluationSpec:
    """Evaluation during and after training."""

    every_epochs: Epochs
    #: Crops that are evaluated together; with ten views they are of a tenth as many images.
    batch_size: Count
    #: Views of each evaluation during training.
    views: Views
    #: Views of the evaluation at the end.
    final_views: tuple[Views, ...]


@dataclass(frozen=True)
class Config:
    """Everything that a run depends on besides its data and its devices."""

    name: Text
    #: 32 bits: jax.random.key drops higher ones.
    seed: typing.Annotated[int, Range(0, 2**32)]
    model: ModelSpec
    data: DataSpec
    augment: AugmentSpec
    optimizer: OptimizerSpec
    schedule: ScheduleSpec
    train: TrainSpec
    evaluation: EvaluationSpec

    @property
    def uncropped_size(self) -> int:
        """Side in pixels of the images from which crops are cut."""
        return self.augment.resize or self.data.image_size
