"""Training from a config to an evaluated checkpoint, and on from where an earlier start stopped."""

import json
import math
import time
from functools import partial

import jax
import numpy as np

from alexnet_jax import config as configs
from alexnet_jax import parallel
from alexnet_jax.analysis import curves, filters
from alexnet_jax.data import batches, sources, statistics
from alexnet_jax.errors import ConfigError, DivergedError
from alexnet_jax.evaluation import errors, evaluate
from alexnet_jax.model.alexnet import AlexNet
from alexnet_jax.specs import Config
from alexnet_jax.training import checkpoint, diagnosis, schedule
from alexnet_jax.training import state as states
from alexnet_jax.training.log import Log, duration, summary
from alexnet_jax.training.meter import Meter
from alexnet_jax.training.signals import Signals, Stop
from alexnet_jax.training.step import make_eval_step, make_train_step
from alexnet_jax.workdir import Workdir, read_metrics


def prepare(spec: Config) -> tuple[Config, sources.Dataset, statistics.Statistics]:
    """The config with its number of classes, the data and its statistics, checked against each other.

    Before anything is written: images that fit the cache are all decoded here, so that an unreadable one shows
    now. Raises ConfigError and DataError.
    """
    devices = len(jax.local_devices())
    batch_size, parts = spec.train.batch_size, spec.train.accumulate
    if batch_size % (parts * devices):
        raise ConfigError(
            f"config.train.batch_size={batch_size} in {parts} part(s) is not divisible over {devices} devices; "
            f"use {parallel.round_up(batch_size, parts * devices)}"
        )
    dataset = sources.open_dataset(spec.data, spec.seed)
    spec = configs.with_classes(spec, len(dataset.class_names))
    if spec.schedule.weights.kind == "plateau" and "val" not in dataset.splits:
        raise ConfigError(
            "config.schedule.weights.kind='plateau' needs validation images: hold some out with "
            "--config.data.validation=0.1, or use kind 'epochs'"
        )
    for split in dataset.splits.values():
        split.images[np.arange(1)]
    return spec, dataset, statistics.load(dataset)


class Training:
    """The objects of one run. `run` trains to the end and returns what results.json holds.

    `run` raises Stop after a signal (the state is then saved), DivergedError, StorageError and DataError.
    """

    def __init__(
        self,
        spec: Config,
        dataset: sources.Dataset,
        image_statistics: statistics.Statistics,
        workdir: Workdir,
        config_dict,
    ) -> None:
        self.spec, self.dataset, self.statistics = spec, dataset, image_statistics
        self.workdir, self.config_dict = workdir, config_dict
        self.mesh = parallel.data_mesh()
        self.model = AlexNet(spec.model)
        self.batch_size = spec.train.batch_size
        self.examples = len(dataset.splits["train"].labels)
        self.last_step = last_step(spec, self.examples)
        steps = spec.evaluation.every_epochs * self.examples / self.batch_size
        self.evaluate_every = max(1, round(steps))
        # Decisions (the plateau schedule, the best checkpoint) look at 'val' only; 'test' is merely reported.
        self.held_out = [name for name in ("val", "test") if name in dataset.splits]
        self.saved_step = 0
        self.val_error: float | None = None
        self._eval_steps: dict = {}
        self._begin, self._earlier_seconds = time.monotonic(), 0.0

    def epoch(self, step: int) -> float:
        """Passes over the training images made in `step` steps."""
        return step * self.batch_size / self.examples

    def run(self, signals: Signals) -> dict:
        self.signals = signals
        state = states.create(self.spec, self.model, self.spec.seed, mesh=self.mesh)
        found = checkpoint.latest(self.workdir.checkpoints)
        if found:
            state, evaluation_due = self._restore(state, *found)
        else:
            self.meter, evaluation_due = Meter(), False
        start = self.saved_step = int(state.step)
        self.log = Log(self.workdir.path, start, self.last_step, unfinished=evaluation_due)
        try:
            self.workdir.write_status("running", start, saved=start > 0)
            self._announce(state, start)
            if evaluation_due:
                state = self._evaluate(state)
            state = self._train(state, start)
            return self._finish(state)
        finally:
            self.log.close()

    def _restore(self, state, step: int, meta: dict):
        """The saved state, and whether its step still has to be evaluated."""
        if meta["dataset"] != self.dataset.fingerprint:
            raise ConfigError(
                f"the images changed since {self.workdir.path} was begun; choose another --workdir"
            )
        self.statistics = checkpoint.load_statistics(self.workdir.checkpoints, step)
        self.meter = Meter(meta["meter"])
        self.val_error, self._earlier_seconds = meta["val_error"], meta["seconds"]
        return checkpoint.restore(self.workdir.checkpoints, step, state), meta["evaluation_due"]

    def _announce(self, state, start: int) -> None:
        say = self.log.say
        sizes = ", ".join(
            f"{len(split.labels):,} {name}" for name, split in self.dataset.splits.items()
        )
        count = sum(leaf.size for leaf in jax.tree.leaves(state.params))
        say(
            f"{self.spec.name}: {count:,} parameters, {len(self.dataset.class_names)} classes; images: {sizes}"
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
        spec, meter, log = self.spec.train, self.meter, self.log
        sharding = jax.NamedSharding(self.mesh, jax.P(parallel.DATA))
        train_step = make_train_step(self.spec, self.model, self.statistics, self.mesh)
        detector = self._plateau_detector()
        stream = batches.prefetch(
            lambda step: jax.device_put(self._batch(step), sharding),
            start, self.last_step, self.spec.data.prefetch,
        )  # fmt: skip
        try:
            for step, batch in stream:
                rates = self._rates(step, state)
                state, metrics = train_step(state, batch, rates)
                meter.add(step, metrics)
                done = step + 1
                if done == start + 4:
                    self._estimate(done)
                log.progress(done, meter, self.batch_size, stream.wait_seconds)
                if done % spec.log_every == 0:
                    loss = self._log_interval(done, float(rates.weights), stream.wait_seconds)
                    said = detector and detector.feed(done, loss, partial(self._signal, state))
                    if said:
                        log.say(said)
                if done == start + 1:  # compiled: what follows takes what a step takes
                    meter.restart_clock(stream.wait_seconds)
                due = done % self.evaluate_every == 0
                if due and not self.signals.received:
                    state, due = self._evaluate_unless_stopped(state)
                last = done == self.last_step
                if last or done % spec.checkpoint_every == 0 or self.signals.received:
                    self._save(state, evaluation_due=due)
                self.signals.poll()
        except DivergedError:
            self.workdir.write("diverged.json", self._divergence(state))
            raise
        finally:
            stream.close()
        return state

    def _log_interval(self, done: int, learning_rate: float, waited: float) -> float:
        """Log what happened since the last line; the mean training loss."""
        self.meter.flush()
        values = {"learning_rate": learning_rate, **self.meter.summary(self.batch_size, waited)}
        self.log.train(done, self.last_step, self.batch_size, self.epoch(done), values)
        self.workdir.write_status("running", done, saved=done == self.saved_step)
        self.meter.reset(waited)
        return values["train_loss"]

    def _evaluate_unless_stopped(self, state):
        """The state after evaluation, and whether the evaluation is still due because a signal came."""
        try:
            with self.meter.paused():
                self.meter.flush()
                return self._evaluate(state), False
        except Stop:
            return state, True

    def _plateau_detector(self) -> diagnosis.PlateauDetector | None:
        """A detector that has seen the losses of earlier starts; None for a loss without that plateau."""
        if self.spec.train.loss != "cross_entropy":
            return None
        detector = diagnosis.PlateauDetector(
            len(self.dataset.class_names), self.examples // self.batch_size
        )
        for line in read_metrics(self.workdir.path):
            if "train_loss" in line:
                detector.feed(line["step"], line["train_loss"])
        return detector

    def _batch(self, step: int) -> batches.Batch:
        return batches.batch(
            self.dataset.splits["train"], step,
            batch_size=self.batch_size, seed=self.spec.seed, shuffle=self.spec.data.shuffle,
        )  # fmt: skip

    def _rates(self, step: int, state) -> schedule.Rates:
        return schedule.rates(self.spec, self.epoch(step), state.schedule, self.spec.train.epochs)

    def _evaluate(self, state):
        """Log the errors of the held-out images; the plateau schedule may react to those of 'val'."""
        if not self.held_out:
            return state
        name, view, step = self.held_out[0], self.spec.evaluation.views, int(state.step)
        probabilities = self._probabilities(state, name, view)
        result = errors.summarize(probabilities, self.dataset.splits[name].labels)
        self.log.evaluation(step, self.epoch(step), name, view, result)
        if name == "val":
            error = self.val_error = result["top1_error"]
            plateau = schedule.update(self.spec.schedule.weights, state.schedule, error)
            state = state._replace(schedule=plateau)
        return state

    def _probabilities(self, state, name: str, view: str):
        if view not in self._eval_steps:
            self._eval_steps[view] = make_eval_step(
                self.spec, self.model, self.statistics, self.mesh, view
            )
        predict = evaluate.predictor(
            self._eval_steps[view], state.params, state.batch_stats, self.mesh
        )
        size = parallel.round_up(self.spec.evaluation.batch_size, self.mesh.size)
        return evaluate.predictions(predict, self.dataset.splits[name], size, self.signals.poll)

    def _save(self, state, *, evaluation_due: bool) -> None:
        with self.meter.paused():
            self.meter.flush()
            self.log.flush()
            meta = {
                "config": json.loads(configs.to_json(self.config_dict)),
                "class_names": list(self.dataset.class_names),
                "dataset": self.dataset.fingerprint,
                "evaluation_due": evaluation_due,
                "meter": self.meter.saved,
                "val_error": self.val_error,
                "seconds": self.seconds,
            }
            checkpoint.save(self.workdir.checkpoints, state, self.statistics, meta)
            checkpoint.prune(self.workdir.checkpoints, self.spec.train.keep_every)
        self.saved_step = int(state.step)

    @property
    def seconds(self) -> float:
        """Wall time spent on this run, earlier starts included."""
        return self._earlier_seconds + time.monotonic() - self._begin

    def _estimate(self, done: int) -> None:
        """Say how long training will take, going by the steps since the first one."""
        self.meter.flush()
        speed = self.meter.speed(self.batch_size, 0.0)["images_per_second"]
        seconds = (self.last_step - done) * self.batch_size / speed
        self.log.say(f"about {duration(seconds)} of training on this {jax.default_backend()}")

    def _divergence(self, state) -> dict:
        step = self.meter.recent[-1]["step"]
        batch = self._batch(step)
        return {
            "step": step,
            "indices": batch.indices.tolist(),
            "epochs": batch.epochs.tolist(),
            "learning_rate": float(self._rates(step, state).weights),
            "recent": list(self.meter.recent),
        }

    def _finish(self, state) -> dict:
        """Final errors of every held-out split and view, figures, results.json."""
        step, seconds = int(state.step), self.seconds
        splits: dict = {name: {} for name in self.held_out}
        for name in self.held_out:
            for view in self.spec.evaluation.final_views:
                probabilities = self._probabilities(state, name, view)
                labels = self.dataset.splits[name].labels
                splits[name][view] = evaluate.record(
                    self.workdir.path, name, view, step, probabilities, labels
                )
        checkpoint.verify(self.workdir.checkpoints, step)
        results = {
            "schema": 1, "step": step, "epoch": self.epoch(step), "config": self.spec.name, "splits": splits,
            "seconds": seconds, "images_per_second": step * self.batch_size / seconds,
        }  # fmt: skip
        self.workdir.write("results.json", results)
        first, row = self.spec.model.convs[0]
        figures = [
            curves.plot(self.workdir.path),
            filters.plot(jax.device_get(state.params[first]["kernel"]), self.spec.model.towers,
                         self.workdir.path / "figures" / "filters.png"),
        ] if row.kind == "conv" else [curves.plot(self.workdir.path)]  # fmt: skip
        self.log.say(summary(results))
        self.log.say("figures: " + "  ".join(str(path) for path in figures))
        return results


def last_step(spec: Config, examples: int) -> int:
    """The step at which the run is finished."""
    steps = math.ceil(spec.train.epochs * examples / spec.train.batch_size)
    return min(steps, spec.train.max_steps or steps)
