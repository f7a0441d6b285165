"""Set up a run: the initial or restored state, and the objects of the training loop."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from alexnet_jax import config as configs
from alexnet_jax import files
from alexnet_jax.cli import table
from alexnet_jax.data import sources
from alexnet_jax.data.pipeline import identity, splits
from alexnet_jax.data.pipeline.statistics import Statistics
from alexnet_jax.errors import CheckpointError, DivergedError
from alexnet_jax.inference import checkpoints
from alexnet_jax.inference.trained import TrainedModel
from alexnet_jax.model import alexnet
from alexnet_jax.model.alexnet import AlexNet
from alexnet_jax.run import processes
from alexnet_jax.run.reading import read_metrics, saved_step, validation_errors
from alexnet_jax.run.schemas import TrainingMeta
from alexnet_jax.run.signals import Signals
from alexnet_jax.run.status import RunStatus
from alexnet_jax.run.watchdog import SLOW, Watchdog
from alexnet_jax.run.workdir import RunFolder
from alexnet_jax.specs import Config
from alexnet_jax.train import checkpoint, diagnosis
from alexnet_jax.train import state as states
from alexnet_jax.train.agreement import Agreement
from alexnet_jax.train.batch_source import BatchSource
from alexnet_jax.train.checkpointer import Checkpointer, delete_old
from alexnet_jax.train.evaluator import Evaluator
from alexnet_jax.train.log import Log, RunLog
from alexnet_jax.train.loop import Training
from alexnet_jax.train.meter import Meter
from alexnet_jax.train.plan import Plan
from alexnet_jax.train.prepare import Prepared, device_mesh
from alexnet_jax.train.profiler import Profiler
from alexnet_jax.train.progress import Progress, SignalReport
from alexnet_jax.train.state import State
from alexnet_jax.train.step import make_train_step

#: Step and training loss of each line of metrics.jsonl that has one.
Losses = Sequence[tuple[int, float]]


class Options(NamedTuple):
    """Command-line options for the start of a run."""

    #: Trained model whose parameters initialize a new run.
    init: TrainedModel | None = None
    #: Load only those of its parameters that fit.
    allow_partial: bool = False
    #: Whether to profile a few steps.
    profile: bool = False


class Start(NamedTuple):
    """The state from which a run starts or resumes, with the data saved beside it."""

    state: State
    statistics: Statistics
    #: Lines to log.
    notes: list[str]
    #: Content of meta.json; None in a new run.
    meta: TrainingMeta | None = None

    @property
    def evaluation_due(self) -> bool:
        """Whether the restored step has not been evaluated yet."""
        return bool(self.meta and self.meta["evaluation_due"])


@contextmanager
def begin(
    prepared: Prepared,
    folder: RunFolder,
    config_dict: Any,
    status: RunStatus,
    signals: Signals,
    watchdog: Watchdog,
    options: Options,
    notes: Sequence[str] = (),
) -> Iterator[tuple[Training, State]]:
    """Context manager that yields the objects of a run and its first state.

    On exit by an error or a signal, it waits for a checkpoint that is being written. It always closes the log.

    Args:
        notes: Lines to log.

    Raises:
        CheckpointError, StorageError, ConfigError
    """
    spec, dataset, _ = prepared
    latest, errors, losses = _read_folder(folder, spec)
    watchdog.beat(SLOW)
    mesh, model = device_mesh(spec), alexnet.from_config(spec)
    state = states.create(spec, model, spec.seed, mesh=mesh)
    if latest:
        if processes.is_primary():
            # A process killed between a save and the deletion of old checkpoints leaves one too many.
            delete_old(folder, spec.train, errors)
        start = restore(folder, *latest, prepared, state)
    else:
        start = initialize(prepared, state, options)
    status.begin(int(start.state.step))
    plan = prepared.plan
    log = _open_log(folder, plan, start, dataset)
    try:
        status.write_running()
        warnings = (*dataset.notes, *_shortages(plan, dataset))
        for line in (*notes, *(f"warning: {note}" for note in warnings), *start.notes):
            log.say(line)
        checkpointer = Checkpointer(
            plan,
            folder,
            status,
            watchdog,
            start.statistics,
            _common_meta(config_dict, dataset),
            errors,
        )
        run = _assemble(
            plan, model, mesh, dataset, start, folder, log, status, signals, watchdog, checkpointer,
            losses, profile=options.profile,
        )  # fmt: skip
        try:
            yield run, start.state
        except BaseException as cause:
            _handle_failure(run, cause)
            raise
    finally:
        log.close()


def _assemble(
    plan: Plan,
    model: AlexNet,
    mesh: Mesh,
    dataset: sources.Dataset,
    start: Start,
    folder: RunFolder,
    log: RunLog,
    status: RunStatus,
    signals: Signals,
    watchdog: Watchdog,
    checkpointer: Checkpointer,
    losses: Losses,
    *,
    profile: bool,
) -> Training:
    """Log what will be trained, and make the objects of the training loop."""
    split = dataset.splits["train"]
    report = _signal_report(plan, model, dataset, start.statistics)
    _announce(plan, mesh, dataset, start, report, log, folder)
    meter = Meter(start.meta["meter"] if start.meta else None)
    agreement = Agreement(signals, meter, mesh, checkpointer.is_time)
    agreement.poll()
    batches = BatchSource(plan, split, mesh)
    return Training(
        plan=plan,
        batches=batches,
        train_step=make_train_step(plan.spec, model, start.statistics, mesh, batches.pool),
        progress=Progress(
            plan, split, meter, log, status, report, _plateau_detector(plan, dataset, losses),
            batch_digest=start.meta["batch_hash"] if start.meta else "",
            seconds=start.meta["seconds"] if start.meta else 0.0,
        ),
        evaluator=Evaluator(
            plan, model, mesh, dataset, start.statistics, agreement, checkpointer, watchdog, log
        ),
        checkpointer=checkpointer,
        agreement=agreement,
        profiler=Profiler(
            folder.path / "profile" if profile else None, status.step, plan.last_step, log.say
        ),
        watchdog=watchdog,
        log=log,
        folder=folder,
        is_new=start.meta is None,
        evaluation_due=start.evaluation_due,
    )  # fmt: skip


def _handle_failure(run: Training, cause: BaseException) -> None:
    """Record a divergence, and wait for a checkpoint that is being written."""
    try:
        if isinstance(cause, DivergedError) and (divergence := run.progress.divergence()):
            run.folder.write("diverged.json", divergence)
    finally:
        if error := run.checkpointer.close(cause):
            run.log.say(error.line())


def _read_folder(
    folder: RunFolder, spec: Config
) -> tuple[tuple[int, TrainingMeta, list[str]] | None, dict[int, float], Losses]:
    """Read what the primary process knows of an earlier start of the run.

    Returns:
        The step, meta.json and lines to log of the checkpoint from which the run continues, or None for a new run; the
        validation errors of all steps that have a checkpoint; the training losses logged up to that checkpoint.

    Raises:
        CheckpointError: No checkpoint is usable, although one was saved.
    """

    def read() -> tuple:
        latest = _find_checkpoint(folder)
        lines = read_metrics(folder.path, missing_ok=True)
        found = validation_errors(lines, spec)
        steps = checkpoints.committed_steps(folder.checkpoints)
        # As lists, because the keys of JSON are strings.
        errors = [(step, found[step]) for step in steps if step in found]
        # The log drops the lines after the step from which the run continues.
        start = latest[0] if latest else 0
        losses = [
            (line["step"], line["train_loss"])
            for line in lines
            if "train_loss" in line and line["step"] <= start
        ]
        return latest, errors, losses

    latest, errors, losses = processes.run_on_primary(read)
    return latest, dict(errors), losses


def restore(
    folder: RunFolder, step: int, meta: TrainingMeta, notes: list[str], prepared: Prepared, like: State
) -> Start:  # fmt: skip
    """Restore a checkpoint. Raises ConfigError if the images changed, and CheckpointError if it does not fit."""
    compare = partial(identity.compare, folder.path, meta["dataset"], prepared.dataset)
    if note := processes.run_on_primary(compare):
        notes = [*notes, note]
    statistics = processes.arrays_from_primary(
        lambda: checkpoints.load_statistics(folder.checkpoints, step), prepared.statistics
    )
    return Start(checkpoint.restore(folder.checkpoints, step, like), statistics, notes, meta)


def initialize(prepared: Prepared, state: State, options: Options) -> Start:
    """Start a new run with random parameters, or with those of `options.init`. Raises CheckpointError."""
    if options.init is None:
        return Start(state, prepared.statistics, [])
    init = options.init
    state, wrong = checkpoint.initialize(state, init.variables, partial=options.allow_partial)
    total = len(jax.tree.leaves((state.params, state.batch_stats)))
    missing = sum(bool(leaf.wanted) for leaf in wrong)
    note = f"initialized from {init.config.name}, step {init.step:,}: {total - missing} of {total} arrays"
    if wrong:
        header = ("not loaded", "in the initial network", "in this network")
        rows = [
            (leaf.name, leaf.saved or "missing", leaf.wanted or "no such array") for leaf in wrong
        ]
        note = "\n  ".join(
            [f"{note}; the others have random initial values", *table([header, *rows])]
        )
    return Start(state, prepared.statistics, [note])


def _find_checkpoint(folder: RunFolder) -> tuple[int, TrainingMeta, list[str]] | None:
    """Find the latest checkpoint; called on the primary process."""
    notes: list[str] = []
    latest = checkpoint.recover(folder.checkpoints, notes.append)
    if latest is None:
        if saved := saved_step(folder.path):
            raise CheckpointError(
                f"{folder.checkpoints} is empty, but status.json says that step {saved} was saved: restore "
                "it, or start anew with --overwrite"
            )
        return None
    step, meta = latest
    file = folder.checkpoints / str(step) / "meta.json"
    return step, files.check(meta, TrainingMeta, file, error=CheckpointError), notes


def _common_meta(config_dict: Any, dataset: sources.Dataset) -> dict[str, Any]:
    """Return the entries of meta.json that all checkpoints of a run share."""
    return {
        "config": configs.plain(config_dict),
        "class_names": list(dataset.class_names),
        "dataset": dataset.fingerprint,
    }


def _open_log(folder: RunFolder, plan: Plan, start: Start, dataset: sources.Dataset) -> RunLog:
    """Check the free disk space, record the identity of the images, and open the log. Raises StorageError."""
    if not processes.is_primary():
        return RunLog()
    is_new = not checkpoints.committed_steps(folder.checkpoints)
    checkpoint.check_room(folder.checkpoints, start.state, is_new=is_new)
    folder.write_bytes(identity.RECORD, identity.record(dataset))
    step = int(start.state.step)
    return Log(
        folder.path,
        step,
        plan.last_step,
        unfinished=start.evaluation_due,
        writers=plan.spec.train.writers,
    )


def _shortages(plan: Plan, dataset: sources.Dataset) -> list[str]:
    """Describe what the images are too few for: an error on other images, and a whole batch."""
    lines = []
    if set(dataset.splits) == {"train"}:
        lines.append(
            "no images are held out, so the error on other images stays unknown: --config.data.validation=0.2 holds "
            "out a fifth of them"
        )
    if plan.examples < plan.batch_size:
        lines.append(
            f"{plan.examples} training images are fewer than a batch of {plan.batch_size}: expect a net that has "
            "learned them by heart; 40 or more of each class are better"
        )
    return lines


def _signal_report(
    plan: Plan, model: AlexNet, dataset: sources.Dataset, statistics: Statistics
) -> SignalReport:
    """Return a function that measures the signal in each layer on some images of the first batch."""
    indices = plan.positions(0)[0][: min(64, plan.batch_size)]
    split = dataset.splits["train"]

    def report(state: State) -> list[dict]:
        images, labels = split.images[indices], split.labels[indices]
        return diagnosis.signal_report(model, plan.spec, state, statistics, images, labels)

    return report


def _plateau_detector(
    plan: Plan, dataset: sources.Dataset, losses: Losses
) -> diagnosis.PlateauDetector | None:
    """Return a detector fed with the recorded losses; None for losses other than cross-entropy."""
    if plan.spec.train.loss != "cross_entropy":
        return None
    detector = diagnosis.PlateauDetector(len(dataset.class_names), plan.examples // plan.batch_size)
    for step, loss in losses:
        detector.feed(step, loss)
    return detector


def _announce(
    plan: Plan, mesh: Mesh, dataset: sources.Dataset, start: Start, report: SignalReport, log: RunLog,
    folder: RunFolder,
) -> None:  # fmt: skip
    """Log what will be trained, and, for a new run, the signal in each layer."""
    spec, state = plan.spec, start.state
    is_rotated = spec.data.exif == "apply" and dataset.applies_exif
    rotated = "; rotated by their EXIF orientation" if is_rotated else ""
    log.say(
        f"{spec.name}: {alexnet.count_parameters(state.params):,} parameters, {len(dataset.class_names)} classes; "
        f"images: {splits.sizes(dataset)}{rotated}"
    )
    log.say(
        f"{plan.last_step:,} steps of {plan.batch_size} = {plan.epoch(plan.last_step):.1f} epochs, "
        f"on {mesh.size} {jax.default_backend()} device(s)"
    )
    if step := int(state.step):
        log.say(f"continuing from step {step:,}")
        return
    records = report(state)
    log.say("signal in each layer before the first step\n" + diagnosis.format_report(records))
    folder.write("signal.json", {"step": 0, "rows": records})
