"""Tables in Markdown."""

from collections.abc import Collection, Iterable, Sequence


def table(
    header: Sequence[str], rows: Iterable[Iterable[object]], right: Collection[int] = ()
) -> list[str]:
    """The lines of a Markdown table; the columns numbered in `right` are aligned to the right."""
    rule = "|".join("--:" if i in right else "---" for i in range(len(header)))
    return [row(header), f"|{rule}|", *map(row, rows)]


def row(cells: Iterable[object]) -> str:
    """A line of a Markdown table."""
    return f"| {' | '.join(map(str, cells))} |"
