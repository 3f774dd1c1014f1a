"""The notebooks in `examples/` run as they stand, in the order of their names, and show pictures."""

from __future__ import annotations

from pathlib import Path

import nbclient
import nbformat
import pytest

NOTEBOOKS = sorted((Path(__file__).parents[1] / "examples").glob("*.ipynb"))
NOTE = "For research; not a medical device."


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where they run: the first one draws the phantoms and embeds them, the others find both."""
    return tmp_path_factory.mktemp("notebooks")


def test_there_are_four() -> None:
    assert [path.stem for path in NOTEBOOKS] == ["1-embed-and-look", "2-few-labels", "3-prompts", "4-similar-cases"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_is_short_clean_and_says_what_it_is_not_for(path: Path) -> None:
    book = nbformat.read(path, as_version=4)
    nbformat.validate(book)
    assert len(book.cells) <= 12
    assert NOTE in book.cells[0].source
    for cell in book.cells:
        assert not cell.get("outputs"), "clear its outputs"
        assert cell.get("execution_count") is None


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs(path: Path, folder: Path) -> None:
    book = nbformat.read(path, as_version=4)
    nbclient.NotebookClient(book, timeout=600, resources={"metadata": {"path": str(folder)}}).execute()
    outputs = [output for cell in book.cells if cell.cell_type == "code" for output in cell.outputs]
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 2
    assert not [output.text for output in outputs if output.get("name") == "stderr"]
