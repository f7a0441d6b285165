"""The parts of a step that are timed alone, with their FLOP and bytes."""

import jax
import jax.numpy as jnp
import pytest

from alexnet_jax.errors import ConfigError
from alexnet_jax.model import geometry
from alexnet_jax.model.alexnet import AlexNet
from bench import layers, ours, roofline, workload

BATCH = 4


@pytest.fixture(scope="module")
def spec():
    return workload.load("tests/tiny.py", BATCH, ["--config.data.source=folder"])


@pytest.fixture(scope="module")
def parts(spec):
    return list(layers.parts(spec))


def find(parts, *names):
    (part,) = [part for part in parts if part[:3] == names]
    return part


def test_every_operation_is_there_in_its_order(parts):
    ways = [part[:3] for part in parts]
    assert ways[:4] == [
        ("images", "crop", ""), ("conv1", "linear", "forward"), ("conv1", "linear", "weights"),
        ("conv1", "act", "forward"),
    ]  # fmt: skip
    assert ("conv2", "linear", "inputs") in ways and ("conv1", "linear", "inputs") not in ways
    assert ("fc6", "dropout", "backward") in ways
    assert [way[0] for way in ways[-2:]] == ["loss", "update"]


def test_flop_are_those_of_the_geometry(spec, parts):
    multiply_adds = sum(
        layer.multiply_adds for layer in geometry.layers(spec.model, spec.augment.crop_size, 10)
    )
    for way, skipped in (("forward", ""), ("weights", ""), ("inputs", "conv1")):
        rows = geometry.layers(spec.model, spec.augment.crop_size, 10)
        less = sum(layer.multiply_adds for layer in rows if layer.name == skipped)
        total = sum(part.flop for part in parts if part.way == way)
        assert total == 2 * BATCH * (multiply_adds - less)


def test_bytes_count_inputs_and_outputs_once(parts):
    # conv1 at stride 2: [4 14 14 3] by [5 5 3 8] to [4 7 7 8].
    maps, images = 4 * 7 * 7 * 8, 4 * 14 * 14 * 3
    assert find(parts, "conv1", "linear", "forward").bytes == 4 * (
        images + 5 * 5 * 3 * 8 + 8 + maps
    )
    assert find(parts, "conv1", "act", "backward").bytes == 4 * 3 * maps
    assert find(parts, "images", "crop", "").bytes == images * (1 + 4)
    update = find(parts, "update", "momentum", "")
    assert update.bytes == 20 * sum(x.size for x in jax.tree.leaves(update.arguments[1]))


@pytest.mark.full
def test_the_parts_compute_what_the_net_does(spec, parts):
    """The chained forward parts without dropout are the model; gradients have the shapes of their weights."""
    rows = ("conv1/linear", "conv1/act", "conv1/lrn", "conv1/pool", "conv2/linear", "conv2/act")
    params, images = {}, find(parts, "conv1", "linear", "forward").arguments[1]
    x = images
    for name in rows:
        part = find(parts, *name.split("/"), "forward")
        if name.endswith("linear"):
            params[name.split("/")[0]] = part.arguments[0]
        x = part.call(part.arguments[0], x)
    for name in ("fc6", "fc7"):
        params[name] = find(parts, name, "linear", "forward").arguments[0]
    model = AlexNet(spec.model)
    _, features = model.apply({"params": params}, images, train=False)  # pyright: ignore
    assert jnp.allclose(x, features["conv2"], atol=1e-6)  # pyright: ignore
    weights = find(parts, "fc6", "linear", "weights")
    shapes = jax.tree.map(jnp.shape, weights.call(*weights.arguments))
    assert shapes == jax.tree.map(jnp.shape, params["fc6"])


@pytest.fixture
def measured(spec, parts, monkeypatch):
    """f(parts) -> their report on a device of 1 GFLOP/s and 1 MB/s."""
    monkeypatch.setattr(roofline, "peak_flop", lambda dtype, repeats: 1e9)
    monkeypatch.setattr(roofline, "copy_bandwidth", lambda repeats: 1e6)
    monkeypatch.setattr(ours, "program", lambda spec: (lambda steps: 0.0, {"version": "jax"}))

    def measure(*some):
        monkeypatch.setattr(layers, "parts", lambda spec: iter(some))
        return list(layers.measure(spec, 1))[-1]

    return measure


def test_the_table_ends_with_the_sum_and_the_whole(parts, measured):
    some = find(parts, "conv1", "act", "forward"), find(parts, "update", "momentum", "")
    report = measured(*some)
    assert [row["bound"] for row in report["layers"]] == [part.bytes / 1e6 for part in some]
    assert all(row["limit"] == "bytes" and row["seconds"] > 0 for row in report["layers"])
    act, update, total, whole = layers.table(report).splitlines()[-4:]
    assert act.startswith("| conv1 | act | forward |") and update.startswith("| update |")
    assert total.startswith("| sum |") and whole.startswith("| whole step |")


def test_what_is_shorter_than_a_launch_on_a_gpu_is_marked(parts, measured, monkeypatch):
    act = find(parts, "conv1", "act", "forward")
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(layers, "jitted", jax.jit)
    monkeypatch.setattr(roofline, "empty_seconds", lambda repeats: 5e-6)
    limits = {(100e-6, 20e-6): "bytes", (23e-6, 20e-6): "launch", (7e-6, 1e-6): "launch"}
    for timing, limit in limits.items():
        monkeypatch.setattr(roofline, "time_of", lambda *_, t=timing: roofline.Timing(*t))
        (row,) = measured(act)["layers"]
        assert (row["limit"], row["seconds"]) == (limit, timing[0])


def test_a_part_that_fails_is_reported_and_the_others_go_on(parts, measured):
    def fails(*arguments):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory\nmore")

    act = find(parts, "conv1", "act", "forward")
    report = measured(act._replace(call=fails), act)
    assert report["layers"][0]["error"] == "RESOURCE_EXHAUSTED: out of memory"
    assert report["layers"][1]["seconds"] > 0
    assert "| RESOURCE_EXHAUSTED: out of memory |" in layers.table(report)


@pytest.mark.full
def test_weights_have_the_compute_type():
    spec = workload.load("tests/tiny.py", BATCH, ["--config.model.compute_dtype=bfloat16"])
    linear = find(layers.parts(spec), "conv2", "linear", "forward")
    assert {leaf.dtype for leaf in jax.tree.leaves(linear.arguments)} == {jnp.dtype("bfloat16")}
    assert linear.bytes == 2 * sum(
        array.size for array in (*jax.tree.leaves(linear.arguments), linear.call(*linear.arguments))
    )


def test_wrong_arguments_are_refused():
    with pytest.raises(ConfigError):
        layers.main(["--batch", "0"])
