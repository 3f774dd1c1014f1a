"""Every verb's tables fit the terminal: numbers and ids stay whole, words wrap at spaces or lose their middle."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from index_world import make_index
from rich.cells import cell_len
from test_report import Folder

from cxr_embed.cli import app, encoders, index_duplicates, probe, search, terminal
from cxr_embed.present import console
from cxr_embed.present.console import NAME, Column, columns_of, print_columns
from cxr_embed.present.tables import Table

CLI = Path(terminal.__file__).parent
FINDINGS = (
    "Effusion",
    "Enlarged_Cardiomediastinum",
    "Support devices, lines and tubes",
    "Pleural_Thickening_or_other_disease_of_the_left_side",
    "Pleural_Thickening_or_other_disease_of_the_right_side",
)
UID = "1.2.826.0.1.3680043.8.498.11111111111111111111"


def check(columns: list[Column], lines: list[str], width: int) -> None:
    """What must hold of all tables."""
    text = "\n".join(lines)
    words = set(text.split())
    numbers = [column for column in columns if column.kind != "words"]
    for column in numbers:
        for cell in column.cells:
            assert cell in text, (cell, text)
    whole = max((cell_len(cell) for column in numbers for cell in column.cells), default=0)
    heads = max(cell_len(word) for column in columns for word in [*column.head.split(), ""])
    first = max([NAME, *(cell_len(c) for c in columns[0].cells)] if columns[0].kind == "id" else [NAME])
    if width >= first + 2 + max(whole, heads):
        assert max(map(cell_len, lines)) <= width, text
    for column in columns:
        for word in " ".join(column.cells).split() if column.kind == "words" else ():
            cut = [found for found in words if "\N{HORIZONTAL ELLIPSIS}" in found]
            ends = (found.split("\N{HORIZONTAL ELLIPSIS}") for found in cut)
            short = cell_len(word) <= NAME
            assert word in words or (not short and any(word.startswith(a) and word.endswith(b) for a, b in ends)), word


WORD = st.text(st.characters(categories=["Lu", "Ll", "Nd", "Lo"], include_characters="_-()"), min_size=1, max_size=40)
NUMBER = st.from_regex(r"\A[0-9]\.[0-9]{3}( \(-?[0-9]\.[0-9]{3} to [0-9]\.[0-9]{3}\))?\Z")


@settings(max_examples=40)
@given(
    st.lists(st.lists(WORD, min_size=1, max_size=5).map(" ".join), min_size=1, max_size=4, unique=True),
    st.lists(st.lists(WORD.filter(lambda word: len(word) < 12), min_size=1, max_size=3).map(" ".join), max_size=6),
    st.integers(20, 200),
    st.data(),
)
def test_numbers_are_whole_and_lines_fit(names: list[str], heads: list[str], width: int, data: st.DataObject) -> None:
    rows = [[name, *data.draw(st.lists(NUMBER, min_size=len(heads), max_size=len(heads)))] for name in names]
    columns = columns_of(Table(heads=["finding", *heads], rows=rows))
    lines: list[str] = []
    for part in console._parts(columns, width):
        widths = console._widths(part, width)
        fitted = [console._fitted(c, w) for c, w in zip(part, widths, strict=True)]
        # Names that differ are told apart after cutting, too.
        assert len(set(fitted[0])) == len(names)
        for column, cells, wide in zip(part, fitted, widths, strict=True):
            longest = [cell_len(w) for cell in (*cells, column.head) for w in cell.split()]
            assert max(longest) <= wide
            if column.kind == "number":
                assert list(column.cells) == cells
                assert max(map(cell_len, cells)) <= wide
        lines.append(" " * console._together(widths))
    shown = [column for part in console._parts(columns, width) for column in part[1:]]
    assert shown == columns[1:]
    cut = {name: min(NAME, max(map(cell_len, name.split()))) for name in names}
    alike = console._least(columns[0]) > max(*cut.values(), cell_len("finding"))
    if not alike and width >= NAME + 2 + max([0, *map(console._least, columns[1:])]):
        assert max(map(len, lines)) <= width


@example("Enlarged_Cardiomediastinum", 20)
@given(WORD, st.integers(3, 40))
def test_a_word_loses_its_middle(word: str, width: int) -> None:
    cut = console._cut(word, width)
    assert cell_len(cut) <= width
    if cell_len(word) > width:
        assert cut.count("\N{HORIZONTAL ELLIPSIS}") == 1 + word.count("\N{HORIZONTAL ELLIPSIS}")


def test_columns_that_may_go_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    columns = [Column("image_id", [UID], "id"), Column("similarity", ["0.5000"]), Column("view", ["PA"], "id")]
    assert print_columns(terminal.console(width=100), columns, ("view",)) == []
    assert print_columns(terminal.console(width=60), columns, ("view",)) == ["view"]
    wide, narrow = capsys.readouterr().out.split("image_id")[1:]
    assert "PA" in wide
    assert "PA" not in narrow
    assert UID in narrow


def test_all_tables_go_through_one_door() -> None:
    """What this module holds of `present.console` holds of every verb."""
    for path in CLI.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom | ast.Import):
                names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names]
                assert not {"rich.table", "rich.columns", "rich.panel"} & set(names), path.name


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scores, labels, a store and an index of long names and ids."""
    root = tmp_path_factory.mktemp("world")
    folder = Folder(root, FINDINGS)
    folder.labels.write_text(_with_paths(folder.labels.read_text()))
    folder.score("second", 0.3)
    folder.store()
    values = np.random.default_rng(0).standard_normal((12, 6))
    values[1] = values[0]
    known = {name: [str(number % 2) for number in range(12)] for name in FINDINGS}
    index = make_index(root / "cases", values, [f"p{n // 2}" for n in range(12)], known)
    assert len(index) == 12
    return root


def _with_paths(text: str) -> str:
    head, *rows = text.splitlines()
    return "\n".join([f"{head},path", *(f"{row},{row.split(',')[0]}.png" for row in rows)]) + "\n"


VERBS = {
    "evaluate": ["evaluate", "first.csv", "labels.csv", "--split", "test", "--thresholds-split", "val", "--calibrate",
                 "platt", "--prevalence", "0.05", "--by", "sex", "--bootstraps", "20"],
    "compare": ["probe", "compare", "first.csv", "second.csv", "labels.csv", "--split", "test", "--bootstraps", "20"],
    "train": ["probe", "train", "vectors", "labels.csv", "--split", "train", "--thresholds-split", "val", "--out", "p"],
    "curve": ["probe", "curve", "vectors", "labels.csv", "--shots", "2,all", "--seeds", "2", "--test", "val"],
    "retrieval": ["index", "evaluate", "cases/index", "-k", "2,5", "--bootstraps", "20"],
    "search": ["search", "cases/index", "--image-id", "c3", "-k", "5"],
    "duplicates": ["index", "duplicates", "cases/index", "--threshold", "0.99"],
    "encoders": ["encoders"],
}  # fmt: skip


@pytest.mark.parametrize("width", [60, 80, 200])
@pytest.mark.parametrize("verb", VERBS)
def test_every_verb(
    verb: str, width: int, world: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:  # fmt: skip
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.chdir(world)
    words = [str(tmp_path / "p") if word == "p" else word for word in VERBS[verb]]
    words += ["--out", str(tmp_path / "c")] if verb == "curve" else []
    seen: list[tuple[list[Column], list[str]]] = []
    real = print_columns

    def spy(screen: Any, columns: Any, spare: Any = ()) -> list[str]:
        capsys.readouterr()
        left_out = real(screen, columns, spare)
        shown = [column for column in columns if column.head not in left_out]
        seen.append((shown, capsys.readouterr().out.splitlines()))
        return left_out

    for module in (console, encoders, index_duplicates, probe, search):
        monkeypatch.setattr(module, "print_columns", spy)
    assert not app(words, standalone_mode=False)
    assert seen
    for columns, lines in seen:
        check(columns, lines, width)
