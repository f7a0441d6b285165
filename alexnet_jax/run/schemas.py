"""Types of the JSON files of a run folder; files.read_json checks a file against its type."""

import calendar
import time
from typing import Annotated, Any, Literal, NotRequired, TypedDict

from alexnet_jax.files import Number
from alexnet_jax.specs import Condition, Range, Views

TIME = "%Y-%m-%dT%H:%M:%SZ"


Natural = Annotated[int, Range(0)]
Positive = Annotated[int, Range(1)]
Fraction = Annotated[float, Condition("from 0 to 1", lambda value: 0 <= value <= 1)]


def now() -> str:
    """Return the current UTC time as a Time."""
    return time.strftime(TIME, time.gmtime())


def seconds(time_text: str) -> float:
    """Convert a Time to POSIX seconds. Raises ValueError or OverflowError."""
    return calendar.timegm(time.strptime(time_text, TIME))


def _is_time(text: str) -> bool:
    try:
        seconds(text)
    except (ValueError, OverflowError):
        return False
    return True


def _is_relative(path: str) -> bool:
    return "\0" not in path and not {"", ".", ".."} & set(path.split("/"))


Time = Annotated[str, Condition("a time such as 2012-09-30T12:00:00Z", _is_time)]
RelativePath = Annotated[str, Condition("a path within the folder", _is_relative)]


class Status(TypedDict):
    """status.json"""

    state: Literal["running", "finished", "interrupted", "diverged", "failed"]
    host: str
    heartbeat: Time
    step: NotRequired[Natural]
    saved_step: NotRequired[Natural]
    saved: NotRequired[bool]
    code: NotRequired[int | None]
    reason: NotRequired[str]
    pid: NotRequired[int]
    #: SLURM job ID, and how often the job was requeued.
    slurm: NotRequired[
        Annotated[list[int], Condition("2 values", lambda pair: len(pair) == 2)] | None
    ]


class Environment(TypedDict):
    """run.json: the environment of the latest start (run/environment.py)."""

    command: list[str]
    commit: NotRequired[str]
    uncommitted_changes: NotRequired[bool]
    devices: NotRequired[list[str]]
    versions: NotRequired[dict[str, str]]


class Errors(TypedDict):
    """Errors on a split with one choice of views."""

    count: Positive
    top1_error: Fraction
    top5_error: NotRequired[Fraction]
    nll: Number


Splits = dict[Literal["train", "val", "test"], dict[Views, Errors]]


class Results(TypedDict):
    """results.json"""

    step: Natural
    epoch: Number
    config: str
    splits: Splits
    seconds: Number
    images_per_second: NotRequired[Number]
    #: With train.patience: the step at which training ended, of which `step` may be an earlier one ...
    last_step: NotRequired[Natural]
    #: ... and the step at which it would have ended.
    planned_step: NotRequired[Natural]


class Start(TypedDict):
    """A line of history.jsonl."""

    command: str
    time: NotRequired[str]
    config_sha256: NotRequired[str]
    changes: NotRequired[dict[str, Any]]
    init_from: NotRequired[str | None]


class Metrics(TypedDict):
    """A line of metrics.jsonl, which also has numbers named eval_SPLIT_VIEWS_MEASURE."""

    step: Natural
    epoch: NotRequired[float]
    time: NotRequired[Number]
    train_loss: NotRequired[Number]
    train_top1_error: NotRequired[Number]
    learning_rate: NotRequired[Number]
    grad_norm: NotRequired[Number]
    images_per_second: NotRequired[Number]
    data_wait_fraction: NotRequired[Number]
    batch_hash: NotRequired[str]


class LayerSignal(TypedDict):
    """A layer of signal.json, which also has what else train/diagnosis.py:signal_report returns."""

    row: str
    example_rms: Number | None


class Signal(TypedDict):
    """signal.json: the signal in the input and in each layer before the first step."""

    step: Natural
    rows: Annotated[list[LayerSignal], Condition("one or more", lambda rows: len(rows) > 0)]


class Sums(TypedDict):
    """Sums of the metrics since the last logged line, in the meta.json of a checkpoint."""

    loss: Number
    top1_errors: Number
    steps: Natural


class Meta(TypedDict):
    """meta.json of a checkpoint: the keys for loading the network."""

    schema: int
    step: Natural
    class_names: Annotated[list[str], Condition("one or more", lambda names: len(names) > 0)]


class TrainingMeta(Meta):
    """meta.json of a checkpoint: all keys, for resuming a run."""

    dataset: str
    evaluation_due: bool
    meter: Sums
    batch_hash: str
    seconds: Number


class File(TypedDict):
    """A file of a checkpoint."""

    size: Natural
    sha256: str


class Commit(TypedDict):
    """COMMIT.json of a checkpoint."""

    schema: int
    step: Natural
    files: dict[RelativePath, File]


class LaunchedStart(TypedDict):
    """One start of a run in a sweep."""

    time: str
    code: NotRequired[int]
    saved_step: NotRequired[Natural]


class Launched(TypedDict):
    """members/HASH.json of a sweep."""

    member: str
    seed: int
    config: str
    overrides: list[str]
    starts: list[LaunchedStart]
    slurm: NotRequired[str]


class Card(TypedDict):
    """The .json file that is released with weights."""

    sha256: str
    config: str
    seed: int
    step: Natural
    splits: Splits
