"""The labels of an image: columns, names in a cell, readers' votes."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from cxr_embed.datasets.image_rows import ImageRows, mapped
from cxr_embed.datasets.recipe import Recipe
from cxr_embed.datasets.recipe_parts import LabelSource, Named
from cxr_embed.datasets.table_formats import written_list
from cxr_embed.datasets.tables import DataTable
from cxr_embed.errors import ManifestError
from cxr_embed.manifest.checks import FINDING_VALUES
from cxr_embed.manifest.spellings import plain_finding

Votes = Mapping[str, Sequence[str]]  # finding to the readers' values


@dataclass(frozen=True)
class Labeller:
    """The labels of a recipe that are taken."""

    recipe: Recipe
    labels: str | None
    problems: list[str] = field(default_factory=list)
    _known: dict[tuple[str, ...], dict[str, str]] = field(default_factory=dict)  # few cells are different

    def of(self, image: ImageRows, split: str) -> dict[str, str]:
        """Finding to 1, 0, -1 or blank, and `<finding> votes` to `2/3` where readers are counted.

        Args:
            image: what the tables say of it.
            split: its part of the data set: official labels win on theirs.
        """
        if self.labels is None:
            return {}
        source = self.recipe.labels[self.labels]
        if source.named is None or source.named.reader or self.recipe.official is not None:
            return self._decide(source, image, split)
        cells = tuple(image.cells(source.named.table, source.named.in_ or source.in_))
        if cells not in self._known:
            self._known[cells] = self._decide(source, image, split)
        return self._known[cells]

    def _decide(self, source: LabelSource, image: ImageRows, split: str) -> dict[str, str]:
        votes = _votes(source, image)
        for official in self.recipe.official or ():
            better = _votes(self.recipe.labels[official.labels], image) if official.split == split else {}
            votes = better if any(better.values()) else votes
        if source.votes is None and source.columns is not None:
            self._check_agreement(image, votes)
        values = {name: _decided(votes.get(name, ()), source) for name in self.recipe.findings(self.labels)}
        if source.votes == "counts":
            values |= {f"{name} votes": _counted(votes.get(name, ())) for name in list(values)}
        return values

    def _check_agreement(self, image: ImageRows, votes: Votes) -> None:
        """Notes findings that two rows of an image, which are not readers, label differently."""
        for name, values in votes.items():
            if len(different := sorted({value for value in values if value != ""})) > 1:
                self.problems.append(f"{image.relative}: {name} is {' in one row and '.join(different)} in another")


def _votes(source: LabelSource, image: ImageRows) -> Votes:
    """Each finding's labels, one a reader; none where nobody labelled the image."""
    if (named := source.named) is not None:
        table = named.in_ or source.in_
        written = list(image.cells(named.table, table))
        readers = tuple(image.cells([named.reader], table)) if named.reader else ()
        return _named_votes(named, written, readers)
    if source.columns is not None:
        cells = {name: list(image.cells([column], source.in_)) for name, column in source.columns.items()}
    else:
        cells = {name: [image.value(sources)] for name, sources in (source.each or {}).items()}
    return {name: [_plain(mapped(value, source.map)) for value in values] for name, values in cells.items()}


def _plain(value: str) -> str:
    """A label as 1, 0, -1 or blank; what is none of them stays."""
    known = FINDING_VALUES.get(plain_finding(value))
    return value if known is None else "" if known != known else str(int(known))


def _named_votes(named: Named, cells: Sequence[str], readers: Sequence[str]) -> Votes:
    """By reader, which findings the cells name; one reader where none is said."""
    by_reader: dict[str, set[str]] = {}
    for number, cell in enumerate(cells):
        found = names_in(cell, named)
        if found or cell in named.negative:  # an empty list may say that nothing is there
            by_reader.setdefault(readers[number] if readers else "", set()).update(found)
    votes: dict[str, list[str]] = {name: [] for name in named.names}
    for names in by_reader.values():
        unknown = not names.isdisjoint(named.unknown) or (bool(names) and names <= set(named.ignored))
        there = named.implied(named.same_as.get(name, name) for name in names)
        for name in named.names:
            votes[name].append("" if unknown else str(int(name in there)))
    return votes


def names_in(cell: str, named: Named) -> list[str]:
    """The findings that a cell names, as it writes them.

    Raises:
        ValueError: where it is not the list that it should be.
    """
    names = written_list(cell) if named.list else cell.split(named.separator) if named.separator else [cell]
    plain = [name for each in names if (name := " ".join(each.split()))]
    if named.part is None:
        return plain
    pattern = re.compile(named.part)
    return [match[1].strip() if (match := pattern.fullmatch(name)) and match[1] else name for name in plain]


def _decided(votes: Sequence[str], source: LabelSource) -> str:
    """Readers' labels to one: with no rule, the first reader's, who is the only one."""
    known = [vote for vote in votes if vote != ""]
    if len(known) < 2:
        return known[0] if known else ""
    yes = sum(FINDING_VALUES.get(vote) == 1 for vote in known)
    if source.votes == "any":
        return str(int(yes > 0))
    if source.votes is not None:
        return str(int(2 * yes > len(known)))
    return known[0] if len(set(known)) == 1 else _any(known)


def _any(known: Sequence[str]) -> str:
    """Rows of one image that are no readers: what one of them says is there is there."""
    return max(known, key=lambda value: FINDING_VALUES.get(value, 0.0))


def _counted(votes: Sequence[str]) -> str:
    known = [vote for vote in votes if vote != ""]
    return f"{sum(FINDING_VALUES.get(vote) == 1 for vote in known)}/{len(known)}" if known else ""


def check_labels(recipe: Recipe, labels: str | None, tables: Mapping[str, DataTable]) -> dict[str, int]:
    """Refuses cells that are no labels: a finding that the recipe does not know, a value that is none.

    Returns:
        Names in cells that the recipe does not know, where it says that there may be some, and how many rows have each.

    Raises:
        ManifestError: with every one of them.
    """
    chosen = {labels, *(official.labels for official in recipe.official or ())} - {None}
    problems: list[str] = []
    others: Counter[str] = Counter()
    for name in sorted(str(name) for name in chosen):
        source = recipe.labels[name]
        if (named := source.named) is not None:
            faults, unknown = _unknown_names(_cells(tables, named.table, named.in_ or source.in_), named)
            problems += faults
            if named.others == "refuse":
                problems += [f"the recipe does not know the finding {name!r}" for name in sorted(unknown)]
            elif named.others == "tell":
                others += unknown
        for finding, column in (source.columns or {}).items():
            cells = set(_cells(tables, [column], source.in_))
            wrong = sorted(cell for cell in cells if plain_finding(mapped(cell, source.map)) not in FINDING_VALUES)
            if wrong:
                problems.append(f"{finding} is {', '.join(map(repr, wrong[:3]))}, not 1, 0, -1 or blank")
    if problems:
        files = ", ".join(file for table in tables.values() for file in table.files[:1])
        shown = "".join(f"\n  {problem}" for problem in problems[:10])
        more = f"\n  and {len(problems) - 10} more" if len(problems) > 10 else ""
        raise ManifestError(f"{files}: not as the recipe {recipe.name} expects it{shown}{more}", tuple(problems))
    return dict(others.most_common())


def _cells(tables: Mapping[str, DataTable], names: Sequence[str], table: str | None) -> Sequence[str]:
    """The cells of a column."""
    for each in tables.values() if table is None else (tables[table],):
        for name in names:
            if name in each.columns:
                return each.columns[name]
    return ()


def _unknown_names(cells: Iterable[str], named: Named) -> tuple[list[str], Counter[str]]:
    """Cells that are not the lists that they should be, and names that the recipe does not know."""
    known = {*named.names, *named.same_as, *named.negative, *named.unknown, *named.ignored}
    problems: list[str] = []
    unknown: Counter[str] = Counter()
    for cell, rows in sorted(Counter(cells).items()):
        try:
            unknown.update(dict.fromkeys(set(names_in(cell, named)) - known, rows))
        except ValueError as error:
            problems.append(str(error))
    return problems, unknown
