"""`cxr-embed manifest findings`."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cxr_embed.cli.common import fail, print_json
from cxr_embed.cli.options import AsJson

if TYPE_CHECKING:
    from cxr_embed.cases import CommonFinding

EXAMPLE = "Example: `cxr-embed manifest findings Effusion ILD`"


def findings(
    names: Annotated[
        list[str] | None, typer.Argument(help="Names of findings, as any data set has them.", show_default=False)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the vocabulary of findings: what data sets call otherwise, under one name, with its sources.

    Names in one row mean the same; what is wider, narrower or only often used for the same has a row of its own.
    Labels, scores, prompts and probes are matched by it, and `--finding common` means its findings.
    """
    from cxr_embed.cases import vocabulary
    from cxr_embed.cli.terminal import console
    from cxr_embed.present.console import print_facts

    known = vocabulary()
    found = [known.find(name) for name in names] if names else list(known.findings)
    unknown = [name for name, finding in zip(names or (), found, strict=False) if finding is None]
    if unknown:
        every = [name for finding in known.findings for name in finding.all_names()]
        near = difflib.get_close_matches(unknown[0], every, 1)
        meant = f" (did you mean {near[0]}?)" if near else ""
        fail(f"{', '.join(unknown)}: not in the vocabulary of findings{meant}; what it does not have stays itself")
    chosen = [finding for finding in known.findings if finding in found]
    if as_json:
        print_json({"findings": [_plain(finding) for finding in chosen], "sources": dict(known.sources)})
        return
    if not names:
        width = max(len(finding.name) for finding in chosen) + 1
        print_facts(console(), [(finding.name, _others(finding)) for finding in chosen], width)
        return
    for finding in chosen:
        typer.echo(f"{finding.name}{f' (UMLS {finding.cui})' if finding.cui else ''}")
        facts = [(of, " | ".join(each)) for of, each in finding.names.items()]
        facts += [("note", finding.note)] if finding.note else []
        print_facts(console(), [(f"  {name}", value) for name, value in facts], 20)


def _others(finding: CommonFinding) -> str:
    """What data sets call a finding, each name once."""
    return ", ".join(dict.fromkeys(name for names in finding.names.values() for name in names))


def _plain(finding: CommonFinding) -> dict[str, Any]:
    names = {of: list(each) for of, each in finding.names.items()}
    return {"name": finding.name, "cui": finding.cui or None, "names": names, "note": finding.note or None}
