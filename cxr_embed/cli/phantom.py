"""`cxr-embed phantom`."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NoReturn

import typer

from cxr_embed.cli.common import RESEARCH, print_json, progress_bar
from cxr_embed.cli.options import AsJson
from cxr_embed.types import counted

if TYPE_CHECKING:
    from cxr_embed.phantom import Study

EXAMPLE = "Example: `cxr-embed phantom phantoms --count 400`"


def phantom(
    folder: Annotated[Path, typer.Argument(help="Folder to write; new, or empty.")],
    count: Annotated[int, typer.Option(min=1, help="Images.")] = 400,
    seed: Annotated[int, typer.Option(min=0, help="Of the cohort: the same seed, the same images.")] = 0,
    size: Annotated[int, typer.Option(min=64, max=2048, help="Pixels on a side.")] = 512,
    format: Annotated[Literal["png", "dicom"], typer.Option(help="png (8 bits) or dicom (12 bits).")] = "png",
    masks: Annotated[
        bool, typer.Option("--masks", help="Also write masks/FINDING/IMAGE_ID.png: where each finding is seen.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Make synthetic chest radiographs with findings whose place is known: images, manifest.csv and truth.csv."""
    from cxr_embed.phantom import write_phantoms

    with _ended_in_order(), progress_bar() as bar:
        step = (lambda done: bar("drawing", done, count)) if bar else None
        studies = write_phantoms(folder, count, seed, format, size, step, masks)
    patients, found = len({study.patient.patient_id for study in studies}), _counts(studies)
    if as_json:
        body = {"folder": str(folder), "images": len(studies), "patients": patients, "findings": found}
        files = {"manifest": "manifest.csv", "truth": "truth.csv", **({"masks": "masks"} if masks else {})}
        print_json({**body, **{name: str(folder / file) for name, file in files.items()}})
        return
    typer.echo(f"{folder}: {counted(len(studies), 'phantom')} of {counted(patients, 'patient')}")
    typer.echo(f"findings: {', '.join(f'{name} {number:,}' for name, number in found.items())}")
    typer.echo(f"{folder / 'manifest.csv'} lists them; {folder / 'truth.csv'} says where each finding is")
    if masks:
        typer.echo(f"{folder / 'masks'} shows it pixel by pixel: FINDING/IMAGE_ID.png")
    typer.echo(RESEARCH)


@contextmanager
def _ended_in_order() -> Iterator[None]:
    """Batch systems end a job by SIGTERM: what was drawn so far is then taken away, as after Ctrl-C."""

    def end(number: int, _: object) -> NoReturn:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _counts(studies: list[Study]) -> dict[str, int]:
    """How many images have each finding."""
    from cxr_embed.phantom import FINDINGS

    return {name: sum(f.name == name for study in studies for f in study.findings) for name in FINDINGS}
