"""Faults in the training command, put there from outside by wrapping functions of alexnet_jax.

ALEXNET_FAULT=save.state:2:kill python -m tests.reliability.faults --config ... --workdir ...

runs the training command. ALEXNET_FAULT is a list, separated by commas, of point:n:action: at the n-th passing of the
point (n=*: at each)
  kill            SIGKILL to this process          stop       SIGSTOP to it
  signal=TERM     that signal to this process      sleep=2    seconds
  raise=ENOSPC    that error of the system, or raise=MEMORY: what XLA raises when a device is full
  say             print the name of the point
Without arguments the points are listed.
"""

import collections
import errno
import functools
import importlib
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from alexnet_jax import cli
from alexnet_jax.errors import ConfigError


class Point(NamedTuple):
    """A place in the training command: before or after a call of a function."""

    when: str
    #: Module below alexnet_jax, and the name of the function in it.
    module: str
    function: str
    meaning: str


POINTS = {
    "data.open": Point("before", "data.sources", "open_dataset", "before the images are opened"),
    "data.batch": Point("before", "train.batch_source", "BatchSource.read",
                        "before a batch is read, in the thread that reads ahead"),
    "train.compile": Point("before", "train.setup", "make_train_step", "before the first step is compiled"),
    "train.step": Point("before", "train.profiler", "Profiler.before", "before a step"),
    "train.stepped": Point("before", "train.progress", "Progress.add", "after a step, before it is logged"),
    "train.logged": Point("after", "train.writers", "JsonLines.write", "after a line of metrics was written"),
    "evaluate.batch": Point("before", "train.evaluator", "Evaluator.before_batch",
                            "before a batch of an evaluation"),
    "save.begin": Point("before", "train.checkpoint", "write_checkpoint",
                        "before anything of a checkpoint is written"),
    "save.folder": Point("after", "train.checkpoint", "make_temporary", "after its temporary folder was made"),
    "save.state": Point("after", "train.checkpoint", "write_state", "after orbax wrote the arrays"),
    "save.statistics": Point("after", "train.checkpoint", "write_statistics",
                             "after the input statistics were written"),
    "save.meta": Point("after", "train.checkpoint", "write_meta", "after meta.json was written"),
    "save.hashed": Point("after", "train.checkpoint", "hash_files", "after the sums were taken"),
    "save.committed": Point("after", "train.checkpoint", "write_commit", "after COMMIT.json was written"),
    "save.renamed": Point("after", "train.checkpoint", "publish", "after the folder got its name"),
    "save.status": Point("after", "run.status", "RunStatus.write_saved", "after status.json tells of it"),
    "prune.trash": Point("after", "train.retention", "move_to_trash",
                         "after an old checkpoint was renamed for deletion"),
    "prune.deleted": Point("after", "train.retention", "delete", "after it was deleted"),
    "resume.restored": Point("after", "train.checkpoint", "restore", "after a checkpoint was restored"),
    "finish.evaluated": Point("after", "train.report", "record_predictions",
                              "after the final errors were taken"),
    "finish.figures": Point("before", "train.report", "write_results", "after the figures were drawn"),
    "finish.results": Point("after", "train.report", "write_results", "after results.json was written"),
}  # fmt: skip
_MEMORY = "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 1099511627776 bytes."

Plan = list[tuple[str, str, str]]


def install(text: str | None = None) -> None:
    """Wrap the functions of all points in the plan `text`, by default ALEXNET_FAULT. Raises ConfigError."""
    plan = parse(os.environ.get("ALEXNET_FAULT", "") if text is None else text)
    for name in dict.fromkeys(name for name, _, _ in plan):
        owner, attribute = resolve(name)
        act = functools.partial(_pass, plan, name, collections.Counter())
        wrapped = _wrapped(getattr(owner, attribute), POINTS[name].when, act)
        setattr(owner, attribute, wrapped)


def parse(text: str) -> Plan:
    """Return (point, number, action) of each entry. Raises ConfigError."""
    plan = []
    for entry in filter(None, text.split(",")):
        name, number, action = (*entry.split(":"), "", "")[:3]
        if name not in POINTS or not (number == "*" or number.isdigit()) or not action:
            raise ConfigError(
                f"ALEXNET_FAULT={entry}: not point:n:action; see tests.reliability.faults"
            )
        plan.append((name, number, action))
    return plan


def resolve(name: str) -> tuple[Any, str]:
    """Return the module or class of a point, and the name of the function in it."""
    point = POINTS[name]
    owner: Any = importlib.import_module(f"alexnet_jax.{point.module}")
    *classes, attribute = point.function.split(".")
    for inner in classes:
        owner = getattr(owner, inner)
    return owner, attribute


def _wrapped(function: Callable, when: str, act: Callable[[], None]) -> Callable:
    @functools.wraps(function)
    def call(*arguments, **keywords):
        if when == "before":
            act()
        result = function(*arguments, **keywords)
        if when == "after":
            act()
        return result

    return call


def _pass(plan: Plan, name: str, passed: collections.Counter) -> None:
    passed[name] += 1
    for place, number, action in plan:
        if place == name and number in ("*", str(passed[name])):
            _act(name, action)


def _act(name: str, action: str) -> None:
    kind, _, value = action.partition("=")
    if kind == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif kind == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    elif kind == "signal":
        os.kill(os.getpid(), signal.Signals[f"SIG{value}"])
    elif kind == "sleep":
        time.sleep(float(value))
    elif kind == "say":
        # In one call: threads that print at the same time mix their text and line ends.
        os.write(sys.stdout.fileno(), f"passed {name}\n".encode())
    elif action == "raise=MEMORY":
        raise RuntimeError(_MEMORY)
    elif kind == "raise":
        number = getattr(errno, value)
        raise OSError(number, os.strerror(number))
    else:
        raise ConfigError(f"ALEXNET_FAULT: unknown action {action}; see tests.reliability.faults")


def main(arguments: list[str]) -> int:
    """The training command with faults."""
    from alexnet_jax import main as command

    install()
    return command.main(arguments)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        cli.run(main)
    for name, point in POINTS.items():
        print(f"{name:18}{point.meaning}")
