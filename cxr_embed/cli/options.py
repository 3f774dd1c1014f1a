"""Options that several verbs have: one name, one meaning, one sentence of help."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from cxr_embed.choices import Blank as BlankLabels
from cxr_embed.choices import CalibrationKind, Pooling
from cxr_embed.choices import Uncertain as UncertainLabels
from cxr_embed.cli.common import fail

StorePath = Annotated[Path, typer.Argument(help="The store's folder.", show_default=False)]
ProbePath = Annotated[Path, typer.Argument(help="The probe's folder.", show_default=False)]
IndexPath = Annotated[Path, typer.Argument(help="The index's folder.", show_default=False)]
Scores = Annotated[
    Path, typer.Argument(help="Scores: image_id and a column for each finding (.csv, .csv.gz, .parquet).")
]
LabelFile = Annotated[Path, typer.Argument(help="Manifest, or a table of image_id and findings.")]
Extra = Annotated[
    list[str] | None,
    typer.Option(
        help="A column of the labels that is not a finding (repeatable), beside those of their companion.",
        show_default=False,
    ),
]
Findings = Annotated[
    list[str] | None,
    typer.Option(
        "--finding",
        help="Look at this finding (repeatable), or at those of the vocabulary of findings (common); at all by "
        "default.",
        show_default=False,
    ),
]
Split = Annotated[str | None, typer.Option(help="Look at this split of the labels only, e.g. test.")]
Blank = Annotated[
    BlankLabels | None,
    typer.Option(
        help="What a blank label counts as; what the manifest's companion says by default, else unknown.",
        show_default=False,
    ),
]
Uncertain = Annotated[UncertainLabels, typer.Option(help="What a label of -1 counts as.")]
By = Annotated[
    str | None,
    typer.Option(help="The same by groups of the labels' columns, and differences between them: sex,age,view."),
]
Prevalence = Annotated[
    list[str] | None,
    typer.Option(
        help="Part of cases with the finding where the scores are to be used, for predictive values, net benefit and "
        "counts per 1,000: 0.02, or Pneumothorax=0.02 (repeatable).",
        show_default=False,
    ),
]
Threshold = Annotated[
    str | None,
    typer.Option(
        help="youden, f1, sensitivity=0.9, specificity=0.9 or flag-rate=0.1, chosen on the validation part (there, "
        "youden by default); or a number that was known before.",
        show_default=False,
    ),
]
ThresholdsSplit = Annotated[
    str | None, typer.Option(help="The labels' split that is the validation part, e.g. validate.")
]
Calibrate = Annotated[
    CalibrationKind | None, typer.Option(help="Make probabilities of the scores, fitted on the validation part.")
]
CountNoFinding = Annotated[
    bool,
    typer.Option("--count-no-finding", help="Give 'No Finding' a part in means; beside others it has none by default."),
]
Bootstraps = Annotated[int, typer.Option(min=0, max=100_000, help="Draws of patients for the intervals.")]
Seed = Annotated[int, typer.Option(min=0, help="Of the draws.")]
Pool = Annotated[Pooling, typer.Option(help="How tokens become one vector.")]
Weights = Annotated[Path | None, typer.Option(help="Safetensors file or checkpoint folder of the encoder.")]
Device = Annotated[str, typer.Option(help="For the encoder: auto, cpu or cuda.")]
Root = Annotated[
    Path | None,
    typer.Option(
        help="Folder of the radiographs, if not the manifest's own or the one that its companion names; for `embed` "
        "and `manifest validate` also an address, s3://bucket/folder."
    ),
]
KeyFile = Annotated[Path | None, typer.Option(help="Key of the patient ids, if not your own: for what was forgotten.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print as JSON.")]


def listed(text: str | None) -> list[str] | None:
    """The names in a list such as `sex,age,view`; None where there is none."""
    return [name.strip() for name in text.split(",") if name.strip()] if text is not None else None


def picture_size(text: str | None) -> tuple[int, int] | None:
    """`--drawn-on`: width and height of a picture."""
    if text is None:
        return None
    match = re.fullmatch(r"([0-9]{1,6})x([0-9]{1,6})", text.lower().replace(" ", ""))
    if not match:
        fail(f"--drawn-on is a width and a height such as 1024x1024, not {text!r}", 2)
    return int(match[1]), int(match[2])


def prevalences(given: list[str] | None) -> float | dict[str, float] | None:
    """`--prevalence`: `0.02` for all findings, or `NAME=0.02`; a later word wins."""
    rates: dict[str, float] = {}
    for word in given or ():
        name, _, number = word.rpartition("=")
        try:
            rate = float(number)
        except ValueError:
            fail(f"--prevalence is a part of 1, such as 0.02 or Pneumothorax=0.02, not {word!r}", 2)
        rates = {**rates, name: rate} if name else {"*": rate}
    return rates["*"] if set(rates) == {"*"} else rates or None
