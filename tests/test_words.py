"""Words that a radiologist or a statistician would say, in names, messages, docstrings and comments."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "cxr_embed"
MODULES = sorted(PACKAGE.rglob("*.py"))
OURS = re.compile(r"told|untold|asked|askers?|judged?|truths?|doubts?|crews?|wish|wishes|strangers?|strengths?")
SAID = re.compile(
    r"\b(?:untold|told|askers?|judged|doubts?|crews?|wish(?:es)?|strangers?)\b"
    # 'is no file' is 'is not a file'; 'there is no file' may stay.
    r"|(?<!there )\b(?:is|are|was|were) no (?:(?:finite|whole|grey|usable) )?"
    r"(?:array|column|date|file|finding|folder|grouping|id|image|index|model|number|output|picture|probabilit|radiograph|recipe"
    r"|sequence|table|text|vector)(?:s|y|ies)?\b"
)
# Keys of files of every release: of index.json, of a report, of a screening's report.
KEYS = ("wish", "told", "doubts")


def names_in(tree: ast.AST) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.lineno, node.name
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, ast.Name):
            yield node.lineno, node.id
        elif isinstance(node, ast.Attribute):
            yield node.lineno, node.attr
        elif isinstance(node, ast.alias):
            yield node.lineno, node.asname or node.name


def words_of(name: str) -> list[str]:
    """`_ToldTwice` and `told_twice` alike."""
    return re.findall(r"[a-z]+", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower())


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_names_are_the_field_s(path: Path) -> None:
    ours = {f"{name} ({line})" for line, name in names_in(ast.parse(path.read_text())) if ours_in(name)}
    assert not ours


def ours_in(name: str) -> bool:
    return any(OURS.fullmatch(word) for word in words_of(name))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_messages_docstrings_and_comments_are_plain(path: Path) -> None:
    said = [f"{found[0]!r} ({line})" for line, text in texts_in(path.read_text()) for found in SAID.finditer(text)]
    assert not said


def texts_in(source: str) -> Iterator[tuple[int, str]]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value not in KEYS:
            yield node.lineno, node.value.replace("`wish`", "")
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string


@pytest.mark.parametrize(
    ("text", "bad"),
    [
        ("'x' is no date (YYYY-MM-DD)", True),
        ("'x' is not a date (YYYY-MM-DD)", False),
        ("there is no index here", False),
        ("the scores are no probabilities", True),
        ("two strangers", True),
        ("what was asked for", False),
    ],
)
def test_what_is_looked_for(text: str, bad: bool) -> None:
    assert bool(SAID.search(text)) == bad


def test_names_are_read_word_by_word() -> None:
    assert ours_in("_told")
    assert ours_in("ToldTwice")
    assert ours_in("choose_crew")
    assert not ours_in("enfolded")


def test_comments_are_read_too() -> None:
    texts = [text for _, text in texts_in("'a'  # told\n")]
    assert texts == ["a", "# told"]
