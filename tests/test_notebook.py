"""Bars in notebooks are the notebook's; ages are whole years wherever they are told."""

from __future__ import annotations

import csv
import importlib.util
import json
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import run_cli
from index_world import make_index

from cxr_embed import notebook
from cxr_embed.cli import common
from cxr_embed.manifest import read_labels
from cxr_embed.manifest.spellings import plain_age
from cxr_embed.notebook import in_notebook, notebook_bar
from cxr_embed.pipeline.embedding import embed


class Handle:
    """What IPython gives for a shown object."""

    def __init__(self, shown: list[Any]) -> None:
        self.shown = shown

    def update(self, value: Any) -> None:
        self.shown.append(value)


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """A kernel, as far as we look at one; what its cell shows."""
    found: list[Any] = []

    def display(value: Any, display_id: bool) -> Handle:
        assert display_id
        found.append(value)
        return Handle(found)

    fake = types.ModuleType("IPython")
    fake.get_ipython = lambda: types.SimpleNamespace(kernel=object())  # type: ignore[attr-defined]
    shows = types.ModuleType("IPython.display")
    shows.display = display  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", fake)
    monkeypatch.setitem(sys.modules, "IPython.display", shows)
    return found


def test_there_is_no_bar_where_nobody_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "IPython", raising=False)
    assert not in_notebook()
    assert notebook_bar() is None
    with common.progress_bar() as show:  # standard error is no terminal here
        assert show is None
    terminal = types.ModuleType("IPython")
    terminal.get_ipython = lambda: types.SimpleNamespace()  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", terminal)
    assert not in_notebook()


def test_a_notebook_gets_a_bar(shown: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 0.01, 0.5, 0.51, 0.52])
    monkeypatch.setattr(notebook.time, "monotonic", lambda: next(clock))
    with common.progress_bar() as show:
        assert show is not None
        show("a <b>", 1, 4)
        show("a <b>", 2, 4)  # too soon after the first
        show("a <b>", 3, 4)
        show("a <b>", 4, 4)  # the end is always told
        show("other", 0, 0)
    assert [repr(bar) for bar in shown] == ["a <b> 1 / 4", "a <b> 3 / 4", "a <b> 4 / 4", "other 0 / 0"]
    assert shown[1]._repr_html_() == '<progress value="3" max="4"></progress> a &lt;b&gt; 3 / 4'


def test_embed_in_a_notebook_shows_it_by_itself(shown: list[Any], make_images: Any, tmp_path: Path) -> None:
    embed(make_images(3), "hog", tmp_path / "store", workers=1)
    assert repr(shown[-1]) == "embedding 3 / 3 images"


def test_a_real_kernel(tmp_path: Path, make_images: Any) -> None:
    if importlib.util.find_spec("nbclient") is None or importlib.util.find_spec("ipykernel") is None:
        pytest.skip("nbclient and ipykernel are not installed")
    import nbclient
    import nbformat

    code = f"import cxr_embed\ncxr_embed.embed({str(make_images(3))!r}, 'hog', {str(tmp_path / 's')!r}, workers=1)"
    made = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    nbclient.NotebookClient(made, timeout=120, resources={"metadata": {"path": str(tmp_path)}}).execute()
    bars = [cell["data"] for cell in made.cells[0].outputs if cell.output_type == "display_data"]
    assert [bar["text/plain"] for bar in bars] == ["embedding 3 / 3 images"]
    assert '<progress value="3" max="3">' in bars[0]["text/html"]


@pytest.mark.parametrize(
    ("age", "told"),
    [("48", "48"), ("48.0", "48"), ("048Y", "48"), ("048", "48"), ("018M", "1"), ("0", "0"), ("48.5", "48.5"),
     ("999Y", "999Y"), ("NA", ""), ("", ""), ("old", "old")],
)  # fmt: skip
def test_ages_are_spelled_alike(age: str, told: str, tmp_path: Path) -> None:
    assert plain_age(age) == told
    if told.isdigit():
        (tmp_path / "l.csv").write_text(f"image_id,age,Mass\na,{age},1\n")
        assert read_labels(tmp_path / "l.csv").column("age").tolist() == [told]


def test_search_tells_whole_years(tmp_path: Path) -> None:
    make_index(tmp_path, np.random.default_rng(0).standard_normal((4, 6)), columns={"age": ["48", "1", "0.5", ""]})
    command = ["search", "index", "--image-id", "c3", "-k", "3"]
    found = json.loads(run_cli(*command, "--json", "--out", "n.csv", cwd=tmp_path).stdout)["neighbors"]
    assert {case["image_id"]: json.dumps(case["age"]) for case in found} == {"c0": "48", "c1": "1", "c2": "0.5"}
    with open(tmp_path / "n.csv", newline="") as file:
        assert {row["image_id"]: row["age"] for row in csv.DictReader(file)} == {"c0": "48", "c1": "1", "c2": "0.5"}
    printed = run_cli(*command, cwd=tmp_path).stdout
    assert " 48" in printed
    assert "48.0" not in printed
