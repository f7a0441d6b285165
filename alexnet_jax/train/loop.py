"""Training from a config to an evaluated checkpoint, and on from where an earlier start stopped."""

import json
import math
import threading
import time
from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from alexnet_jax import config as configs
from alexnet_jax import files, specs
from alexnet_jax.analysis import curves, filters
from alexnet_jax.cli import table
from alexnet_jax.data import sources
from alexnet_jax.data.pipeline import batches, identity, placement, statistics
from alexnet_jax.errors import (
    AlexNetError,
    CheckpointError,
    ConfigError,
    DataError,
    DivergedError,
)
from alexnet_jax.inference import checkpoints, predictions
from alexnet_jax.inference import metrics as errors
from alexnet_jax.inference.predict_step import make_eval_step
from alexnet_jax.inference.trained import TrainedModel
from alexnet_jax.model import alexnet
from alexnet_jax.model import mesh as parallel
from alexnet_jax.run import faults, processes
from alexnet_jax.run.reading import read_metrics, validation_errors
from alexnet_jax.run.schemas import TrainingMeta
from alexnet_jax.run.signals import Signals, Stop
from alexnet_jax.run.watchdog import SLOW, Watchdog
from alexnet_jax.run.workdir import SilentWorkdir, Workdir
from alexnet_jax.specs import Config
from alexnet_jax.train import checkpoint, diagnosis, schedule
from alexnet_jax.train import state as states
from alexnet_jax.train.background import BackgroundWriter
from alexnet_jax.train.log import Log, Silence, duration, summary
from alexnet_jax.train.meter import Meter, Read
from alexnet_jax.train.profiler import Profiler
from alexnet_jax.train.step import make_train_step

WRITE_SECONDS = SLOW
"""The time that a checkpoint may take to be written before the run counts as stalled."""


def prepare(spec: Config) -> tuple[Config, sources.Dataset, statistics.Statistics]:
    """The config with its number of classes, the data and its statistics, checked against each other.

    Before anything is written: images that fit the cache are all decoded here, so that an unreadable one shows
    now. Raises ConfigError and DataError.
    """
    check_devices(spec)
    faults.point("data.open")
    dataset = sources.open_dataset(spec.data, spec.seed)
    spec = configs.with_classes(spec, len(dataset.class_names))
    if spec.schedule.weights.kind == "plateau" and "val" not in dataset.splits:
        raise ConfigError(
            "config.schedule.weights.kind='plateau' needs validation images: hold some out with "
            "--config.data.validation=0.1, or use kind 'epochs'"
        )
    sources.check(dataset, spec.data)
    mesh = parallel.device_mesh(towers=_towers_apart(spec))
    on_devices = placement.on_device(dataset.splits["train"], mesh, spec.data.placement)
    if spec.train.steps_per_dispatch > 1 and not on_devices:
        raise ConfigError(
            "config.train.steps_per_dispatch needs all images on the devices: --config.data.placement=device"
        )
    processes.check_same("images", dataset.fingerprint)
    like = statistics.zeros(spec.data.image_size)
    return spec, dataset, processes.lead_arrays(lambda: statistics.load(dataset), like)


def check_resume(
    workdir: Workdir, spec: Config, dataset: sources.Dataset, *, changed: bool
) -> None:
    """Raises what going on from the newest intact checkpoint of `workdir` would raise, before anything is written.

    ConfigError where it was trained on other images, and CheckpointError where it does not fit the model of `spec`,
    which is looked at only for a `changed` config.
    """
    folder = workdir.checkpoints
    for step in reversed(checkpoints.committed_steps(folder)):
        known = checkpoints.read_meta(folder, step).get("dataset")
        if not isinstance(known, str):
            continue
        try:
            identity.compare(workdir.path, known, dataset)
            if changed:
                like = states.shapes(spec, alexnet.of_config(spec))
                checkpoint.check_fits(folder, step, like._replace(schedule=schedule.create()))
            return
        except Exception:
            try:
                checkpoints.verify(folder, step)
            except CheckpointError:
                continue  # damaged: it will be set aside, and an older one used
            raise


def check_devices(spec: Config) -> None:
    """Raises ConfigError where towers or batch do not divide over the devices."""
    devices, towers = len(jax.devices()), _towers_apart(spec)
    if devices % towers:
        raise ConfigError(
            f"config.train.split_towers: {towers} towers need a multiple of {towers} devices, and there are {devices}"
        )
    batch_size, parts, shares = spec.train.batch_size, spec.train.accumulate, devices // towers
    if batch_size % (parts * shares):
        raise ConfigError(
            f"config.train.batch_size={batch_size} in {parts} part(s) is not divisible over {shares} devices"
            f"{' for each tower' if towers > 1 else ''}; use {_nearest(batch_size, parts * shares)}"
        )


def _towers_apart(spec: Config) -> int:
    """Devices that one copy of the net takes."""
    return spec.model.towers if spec.train.split_towers else 1


class _Notes(NamedTuple):
    """Of a step, for its line of metrics.jsonl, which is written when its metrics are read."""

    learning_rate: float
    batch_hash: str
    compiled: bool
    """Whether the time until it ended says nothing about other steps."""


class Dispatch(NamedTuple):
    """Steps that the devices are given at once."""

    steps: range
    is_first: bool
    """Of its length in this start: it is compiled."""


class Training:
    """The objects of one run. `run` trains to the end.

    begin: a net whose parameters a new run takes over; with `partial`, those that fit. profile: trace a few steps.
    `run` polls `signals` in every loop and tells `watchdog` of every step; it raises Stop after a signal (the state
    is then saved), DivergedError, StorageError and DataError.
    """

    def __init__(
        self,
        spec: Config,
        dataset: sources.Dataset,
        image_statistics: statistics.Statistics,
        workdir: Workdir | SilentWorkdir,
        config_dict,
        *,
        begin: TrainedModel | None = None,
        partial: bool = False,
        profile: bool = False,
    ) -> None:
        self.spec, self.dataset, self.statistics = spec, dataset, image_statistics
        self.workdir, self.config_dict = workdir, config_dict
        self._initial = begin, partial
        self._profile = profile
        self.notes = [f"warning: {note}" for note in dataset.notes]
        """Lines to say when it starts."""
        self.mesh = parallel.device_mesh(towers=_towers_apart(spec))
        self.model = alexnet.of_config(spec)
        self.batch_size = spec.train.batch_size
        self.examples = len(dataset.splits["train"].labels)
        self.last_step = last_step(spec, self.examples)
        steps = spec.evaluation.every_epochs * self.examples / self.batch_size
        self.evaluate_every = max(1, round(steps))
        # Decisions (the plateau schedule, the best checkpoint) look at 'val' only; 'test' is merely reported.
        self.held_out = [name for name in ("val", "test") if name in dataset.splits]
        self.step = self.saved_step = 0
        """Steps made; steps of the newest checkpoint that was committed."""
        self._start = self._fetched_step = 0
        self._fetched_at = time.monotonic()
        """The last step that was handed over to be saved, and when."""
        self._estimated = False
        self._writer = BackgroundWriter()
        self._detector: diagnosis.PlateauDetector | None = None
        self._status = threading.Lock()
        self._errors: dict[int, float] = {}
        """Validation error of each step that has a checkpoint and was evaluated."""
        self.batch_hash = ""
        self._eval_steps: dict = {}
        self._predicted: tuple | None = None
        self._begin, self._earlier_seconds = time.monotonic(), 0.0

    def epoch(self, step: int) -> float:
        """Passes over the training images made in `step` steps."""
        return step * self.batch_size / self.examples

    def run(self, signals: Signals, watchdog: Watchdog) -> None:
        self.signals, self.watchdog = signals, watchdog
        found = processes.lead(self._recover)
        self._errors = dict(processes.lead(self._saved_errors))
        self.watchdog.beat(SLOW)
        state = states.create(self.spec, self.model, self.spec.seed, mesh=self.mesh)
        if found:
            if processes.leads():
                # A start that was killed between its last save and that left one too many.
                self._prune(self._errors)
            state, evaluation_due = self._restore(state, *found)
        else:
            self.meter, evaluation_due = Meter(), False
            state = self._initialize(state)
        self.step = self._start = self.saved_step = self._fetched_step = start = int(state.step)
        if processes.leads():
            checkpoint.check_room(self.workdir.checkpoints, state)
            self.workdir.write_bytes(identity.RECORD, identity.record(self.dataset))
            self.log = Log(self.workdir.path, start, self.last_step, unfinished=evaluation_due)
        else:
            self.log = Silence()
        try:
            self._write_status()
            for line in self.notes:
                self.log.say(line)
            self._announce(state, start)
            if evaluation_due:
                state, error = self._evaluate(state)
                if error is not None:
                    self._errors[start] = error
            if not found and self.spec.train.keep_powers_of_two:
                self._save(state, evaluation_due=False)
            state = self._train(state, start)
            self._finish(state)
        except BaseException as error:
            self._leave(error)
            raise
        finally:
            self.log.close()

    def _leave(self, why: BaseException) -> None:
        """Let the checkpoint that is being written be committed; its error counts where only a signal ends the run."""
        try:
            self._wait_for_writer()
        except AlexNetError as error:
            if isinstance(why, Stop):
                raise
            self.log.say(error.line())

    def _recover(self) -> tuple[int, TrainingMeta] | None:
        """Step and meta.json to go on from. Raises CheckpointError."""
        found = checkpoint.recover(self.workdir.checkpoints, self.notes.append)
        if found is None and (before := self.workdir.saved_step()):
            raise CheckpointError(
                f"{self.workdir.checkpoints} is empty, but status.json says that step {before} was saved: bring it "
                "back, or begin anew with --overwrite"
            )
        if found is None:
            return None
        step, meta = found
        place = self.workdir.checkpoints / str(step) / "meta.json"
        return step, files.check(meta, TrainingMeta, place, error=CheckpointError)

    def _saved_errors(self) -> list[tuple[int, float]]:
        """Validation errors of the steps that have a checkpoint."""
        errors = validation_errors(self.workdir.path, self.spec)
        steps = checkpoints.committed_steps(self.workdir.checkpoints)
        return [(step, errors[step]) for step in steps if step in errors]

    def _initialize(self, state):
        begin, partial = self._initial
        if begin is None:
            return state
        variables = {"params": begin.params, "batch_stats": begin.batch_stats}
        state, wrong = checkpoint.initialize(state, variables, partial=partial)
        total = len(jax.tree.leaves((state.params, state.batch_stats)))
        new = sum(bool(one.wanted) for one in wrong)
        said = (
            f"began from {begin.config.name}, step {begin.step:,}: {total - new} of {total} arrays"
        )
        if wrong:
            rows = [
                (name, there or "missing", want or "no such array") for name, there, want in wrong
            ]
            header = ("not taken", "in the net to begin with", "in this one")
            said = "\n  ".join([f"{said}; the others keep random values", *table([header, *rows])])
        self.notes.append(said)
        return state

    def _restore(self, state, step: int, meta: TrainingMeta):
        """The saved state, and whether its step still has to be evaluated."""
        compare = partial(identity.compare, self.workdir.path, meta["dataset"], self.dataset)
        if note := processes.lead(compare):
            self.notes.append(note)
        self.statistics = processes.lead_arrays(
            lambda: checkpoints.load_statistics(self.workdir.checkpoints, step), self.statistics
        )
        self.meter = Meter(meta["meter"])
        self._earlier_seconds, self.batch_hash = meta["seconds"], meta["batch_hash"]
        return checkpoint.restore(self.workdir.checkpoints, step, state), meta["evaluation_due"]

    def _announce(self, state, start: int) -> None:
        say = self.log.say
        sizes = ", ".join(
            f"{len(split.labels):,} {name}" for name, split in self.dataset.splits.items()
        )
        count = sum(leaf.size for leaf in jax.tree.leaves(state.params))
        data = self.spec.data
        is_turned = data.exif == "apply" and self.dataset.applies_exif
        turned = "; turned as their EXIF says" if is_turned else ""
        say(
            f"{self.spec.name}: {count:,} parameters, {len(self.dataset.class_names)} classes; "
            f"images: {sizes}{turned}"
        )
        say(
            f"{self.last_step:,} steps of {self.batch_size} = {self.epoch(self.last_step):.1f} epochs, "
            f"on {self.mesh.size} {jax.default_backend()} device(s)"
        )
        if start:
            say(f"continuing from step {start:,}")
            return
        report = self._signal(state)
        say("signal in each layer before the first step\n" + diagnosis.format_report(report))
        self.workdir.write("signal.json", {"step": 0, "rows": report})

    def _signal(self, state) -> list[dict]:
        batch = self._batch(0)
        some = slice(0, min(64, self.batch_size))
        return diagnosis.signal_report(
            self.model, self.spec, state, self.statistics, batch.images[some], batch.labels[some]
        )

    def _train(self, state, start: int):
        split = self.dataset.splits["train"]
        placed = placement.placed(split, self.mesh, self.spec.data.placement)
        several = self.spec.train.steps_per_dispatch > 1

        def make(dispatch: Dispatch):
            faults.point("data.batch")
            drawn = [self._positions(step) for step in dispatch.steps]
            examples = [(split.labels[indices], indices, epochs) for indices, epochs in drawn]
            if not several:
                return examples, placed.read(*drawn[0])
            indices, epochs = (np.stack(each) for each in zip(*drawn, strict=True))
            return examples, placed.read_steps(indices, epochs)

        self._poll()
        faults.point("train.compile")
        train_step = make_train_step(
            self.spec, self.model, self.statistics, self.mesh, placed.pool if several else None
        )
        self._detector = self._plateau_detector()
        dispatches = self._dispatches(start)
        stream = batches.prefetch(make, dispatches, self.spec.data.prefetch, self._poll)
        profiler = self._profile and Profiler(self.workdir.path / "profile", start, self.last_step)
        try:
            while True:
                try:
                    dispatch, (examples, read) = next(stream)
                except StopIteration:
                    return state
                except (Stop, DataError):  # between two steps: nothing of them is lost
                    if self.step > self._fetched_step and not processes.several():
                        self._save(state, evaluation_due=False)
                    raise
                self.watchdog.beat(SLOW if dispatch.is_first else 0)
                faults.point("train.step")
                rates = [self._rates(step, state) for step in dispatch.steps]
                batch = read if several else placed.finish(read)
                given = jax.tree.map(lambda *each: np.stack(each), *rates) if several else rates[0]
                if profiler:
                    profiler.before(dispatch.steps[0])
                state, metrics = train_step(state, batch, given, **self._requests())
                if profiler and (said := profiler.after(dispatch.steps[-1], (state, metrics))):
                    self.log.say(said)
                notes = []
                for example, rate in zip(examples, rates, strict=True):
                    self.batch_hash = batches.chain(self.batch_hash, *example)
                    notes.append(_Notes(float(rate.weights), self.batch_hash, dispatch.is_first))
                self.meter.waited = stream.wait_seconds
                before = self.meter.add(dispatch.steps[0], metrics, notes)
                self.step = dispatch.steps[-1] + 1
                faults.point("train.stepped")
                self.watchdog.beat(step=True)
                self._log_steps(before, state)
                state = self._after_step(state)
        except DivergedError:
            self.workdir.write("diverged.json", self._divergence(state))
            raise
        finally:
            stream.close()
            if profiler:
                profiler.close()

    def _dispatches(self, start: int) -> Iterator[Dispatch]:
        """All steps from `start` on, train.steps_per_dispatch at once where nothing is due before the last of them."""
        count, lengths, step = self.spec.train.steps_per_dispatch, set(), start
        while step < self.last_step:
            free = all(not self._is_due(done) for done in range(step + 1, step + count))
            steps = range(step, step + (count if free and step + count <= self.last_step else 1))
            yield Dispatch(steps, len(steps) not in lengths)
            lengths.add(len(steps))
            step = steps.stop

    def _is_due(self, done: int) -> bool:
        """Whether something is to be logged, evaluated or saved after so many steps."""
        logged = done % self.spec.train.log_every == 0
        return logged or self._is_evaluated(done) or self._is_saved(done)

    def _is_evaluated(self, done: int) -> bool:
        return done == self.last_step or done % self.evaluate_every == 0

    def _is_saved(self, done: int) -> bool:
        spec = self.spec.train
        of_series = spec.keep_powers_of_two and checkpoint.is_power_of_two(done)
        return done == self.last_step or done % spec.checkpoint_every == 0 or of_series

    def _after_step(self, state):
        """Evaluate, save and stop where it is time for that; the state, which an evaluation may change."""
        done, interruption, error = self.step, None, None
        self._writer.check()
        self.log.progress(done, self.meter, self.batch_size)
        due = self._is_evaluated(done)
        if due and not self._stopping:
            try:
                self._log_steps(self.meter.flush(), state)
                with self.meter.paused():
                    (state, error), due = self._evaluate(state), False
            except (Stop, DataError) as why:  # saved as it is, and evaluated at the next start
                interruption = why
        stopping = self._stopping or interruption
        is_best = error is not None and error < min(self._errors.values(), default=math.inf)
        if self._is_saved(done) or is_best or stopping or self._saving:
            if error is not None:
                self._errors[done] = error
            self._save(state, evaluation_due=due)
        if interruption:
            raise interruption
        if self._stopping:
            raise Stop
        return state

    @property
    def _stopping(self) -> bool:
        """Whether to stop after this step: several processes agree on it in a step, and read that one step late."""
        return self.meter.stop if processes.several() else bool(self.signals.received)

    @property
    def _saving(self) -> bool:
        """Whether checkpoint_minutes ask for a save after this step: agreed on as `_stopping` is."""
        return self.meter.save if processes.several() else self._time_to_save()

    def _time_to_save(self) -> bool:
        """Whether checkpoint_minutes have passed; while a checkpoint is being written, the next one can wait."""
        seconds = 60 * self.spec.train.checkpoint_minutes
        return 0 < seconds <= time.monotonic() - self._fetched_at and not self._writer.busy

    def _requests(self) -> dict[str, bool]:
        """What a step is to tell all processes that this one asks for; the time is that of the leader."""
        by_time = processes.several() and processes.leads() and self._time_to_save()
        return {"stop": bool(self.signals.received), "save": by_time}

    def _poll(self) -> None:
        """Raises Stop at any time, where this process need not agree with others."""
        if not processes.several():
            self.signals.poll()

    def _log_steps(self, reads: list[Read], state) -> None:
        """Say what is to be said after the steps that were just read; `state` may be later."""
        for read in reads:
            self._log_step(read, state)

    def _log_step(self, read: Read, state) -> None:
        done, (learning_rate, batch_hash, compiled) = read
        if not (self._estimated or compiled) and done >= self._start + 4:
            self._estimated = True
            self._estimate(done)
        if done % self.spec.train.log_every == 0:
            values = {"learning_rate": learning_rate, **self.meter.summary(self.batch_size)}
            values["batch_hash"] = batch_hash
            self.log.train(done, self.last_step, self.batch_size, self.epoch(done), values)
            self._write_status()
            self.meter.reset()
            signal = partial(self._signal, state)
            said = self._detector and self._detector.feed(done, values["train_loss"], signal)
            if said:
                self.log.say(said)
        if compiled:
            self.meter.restart_clock()

    def _plateau_detector(self) -> diagnosis.PlateauDetector | None:
        """A detector that has seen the losses of earlier starts; None for a loss without that plateau."""
        if self.spec.train.loss != "cross_entropy":
            return None
        detector = diagnosis.PlateauDetector(
            len(self.dataset.class_names), self.examples // self.batch_size
        )
        for line in processes.lead(lambda: read_metrics(self.workdir.path)):
            if "train_loss" in line:
                detector.feed(line["step"], line["train_loss"])
        return detector

    def _positions(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        return batches.positions(
            step, batch_size=self.batch_size, num_examples=self.examples, seed=self.spec.seed,
            shuffle=self.spec.data.shuffle,
        )  # fmt: skip

    def _batch(self, step: int) -> batches.Batch:
        return batches.batch(self.dataset.splits["train"], *self._positions(step))

    def _rates(self, step: int, state) -> schedule.Rates:
        return schedule.rates(self.spec, self.epoch(step), state.schedule, self.spec.train.epochs)

    def _evaluate(self, state):
        """Log the errors of the held-out images: the state, and the top-1 error if they are those of 'val'.

        The plateau schedule may react to that one.
        """
        if not self.held_out:
            return state, None
        name, view, step = self.held_out[0], self.spec.evaluation.views, self.step
        probabilities = self._probabilities(state, name, view)
        result = errors.summarize(probabilities, self.dataset.splits[name].labels)
        self.log.evaluation(step, self.epoch(step), name, view, result)
        if name != "val":
            return state, None
        error, count = result["top1_error"], result["count"]
        # Not at an end between two evaluations: a longer run has none there.
        if step % self.evaluate_every == 0:
            rate, wrong = self.spec.schedule.weights, round(error * count)
            state = state._replace(schedule=schedule.update(rate, state.schedule, wrong, count))
        return state, error

    def _probabilities(self, state, name: str, view: str):
        """Of the images of a split [n classes], those last computed not twice."""
        asked = (self.step, name, view)
        if self._predicted and self._predicted[0] == asked:
            return self._predicted[1]
        if view not in self._eval_steps:
            self._eval_steps[view] = make_eval_step(
                self.spec, self.model, self.statistics, self.mesh, view
            )
        predict = predictions.predictor(
            self._eval_steps[view], state.params, state.batch_stats, self.mesh
        )
        size = predictions.batch_size(self.spec, view, self.mesh)
        self.watchdog.beat(SLOW)
        stops = _Agreement(self.mesh) if processes.several() else bool

        def poll() -> None:
            faults.point("evaluate.batch")
            self._writer.check()
            if stops(bool(self.signals.received)):
                raise Stop

        def watched(images, indices):
            probabilities = predict(images, indices)
            self.watchdog.beat()
            return probabilities

        probabilities = predictions.of_split(watched, self.dataset.splits[name], size, poll)
        self._predicted = asked, probabilities
        return probabilities

    def _save(self, state, *, evaluation_due: bool) -> None:
        """Fetch the state, and begin to write a checkpoint of it once the one before is committed.

        Raises DivergedError rather than save what is not finite, and the StorageError of the checkpoint before.
        """
        self._log_steps(self.meter.flush(), state)
        self.meter.save = False
        with self.meter.paused():
            self.log.flush()
            self._wait_for_writer()
            fetched = checkpoint.fetch(state)
            checkpoint.check_finite(fetched)
            self._fetched_step, self._fetched_at = self.step, time.monotonic()
            if processes.leads():
                meta, errors = self._meta(evaluation_due), dict(self._errors)
                self._writer.start(partial(self._commit, self.step, fetched, meta, errors))
            else:
                self.saved_step = self.step
            self.watchdog.beat()

    def _wait_for_writer(self) -> None:
        """Until the last checkpoint is committed. Raises StorageError."""
        self.watchdog.beat(WRITE_SECONDS)
        self._writer.wait()
        self.watchdog.beat()

    def _meta(self, evaluation_due: bool) -> dict:
        """meta.json of a checkpoint of this moment."""
        return {
            "config": json.loads(configs.to_json(self.config_dict)),
            "class_names": list(self.dataset.class_names),
            "dataset": self.dataset.fingerprint,
            "evaluation_due": evaluation_due,
            "meter": self.meter.saved,
            "batch_hash": self.batch_hash,
            "seconds": self.seconds,
        }

    def _commit(self, step: int, state, meta: dict, errors: dict[int, float]) -> None:
        """Commit a checkpoint, tell status.json, and only then delete old ones: in the writer's thread."""
        with self.watchdog.watching(WRITE_SECONDS):
            checkpoint.save(self.workdir.checkpoints, state, self.statistics, meta)
            self._write_status(step)
            faults.point("save.status")
            self._prune(errors)

    def _write_status(self, saved_step: int | None = None) -> None:
        """status.json of a running run, from any thread; `saved_step` was just committed."""
        with self._status:
            self.saved_step = self.saved_step if saved_step is None else saved_step
            self.workdir.write_status("running", self.step, self.saved_step)

    def _prune(self, errors: dict[int, float]) -> None:
        """Delete old checkpoints, but not the one with the lowest of validation `errors`."""
        folder, keep = self.workdir.checkpoints, self.spec.train
        steps = checkpoints.committed_steps(folder)
        best = checkpoints.best_step(steps, errors)
        kept = checkpoint.kept_steps(steps, best, keep.keep_every, keep.keep_powers_of_two)
        checkpoint.prune(folder, kept)

    @property
    def seconds(self) -> float:
        """Wall time spent on this run, earlier starts included."""
        return self._earlier_seconds + time.monotonic() - self._begin

    def _estimate(self, done: int) -> None:
        """Say how long training will take, going by the steps since the first one."""
        speed = self.meter.speed(self.batch_size)["images_per_second"]
        seconds = (self.last_step - done) * self.batch_size / speed
        self.log.say(f"about {duration(seconds)} of training on this {jax.default_backend()}")

    def _divergence(self, state) -> dict:
        step = self.meter.recent[-1]["step"]
        batch = self._batch(step)
        return {
            "step": step,
            "batch_hash": batches.chain("", batch.labels, batch.indices, batch.epochs),
            "indices": batch.indices.tolist(),
            "epochs": batch.epochs.tolist(),
            "learning_rate": float(self._rates(step, state).weights),
            "recent": list(self.meter.recent),
        }

    def _finish(self, state) -> None:
        """Final errors of every held-out split and view, figures, results.json."""
        step, seconds = self.step, self.seconds
        splits: dict = {name: {} for name in self.held_out}
        for name in self.held_out:
            for view in self.spec.evaluation.final_views:
                splits[name][view] = self._probabilities(state, name, view)
        first, _ = self.spec.model.convs[0]
        kernels = processes.to_host(state.params[first]["kernel"])
        if processes.leads():
            self._report(step, seconds, splits, kernels)

    def _report(self, step: int, seconds: float, splits: dict, kernels) -> None:
        self._wait_for_writer()
        for name, views in splits.items():
            labels = self.dataset.splits[name].labels
            for view, probabilities in views.items():
                views[view] = predictions.record(
                    self.workdir.path, name, view, step, probabilities, labels
                )
        faults.point("finish.evaluated")
        checkpoints.verify(self.workdir.checkpoints, step)
        results: dict = {
            "schema": 1, "step": step, "epoch": self.epoch(step), "config": self.spec.name, "splits": splits,
            "seconds": seconds, "images_per_second": step * self.batch_size / seconds,
        }  # fmt: skip
        _, row = self.spec.model.convs[0]
        figures = [
            curves.plot(self.workdir.path),
            filters.plot(kernels, self.spec.model.towers,
                         self.workdir.path / "figures" / "filters.png"),
        ] if row.kind == "conv" else [curves.plot(self.workdir.path)]  # fmt: skip
        faults.point("finish.figures")
        self.workdir.write("results.json", results)  # last: what has it, is finished
        faults.point("finish.results")
        self.log.say(summary(results))
        # Of those that are there: a full disk may have cost the checkpoint of the lowest error.
        best = checkpoints.best_step(
            checkpoints.committed_steps(self.workdir.checkpoints), self._errors
        )
        if best is not None and best != step:
            self.log.say(
                f"  lowest validation error of a checkpoint: {self._errors[best]:.2%} at step {best:,}, --step best"
            )
        self.log.say("figures: " + "  ".join(str(path) for path in figures))


class _Agreement:
    """Whether any process of the run said yes. All ask together, and are told at the next call, without waiting."""

    def __init__(self, mesh: jax.sharding.Mesh) -> None:
        self._devices = mesh.size
        self._each = jax.NamedSharding(mesh, jax.P(mesh.axis_names))
        self._any = jax.jit(jnp.any, out_shardings=jax.NamedSharding(mesh, jax.P()))
        self._asked: jax.Array | None = None

    def __call__(self, yes: bool) -> bool:
        before = self._asked
        self._asked = self._any(processes.to_devices(np.full(self._devices, yes), self._each))
        return before is not None and bool(before)


def last_step(spec: Config, examples: int) -> int:
    """The step at which the run is finished."""
    steps = math.ceil(spec.train.epochs * examples / spec.train.batch_size)
    steps = min(steps, spec.train.max_steps or steps)
    if steps > specs.MOST_STEPS:
        raise ConfigError(
            f"config.train.epochs={spec.train.epochs:g} of {examples:,} images is {steps:,} steps, more than "
            f"{specs.MOST_STEPS:,}; train.max_steps can limit them"
        )
    return steps


def _nearest(batch_size: int, divisor: int) -> str:
    """In words, the nearest multiples of `divisor`."""
    above = parallel.round_up(batch_size, divisor)
    return f"{above - divisor} or {above}" if above > divisor else str(above)
