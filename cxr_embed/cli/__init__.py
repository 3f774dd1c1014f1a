"""The command line: one module a group of verbs; heavy imports happen inside the handlers."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from cxr_embed.cli import (
    bench,
    demo,
    embed,
    encoders,
    evaluate,
    explain,
    explain_curves,
    explain_evaluate,
    exports,
    forget,
    imports,
    index,
    index_duplicates,
    index_evaluate,
    index_push,
    manifest,
    manifest_convert,
    manifest_findings,
    manifest_merge,
    manifest_scan,
    marks,
    phantom,
    probe,
    probe_curve,
    probe_evaluate,
    report,
    scores,
    search,
    serve,
    store,
    store_moving,
    store_work,
    zeroshot,
)
from cxr_embed.cli.ending import check_all, run
from cxr_embed.cli.terminal import clean_output


class _Verbs(TyperGroup):
    """Verbs, also of two words: `explain` takes images, and `explain evaluate` is a verb beside it."""

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        both = " ".join(args[:2])
        if len(args) > 1 and " " not in args[0] and both in self.commands:
            return both, self.commands[both], args[2:]
        return super().resolve_command(ctx, args)


app = typer.Typer(
    name="cxr-embed",
    cls=_Verbs,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Embed chest radiographs once, then do everything else on the cached vectors.\n\n"
    "For research; not a medical device.",
)
app.command("bench", epilog=bench.EXAMPLE)(bench.bench)
app.command("demo", epilog=demo.EXAMPLE)(demo.demo)
app.command("embed", epilog=embed.EXAMPLE)(embed.embed)
app.command("forget", epilog=forget.EXAMPLE)(forget.forget)
app.command("phantom", epilog=phantom.EXAMPLE)(phantom.phantom)
app.command("prompts", epilog=zeroshot.PROMPTS_EXAMPLE)(zeroshot.prompts)
app.command("zeroshot", epilog=zeroshot.EXAMPLE)(zeroshot.zeroshot)
app.command("scores", epilog=scores.EXAMPLE)(scores.scores)
app.command("evaluate", epilog=evaluate.EXAMPLE)(evaluate.evaluate)
app.command("explain", epilog=explain.EXAMPLE)(explain.explain)
app.command("explain curves", epilog=explain_curves.EXAMPLE)(explain_curves.curves)
app.command("explain evaluate", epilog=explain_evaluate.EXAMPLE)(explain_evaluate.evaluate)
app.command("search", epilog=search.EXAMPLE)(search.search)
app.command("serve", epilog=serve.EXAMPLE)(serve.serve)
app.command("report", epilog=report.EXAMPLE)(report.report)
manifest.app.command("scan", epilog=manifest_scan.EXAMPLE)(manifest_scan.scan)
manifest.app.command("convert", epilog=manifest_convert.EXAMPLE)(manifest_convert.convert)
manifest.app.command("merge", epilog=manifest_merge.EXAMPLE)(manifest_merge.merge)
manifest.app.command("findings", epilog=manifest_findings.EXAMPLE)(manifest_findings.findings)
probe.app.command("curve", epilog=probe_curve.EXAMPLE)(probe_curve.curve)
probe.app.command("evaluate", epilog=probe_evaluate.EXAMPLE)(probe_evaluate.evaluate)
probe.app.command("compare", epilog=evaluate.COMPARE_EXAMPLE)(evaluate.compare)
index.app.command("evaluate", epilog=index_evaluate.EXAMPLE)(index_evaluate.evaluate)
index.app.command("duplicates", epilog=index_duplicates.EXAMPLE)(index_duplicates.duplicates)
index.app.command("push", epilog=index_push.EXAMPLE)(index_push.push)
store.app.command("push", epilog=store_moving.PUSH_EXAMPLE)(store_moving.push)
store.app.command("pull", epilog=store_moving.PULL_EXAMPLE)(store_moving.pull)
store.app.command("merge", epilog=store_moving.MERGE_EXAMPLE)(store_moving.merge)
app.add_typer(manifest.app, name="manifest")
app.add_typer(probe.app, name="probe")
store.app.command("status", epilog=store_work.STATUS_EXAMPLE)(store_work.status)
store.app.command("compact", epilog=store_work.COMPACT_EXAMPLE)(store_work.compact)
app.add_typer(store.app, name="store")
app.add_typer(index.app, name="index")
app.add_typer(marks.app, name="marks")
app.add_typer(imports.app, name="import")
app.add_typer(exports.app, name="export")
app.add_typer(encoders.app, name="encoders")
app.add_typer(encoders.weights_app, name="weights")


def _version(wanted: bool) -> None:
    if wanted:
        from cxr_embed.version import __version__

        typer.echo(f"cxr-embed {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    del version


check_all(app)


def main() -> None:
    """Runs the command line; what goes wrong ends in one or two lines and another status than 0."""
    with clean_output():
        run(app)
