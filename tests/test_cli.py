"""What holds for every verb: help with an example, errors of a line or two, exit statuses."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer.main
from helpers import fill, run_cli

from cxr_embed.cli import app, main
from cxr_embed.cli.embed_progress import embedding_bar
from cxr_embed.pipeline.summary import EmbedSummary
from cxr_embed.store.reader import Failure


def verbs() -> list[list[str]]:
    """Every command of the command line, as a user types it."""
    found = []
    for name, command in typer.main.get_command(app).commands.items():  # type: ignore[attr-defined]
        children = [child for child, inner in getattr(command, "commands", {}).items() if not inner.hidden]
        if not command.hidden:
            found += [[name, child] for child in children] if children else [[name]]
    return found


def test_there_are_verbs() -> None:
    assert ["embed"] in verbs()
    assert ["store", "verify"] in verbs()
    assert len(verbs()) >= 10


@pytest.mark.parametrize("verb", verbs(), ids=" ".join)
def test_every_verb_has_help_with_an_example(verb: list[str]) -> None:
    done = run_cli(*verb, "--help")
    assert done.returncode == 0
    assert f"Example: cxr-embed {' '.join(verb)}" in done.stdout


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["store", "info", "nowhere"], "no store here"),
        (["store", "verify", "nowhere"], "no store here"),
        (["store", "export", "nowhere", "x.npz"], "no store here"),
        (["store", "export", "{store}", "x.txt"], "exports end in .parquet or .npz"),
        (["store", "export", "{store}", "x.npz", "--output", "general"], "it has features, tokens"),
        (["manifest", "validate", "nowhere.csv"], "no such manifest"),
        (["manifest", "scan", "nowhere"], "no such folder"),
        (["embed", "nowhere.csv", "--encoder", "hog", "--store", "s"], "no such manifest"),
        (["weights", "convert", "resnet51", "x.pt"], "of this family are"),
        (["weights", "random", "densenet121", "--out", "no/such/{store}/x"], "cannot be written"),
    ],
    ids=lambda value: " ".join(value[:2]) if isinstance(value, list) else "",
)
def test_a_mistake_is_answered_in_a_line_or_two(tmp_path: Path, command: list[str], words: str) -> None:
    fill(tmp_path / "store", range(3))
    (tmp_path / "no").write_text("a file where a folder is meant")
    done = run_cli(*(part.format(store="store") for part in command), cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert words in done.stderr
    assert done.stderr.count("\n") <= 2
    assert done.stdout == ""


@pytest.mark.parametrize("count", ["0", "-1", "1.5", "\u00b2", "\u0663"])
def test_counts_are_whole_numbers_from_1(tmp_path: Path, count: str) -> None:
    (tmp_path / "m.csv").write_text("image_id,path,patient_id\na,a.png,p\n")
    done = run_cli("embed", "m.csv", "--encoder", "hog", "--store", "s", f"--batch-size={count}", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: --batch-size is auto or a whole number from 1")


def test_the_progress_bar(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("cxr_embed.cli.embed_progress.is_terminal", lambda: True)
    with embedding_bar() as progress:
        assert progress is not None
        progress(EmbedSummary(images=8, embedded=4, failed=[Failure("a", "empty", "the file is empty")], engine="toy"))
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("embedding ")
    assert "5/8" in last
    assert "1 failed" in last


def test_the_version_and_unknown_verbs() -> None:
    assert run_cli("--version").stdout.startswith("cxr-embed 0.")
    done = run_cli("embedd")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_output_cut_short_by_its_reader_is_no_traceback(tmp_path: Path) -> None:
    import subprocess
    import sys

    fill(tmp_path / "s", range(3))
    reader = f"{sys.executable} -m cxr_embed store info {tmp_path / 's'} --json | true"
    done = subprocess.run(["bash", "-c", reader], capture_output=True, text=True)
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["embed", "m.csv", "--store", "s", "--outputs", "a", "--outputs", "b"],
        ["search", "i", "-k", "3", "--image-id", "a", "-k", "4"],
        ["probe", "train", "s", "l.csv", "--out", "p", "--out=q"],
    ],
)
def test_an_option_of_one_value_is_given_once(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["cxr-embed", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    assert "is given 2 times; it takes one value" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    "arguments",
    [
        ["probe", "predict", "p", "s", "--labels", "l.csv", "--out", "./l.csv"],
        ["probe", "train", "s", "l.csv", "--out", "s"],
        ["zeroshot", "s", "--prompts", "nih14", "--labels", "l.csv", "--out", "link.csv"],
        ["index", "build", "s", "--out", "s/"],
        ["index", "duplicates", "i", "--manifest", "l.csv", "--out", "l.csv"],
        ["search", "i", "--image", "a.png", "--montage", "a.png", "--manifest", "l.csv"],
    ],
)
def test_nothing_is_written_over_what_is_read(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "l.csv").write_text("image_id\n")
    (tmp_path / "link.csv").symlink_to("l.csv")
    monkeypatch.setattr("sys.argv", ["cxr-embed", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    assert "this command reads it, and would write over it" in capsys.readouterr().err
    assert (tmp_path / "l.csv").read_text() == "image_id\n"
