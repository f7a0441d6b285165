"""The order of what the loop does, and when it waits for the devices and the disk."""

import errno
import json
import threading
import time

import jax
import numpy as np
import pytest

from alexnet_jax import main
from alexnet_jax.errors import ConfigError
from alexnet_jax.evaluation import evaluate
from alexnet_jax.inference import checkpoints, metrics, trained
from alexnet_jax.train import checkpoint, setup
from alexnet_jax.train.evaluator import Evaluator
from alexnet_jax.train.log import Log
from alexnet_jax.train.meter import Meter

pytestmark = pytest.mark.usefixtures("bare_runs")
SHORT = ("--config", "tests/tiny.py", "--config.evaluation.final_views=('center',)")


@pytest.fixture
def events(monkeypatch):
    """What the loop does, in order: (dispatch | read | log | evaluate | fetch | committed, steps made)."""
    found: list[tuple[str, int]] = []
    make, read, validate, save = (
        setup.make_train_step, Meter._fetch, Evaluator.validate, checkpoint.save,
    )  # fmt: skip
    fetch, train = checkpoint.fetch, Log.train

    def make_train_step(*arguments):
        step = make(*arguments)

        def train_step(state, *more, **requests):
            assert threading.current_thread() is threading.main_thread()
            found.append(("dispatch", sum(name == "dispatch" for name, _ in found) + 1))
            return step(state, *more, **requests)

        return train_step

    def recorded(name, call, number):
        def record(*arguments, **keywords):
            result = call(*arguments, **keywords)
            found.append((name, number(*arguments)))
            return result

        return record

    monkeypatch.setattr(setup, "make_train_step", make_train_step)
    monkeypatch.setattr(
        Meter, "_fetch", recorded("read", read, lambda meter, step, _, notes: step + len(notes))
    )
    monkeypatch.setattr(Log, "train", recorded("log", train, lambda log, step, *_: step))
    monkeypatch.setattr(
        Evaluator, "validate", recorded("evaluate", validate, lambda run, state, step: step)
    )
    monkeypatch.setattr(
        checkpoint, "fetch", recorded("fetch", fetch, lambda state: int(state.step))
    )
    monkeypatch.setattr(
        checkpoint, "save", recorded("committed", save, lambda folder, state, *_: int(state.step))
    )
    return found


def train(folder, *more: str) -> None:
    command = [*SHORT, "--workdir", str(folder), *more]
    assert main.main([*command, "--config.train.max_steps=14"]) == 0


def test_what_the_loop_does_before_a_step_is_done_and_while_a_checkpoint_is_written(
    events, tmp_path, monkeypatch
):
    """Of a run that logs every step, and whose write of step 6 ends only once step 11 was dispatched."""
    save, threads, kinds = checkpoint.save, [], set()

    def slow(folder, state, *more):
        threads.append(threading.current_thread().name)
        kinds.update(map(type, jax.tree.leaves(state)))
        while int(state.step) == 6 and ("dispatch", 11) not in events:
            time.sleep(0.001)
        return save(folder, state, *more)

    monkeypatch.setattr(checkpoint, "save", slow)
    folder = tmp_path / "run"
    train(folder, "--config.train.log_every=1", "--config.train.checkpoint_every=6")
    # By another thread, at any time.
    in_order = [event for event in events if event[0] != "committed"]
    check_lines_wait_for_no_step_but_their_own(in_order, folder)

    # The evaluation of a step comes before its checkpoint is fetched.
    names = ["dispatch", "read", "log", "evaluate", "fetch"]
    assert [event for event in in_order if event[1] == 12] == [(name, 12) for name in names]
    meta = checkpoints.verify(folder / "checkpoints", 12)
    assert not meta["evaluation_due"]
    assert meta["meter"] == {"loss": 0.0, "top1_errors": 0, "steps": 0}  # 12 is a line of the log

    # Training goes on while 6 is written, and the save of 12 waits for it.
    assert events.index(("committed", 6)) > events.index(("dispatch", 11))
    assert events.index(("committed", 6)) < events.index(("fetch", 12))
    saved = [step for name, step in events if name in ("fetch", "committed")]
    assert saved == [6, 6, 12, 12, 14, 14]
    # The writer is given nothing of the devices: several wait for each other for ever where two threads begin what
    # they do together.
    assert set(threads) == {"writer"} and kinds == {np.ndarray}


def check_lines_wait_for_no_step_but_their_own(events, folder) -> None:
    for done in range(1, 15):
        # A checkpoint and an evaluation need the step itself; otherwise the next one is on its way before.
        waited = done in (6, 12, 14)
        at, dispatched = events.index(("log", done)), events.index(("dispatch", min(done + 1, 14)))
        assert (at < dispatched) == (waited and done < 14), done
        assert events[at - 1] == ("read", done)
        assert events.index(("dispatch", done)) < at
    assert [step for name, step in events if name == "log"] == list(range(1, 15))
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 15))
    assert all("train_loss" in line for line in lines)
    assert [line["step"] for line in lines if "eval_val_center_nll" in line] == [12, 14]


@pytest.mark.full
@pytest.mark.parametrize("minutes", ["0", "10", "1e-9"])
def test_checkpoint_minutes_save_when_that_time_has_passed(events, tmp_path, minutes):
    train(
        tmp_path / "run", "--config.train.checkpoint_every=1000",
        f"--config.train.checkpoint_minutes={minutes}",
    )  # fmt: skip
    saved = [step for name, step in events if name == "committed"]
    # 12, evaluated, has the lowest error so far.
    assert saved[:-1] == [12] if minutes != "1e-9" else saved[0] == 1
    assert saved[-1] == 14


@pytest.mark.full
def test_several_steps_of_one_dispatch_train_as_one_at_a_time(events, tmp_path):
    """Of 14 steps with lines at 5, 10 and a checkpoint at 6, 12 (evaluated), two at once go wherever nothing is due."""
    settings = ("--config.data.placement=device", "--config.train.log_every=5")
    found = {}
    for count in (1, 2):
        events.clear()
        train(tmp_path / str(count), *settings, f"--config.train.steps_per_dispatch={count}")
        lines = (tmp_path / str(count) / "metrics.jsonl").read_text().splitlines()
        state = checkpoints.load_variables(tmp_path / str(count) / "checkpoints", 14)
        found[count] = [json.loads(line) for line in lines], state["params"]
    assert [step for name, step in events if name == "read"] == [2, 4, 5, 6, 8, 10, 12, 14]
    (lines, params), (others, other_params) = found.values()
    keys = ("step", "epoch", "batch_hash", "learning_rate", "train_top1_error")
    assert [[line.get(key) for key in keys] for line in lines] == [
        [line.get(key) for key in keys] for line in others
    ]
    for line, other in zip(lines, others, strict=True):
        assert line.keys() == other.keys()
        for key in {"train_loss", "grad_norm", "eval_val_center_nll"} & line.keys():
            assert line[key] == pytest.approx(other[key], rel=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), params, other_params
    )


def test_several_steps_of_one_dispatch_need_the_images_on_the_devices(tmp_path, capsys):
    command = ["--config", "tests/tiny.py", "--workdir", str(tmp_path / "run")]
    with pytest.raises(ConfigError, match="placement=device"):
        main.main([*command, "--config.train.steps_per_dispatch=2"])
    assert not (tmp_path / "run").exists()


def test_a_save_by_time_does_not_wait_for_the_one_before(events, tmp_path, monkeypatch):
    save = checkpoint.save

    def slow(folder, state, *more):
        while int(state.step) == 1 and ("dispatch", 9) not in events:
            time.sleep(0.001)
        return save(folder, state, *more)

    monkeypatch.setattr(checkpoint, "save", slow)
    train(
        tmp_path / "run", "--config.train.checkpoint_every=1000",
        "--config.train.checkpoint_minutes=1e-9", "--config.data.validation=0.0",
        "--config.schedule.weights.kind=epochs",
    )  # fmt: skip
    fetched = [step for name, step in events if name == "fetch"]
    assert fetched[0] == 1 and fetched[1] >= 9 and fetched[-1] == 14
    # Nothing was validated, so none is the best.
    with pytest.raises(ConfigError, match=r"no checkpoint of .* has a validation error"):
        trained.load(tmp_path / "run", "best")


def logged_errors(folder) -> dict[int, float]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    key = "eval_val_center_top1_error"
    return {line["step"]: line[key] for line in lines if key in line}


OFTEN = (
    "--config.train.checkpoint_every=1000", "--config.evaluation.every_epochs=0.25",
    "--config.schedule.weights.learning_rate=0.01",
)  # fmt: skip
"""Evaluated at 3, 6, 9, 12 and 14 of 14 steps, and saved at the last alone unless an error is the lowest so far."""


def test_a_better_validation_error_saves_the_weights_that_have_it(events, tmp_path, capsys):
    folder = tmp_path / "run"
    train(folder, *OFTEN)
    logged = logged_errors(folder)
    assert list(logged) == [3, 6, 9, 12, 14]
    lowest, better = 1.1, []
    for step, error in logged.items():
        if error < lowest:
            better, lowest = [*better, step], error
    assert len(better) > 1 and lowest < 0.85  # it learned something
    saved = sorted({*better, 14})
    assert [step for name, step in events if name == "committed"] == saved
    best = better[-1]
    assert checkpoints.committed_steps(folder / "checkpoints") == sorted({best, *saved[-2:]})

    capsys.readouterr()
    arguments = ["--workdir", str(folder), "--split", "val", "--views", "center", "--json"]
    evaluate.main([*arguments, "--step", "best"])
    report = json.loads(capsys.readouterr().out)
    assert report["step"] == best
    assert report["splits"]["val"]["center"]["top1_error"] == lowest


@pytest.fixture
def given_errors(monkeypatch):
    """Validation errors 0.5, 0.2, 0.4, 0.3, 0.6 at steps 3, 6, 9, 12, 14."""
    errors = {3: 0.5, 6: 0.2, 8: 0.5, 9: 0.4, 12: 0.3, 14: 0.6}
    validate = Evaluator.validate

    def validate_with(self, state, step):
        found = {"count": 100, "top1_error": errors[step], "nll": 1.0}
        with monkeypatch.context() as patch:
            patch.setattr(metrics, "summarize", lambda *_: found)
            return validate(self, state, step)

    monkeypatch.setattr(Evaluator, "validate", validate_with)


def test_the_best_survives_worse_steps_and_another_start_but_not_a_full_disk(
    tmp_path, given_errors, monkeypatch, capsys
):
    """With a checkpoint of every step: 6 stays until the write of 13 fails; then the next best is kept and named."""
    folder, often = tmp_path / "run", (*OFTEN[1:], "--config.train.checkpoint_every=1")
    command = [*SHORT, "--workdir", str(folder), *often]
    assert main.main([*command, "--config.train.max_steps=8"]) == 0
    assert checkpoints.committed_steps(folder / "checkpoints") == [6, 7, 8]
    write, before = checkpoint.write_checkpoint, []

    def write_checkpoint(root, step, *more):
        if step == 13 and not before:
            before.extend(checkpoints.committed_steps(root))
            assert trained.load(folder, "best").step == 6
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(root, step, *more)

    monkeypatch.setattr(checkpoint, "write_checkpoint", write_checkpoint)
    train(folder, *often)
    assert before == [6, 11, 12]
    assert checkpoints.committed_steps(folder / "checkpoints") == [12, 13, 14]
    assert trained.load(folder, "best").step == 12
    assert "of a checkpoint: 30.00% at step 12, --step best" in capsys.readouterr().out
