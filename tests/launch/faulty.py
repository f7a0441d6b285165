"""The tiny net of tests/tiny.py with faults, each at the first start of a run only."""

import os
import sys
from pathlib import Path

from tests import tiny
from tests.reliability import faults


def get_config(arg="good"):
    config = tiny.get_config()
    config.name = f"faulty:{arg}"
    config.schedule.weights.max_drops = 10 + NAMES.index(arg)  # no two are one; never reached
    CHANGES.get(arg, lambda config: None)(config)
    if "--workdir" in sys.argv:  # in the run itself, not in the process that starts it
        workdir = Path(sys.argv[sys.argv.index("--workdir") + 1])
        plan = os.environ.get("ALEXNET_FAULT", "")
        if arg in FAULTS and not (workdir / "checkpoints").exists():
            plan = FAULTS[arg]
        faults.install(plan)
    return config


def diverging(config):
    config.schedule.weights.learning_rate = 1e9


def wrong(config):
    config.train.batch_size = 0


CHANGES = {"diverging": diverging, "wrong": wrong}
FAULTS = {
    "killed": "train.step:20:kill",
    "preempted": "train.step:20:signal=TERM",
    "memory": "train.step:3:raise=MEMORY",
}
NAMES = ("good", "diverging", "wrong", "killed", "preempted", "memory")
