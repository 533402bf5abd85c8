"""Long tables, quickly: Rich lays out and wraps every cell, which takes longer than all else that a listing of a
thousand models needs. Columns that fit the width need none of that."""

from __future__ import annotations

from collections.abc import Sequence

from rich.cells import cell_len
from rich.console import Console
from rich.segment import Segment, Segments
from rich.style import Style
from rich.text import Text

from gateway.cli.options import table

GAP = 2
Cell = str | Text


def print_columns(
    console: Console, titles: Sequence[str], rows: Sequence[Sequence[Cell]], right: Sequence[str]
) -> None:
    """Prints a row a line below dim titles; those columns that `right` names are aligned to the right. What does not
    fit into lines is left to Rich."""
    plain = [[str(cell) for cell in row] for row in rows]
    widths = [max(map(cell_len, column)) for column in zip(titles, *plain, strict=True)]
    if sum(widths) + GAP * len(widths) > console.width or any("\n" in text for texts in plain for text in texts):
        made = table(titles, right)
        for row in rows:
            made.add_row(*row)
        console.print(made)
        return
    known: dict[str, Style] = {}
    segments = []
    for texts, cells in [(titles, [Text("", "dim")] * len(titles)), *zip(plain, rows, strict=True)]:
        for text, cell, width, title in zip(texts, cells, widths, titles, strict=True):
            name = str(cell.style) if isinstance(cell, Text) else ""
            if name not in known:
                known[name] = console.get_style(name)
            padding = " " * (width - cell_len(text))
            segments.append(Segment((padding + text if title in right else text + padding) + " " * GAP, known[name]))
        segments.append(Segment.line())
    console.print(Segments(segments), end="")
