"""`alexnet sweep` with one more sweep, `faulty`: a process of its own, as forking and threads do not mix."""

from alexnet_jax import cli
from launch import sweep
from tests.launch import faulty

sweep.sweeps.SWEEPS["faulty"] = lambda scale: [
    sweep.sweeps.Member(name, f"tests/launch/faulty.py:{name}", {}, seeds=1)
    for name in faulty.NAMES
]
cli.run(sweep.main)
