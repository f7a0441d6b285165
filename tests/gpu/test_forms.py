"""Every form of a step gives on the device what the form that is chosen there gives."""

import functools
import threading

import jax
import pytest

from alexnet_jax.kernels import forms
from alexnet_jax.kernels.forms import GPU
from alexnet_jax.model import alexnet
from alexnet_jax.model import mesh as parallel
from alexnet_jax.train import schedule, state, step
from bench import ours, workload
from tests.gpu.device import DEVICE, distance

#: By type: how far a gradient may be apart. Each form rounds to bfloat16 at other places.
BOUNDS = {"float32": 1e-4, "bfloat16": 0.1}
CHANGES = [*forms.undone(GPU), *forms.CANDIDATES]


def first_step(dtype: str, chosen) -> tuple:
    """(loss, minus the rate times gradient and decay) of a step of the smallest net."""
    # Deterministic programs are compiled faster: nothing is timed.
    settings = ["--config.data.source=folder", "--config.train.accumulate=2", f"--config.model.compute_dtype={dtype}",
                "--config.train.matmul_precision=highest", "--config.train.deterministic=True"]  # fmt: skip
    spec = workload.load("tests/tiny.py", 16, settings)
    with jax.default_device(DEVICE):
        mesh = parallel.device_mesh([DEVICE])
        model = alexnet.from_config(spec, chosen)
        begin = state.create(spec, model, 0, mesh=mesh)
        train_step = step.make_train_step(spec, model, ours.statistics(spec), mesh)
        rates = schedule.rates(spec, 0.0, begin.schedule, 1.0)
        after, metrics = train_step(begin, ours.examples(spec), rates)
    return float(metrics["loss"]), jax.device_get(after.opt_state)


LOCKS = {dtype: threading.Lock() for dtype in BOUNDS}


@functools.cache
def _chosen(dtype: str):
    return first_step(dtype, GPU)


def compare(dtype: str, change: str) -> tuple[float, float]:
    """How far loss and gradient are apart."""
    with LOCKS[dtype]:
        loss, gradient = _chosen(dtype)
    found = first_step(dtype, forms.parse(change, GPU))
    return abs(found[0] / loss - 1), distance(found[1], gradient)


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("dtype", BOUNDS)
def test_a_form_gives_what_the_chosen_one_does(dtype, change, computed, request):
    loss, gradient = computed.of(request)
    assert gradient < BOUNDS[dtype], gradient
    assert loss < (1e-5 if dtype == "float32" else 5e-3), loss
