"""`cxr-embed bench`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cxr_embed.cli.common import RESEARCH, is_terminal, print_json, progress_bar
from cxr_embed.cli.options import AsJson
from cxr_embed.notebook import in_notebook

if TYPE_CHECKING:
    from cxr_embed.benchmark import BenchResult

EXAMPLE = "Example: `cxr-embed bench examples/bench/plan.yaml --out leaderboard`"
_EVERY = 5.0  # seconds between lines where nobody sees a bar


def bench(
    plan: Annotated[Path, typer.Argument(help="What is compared on what: a YAML file (docs/bench.md).")],
    out: Annotated[Path, typer.Option(help="Folder for results, leaderboard and all that they are made of.")] = Path(
        "leaderboard"
    ),
    as_json: AsJson = False,
) -> None:
    """Compare encoders on data sets in several tasks under one protocol, and write a leaderboard.

    Splits are by patient, whatever is chosen is chosen off the test part, intervals are by patient, and every encoder
    is tested against the plan's reference with Holm's correction. Run it again and only what changed is done; a run
    that was killed goes on. A cell that fails says why, the rest goes on, and the exit status is 1.
    """
    from cxr_embed.benchmark import bench as run

    with _progress() as progress:
        try:
            made = run(plan, out=out, progress=progress)
        except KeyboardInterrupt:
            typer.echo("interrupted: what is done is kept; run the same command to go on", err=True)
            raise typer.Exit(130) from None
    if as_json:
        about = dict(made.about)
        files = [str(path) for path in made.files]
        print_json(
            {
                "out": str(out),
                "files": files,
                "results": made.table.to_pylist(),
                "failures": list(made.failures),
                "about": about,
            }
        )
    else:
        _print(made, out)
    if made.failures:
        raise typer.Exit(1)


@contextmanager
def _progress() -> Iterator[Callable[[str, int, int], None] | None]:
    """A bar with the time left; where nobody sees one, a line on stderr for each step that takes its time."""
    if in_notebook() or is_terminal():
        with progress_bar() as bar:
            yield bar
        return
    said: list[float] = []

    def say(step: str, done: int, total: int) -> None:
        now = time.monotonic()
        if not said or now - said[-1] >= _EVERY:
            said.append(now)
            typer.echo(f"{100 * done // max(1, total)}%: {step}", err=True)

    yield say


def _print(made: BenchResult, out: Path) -> None:
    from cxr_embed.cli.probe import print_table
    from cxr_embed.present.numbers import PLAIN

    rows = []
    means = [r for r in made.table.to_pylist() if (r["finding"], r["figure"]) == ("(mean)", "auroc")]
    order = list(dict.fromkeys((r["data"], r["task"], r["shots"]) for r in means))
    for row in sorted(means, key=lambda r: order.index((r["data"], r["task"], r["shots"]))):
        apart = ""
        if row["difference"] is not None:
            apart = PLAIN.figure(
                row["difference"], row["difference_low"], row["difference_high"], between=" to ", signed=True
            )
        size = f"{row['shots']} shots" if row["shots"] is not None else ""
        task = f"{row['task']} {size}".strip()
        figure = PLAIN.figure(row["value"], row["low"], row["high"])
        mark = "saw it" if row["saw_data"] else ""
        rows.append([row["data"], task, row["encoder"], figure, apart, PLAIN.p(row["p_holm"]), mark])
    if rows:
        print_table(["data", "task", "encoder", "mean AUROC", "minus reference", "p (Holm)", "training"], rows)
    typer.echo(f"reference: {made.about['reference']}; 95% intervals by patient (of curves: over draws)")
    for row in _once(made, "not applicable"):
        typer.echo(f"not applicable: {row}")
    for note in made.about["notes"]:
        typer.echo(f"note: {note}")
    for failure in made.failures:
        typer.echo(f"failed: {failure}", err=True)
    names = ", ".join(["results.parquet", *(path.name for path in made.files)])
    typer.echo(f"{out}: {names}")
    typer.echo(RESEARCH)


def _once(made: BenchResult, status: str) -> list[str]:
    """Cells of a status with their reasons."""
    found = [row for row in made.table.to_pylist() if row["status"] == status]
    return [f"{row['data']}, {row['encoder']}, {row['task']}: {row['reason']}" for row in found]
