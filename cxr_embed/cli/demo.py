"""`cxr-embed demo`: the whole way from radiographs to a report, each command printed as a user would type it."""

from __future__ import annotations

import importlib.util
import shlex
import time
from pathlib import Path
from typing import Annotated

import typer

from cxr_embed.cli.common import RESEARCH, fail

EXAMPLE = "Example: `cxr-embed demo --images radiographs/`"
FEWEST = 280  # of its phantoms, 16 patients or more have each finding in the training part: what the probes ask for
USUAL = 400


def demo(
    images: Annotated[
        Path | None,
        typer.Option(help="A folder of your own radiographs; phantoms are drawn without one.", show_default=False),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for what is made.")] = Path("demo"),
    count: Annotated[
        int | None, typer.Option(min=FEWEST, help=f"Phantoms; {USUAL} by default.", show_default=False)
    ] = None,
    serve: Annotated[bool, typer.Option("--serve", help="Then show the cases in a web page, until Ctrl-C.")] = False,
) -> None:
    """Embed, probe, screen by prompt, find similar cases, report: all of it in a minute, with nothing to fetch.

    Phantoms are synthetic and `mini` is a demonstration encoder: the figures say that it all works, and nothing about
    patients.
    """
    started = time.perf_counter()
    images, out = images and _no_option(images), _no_option(out)
    if images is not None and not images.is_dir():
        fail(f"{images}: no such folder (--images)", 2)
    if images is not None and count is not None:
        fail("--count is of phantoms, and --images takes all of your own; leave one out", 2)
    has_web = all(importlib.util.find_spec(name) is not None for name in ("fastapi", "uvicorn"))
    if serve and not has_web:
        fail("--serve needs fastapi and uvicorn: pip install 'cxr-embed[web]'", 2)
    # Your own images share no store with phantoms, nor with those of another folder.
    folder = out / "own" / images.resolve().name if images else out / "phantoms"
    if folder.exists():
        fail(f"{folder}: is there already, from an earlier demo; remove it, or give another --out", 2)
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        fail(f"{folder}: cannot be made ({error.strerror}); give another --out")
    try:
        status = _own(images, folder) if images else _phantoms(folder, count or USUAL)
    finally:
        if not any(folder.iterdir()):
            folder.rmdir()  # a demo that made nothing is in nobody's way
    typer.echo(f"\n{time.perf_counter() - started:.0f} s. Everything is in {folder}.")
    browse = _browse(folder, images)
    if not serve:
        needs = "" if has_web else "pip install 'cxr-embed[web]', then "
        typer.echo(f"Its cases in a web page: {needs}cxr-embed {shlex.join(browse)}")
    typer.echo("Next: your own data, docs/first-data-set.md.")
    typer.echo(RESEARCH)
    if serve:
        _run(*browse)
    raise SystemExit(status)


def _browse(folder: Path, images: Path | None) -> list[str]:
    """The words that show the demo's cases in a web page."""
    place = ["serve", str(folder / "index"), "--manifest", str(folder / "manifest.csv")]
    store = ["--store", str(folder / "vectors")]
    if images is not None:
        return [*place, "--root", str(images), *store, "--prompts", "nih14"]
    return [*place, *store, "--probe", str(folder / "probe"), "--prompts", "phantom8"]


def _no_option(path: Path) -> Path:
    """A path that no command takes for an option; a Path drops the `./` that a user writes before a dash."""
    return path.absolute() if str(path).startswith("-") else path


def _phantoms(folder: Path, count: int) -> int:
    """The way of labelled images: probes, prompts, neighbours and a report."""
    cases, manifest = folder, str(folder / "manifest.csv")
    store, probe, index = str(folder / "vectors"), str(folder / "probe"), str(folder / "index")
    scores, prompts = str(folder / "probe.csv"), str(folder / "prompts.csv")
    test = ("--labels", manifest, "--split", "test")
    _run("phantom", str(cases), "--count", str(count), "--size", "256")
    _run("embed", manifest, "--store", store)
    _run("probe", "train", store, manifest, "--shots", "16", "--out", probe)
    _run("probe", "predict", probe, store, *test, "--out", scores)
    _run("zeroshot", store, "--prompts", "phantom8", *test, "--out", prompts)
    _run("index", "build", store, "--manifest", manifest, "--output", "contrastive", "--out", index)
    chosen = _first(manifest, "Cardiomegaly")
    where = ("--manifest", manifest)
    alike = ("-k", "5", "--exclude-same-patient", "--montage", str(folder / "similar.png"), *where)
    _run("search", index, "--image-id", chosen, *alike)
    words = ("-k", "5", "--one-per-patient", "--montage", str(folder / "words.png"), *where)
    _run("search", index, "--text", "large pleural effusion", *words)
    report = ("--split", "test", "--against", prompts, "--store", store, "--probe", probe)
    _run("report", scores, manifest, *report, "--out", str(folder / "report.html"))
    return 0


def _own(images: Path, folder: Path) -> int:
    """The way without labels: prompts and neighbours. 1 where some file could not be embedded."""
    from cxr_embed.store import open_store

    manifest, store, index = str(folder / "manifest.csv"), str(folder / "vectors"), str(folder / "index")
    root = ("--root", str(images))
    _run("manifest", "scan", str(images), "--out", manifest)
    broken = _run("embed", manifest, *root, "--store", store, may_fail=True)
    if not (folder / "vectors" / "store.json").is_file() or broken > 1:  # above 1: interrupted
        raise SystemExit(broken or 1)
    if not len(open_store(store)):
        fail(
            f"{images}: none of its files could be read, for the reasons above; "
            f"remove {folder}, and give --images a folder of radiographs"
        )
    _run("zeroshot", store, "--prompts", "nih14", "--out", str(folder / "prompts.csv"))
    _run("index", "build", store, "--manifest", manifest, "--output", "contrastive", "--out", index)
    chosen = _first(str(folder / "prompts.csv"))
    where = ("--manifest", manifest, *root)
    _run("search", index, "--image-id", chosen, "-k", "5", "--montage", str(folder / "similar.png"), *where)
    words = ("-k", "5", "--montage", str(folder / "words.png"), *where)
    _run("search", index, "--text", "large pleural effusion", *words)
    typer.echo("\nProbes need labels: docs/probes.md.")
    return broken


def _run(*words: str, may_fail: bool = False) -> int:
    """Prints a command and runs it; ends the demo with its status where that is not 0, unless it may fail."""
    from cxr_embed.cli import app

    typer.echo(f"\n$ cxr-embed {shlex.join(words)}")
    try:
        status = app(list(words), standalone_mode=False) or 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    if status and not may_fail:
        raise SystemExit(status)
    return int(status)


def _first(table: str, finding: str | None = None) -> str:
    """The first image of a manifest or score file; with a finding, the first that shows it."""
    import csv

    with open(table, newline="", encoding="utf-8") as file:
        return next(row["image_id"] for row in csv.DictReader(file) if finding is None or row[finding] == "1")
