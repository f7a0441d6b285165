"""The scaling model: its arithmetic, and its bytes against the traced step."""

import argparse
import json

import jax
import pytest
from jax import lax
from jax.sharding import PartitionSpec as P

from alexnet_jax import config
from alexnet_jax.errors import AlexNetError, ConfigError
from bench import scaling

LINKS = dict(node=8, inside=450.0, inside_us=0.0, between=50.0, between_us=0.0)
PARAMETERS = 60_965_224


def spec(*overrides):
    made = config.load("configs/paper.py", ["--config.data.path=unused", *overrides])
    return config.with_classes(config.parse(made), 1000)


def options(**changed):
    return argparse.Namespace(**(LINKS | {"batch": [128]} | changed))


def sums(transfers) -> dict[str, int]:
    kinds = {transfer.kind for transfer in transfers}
    return {kind: sum(t.bytes for t in transfers if t.kind == kind) for kind in kinds}


def test_data_parallel_sends_every_gradient_once():
    assert scaling.data_parallel(spec(), 1) == []
    (found,) = scaling.data_parallel(spec(), 4)
    assert found == ("all-reduce", 4 * PARAMETERS, 4)
    assert found.sent == 2 * 3 / 4 * 4 * PARAMETERS


def test_towers_cross_at_four_rows_and_not_back_from_the_last():
    maps = [13 * 13 * 256, 6 * 6 * 256, 4096, 4096]
    found = scaling.two_towers(spec(), 4, images=10)
    last = 4096 * 1000 + 1000
    assert sums(found) == {
        "all-gather": 4 * 10 * sum(maps),
        "reduce-scatter": 4 * 10 * sum(maps[:3]) // 2,
        "all-reduce": 4 * ((PARAMETERS - last) // 2 + last),
    }
    assert {t.group for t in found} == {2}
    half = scaling.two_towers(spec("--config.model.compute_dtype=bfloat16"), 2, images=10)
    assert sums(half) == {
        "all-gather": 2 * 10 * sum(maps),
        "reduce-scatter": 2 * 10 * sum(maps[:3]) // 2,
    }


def test_split_units_exchange_the_inputs_of_three_layers_and_the_logits():
    batch, n = 128, 4
    found = scaling.split_units(spec(), n)
    inputs = 4 * batch * (6 * 6 * 256 + 4096 + 4096)
    keys = 2 * 8 * batch  # of the dropout of two layers
    dense = 9216 * 4096 + 4096 * 4096 + 4096 * 1000 + 2 * 4096 + 1000
    assert sums(found) == {
        "all-gather": inputs + keys,
        "reduce-scatter": inputs // n,
        "all-to-all": 2 * 4 * batch * 1000 // n,
        "all-reduce": 4 * (PARAMETERS - dense),
    }
    assert {t.group for t in found} == {n}
    assert not scaling.split_units(spec(), 1)
    odd = scaling.split_units(spec(), 16)  # 1,000 classes: each device computes fc8 for its images
    assert sums(odd)["all-to-all"] == 2 * 4 * batch * 4096 // 16
    assert sums(odd)["all-reduce"] == 4 * (PARAMETERS - dense + 4096 * 1000 + 1000)


def test_lrn_over_all_maps_sends_those_beside_the_border_there_and_back():
    across = spec("--config.model.lrn_constants.within_towers=False")
    found = [t for t in scaling.two_towers(across, 4, images=10) if t.kind == "collective-permute"]
    edges = [4 * 10 * 4 * side**2 for side in (55, 55, 27, 27)]
    assert [(t.bytes, t.sent, t.group) for t in found] == [(edge, edge, 2) for edge in edges]


def test_times_are_those_of_the_links():
    rows = scaling.predict(spec(), scaling.Seconds(0.001, 1e-5), options())
    by = {(row["devices"], row["way"], row["overlap"]): row for row in rows}
    assert by[1, "data", "none"]["seconds"] == pytest.approx(0.001 + 128e-5)
    four = by[4, "data", "none"]
    reduce = 2 * 3 / 4 * 4 * PARAMETERS / 450e9
    assert four["compute"] == pytest.approx(0.001 + 32e-5)
    assert four["seconds"] == pytest.approx(0.001 + 32e-5 + reduce)
    assert four["efficiency"] == pytest.approx((0.001 + 128e-5) / (4 * four["seconds"]))
    assert by[4, "data", "full"]["seconds"] == pytest.approx(max(0.001 + 32e-5, reduce))
    # 16 devices of two nodes have eight ports each, which are slower than what is inside.
    far = 2 * 15 / 16 * 4 * PARAMETERS / 400e9
    assert by[16, "data", "none"]["all_reduce"] == pytest.approx(far)


def test_a_ring_waits_at_each_step():
    transfer = scaling.Transfer("all-reduce", 0, 16)
    waiting = options(inside_us=1.0, between_us=10.0)
    assert scaling._time(transfer, 16, waiting) == pytest.approx((28 * 1 + 2 * 10) * 1e-6)


def test_measurements_become_seconds_a_step_and_an_image(tmp_path):
    path = tmp_path / "step.json"
    chosen = [{"programs": {"chosen": {"seconds": [b / 100 + 1] * 3}}, "batch": b} for b in (1, 3)]
    path.write_text(json.dumps({"machine": "m", "measurements": chosen}))
    seconds, _ = scaling._seconds(argparse.Namespace(step_seconds=None, measured=path))
    assert seconds == pytest.approx((1.0, 0.01))
    layers = [{"layer": "conv1", "seconds": 3.0}, {"layer": "update", "seconds": 0.5}]
    path.write_text(
        json.dumps({"machine": "m", "batch": 10, "layers": layers, "step_seconds": 4.5})
    )
    seconds, _ = scaling._seconds(argparse.Namespace(step_seconds=None, measured=path))
    assert seconds == pytest.approx((0.5, 0.4))


@pytest.mark.parametrize(
    "arguments", [[], ["--measured", "README.md"], ["--step-seconds", "1", "--at-batch", "0"]]
)
def test_without_usable_seconds_it_says_so(arguments):
    with pytest.raises(ConfigError):
        scaling.main(arguments)


def test_the_table_names_its_assumptions(capsys, tmp_path):
    path = tmp_path / "scaling.json"
    arguments = ["--step-seconds", "0.004", "--batch", "512", "--json", str(path)]
    assert scaling.main(arguments) == 0
    said = capsys.readouterr().out
    assert "A model, with these assumptions" in said and "450 GB/s" in said
    assert "| 64 | batch, towers |" in said
    assert "| 64 | batch, units |" in said
    assert len(json.loads(path.read_text())["predictions"]) == 2 * (7 + 6 + 6)


@pytest.mark.full
def test_the_model_agrees_with_the_traced_step(monkeypatch, capsys):
    for name in ("JAX_PLATFORMS", "JAX_NUM_CPU_DEVICES"):
        monkeypatch.setenv(name, "")  # set back afterwards
    assert scaling.main(["--check", "--config=tests/tiny.py"]) == 0
    said = capsys.readouterr().out
    # On 2 and 4 devices, on 4 with towers apart, and on 2 and 4 with units split.
    assert said.count("all-reduce among") == 5
    assert said.count("all-gather among 2") == said.count("reduce-scatter among 2") == 3
    assert said.count("all-to-all among 2") == said.count("all-to-all among 4") == 1


def test_a_difference_is_an_error(capsys):
    found = [scaling.Transfer("all-reduce", 24, 2), scaling.Transfer("all-reduce", 8, 2)]
    agreed = [scaling.Transfer("all-reduce", 32, 2)]
    assert scaling.compare("two", found, agreed) == []
    assert scaling.compare("two", found, []) == ["all-reduce among 2 on two"]
    assert scaling.compare("two", [], agreed) == ["all-reduce among 2 on two"]
    assert AlexNetError("").exit_code == 1


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda x: lax.psum(x, "a"), ("all-reduce", 24, 2)),
        (lambda x: lax.psum((x, x[0, 0]), ("a", "b"))[0], ("all-reduce", 24, 4)),
        (lambda x: lax.all_gather(x, "b", tiled=True), ("all-gather", 48, 2)),
        (lambda x: lax.psum_scatter(x, "b", tiled=True), ("reduce-scatter", 12, 2)),
        (lambda x: lax.ppermute(x, "a", [(0, 1)]), ("collective-permute", 24, 2)),
        (lambda x: lax.all_to_all(x, "a", 0, 0, tiled=True), ("all-to-all", 24, 2)),
    ],
)
def test_collectives_are_read_from_the_traced_program(function, expected):
    mesh = jax.make_mesh((2, 2), ("a", "b"), (jax.sharding.AxisType.Auto,) * 2)
    spec = P(("a", "b"))
    mapped = jax.shard_map(function, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False)
    jaxpr = jax.jit(mapped).trace(jax.ShapeDtypeStruct((8, 3), "float32")).jaxpr.jaxpr
    assert scaling.collectives(jaxpr, dict(mesh.shape)) == [expected]


def test_a_collective_of_an_unknown_kind_is_an_error(monkeypatch):
    monkeypatch.setattr(scaling, "COLLECTIVES", {})
    mesh = jax.make_mesh((2,), ("a",), (jax.sharding.AxisType.Auto,))
    mapped = jax.shard_map(lambda x: lax.psum(x, "a"), mesh=mesh, in_specs=P("a"), out_specs=P())
    jaxpr = jax.jit(mapped).trace(jax.ShapeDtypeStruct((2,), "float32")).jaxpr.jaxpr
    with pytest.raises(AlexNetError, match="unknown collective psum"):
        scaling.collectives(jaxpr, dict(mesh.shape))
