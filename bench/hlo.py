"""Facts of a compiled program, read from its HLO: `compiled.as_text()`."""

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
    """One of KINDS, as one device sees it."""

    kind: str
    bytes: int
    """Of all its results on one device: of an all-gather the whole, of a reduce-scatter a part."""
    shapes: tuple[str, ...]
    """Of its results, such as 'f32[96]'; several where XLA combined several."""
    groups: tuple[tuple[int, ...], ...]
    """The devices that take part together; of a collective-permute (from, to)."""
    op_name: str
    """Where in the traced program it comes from, such as 'jit(_step)/shard_map/psum'."""

    @property
    def group_size(self) -> int:
        return len(self.groups[0])

    @property
    def sent(self) -> float:
        """Bytes that one device sends, in a ring of the group."""
        n = self.group_size
        share = {"all-reduce": 2 * (n - 1) / n, "reduce-scatter": n - 1}
        others = {"all-gather": (n - 1) / n, "all-to-all": (n - 1) / n}
        return self.bytes * (share | others).get(self.kind, 1.0)


def collectives(text: str) -> list[Collective]:
    """The collectives of an HLO module, in the order of its text. One inside a loop counts once.

    Raises ValueError for replica groups in a form that is not known here.
    """
    found = []
    for line in text.splitlines():
        match = _INSTRUCTION.search(line)
        if not match:
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
    """The shapes of the results of every instruction `opcode`, those inside fusions too."""
    found = re.findall(rf' = ([^%"]*?) {re.escape(opcode)}\(', text)
    return [", ".join(_shapes(results)) for results in found]


def aliased_parameters(text: str) -> set[int]:
    """Numbers of the parameters whose memory a result takes over: those that were donated."""
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


def _shapes(text: str) -> list[str]:
    return re.findall(r"\b[a-z]+\d*\w*\[[\d,]*\]", text)


def _groups(line: str, text: str) -> tuple[tuple[int, ...], ...]:
    """{{0,1},{2,3}}; [2,2]<=[4] or [2,2]<=[2,2]T(1,0): numbers counted up, reshaped; {}: all devices."""
    listed = re.search(r"(?:replica_groups|source_target_pairs)=\{(\{[\d,{}]*\})\}", line)
    if listed:
        groups = re.findall(r"\{([\d,]+)\}", listed[1])
        return tuple(tuple(int(number) for number in group.split(",")) for group in groups)
    iota = re.search(r"replica_groups=\[(\d+),(\d+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", line)
    if iota:
        sides = [int(side) for side in iota[3].split(",")]
        numbers = np.arange(math.prod(sides)).reshape(sides)
        if iota[4]:
            numbers = numbers.transpose([int(axis) for axis in iota[4].split(",")])
        return tuple(map(tuple, numbers.reshape(int(iota[1]), int(iota[2])).tolist()))
    if "replica_groups={}" in line:
        header = text.partition("\n")[0]
        counts = re.findall(r"(?:replica_count|num_partitions)=(\d+)", header)
        return (tuple(range(math.prod(map(int, counts)))),)
    raise ValueError(f"replica groups of an unknown form: {line.strip()}")
