"""Read shapes, collectives and aliasing of a compiled program from its HLO text, `compiled.as_text()`.

JAX gives no other access: its objects for HLO instructions have neither shapes nor replica groups, and StableHLO is
the program before XLA partitions it and combines its collectives.
"""

import math
import re
from typing import NamedTuple

import numpy as np

KINDS = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "all-to-all",
    "collective-permute",
    "collective-broadcast",
)
"""The operations that move data between devices."""


class Collective(NamedTuple):
    """One of KINDS, as one device sees it.

    Attributes:
      kind: The opcode, without -start.
      bytes: The size of all results on one device: all of an all-gather, one part of a reduce-scatter.
      shapes: The shapes of the results, such as 'f32[96]'; several where XLA combined several collectives.
      groups: The devices that take part together; of a collective-permute (source, target).
      op_name: The operation in the traced program, such as 'jit(_step)/shard_map/psum'.
    """

    kind: str
    bytes: int
    shapes: tuple[str, ...]
    groups: tuple[tuple[int, ...], ...]
    op_name: str

    @property
    def group_size(self) -> int:
        return max(map(len, self.groups), default=0)

    @property
    def sent(self) -> float:
        """Bytes that one device sends, in a ring of the group."""
        n = self.group_size
        if n == 0:  # a collective-permute of no pairs
            return 0.0
        share = {"all-reduce": 2 * (n - 1) / n, "reduce-scatter": n - 1}
        others = {"all-gather": (n - 1) / n, "all-to-all": (n - 1) / n}
        return self.bytes * (share | others).get(self.kind, 1.0)


def collectives(text: str) -> list[Collective]:
    """The collectives of an HLO module, in the order of its text. One inside a loop counts once.

    Raises:
      ValueError: A collective is of none of KINDS, or its replica groups have an unknown form.
    """
    found = []
    for line in text.splitlines():
        match = _INSTRUCTION.search(line)
        if not match:
            if _GROUPS.search(re.sub(r'"[^"]*"', "", line)):
                raise ValueError(f"a collective of an unknown kind: {line.strip()}")
            continue
        results, kind, start = match.groups()
        shapes = _shapes(results)
        if start and kind != "all-reduce":  # (operands, results), then what the backend keeps
            shapes = [shape for shape in shapes if shape not in ("u32[]", "s32[]")]
            shapes = shapes[len(shapes) // 2 :]
        name = re.search(r'op_name="([^"]*)"', line)
        found.append(
            Collective(
                kind, sum(map(size, shapes)), tuple(shapes), _groups(line, text),
                name[1] if name else "",
            )
        )  # fmt: skip
    return found


def instructions(text: str, opcode: str) -> list[str]:
    """The result shapes of every instruction `opcode`, also inside fusions."""
    found = re.findall(rf' = ([^%"]*?) {re.escape(opcode)}\(', text)
    return [", ".join(_shapes(results)) for results in found]


def aliased_parameters(text: str) -> set[int]:
    """Numbers of the parameters that are aliased by results: those that were donated."""
    header = text.partition("\n")[0]
    return {
        int(number) for number in re.findall(r"\}: \((\d+), \{\}, (?:may|must)-alias\)", header)
    }


def parameters(text: str) -> list[str]:
    """The shapes of the parameters of the module, in order."""
    header = text.partition("\n")[0]
    return _shapes(header.partition("entry_computation_layout={")[2].partition("->")[0])


def size(shape: str) -> int:
    """Bytes of an array such as 'bf16[8,96]'."""
    kind, _, sides = shape.rstrip("]").partition("[")
    digits = re.search(r"\d+", kind)
    bits = int(digits[0]) if digits else 8  # pred
    return math.prod(int(side) for side in sides.split(",") if side) * bits // 8


_INSTRUCTION = re.compile(rf' = ([^%"]*?) ({"|".join(KINDS)})(-start)?\(')
_GROUPS = re.compile(r"\b(replica_groups|source_target_pairs)=(.*)")
_IOTA = r"\[([\d,]+)\](?:T\(([\d,]+)\))?"
_LISTED = re.compile(r"\{(\{\d[\d,]*\}(?:,\{\d[\d,]*\})*)?\}")
_COUNTED = re.compile(rf"\[(\d+),(\d+)\]<={_IOTA}")
_AXIS = r"'[^']+'(?::\(\d+\)\d+)?"
_MESH = re.compile(
    r"mesh\[('[^']+'=\d+(?:,'[^']+'=\d+)*)\]"
    rf"(?:, device_ids=\((?:{_IOTA}|([\d,]+))\))?"
    rf" \{{({_AXIS}(?:,{_AXIS})*)\}}"
)


def _shapes(text: str) -> list[str]:
    return re.findall(r"\b[a-z]+\d*\w*\[[\d,]*\]", text)


def _groups(line: str, text: str) -> tuple[tuple[int, ...], ...]:
    """The groups of devices of a collective, from any of the forms that XLA prints.

    - {{0,1},{2,3}}: listed. {} stands for all devices together, or for no pairs.
    - [2,2]<=[4]: 2 groups of 2, of 0, 1, 2, 3 in order; of [2,2]T(1,0) those of a 2x2 table, transposed.
    - mesh['a'=2,'b'=8] {'a','b':(2)4}: along axes of a mesh, here a and the 4 of b as 2x4x1. Its devices are in order
      unless device_ids=(0,2,1,3) or device_ids=([2,2]T(1,0)) comes before the axes.
    """
    attribute = _GROUPS.search(line)
    kind, value = attribute.groups() if attribute else ("", "")
    try:
        if match := _LISTED.match(value):
            if match[1]:
                return tuple(_numbers(group) for group in match[1][1:-1].split("},{"))
            return () if kind == "source_target_pairs" else (_all_devices(text),)
        if match := _COUNTED.match(value):
            return _rows(_iota(match[3], match[4]).reshape(int(match[1]), int(match[2])))
        if match := _MESH.match(value):
            return _rows(_along_axes(*match.groups()))
    except (KeyError, ValueError, ArithmeticError) as error:  # an axis or sizes that do not fit
        raise ValueError(f"replica groups that contradict themselves: {line.strip()}") from error
    raise ValueError(f"replica groups of an unknown form: {line.strip()}")


def _along_axes(
    mesh: str, shape: str | None, order: str | None, listed: str | None, axes: str
) -> np.ndarray:
    """Groups [group device] along `axes` of `mesh`: what XLA's MeshAxesReplicaGroupList stands for."""
    sizes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", mesh)}
    parts = [
        (name, int(before or 1), int(size or sizes[name]))
        for name, before, size in re.findall(r"'([^']+)'(?::\((\d+)\)(\d+))?", axes)
    ]
    # Every axis becomes as many dimensions as its parts need.
    split, dimension = [], {}
    for name, whole in sizes.items():
        done = 1
        for _, before, size in sorted(part for part in parts if part[0] == name):
            dimension[name, before] = len(split) + 1
            split += [before // done, size]
            done = before * size
        split.append(whole // done)
    together = [dimension[name, before] for name, before, _ in parts]
    apart = [i for i in range(len(split)) if i not in together]
    in_order = _iota(shape or str(math.prod(sizes.values())), order)
    devices = np.array(_numbers(listed)) if listed else in_order
    group = math.prod(size for *_, size in parts)
    return devices.reshape(split).transpose(apart + together).reshape(-1, group)


def _iota(shape: str, order: str | None) -> np.ndarray:
    """0, 1, 2, ... in `shape`, such as '4,2', with its dimensions in `order`, such as '1,0'."""
    counted = np.arange(math.prod(_numbers(shape))).reshape(_numbers(shape))
    return counted.transpose(_numbers(order)) if order else counted


def _all_devices(text: str) -> tuple[int, ...]:
    counts = re.findall(r"(?:replica_count|num_partitions)=(\d+)", text.partition("\n")[0])
    return tuple(range(math.prod(map(int, counts))))


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(",")))


def _rows(table: np.ndarray) -> tuple[tuple[int, ...], ...]:
    return tuple(map(tuple, table.tolist()))
