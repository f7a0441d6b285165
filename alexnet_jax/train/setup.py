"""Setting a run up: the state, new or restored from a checkpoint, and the objects of the training loop."""

import json
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
from alexnet_jax.data.pipeline import identity
from alexnet_jax.data.pipeline.statistics import Statistics
from alexnet_jax.errors import CheckpointError, DivergedError
from alexnet_jax.inference import checkpoints
from alexnet_jax.inference.trained import TrainedModel
from alexnet_jax.model import alexnet
from alexnet_jax.model.alexnet import AlexNet
from alexnet_jax.run import processes
from alexnet_jax.run.reading import read_metrics, validation_errors
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


class Options(NamedTuple):
    """Options of the command that concern the start of a run."""

    #: A net whose parameters a new run takes over.
    init: TrainedModel | None = None
    #: Take only those of its parameters that fit.
    allow_partial: bool = False
    #: Trace a few steps.
    profile: bool = False


class Start(NamedTuple):
    """A state, and what a resumed run continues with it."""

    state: State
    statistics: Statistics
    #: Lines for the log.
    notes: list[str]
    #: None in a new run.
    meta: TrainingMeta | None = None

    @property
    def evaluation_due(self) -> bool:
        """Whether the step of the state still has to be evaluated."""
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
    """Make the objects of a run, and the state from which it goes on.

    When the context ends by an error or a signal, the last checkpoint is waited for; the log is closed in any case.
    `notes` are lines for the log. Raises CheckpointError, StorageError and ConfigError.
    """
    spec, dataset, _ = prepared
    found, errors = find_checkpoint(folder, spec)
    watchdog.beat(SLOW)
    mesh, model = device_mesh(spec), alexnet.of_config(spec)
    state = states.create(spec, model, spec.seed, mesh=mesh)
    if found:
        if processes.is_primary():
            # A start that was killed between a save and the deletion of old checkpoints left one too many.
            delete_old(folder, spec.train, errors)
        start = restore(folder, *found, prepared, state)
    else:
        start = initialize(prepared, state, options)
    status.begin(int(start.state.step))
    plan = Plan(spec, len(dataset.splits["train"].labels))
    log = _open_log(folder, plan, start, dataset)
    try:
        status.write_running()
        for line in (*(f"warning: {note}" for note in dataset.notes), *start.notes, *notes):
            log.say(line)
        checkpointer = Checkpointer(
            plan, folder, status, watchdog, start.statistics, _about(config_dict, dataset), errors
        )
        run = _assemble(
            plan, model, mesh, dataset, start, folder, log, status, signals, watchdog, checkpointer,
            profile=options.profile,
        )  # fmt: skip
        try:
            yield run, start.state
        except BaseException as cause:
            _end(run, cause)
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
    *,
    profile: bool,
) -> Training:
    """Make the parts of a run, after logging what will be trained."""
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
            plan, split, meter, log, status, report, _plateau_detector(plan, folder, dataset),
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


def _end(run: Training, cause: BaseException) -> None:
    """Record a divergence, and wait for the checkpoint that is being written."""
    if isinstance(cause, DivergedError) and (divergence := run.progress.divergence()):
        run.folder.write("diverged.json", divergence)
    if error := run.checkpointer.close(cause):
        run.log.say(error.line())


def find_checkpoint(
    folder: RunFolder, spec: Config
) -> tuple[tuple[int, TrainingMeta, list[str]] | None, dict[int, float]]:
    """Find the checkpoint from which a run goes on.

    Returns its step, its meta.json and lines for the log, or None for a new run; and the validation errors of all steps
    that have a checkpoint. Raises CheckpointError.
    """
    found = processes.run_on_primary(partial(_find_checkpoint, folder))
    errors = processes.run_on_primary(partial(_saved_errors, folder, spec))
    return found, dict(errors)


def restore(
    folder: RunFolder, step: int, meta: TrainingMeta, notes: list[str], prepared: Prepared, like: State
) -> Start:  # fmt: skip
    """Restore a checkpoint. Raises ConfigError for one of other images, and CheckpointError if it does not fit."""
    compare = partial(identity.compare, folder.path, meta["dataset"], prepared.dataset)
    if note := processes.run_on_primary(compare):
        notes = [*notes, note]
    statistics = processes.arrays_from_primary(
        lambda: checkpoints.load_statistics(folder.checkpoints, step), prepared.statistics
    )
    return Start(checkpoint.restore(folder.checkpoints, step, like), statistics, notes, meta)


def initialize(prepared: Prepared, state: State, options: Options) -> Start:
    """Begin a new run with random parameters, or with those of `options.init`. Raises CheckpointError."""
    if options.init is None:
        return Start(state, prepared.statistics, [])
    init = options.init
    variables = {"params": init.params, "batch_stats": init.batch_stats}
    state, wrong = checkpoint.initialize(state, variables, partial=options.allow_partial)
    total = len(jax.tree.leaves((state.params, state.batch_stats)))
    missing = sum(bool(leaf.wanted) for leaf in wrong)
    note = f"began from {init.config.name}, step {init.step:,}: {total - missing} of {total} arrays"
    if wrong:
        header = ("not taken", "in the net to begin with", "in this one")
        rows = [
            (leaf.name, leaf.saved or "missing", leaf.wanted or "no such array") for leaf in wrong
        ]
        note = "\n  ".join([f"{note}; the others keep random values", *table([header, *rows])])
    return Start(state, prepared.statistics, [note])


def _find_checkpoint(folder: RunFolder) -> tuple[int, TrainingMeta, list[str]] | None:
    notes: list[str] = []
    found = checkpoint.recover(folder.checkpoints, notes.append)
    if found is None:
        if saved := folder.saved_step():
            raise CheckpointError(
                f"{folder.checkpoints} is empty, but status.json says that step {saved} was saved: bring it "
                "back, or begin anew with --overwrite"
            )
        return None
    step, meta = found
    file = folder.checkpoints / str(step) / "meta.json"
    return step, files.check(meta, TrainingMeta, file, error=CheckpointError), notes


def _saved_errors(folder: RunFolder, spec: Config) -> list[tuple[int, float]]:
    """Return the validation errors of the steps that have a checkpoint; as a list, which JSON keeps."""
    errors = validation_errors(folder.path, spec)
    steps = checkpoints.committed_steps(folder.checkpoints)
    return [(step, errors[step]) for step in steps if step in errors]


def _about(config_dict: Any, dataset: sources.Dataset) -> dict[str, Any]:
    """Return the entries of meta.json that all checkpoints of a run have."""
    return {
        "config": json.loads(configs.to_json(config_dict)),
        "class_names": list(dataset.class_names),
        "dataset": dataset.fingerprint,
    }


def _open_log(folder: RunFolder, plan: Plan, start: Start, dataset: sources.Dataset) -> RunLog:
    """Open the log; before that, check the free disk space and record the images. Raises StorageError."""
    if not processes.is_primary():
        return RunLog()
    checkpoint.check_room(folder.checkpoints, start.state)
    folder.write_bytes(identity.RECORD, identity.record(dataset))
    step = int(start.state.step)
    return Log(folder.path, step, plan.last_step, unfinished=start.evaluation_due)


def _signal_report(
    plan: Plan, model: AlexNet, dataset: sources.Dataset, statistics: Statistics
) -> SignalReport:
    """Return the function that measures the signal in each layer, on some images of the first batch."""
    indices = plan.positions(0)[0][: min(64, plan.batch_size)]
    split = dataset.splits["train"]

    def report(state: State) -> list[dict]:
        images, labels = split.images[indices], split.labels[indices]
        return diagnosis.signal_report(model, plan.spec, state, statistics, images, labels)

    return report


def _plateau_detector(
    plan: Plan, folder: RunFolder, dataset: sources.Dataset
) -> diagnosis.PlateauDetector | None:
    """Return a detector that was fed the losses of earlier starts; None for a loss without that plateau."""
    if plan.spec.train.loss != "cross_entropy":
        return None
    detector = diagnosis.PlateauDetector(len(dataset.class_names), plan.examples // plan.batch_size)
    for line in processes.run_on_primary(lambda: read_metrics(folder.path)):
        if "train_loss" in line:
            detector.feed(line["step"], line["train_loss"])
    return detector


def _announce(
    plan: Plan, mesh: Mesh, dataset: sources.Dataset, start: Start, report: SignalReport, log: RunLog,
    folder: RunFolder,
) -> None:  # fmt: skip
    """Log what will be trained, and for a new run the signal in each layer."""
    spec, state = plan.spec, start.state
    sizes = ", ".join(f"{len(split.labels):,} {name}" for name, split in dataset.splits.items())
    count = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    is_turned = spec.data.exif == "apply" and dataset.applies_exif
    turned = "; turned as their EXIF says" if is_turned else ""
    log.say(
        f"{spec.name}: {count:,} parameters, {len(dataset.class_names)} classes; "
        f"images: {sizes}{turned}"
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
