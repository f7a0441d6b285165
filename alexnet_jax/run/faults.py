"""Places where a test can make a run fail. Inert unless the environment says so.

ALEXNET_ENABLE_FAULTS=1 ALEXNET_FAULT=save.state:2:kill python -m alexnet_jax.main ...

ALEXNET_FAULT is a list, divided by commas, of point:n:action: at the n-th passing of the point (n=*: at each)
  kill            SIGKILL to this process          stop       SIGSTOP to it
  signal=TERM     that signal to this process      sleep=2    seconds
  raise=ENOSPC    that error of the system, or raise=MEMORY: what XLA raises when a device is full
`python -m alexnet_jax.run.faults` lists the points.
"""

import collections
import errno
import functools
import os
import signal
import time

from alexnet_jax.errors import ConfigError

POINTS = {
    "data.open": "before the images are opened",
    "data.batch": "before a batch is read, in the thread that reads ahead",
    "train.compile": "before the first step is compiled",
    "train.step": "before a step",
    "train.stepped": "after a step, before it is logged",
    "train.logged": "after a line of metrics was written",
    "evaluate.batch": "before a batch of an evaluation",
    "save.begin": "before anything of a checkpoint is written",
    "save.folder": "after its temporary folder was made",
    "save.state": "after orbax wrote the arrays",
    "save.statistics": "after the input statistics were written",
    "save.meta": "after meta.json was written",
    "save.hashed": "after the sums were taken",
    "save.committed": "after COMMIT.json was written",
    "save.renamed": "after the folder got its name",
    "save.status": "after status.json tells of it",
    "prune.trash": "after an old checkpoint was renamed for deletion",
    "prune.deleted": "after it was deleted",
    "resume.restored": "after a checkpoint was restored",
    "finish.evaluated": "after the final errors were taken",
    "finish.figures": "after the figures were drawn",
    "finish.results": "after results.json was written",
}
_MEMORY = "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 1099511627776 bytes."


def point(name: str) -> None:
    """Do here what ALEXNET_FAULT asks for, which is nothing as a rule. Raises ConfigError if it makes no sense."""
    plan = _plan()
    if plan:
        _PASSED[name] += 1
        for place, number, action in plan:
            if place == name and number in ("*", str(_PASSED[name])):
                _act(action)


_PASSED: collections.Counter[str] = collections.Counter()


@functools.cache
def _plan() -> list[tuple[str, str, str]]:
    if os.environ.get("ALEXNET_ENABLE_FAULTS") != "1":
        return []
    plan = []
    for text in filter(None, os.environ.get("ALEXNET_FAULT", "").split(",")):
        place, number, action = (*text.split(":"), "", "")[:3]
        if place not in POINTS or not (number == "*" or number.isdigit()) or not action:
            raise ConfigError(
                f"ALEXNET_FAULT={text}: not point:n:action; see alexnet_jax.run.faults"
            )
        plan.append((place, number, action))
    return plan


def _act(action: str) -> None:
    kind, _, value = action.partition("=")
    if kind == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif kind == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    elif kind == "signal":
        os.kill(os.getpid(), signal.Signals[f"SIG{value}"])
    elif kind == "sleep":
        time.sleep(float(value))
    elif action == "raise=MEMORY":
        raise RuntimeError(_MEMORY)
    elif kind == "raise":
        number = getattr(errno, value)
        raise OSError(number, os.strerror(number))
    else:
        raise ConfigError(f"ALEXNET_FAULT: unknown action {action}; see alexnet_jax.run.faults")


if __name__ == "__main__":
    for name, meaning in POINTS.items():
        print(f"{name:18}{meaning}")
