"""What the parts of a recipe file may say: sources of columns, tables, labels and boxes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated, Any, Literal, TypeVar

import pydantic

from cxr_embed.choices import Votes
from cxr_embed.manifest import CONTROL, leaves_root


def _compiled(pattern: str) -> str:
    try:
        groups = re.compile(pattern).groups
    except re.error as error:
        raise ValueError(f"not a regular expression: {error}") from None
    if groups < 1:
        raise ValueError("the pattern needs one group (...), which is the value")
    return pattern


def _below(name: str) -> str:
    if not name or leaves_root(name):
        raise ValueError("a file's name must be relative and stay below the data set's folder")
    return name


def _column(name: str) -> str:
    if not name or name != name.strip() or CONTROL.search(name):
        raise ValueError("a column needs a plain name")
    return name


_T = TypeVar("_T")


def _one_or_more(value: Any) -> Any:
    return value if isinstance(value, list) else [value]


Pattern = Annotated[str, pydantic.AfterValidator(_compiled)]
FileName = Annotated[str, pydantic.AfterValidator(_below)]
ColumnName = Annotated[str, pydantic.AfterValidator(_column)]
OneOrMore = Annotated[list[_T], pydantic.BeforeValidator(_one_or_more), pydantic.Field(min_length=1)]
Names = OneOrMore[str]
Text = Annotated[str, pydantic.BeforeValidator(lambda value: str(value) if isinstance(value, (int, float)) else value)]


class RecipePart(pydantic.BaseModel):
    """A part of a recipe: a key that it does not know is a fault."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class Source(RecipePart):
    """Where a value comes from: exactly one of `path`, `dicom` and `table`.

    Attributes:
        path: a pattern that must match the whole relative path; its first group is the value.
        dicom: a field of the DICOM header.
        table: names of a column of the data set's tables, the first that exists; `@file` is the name of the table's
            file.
        in_: `in` in the file: the one table that is looked at; all by default, in their order.
        years_since: names of a column with a date or a year: the value is the years from it to this source's date.
        number: a pattern whose first group is the number in a value such as `058Y`.
        map: cell to value; a cell that is not in it stays, or becomes that of `*`.
        prefix: put before a value that is not blank.
    """

    path: Pattern | None = None
    dicom: Literal["patient_id", "study_date", "view", "age", "sex"] | None = None
    table: Names | None = None
    in_: str | None = pydantic.Field(None, alias="in")
    years_since: Names | None = None
    number: Pattern | None = None
    map: dict[Text, Text] = {}
    prefix: str = ""

    @pydantic.model_validator(mode="after")
    def _one(self) -> Source:
        if sum(value is not None for value in (self.path, self.dicom, self.table)) != 1:
            raise ValueError("a value comes from exactly one of path, dicom and table")
        if self.table is None and (self.in_ is not None or self.years_since is not None):
            raise ValueError("`in` and `years_since` are for a value that comes from a table")
        return self

    def columns(self) -> Iterator[tuple[str | None, list[str]]]:
        """The table (None: any) and the names of each column that is read."""
        yield from ((self.in_, names) for names in (self.table, self.years_since) if names)


Sources = OneOrMore[Source]


class Key(RecipePart):
    """The column that names an image, a study or a patient; the first group of `pattern`, where there is one."""

    column: str
    pattern: Pattern | None = None


def _key(value: Any) -> Any:
    return {"column": value} if isinstance(value, str) else value


class TableFile(RecipePart):
    """A table that comes with a data set.

    Attributes:
        files: globs; the table is the files of the first that matches any.
        all: the files of all globs together instead.
        by: what a row is of.
        key: the column that says of which.
        optional: whether it may be absent; what comes from it is blank then.
        complete: of the first table: whether an image that it lacks is not of the data set.
        repeats: rows of one key agree (`same`), or each says something (`keep`): boxes, readers.
        format: of the files; `csv` may be packed and have any separator.
        header: the columns of a CSV that does not name them.
        separator: of a CSV where it is not a comma, a semicolon or a tab.
        rename: a CSV's column to what it is called here: files that are stacked may not agree.
        rows: of JSON the dotted path of the list, of XML the path of the elements that are rows.
        fields: column to what it is: of XML a path, of text and lines a pattern with one group.
    """

    files: OneOrMore[FileName]
    all: bool = False
    by: Literal["image", "study", "patient"] = "image"
    key: Annotated[Key, pydantic.BeforeValidator(_key)]
    optional: bool = False
    complete: bool = True
    repeats: Literal["same", "keep"] = "same"
    format: Literal["csv", "json", "coco", "xml", "text", "lines"] = "csv"
    header: list[ColumnName] | None = None
    separator: str | None = pydantic.Field(None, min_length=1, max_length=1)
    rename: dict[ColumnName, ColumnName] = {}
    rows: str = ""
    fields: dict[ColumnName, str] = {}

    @pydantic.model_validator(mode="after")
    def _fits(self) -> TableFile:
        if bool(self.fields) != (self.format in ("xml", "text", "lines")):
            raise ValueError("`fields` are for the formats xml, text and lines, which need them")
        if self.format in ("text", "lines"):
            for pattern in self.fields.values():
                _compiled(pattern)
        return self


class Named(RecipePart):
    """Findings that a cell names: all others are 0, blank is unknown.

    Attributes:
        table: names of the column.
        in_: `in` in the file: the table.
        separator: between names of one cell.
        list: whether a cell is a written list, Python's or JSON's.
        part: a pattern whose first group is the name in what stands between separators; all of it by default.
        names: all findings.
        same_as: a cell's name to a finding.
        negative: names that say that nothing is there, or a whole cell that does: `[]`, or a blank one.
        unknown: names by which nobody knows: all findings of the image are blank.
        ignored: names that say nothing of a finding.
        others: what other names are: a fault of the table (`refuse`), something that is counted and no column (`tell`),
            or what such cells are full of (`pass`).
        tree: finding to the findings that it is a kind of, and so implies.
        reader: column of who named it, for `votes`.
    """

    table: Names
    in_: str | None = pydantic.Field(None, alias="in")
    separator: str | None = pydantic.Field(None, min_length=1)
    list: bool = False
    part: Pattern | None = None
    names: Annotated[Sequence[ColumnName], pydantic.Field(min_length=1)]
    same_as: dict[str, str] = {}
    negative: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    others: Literal["refuse", "tell", "pass"] = "refuse"
    tree: dict[str, OneOrMore[str]] = {}
    reader: str | None = None

    @pydantic.model_validator(mode="after")
    def _known(self) -> Named:
        implied = {*self.same_as.values(), *self.tree, *(name for kinds in self.tree.values() for name in kinds)}
        if strange := sorted(implied - set(self.names)):
            raise ValueError(f"same_as and tree name findings that `names` lacks: {', '.join(strange)}")
        for name in self.tree:
            if name in self.implied(self.tree[name]):
                raise ValueError(f"tree: {name} is a kind of itself")
        return self

    def implied(self, names: Iterable[str]) -> set[str]:
        """Some names and all that they are kinds of."""
        found, new = set[str](), set(names)
        while new:
            found |= new
            new = {kind for name in new for kind in self.tree.get(name, ())} - found
        return found


def _named_columns(value: Any) -> Any:
    return {name: name for name in value} if isinstance(value, list) else value


class LabelSource(RecipePart):
    """One way to label the images of a data set: exactly one of `columns`, `named` and `each`.

    Attributes:
        about: who labelled, and how, in words.
        in_: `in` in the file: the table of `columns`; the first that has them by default.
        columns: finding to its column.
        named: findings that a cell names.
        each: finding to its own source.
        map: cell to 1, 0, -1 or blank, where it does not say that itself.
        votes: how several readers' rows become one label.
        partial: whether a table may lack some of `columns`, whose findings are blank then.
    """

    about: str = ""
    in_: str | None = pydantic.Field(None, alias="in")
    columns: Annotated[dict[ColumnName, str], pydantic.BeforeValidator(_named_columns)] | None = None
    named: Named | None = None
    each: dict[ColumnName, Sources] | None = None
    map: dict[Text, Text] = {}
    votes: Votes | None = None
    partial: bool = False

    @pydantic.model_validator(mode="after")
    def _one(self) -> LabelSource:
        if sum(value is not None for value in (self.columns, self.named, self.each)) != 1:
            raise ValueError("labels come from exactly one of columns, named and each")
        return self

    @property
    def findings(self) -> list[str]:
        """The findings, in their order."""
        if self.named is not None:
            return list(self.named.names)
        return list(self.columns if self.columns is not None else self.each or {})

    def tables(self) -> set[str]:
        """The tables that it names."""
        named = self.named.in_ if self.named else None
        each = {source.in_ for sources in (self.each or {}).values() for source in sources}
        return {name for name in {self.in_, named, *each} if name}

    def used(self) -> Iterator[tuple[str | None, list[str]]]:
        """The table (None: any) and the names of each column that is read."""
        columns = list((self.columns or {}).values())
        # Of a table that may lack some, one column has to be there.
        yield from ((self.in_, names) for names in ([columns] if columns and self.partial else [[c] for c in columns]))
        if self.named is not None:
            yield self.named.in_ or self.in_, self.named.table
        for sources in (self.each or {}).values():
            for source in sources:
                yield from source.columns()


class Official(RecipePart):
    """Labels that win on one part of the data set, where their table is there."""

    labels: str
    split: str


class Runs(RecipePart):
    """A column of run lengths in pictures of one size: skipped, marked, skipped, ... down the columns; -1 is none."""

    column: str
    rows: Annotated[int, pydantic.Field(ge=1, le=1 << 15)]
    columns: Annotated[int, pydantic.Field(ge=1, le=1 << 15)]


class Outlines(Runs):
    """A column of written lists of points `[x, y]`, an outline a box, in pictures of one size."""


Four = Annotated[list[str], pydantic.Field(min_length=4, max_length=4)]


class Boxes(RecipePart):
    """Where a data set says a finding is: exactly one of `corners`, `size`, `one` and `runs`.

    Attributes:
        in_: `in` in the file: the table.
        finding: its source, or its name.
        corners: columns of the left, upper, right and lower edge.
        size: columns of the left and upper edge, of the width and the height.
        one: a column with all four of `size`, or of `corners` where `corner_list` is true.
        corner_list: what `one` holds.
        runs: a mask in run lengths.
        lists: whether cells are written lists, an item a box.
        outlines: with `lists`, a mask for each box.
        reader: who drew it.
    """

    in_: str = pydantic.Field(alias="in")
    finding: Source | ColumnName
    corners: Four | None = None
    size: Four | None = None
    one: str | None = None
    corner_list: bool = False
    runs: Runs | None = None
    lists: bool = False
    outlines: Outlines | None = None
    reader: Source | None = None

    @pydantic.model_validator(mode="after")
    def _one(self) -> Boxes:
        if sum(value is not None for value in (self.corners, self.size, self.one, self.runs)) != 1:
            raise ValueError("boxes come from exactly one of corners, size, one and runs")
        if self.outlines is not None and not self.lists:
            raise ValueError("outlines are for boxes in written lists")
        return self

    def used(self) -> Iterator[tuple[str | None, list[str]]]:
        """The table and the names of each column that is read."""
        columns = [*(self.corners or []), *(self.size or []), *([self.one] if self.one else [])]
        columns += [masks.column for masks in (self.runs, self.outlines) if masks]
        yield from ((self.in_, [name]) for name in columns)
        for source in (self.finding, self.reader):
            if isinstance(source, Source) and source.table:
                yield self.in_, source.table
