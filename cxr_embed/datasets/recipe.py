"""What a recipe file may say."""

from __future__ import annotations

import importlib.resources
import re
from collections import Counter
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Annotated, Literal

import pydantic
import yaml

from cxr_embed.errors import ManifestError
from cxr_embed.manifest import CONTROL, leaves_root
from cxr_embed.prompts import LARGEST_YAML, load_yaml


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


Pattern = Annotated[str, pydantic.AfterValidator(_compiled)]
FileName = Annotated[str, pydantic.AfterValidator(_below)]
ColumnName = Annotated[str, pydantic.AfterValidator(_column)]
Names = Annotated[list[str], pydantic.Field(min_length=1)]


class _RecipePart(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)


class ColumnSource(_RecipePart):
    """Where a column's value comes from: exactly one of `path`, `dicom` and `table`.

    Attributes:
        path: a pattern that must match the whole relative path; its first group is the value.
        dicom: a field of the DICOM header.
        table: names of a column of the data set's table, the first that exists.
        prefix: put before a value that is not blank.
        number: a pattern whose first group is the number in a value such as `058Y`.
    """

    path: Pattern | None = None
    dicom: Literal["patient_id", "study_date", "view", "age", "sex"] | None = None
    table: Names | None = None
    prefix: str = ""
    number: Pattern | None = None

    @pydantic.model_validator(mode="after")
    def _one(self) -> ColumnSource:
        if sum(value is not None for value in (self.path, self.dicom, self.table)) != 1:
            raise ValueError("a column comes from exactly one of path, dicom and table")
        return self


class MetadataTable(_RecipePart):
    """The data set's own table: possible file names, and the column that names an image's file."""

    files: Annotated[list[FileName], pydantic.Field(min_length=1)]
    file_name: str


class Findings(_RecipePart):
    """Findings written into one column of the table, e.g. `Effusion|Mass`: all others are 0; blank is unknown."""

    table: Names
    separator: Annotated[str, pydantic.Field(min_length=1)]
    names: Annotated[list[ColumnName], pydantic.Field(min_length=1)]


class Recipe(_RecipePart):
    """A data set's layout.

    Attributes:
        name: what `recipe` takes.
        title, licence, citation: for people.
        images: patterns of paths below the data set's folder; `*` and `?` stop at a slash, `**/` is any folders.
        table: its table, if it has one.
        columns: manifest column to source; `image_id` and `patient_id` are required.
        split: split to the file that lists its images, one file name a line.
        findings: where labels come from.
    """

    name: str
    title: str
    licence: str
    citation: str = ""
    images: Names
    table: MetadataTable | None = None
    columns: dict[ColumnName, ColumnSource]
    split: dict[str, FileName] = {}
    findings: Findings | None = None

    @pydantic.model_validator(mode="after")
    def _complete(self) -> Recipe:
        missing = {"image_id", "patient_id"} - set(self.columns)
        if missing:
            raise ValueError(f"columns lack {', '.join(sorted(missing))}")
        twice = [name for name, n in Counter(map(str.casefold, self.manifest_columns)).items() if n > 1]
        if twice:
            raise ValueError(f"the manifest would have these columns twice: {', '.join(twice)} (path is always there)")
        needs_table = self.findings is not None or any(source.table for source in self.columns.values())
        if needs_table and self.table is None:
            raise ValueError("a column or the findings come from a table, but no table is named")
        return self

    @property
    def manifest_columns(self) -> list[str]:
        """The columns of a manifest that is made by it, in their order."""
        own = [name for name in self.columns if name != "image_id"]
        findings = self.findings.names if self.findings else []
        return ["image_id", "path", *own, *(["split"] if self.split else []), *findings]


def _folder() -> Traversable:
    """The recipes: inside the installed package, or beside it in a checkout."""
    packaged = importlib.resources.files("cxr_embed") / "data_manifests"
    return packaged if packaged.is_dir() else Path(__file__).parents[2] / "data_manifests"


def recipe_names() -> list[str]:
    """The recipes that come with the package."""
    return sorted(entry.name.removesuffix(".yaml") for entry in _folder().iterdir() if entry.name.endswith(".yaml"))


def load_recipe(name: str) -> Recipe:
    """A recipe by its name, or from a YAML file of the user's.

    Raises:
        ManifestError: for an unknown name or a file that is not a recipe, with every fault in it.
    """
    path: Traversable = Path(name) if name.endswith((".yaml", ".yml")) else _folder() / f"{name}.yaml"
    if not path.is_file():
        raise ManifestError(f"no recipe is named {name!r}; there are {', '.join(recipe_names())}, or give a .yaml file")
    try:
        return Recipe.model_validate(load_yaml(_data(path)))
    except pydantic.ValidationError as error:
        # pydantic names a rule of this module `Value error`.
        found = [(fault["loc"], fault["msg"].removeprefix("Value error, ")) for fault in error.errors()]
        faults = [f"{'.'.join(map(str, where)) or 'recipe'}: {what}" for where, what in found]
        raise ManifestError(f"{name}: not a recipe\n" + "\n".join(f"  {f}" for f in faults), tuple(faults)) from None
    except OSError as error:
        raise ManifestError(f"{name}: cannot be read ({error.strerror})") from None
    except yaml.MarkedYAMLError as error:
        where = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ManifestError(f"{name}: not YAML ({error.problem}{where})") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ManifestError(f"{name}: not YAML ({(str(error).splitlines() or [''])[0]})") from None


def _data(path: Traversable) -> bytes:
    with path.open("rb") as file:
        return file.read(LARGEST_YAML + 1)
