"""The training step as compiled by XLA, and the reader of its HLO text."""

import re

import jax
import pytest
from jax import lax
from jax.sharding import PartitionSpec as P

from alexnet_jax.model import mesh as parallel
from bench import ours, scaling, workload
from tests.bench import hlo

HEADER = "HloModule jit_f, entry_computation_layout={(f32[8]{0})->f32[8]{0}}, num_partitions=4\n"


@pytest.mark.parametrize(
    ("line", "kind", "total", "groups"),
    [
        (
            "%psum.1 = f32[8]{0} all-reduce(%x), channel_id=1, replica_groups={{0,1},{2,3}}",
            "all-reduce", 32, ((0, 1), (2, 3)),
        ),
        (
            "ROOT %a = (f32[2,3]{1,0}, /*index=1*/bf16[]) all-reduce(%x, %y), replica_groups={}",
            "all-reduce", 26, ((0, 1, 2, 3),),
        ),
        (
            "%g = f32[8,4]{1,0:T(8,128)} all-gather(%x), replica_groups=[2,2]<=[4], dimensions={0}",
            "all-gather", 128, ((0, 1), (2, 3)),
        ),
        (
            "%s = f32[4]{0} reduce-scatter(%x), replica_groups=[2,2]<=[2,2]T(1,0), dimensions={0}",
            "reduce-scatter", 16, ((0, 2), (1, 3)),
        ),
        (
            "%g = (f32[4]{0}, f32[8]{0}) all-gather-start(%x), replica_groups={{0,1}}",
            "all-gather", 32, ((0, 1),),
        ),
        (
            "%g = ((bf16[4]{0}, s8[2]{0}), (bf16[8]{0}, s8[4]{0})) all-gather-start(%x, %y), "
            "replica_groups={{0,1}}",
            "all-gather", 20, ((0, 1),),
        ),
        (
            "%p = (f32[4]{0}, f32[4]{0}, u32[], u32[]) collective-permute-start(%x), "
            "source_target_pairs={{0,1},{1,0}}",
            "collective-permute", 16, ((0, 1), (1, 0)),
        ),
    ],
)  # fmt: skip
def test_a_collective_is_read_from_its_line(line, kind, total, groups):
    (found,) = hlo.collectives(f'{HEADER}  {line}, metadata={{op_name="jit(f)/g"}}\n')
    assert found[:2] == (kind, total) and found.groups == groups and found.op_name == "jit(f)/g"


@pytest.mark.parametrize(
    ("groups", "expected"),
    [
        # As jax 0.10 and 0.11 print them.
        ("{{0}}", ((0,),)),
        ("{{0,2,1,3}}", ((0, 2, 1, 3),)),
        ("mesh['data'=2,'tower'=1] {'data'}", ((0, 1),)),
        ("mesh['data'=2,'tower'=1] {'tower'}", ((0,), (1,))),
        ("mesh['data'=2,'tower'=2] {'data'}", ((0, 2), (1, 3))),
        ("mesh['data'=2,'tower'=2] {'tower'}", ((0, 1), (2, 3))),
        ("mesh['data'=2,'tower'=2] {'tower','data'}", ((0, 2, 1, 3),)),
        ("mesh['axis_0'=2,'axis_1'=4,'axis_2'=1] {'axis_0'}", ((0, 4), (1, 5), (2, 6), (3, 7))),
        ("mesh['data'=8] {'data':(1)2}", ((0, 4), (1, 5), (2, 6), (3, 7))),
        ("mesh['data'=8] {'data':(2)4}", ((0, 1, 2, 3), (4, 5, 6, 7))),
        # As the tests of XLA have them (replica_group_test.cc, hlo_parser_test.cc).
        ("[4,2]<=[2,2,2]T(0,2,1)", ((0, 2), (1, 3), (4, 6), (5, 7))),
        ("mesh['a'=8] {'a':(2)2}", ((0, 2), (1, 3), (4, 6), (5, 7))),
        ("mesh['a'=8] {'a':(1)2,'a':(4)2}", ((0, 1, 4, 5), (2, 3, 6, 7))),
        ("mesh['a'=8] {'a':(4)2,'a':(1)2}", ((0, 4, 1, 5), (2, 6, 3, 7))),
        ("mesh['x'=2,'y'=2], device_ids=(3,1,0,2) {'x'}", ((3, 0), (1, 2))),
        ("mesh['x'=2,'y'=2], device_ids=([2,2]T(1,0)) {'x'}", ((0, 1), (2, 3))),
        ("mesh['a.b'=2,'<axis> def'=4] {'<axis> def':(2)2,'a.b'}", ((0, 4, 1, 5), (2, 6, 3, 7))),
    ],
)  # fmt: skip
def test_replica_groups_are_read_from_every_form(groups, expected):
    line = f"%a = f32[8]{{0}} all-reduce(%x), channel_id=1, replica_groups={groups}, to_apply=%add"
    (found,) = hlo.collectives(f"{HEADER}  {line}\n")
    assert found.groups == expected and found.group_size == len(expected[0])


def test_a_permutation_of_no_pairs_sends_nothing():
    line = "%p = f32[8]{0} collective-permute(%x), channel_id=1, source_target_pairs={}"
    (found,) = hlo.collectives(HEADER + line)
    assert found.groups == () and found.group_size == 0 and found.sent == 0


def test_what_only_names_a_collective_is_none():
    text = HEADER + (
        "  %d = f32[8]{0} all-reduce-done(%all-reduce-start.1)\n"
        '  %e = f32[8]{0} get-tuple-element(%all-reduce.1), metadata={op_name="all-reduce(x)"}\n'
    )
    assert hlo.collectives(text) == []


@pytest.mark.parametrize(
    "groups",
    ["@mesh{x}", "{{0,1},2}", "[4]<=[4]", "mesh['x'=4]", "mesh['x'=4] {}", "mesh[] {}", "mesh[x=4] {x}"],
)  # fmt: skip
def test_groups_of_an_unknown_form_are_not_passed_over(groups):
    line = f"%a = f32[8]{{0}} all-reduce(%x), replica_groups={groups}, to_apply=%add"
    with pytest.raises(ValueError, match=f"unknown form: {re.escape(line)}"):
        hlo.collectives(line)


@pytest.mark.parametrize(
    "groups",
    ["[2,2]<=[8]", "mesh['x'=4] {'y'}", "mesh['x'=8] {'x':(2)3}", "mesh['x'=8] {'x':(1)4,'x':(2)2}",
     "mesh['x'=2,'y'=2], device_ids=(0,1,2) {'x'}"],
)  # fmt: skip
def test_groups_that_contradict_themselves_are_an_error(groups):
    line = f"%a = f32[8]{{0}} all-reduce(%x), replica_groups={groups}, to_apply=%add"
    with pytest.raises(ValueError, match=f"contradict themselves: {re.escape(line)}"):
        hlo.collectives(line)


def test_a_collective_of_an_unknown_kind_is_not_passed_over():
    line = "%r = f32[8]{0} ragged-all-to-all(%x, %y), replica_groups={{0,1}}"
    with pytest.raises(ValueError, match=f"unknown kind: {re.escape(line)}"):
        hlo.collectives(HEADER + line)


@pytest.mark.parametrize(
    ("function", "kind", "groups"),
    [
        (lambda x: lax.psum(x, "a"), "all-reduce", ((0, 2), (1, 3))),
        (lambda x: lax.psum(x, "b"), "all-reduce", ((0, 1), (2, 3))),
        (lambda x: lax.psum(x, ("b", "a")), "all-reduce", ((0, 2, 1, 3),)),
        (lambda x: lax.all_gather(x, ("a", "b")), "all-gather", ((0, 1, 2, 3),)),
        (lambda x: lax.psum_scatter(x, "b", tiled=True), "reduce-scatter", ((0, 1), (2, 3))),
        (lambda x: lax.all_to_all(x, "a", 0, 0), "all-to-all", ((0, 2), (1, 3))),
        (lambda x: lax.ppermute(x, "a", [(0, 1)]), "collective-permute", ((0, 2), (1, 3))),
    ],
)
def test_groups_are_those_of_the_compiled_program(function, kind, groups):
    """In the form that this version of JAX prints."""
    mesh = jax.make_mesh((2, 2), ("a", "b"), (jax.sharding.AxisType.Auto,) * 2)
    spec = P(("a", "b"))
    mapped = jax.shard_map(function, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False)
    text = jax.jit(mapped).lower(jax.ShapeDtypeStruct((8, 3), "float32")).compile().as_text()
    assert {(c.kind, c.groups) for c in hlo.collectives(text)} == {(kind, groups)}


def test_groups_along_a_part_of_an_axis_are_those_of_the_compiled_program():
    """The SPMD partitioner splits the axis where a reshape splits a dimension."""
    mesh = jax.make_mesh((4,), ("a",), (jax.sharding.AxisType.Auto,))
    rows, columns = (jax.NamedSharding(mesh, spec) for spec in (P("a"), P(None, "a")))
    halves = jax.jit(lambda x: x.reshape(2, 4, 16).sum(0), in_shardings=rows, out_shardings=columns)
    text = halves.lower(jax.ShapeDtypeStruct((8, 16), "float32")).compile().as_text()
    assert ((0, 2), (1, 3)) in {found.groups for found in hlo.collectives(text)}


def test_bytes_sent_in_a_ring():
    line = "%a = f32[8]{{0}} {}(%x), replica_groups={{{{0,1,2,3}}}}"
    sent = {k: hlo.collectives(line.format(k))[0].sent for k in hlo.KINDS[:3]}
    # Of 32 bytes a quarter each: all-reduce twice 3 of 4; the parts of a reduce-scatter are the results.
    assert sent == {"all-reduce": 48, "all-gather": 24, "reduce-scatter": 96}


@pytest.fixture(scope="module")
def compiled() -> str:
    """The step of the paper's net on two devices, at full size, as sizes affect what XLA does."""
    spec = workload.load("configs/paper.py", 4, [])
    return ours.lower(spec, parallel.device_mesh(jax.local_devices()[:2])).compile().as_text() or ""


def test_no_pool_is_a_select_and_scatter(compiled):
    assert "select-and-scatter" not in compiled


def test_the_state_is_updated_where_it_lies(compiled):
    """Step, parameters and momentum come first; all are donated and aliased, none is copied."""
    shapes = hlo.parameters(compiled)
    state = set(range(1 + 2 * 16))
    assert hlo.aliased_parameters(compiled) == state
    assert shapes[0] == "s32[]" and shapes[len(state)].startswith("u8[2,256,256,3]")
    entry = compiled[compiled.index("\nENTRY ") :]  # outside of fusions
    copied = hlo.instructions(entry, "copy")
    assert copied and max(map(hlo.size, copied)) < 10_000


def test_neither_images_nor_large_kernels_are_copied_or_transposed(compiled):
    moved = hlo.instructions(compiled, "copy") + hlo.instructions(compiled, "transpose")
    kernels = ("9216,4096", "4096,9216", "4096,4096", "4096,1000", "1000,4096")
    large = {f"f32[{sides}]" for sides in kernels}
    assert not [shape for shape in moved if shape in large or shape.startswith("u8")]


def test_two_devices_add_all_gradients_at_once(compiled):
    """One all-reduce of all gradients, the loss, the number of errors and the requests to stop and save."""
    (found,) = hlo.collectives(compiled)
    assert found.kind == "all-reduce" and found.groups == ((0, 1),)
    assert found.bytes == 4 * (60_965_224 + 4)


def test_lrn_over_all_maps_sends_the_maps_beside_the_border_both_ways():
    overrides = ["--config.model.lrn_constants.within_towers=False"]
    spec = workload.load("tests/tiny.py", 8, overrides)
    mesh = parallel.device_mesh(jax.local_devices(), towers=2)
    found = hlo.collectives(ours.lower(spec, mesh).compile().as_text() or "")
    sent = [c for c in found if c.kind == "collective-permute"]
    up, down, images = ((0, 1), (2, 3)), ((1, 0), (3, 2)), 4
    assert {c.groups for c in sent} == {up, down}
    assert [c.bytes for c in sent] == [4 * images * 7 * 7 * 2] * 4
    expected = [t for t in scaling.two_towers(spec, 4, images) if t.kind == "collective-permute"]
    assert sum(t.bytes for t in expected) == sum(c.bytes for c in sent)


def test_towers_cross_where_the_paper_has_them_cross():
    """Before conv3, fc6, fc7 and fc8, and back from the first three; a pair shares its images."""
    spec = workload.load("configs/paper.py", 8, [])
    mesh = parallel.device_mesh(jax.local_devices(), towers=2)
    found = hlo.collectives(ours.lower(spec, mesh).compile().as_text() or "")
    pairs, images = ((0, 1), (2, 3)), 4
    gathered = [c for c in found if c.kind == "all-gather"]
    maps = [13 * 13 * 256, 6 * 6 * 256, 4096, 4096]
    assert [c.bytes for c in gathered] == [4 * images * values for values in maps]
    scattered = [c for c in found if c.kind == "reduce-scatter"]
    assert sorted(c.bytes for c in scattered) == sorted(2 * images * v for v in maps[:3])
    assert {c.groups for c in gathered + scattered} == {pairs}
    rest = [c for c in found if c not in gathered + scattered]
    # The gradients of a tower over the data; the norm and the requests to stop and save over the towers.
    last = 4096 * 1000 + 1000
    half = (60_965_224 - last) // 2 + last
    assert sorted((c.kind, c.groups, c.bytes) for c in rest) == [
        ("all-reduce", pairs, 4 * 3),
        ("all-reduce", ((0, 2), (1, 3)), 4 * (half + 4)),
    ]


def test_split_units_exchange_activations_instead_of_the_gradients_of_dense_layers():
    """As `scaling.split_units` calculates, in the compiled step: 14 times fewer bytes than all gradients."""
    overrides = ["--config.train.split_dense=True", "--config.model.num_classes=12",
                 "--config.model.fcs.fc6.features=512"]  # fmt: skip
    spec = workload.load("tests/tiny.py", 8, overrides)
    mesh = parallel.device_mesh(jax.local_devices())
    found = hlo.collectives(ours.lower(spec, mesh).compile().as_text() or "")
    assert {c.groups for c in found} == {((0, 1, 2, 3),)}

    def sums(transfers) -> dict[str, int]:
        kinds = {transfer.kind for transfer in transfers}
        return {kind: sum(t.bytes for t in transfers if t.kind == kind) for kind in kinds}

    expected = sums(scaling.split_units(spec, 4))
    # Besides, two all-reduces: the loss, the errors and two requests with the gradients, and the norm.
    assert sums(found) == expected | {"all-reduce": expected["all-reduce"] + 4 * 4 + 4}
    assert set(expected) == {"all-gather", "reduce-scatter", "all-to-all", "all-reduce"}
    both = (sum(t.sent for t in way) for way in (found, scaling.data_parallel(spec, 4)))
    sent, whole = both
    assert sent < whole / 2
