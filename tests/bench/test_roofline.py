"""The bound of a step, against values for the paper's network worked out by hand; and measurements of a device."""

import jax
import jax.numpy as jnp
import pytest

from alexnet_jax.model import geometry
from bench import roofline, workload


def seconds(batch, dtype, peak):
    spec = workload.load("configs/paper.py", batch, [f"--config.model.compute_dtype={dtype}"])
    return sum(work.seconds(peak, 4.3e12) for work in roofline.step_work(spec))


@pytest.mark.parametrize(
    ("batch", "dtype", "peak", "microseconds"),
    [
        (128, "bfloat16", 790e12, 1105), (512, "bfloat16", 790e12, 3448),
        (2048, "bfloat16", 790e12, 12942), (512, "float32", 395e12, 6595),
        (2048, "float32", 60e12, 145248),
    ],
)  # fmt: skip
def test_the_bound_of_the_paper_on_an_h200(batch, dtype, peak, microseconds):
    assert seconds(batch, dtype, peak) * 1e6 == pytest.approx(microseconds, rel=1e-3)


def test_every_product_is_counted_once_each_way():
    spec = workload.load("tests/tiny.py", 4, [])
    work = roofline.step_work(spec)
    rows = geometry.layers(spec.model, spec.augment.crop_size, 10)
    each = {row.name: 2 * 4 * row.multiply_adds for row in rows}
    for operation, skipped in (("product", 0), ("weights", 0), ("inputs", each["conv1"])):
        flop = sum(part.flop for part in work if part.operation == operation)
        assert flop == sum(each.values()) - skipped
    (update,) = [part for part in work if part.layer == "update"]
    assert update.bytes == 20 * sum(row.parameters for row in rows)
    # conv2 ends with its activation, which the input gradient of fc6 looks at; conv1 with a pass of its own.
    passes = [(part.layer, part.direction) for part in work if part.operation == "pass"]
    assert passes == [("conv1", "forward"), ("conv1", "backward")]
    (first, *_), (again, *_) = (
        [p.bytes for p in work if p.layer == "fc6" and p.operation == way]
        for way in ("product", "inputs")
    )
    (conv2,) = [row for row in rows if row.name == "conv2"]
    assert again - first == 4 * 4 * conv2.height**2 * conv2.channels


@pytest.mark.parametrize("name", ["cifar10.py:13pct", "cuda_convnet2.py", "quickstart.py"])
def test_other_nets_have_a_bound(name):
    work = roofline.step_work(workload.load(f"configs/{name}", 8, []))
    assert all(part.bytes > 0 and part.flop >= 0 for part in work)


def test_a_device_is_measured(monkeypatch):
    monkeypatch.setattr(roofline, "timed", lambda call: call() is None or 0.5)
    assert roofline.copy_bandwidth(1) == 2 * 4 * 2**26 / 0.5
    timing = roofline.time_of(jax.jit(jnp.sin), (jnp.ones(3),), 3)
    assert timing == (0.5, 0.0)


def test_short_calls_follow_one_another(monkeypatch):
    calls = []

    def timed(call) -> float:
        call()
        return 0.0004

    monkeypatch.setattr(roofline, "timed", timed)

    def call(x):
        calls.append(x)
        return x

    timing = roofline.time_of(call, (jnp.ones(3),), 2)
    assert len(calls) == 1 + 1 + 2 * 50 and timing.seconds == 0.0004 / 50
