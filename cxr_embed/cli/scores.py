"""`cxr-embed scores`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cxr_embed.cli.common import RESEARCH, print_json
from cxr_embed.cli.options import AsJson, Findings, StorePath
from cxr_embed.cli.probe import print_notes
from cxr_embed.types import counted

EXAMPLE = "Example: `cxr-embed scores vectors/densenet --out scores.csv`, then `cxr-embed evaluate scores.csv`"


def scores(
    store: StorePath,
    out: Annotated[Path, typer.Option(help="Scores to write: .csv or .parquet.")],
    findings: Findings = None,
    operating_points: Annotated[
        bool,
        typer.Option(
            "--operating-points", help="Rescale so that each finding's operating point is 0.5, as TorchXRayVision does."
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Write the scores that the encoder's own classifier gave each image: the baseline that needs no training.

    The store must hold them: `cxr-embed embed ... --encoder densenet121 --outputs features,scores`. No model is loaded.
    The file is like that of `zeroshot`; a score is not a probability until `evaluate` has shown it.
    """
    from cxr_embed.api.own_scores import scores as own_scores
    from cxr_embed.screening import check_scores_target

    check_scores_target(out)
    made = own_scores(store, findings=findings, operating_points=operating_points)
    made.save(out)
    if as_json:
        counts = {"images": len(made), "findings": list(made.names)}
        print_json({"out": str(out), **made.about, **counts, "notes": list(made.notes), "note": RESEARCH})
        return
    print_notes(made.notes)
    counts_line = f"{counted(len(made), 'image')}, {counted(len(made.names), 'finding')}"
    typer.echo(f"{out}: {counts_line}; scores of {made.about['encoder']} itself")
    typer.echo(RESEARCH)
