"""Format tables as Markdown."""

from collections.abc import Collection, Iterable, Sequence


def table(
    header: Sequence[str], rows: Iterable[Iterable[object]], right: Collection[int] = ()
) -> list[str]:
    """Return the lines of a Markdown table; the columns with indices in `right` are right-aligned."""
    rule = "|".join("--:" if i in right else "---" for i in range(len(header)))
    return [row(header), f"|{rule}|", *map(row, rows)]


def row(cells: Iterable[object]) -> str:
    """Return a line of a Markdown table."""
    return f"| {' | '.join(map(str, cells))} |"
