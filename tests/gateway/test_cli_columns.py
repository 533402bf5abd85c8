"""Long tables look as Rich's do, and are printed in a moment."""

from __future__ import annotations

import io

import pytest
from rich.console import Console
from rich.text import Text

from gateway.cli.columns import print_columns
from gateway.cli.options import table

TITLES = ("MODEL", "VERSIONS", "ALIASES")
ROWS = [[Text("fraud", "bold"), "5", Text("champion → 1", "cyan")], [Text("日本", "bold"), "12", Text("")]]


def printed(width: int, *, by_rich: bool) -> str:
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system="standard", highlight=False)
    if by_rich:
        made = table(TITLES, right=("VERSIONS",))
        for row in ROWS:
            made.add_row(*row)
        console.print(made)
    else:
        print_columns(console, TITLES, ROWS, right=("VERSIONS",))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def seen(text: str) -> list[str]:
    return [Text.from_ansi(line).plain.rstrip() for line in text.splitlines()]


@pytest.mark.parametrize("width", [120, 12])
def test_columns_are_those_of_rich(width: int) -> None:
    assert seen(printed(width, by_rich=False)) == seen(printed(width, by_rich=True))


def test_cells_keep_their_style() -> None:
    assert "\x1b[1mfraud" in printed(120, by_rich=False)
    assert "\x1b[36mchampion" in printed(120, by_rich=False)


def test_a_cell_of_two_lines_is_left_to_rich() -> None:
    console = Console(file=io.StringIO(), width=120)
    print_columns(console, ("STATE", "P50"), [["UNAVAILABLE\nnot a model", "–"]], right=())
    assert isinstance(console.file, io.StringIO)
    assert [line.split() for line in console.file.getvalue().splitlines()] == [
        ["STATE", "P50"],
        ["UNAVAILABLE", "–"],
        ["not", "a", "model"],
    ]
