"""What XLA makes of the training step, read from the compiled program."""

import jax
import pytest

from alexnet_jax import parallel
from bench import hlo, ours

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


def test_what_only_names_a_collective_is_none():
    text = HEADER + (
        "  %d = f32[8]{0} all-reduce-done(%all-reduce-start.1)\n"
        '  %e = f32[8]{0} get-tuple-element(%all-reduce.1), metadata={op_name="all-reduce(x)"}\n'
    )
    assert hlo.collectives(text) == []


def test_groups_of_an_unknown_form_are_not_passed_over():
    with pytest.raises(ValueError, match="unknown form"):
        hlo.collectives("%a = f32[8]{0} all-reduce(%x), replica_groups=@mesh{x}")


def test_bytes_sent_in_a_ring():
    line = "%a = f32[8]{{0}} {}(%x), replica_groups={{{{0,1,2,3}}}}"
    sent = {k: hlo.collectives(line.format(k))[0].sent for k in hlo.KINDS[:3]}
    # Of 32 bytes a quarter each: all-reduce twice 3 of 4; the parts of a reduce-scatter are the results.
    assert sent == {"all-reduce": 48, "all-gather": 24, "reduce-scatter": 96}


@pytest.fixture(scope="module")
def compiled() -> str:
    """The step of the paper's net, whole, since sizes decide what XLA does; as each of two devices has it."""
    spec = ours.load("configs/paper.py", 4, [])
    return ours.lower(spec, parallel.device_mesh(jax.local_devices()[:2])).compile().as_text() or ""


def test_no_pool_is_a_select_and_scatter(compiled):
    assert "select-and-scatter" not in compiled


def test_the_state_is_updated_where_it_lies(compiled):
    """Step, parameters and velocity come first; all are given away and taken over, none is copied."""
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
    """One all-reduce of every gradient, with the loss, the count of errors and the requests to stop and save."""
    (found,) = hlo.collectives(compiled)
    assert found.kind == "all-reduce" and found.groups == ((0, 1),)
    assert found.bytes == 4 * (60_965_224 + 4)


def test_towers_cross_where_the_paper_has_them_cross():
    """Before conv3, fc6, fc7 and fc8, and back from the first three; a pair shares its images."""
    spec = ours.load("configs/paper.py", 8, [])
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
    # The gradients of a tower over the data, and the norm over the towers.
    last = 4096 * 1000 + 1000
    half = (60_965_224 - last) // 2 + last
    assert sorted((c.kind, c.groups, c.bytes) for c in rest) == [
        ("all-reduce", pairs, 4),
        ("all-reduce", ((0, 2), (1, 3)), 4 * (half + 4)),
    ]
