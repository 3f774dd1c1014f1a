"""What the rows of results do not say: the plan, the protocol, the data sets and the encoders."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from cxr_embed.present.numbers import format_value
from cxr_embed.reporting.leaderboard.grids import Cell, Grid
from cxr_embed.reporting.leaderboard.records import task_of
from cxr_embed.types import counted

TITLE = "Leaderboard"


@dataclass(frozen=True, kw_only=True)
class DataFacts:
    """What is known of a data set.

    Attributes:
        about: what was learned from and tested on, in a sentence; blank where nobody says.
        recipe: of its manifest, by which published figures are found; blank where it has none.
        split: the tested one.
    """

    about: str = ""
    recipe: str = ""
    split: str = ""


@dataclass(frozen=True, kw_only=True)
class About:
    """The same in words, for every file of a leaderboard.

    Attributes:
        title, created, version: of the page; blank where nobody says.
        protocol, warnings: sentences.
        data: by the name of a data set.
        encoders: a table of them; None where nothing is known.
        published: whether published figures are shown.
        count_no_finding: whether 'No Finding' has a part in means over findings.
    """

    title: str
    created: str
    version: str
    protocol: tuple[str, ...]
    warnings: tuple[str, ...]
    data: Mapping[str, DataFacts]
    encoders: Grid | None
    published: bool
    count_no_finding: bool

    def of(self, data: str) -> DataFacts:
        """What is known of a data set."""
        return self.data.get(data) or DataFacts()


def read_about(about: Mapping[str, Any]) -> About:
    """What a benchmark says of its plan, in words; what it does not say is left out.

    Args:
        about: as `write_leaderboard` takes it.
    """
    created = str(about.get("created") or "")
    software = str(about.get("software") or "")
    sentences = about.get("protocol")
    stated = sentences if isinstance(sentences, list | tuple) else _protocol(about)
    return About(
        title=_clean(about.get("title")) or TITLE,
        # 2026-11-29 15:10 UTC
        created=re.sub(r"^(\d{4}-\d\d-\d\d)T(\d\d:\d\d)(:\d\d(\.\d+)?)?(\+00:00|Z)$", r"\1 \2 UTC", created),
        version=f"cxr-embed {software}" if software else "",
        protocol=tuple(map(_clean, stated)),
        warnings=tuple(map(_clean, (*about.get("warnings", ()), *about.get("notes", ())))),
        data={_clean(name): _facts(known) for name, known in (about.get("data") or {}).items()},
        encoders=_encoders(about.get("encoders") or {}),
        published=bool(about.get("published", True)),
        count_no_finding=bool(about.get("count_no_finding", False)),
    )


def _protocol(about: Mapping[str, Any]) -> Iterable[str]:
    """Sentences on what all encoders have in common, from the plan's settings."""
    if about.get("plan"):
        yield f"Plan: {about['plan']}."
    if about.get("reference"):
        yield (
            f"Every encoder is compared with {about['reference']} on the same test images; p is corrected (Holm) for "
            "all comparisons of a data set and task."
        )
    if about.get("bootstraps") is not None:
        yield (
            f"Intervals hold 95%: patients are drawn again {about['bootstraps']:,} times, from seed "
            f"{format_value(about.get('seed', 0))}. Patients are in one part alone, and all that is chosen is chosen "
            "off the test part."
        )
    if about.get("count_no_finding"):
        yield "'No Finding' has a part in means over findings."
    for task, settings in (about.get("tasks") or {}).items():
        said = "; ".join(f"{name.replace('_', ' ')} {_setting(value)}" for name, value in settings.items() if value)
        if said:
            yield f"{task_of(task).title}: {said}."


def _setting(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} for {key}" for key, name in value.items())
    return ", ".join(map(format_value, value)) if isinstance(value, list | tuple) else format_value(value)


def _facts(known: Mapping[str, Any]) -> DataFacts:
    said = [_clean(known["about"])] if known.get("about") else list(_counts(known))
    tested = "test" if isinstance(known.get("test"), Mapping) else _clean(known.get("split"))
    return DataFacts(about=" ".join(said), recipe=_clean(known.get("recipe")), split=tested)


def _counts(known: Mapping[str, Any]) -> Iterable[str]:
    """Learned from 835 images of 671 patients, tested on 352 of 287."""
    sides = [
        (words, known[side]) for words, side in (("Learned from", "train"), ("tested on", "test")) if side in known
    ]
    if sides:
        parts = [
            f"{words} {counted(side['images'], 'image')} of {counted(side['patients'], 'patient')}"
            for words, side in sides
        ]
        yield f"{', '.join(parts)}."
    if known.get("split"):
        yield f"Split: {_clean(known['split'])}."
    if known.get("counted"):
        yield _clean(known["counted"])


def _encoders(known: Mapping[str, Mapping[str, Any]]) -> Grid | None:
    """A row an encoder: what it is, where its weights are from, what it learned from, its licence."""
    names = ("encoder", "weights", "trained_on", "licence", "fingerprint")
    if not known:
        return None
    rows = []
    for name, facts in known.items():
        texts = [_clean(facts.get(key)) or "\N{EN DASH}" for key in names]
        texts[-1] = texts[-1][:12]
        rows.append(tuple(Cell(text=text) for text in (_clean(name), *texts)))
    heads = ("name", "encoder", "weights", "learned from", "licence", "fingerprint")
    return Grid(key="encoders", title="What they are", heads=heads, rows=tuple(rows))


def _clean(value: Any) -> str:
    text = "" if value is None else str(value)
    return "".join(letter if letter.isprintable() else " " for letter in text)
