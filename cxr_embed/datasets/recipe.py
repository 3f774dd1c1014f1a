"""What a recipe file may say."""

from __future__ import annotations

import difflib
import importlib.resources
from collections import Counter
from collections.abc import Iterator
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import pydantic
import yaml

from cxr_embed.datasets.recipe_parts import (
    Boxes,
    ColumnName,
    FileName,
    LabelSource,
    Names,
    Official,
    OneOrMore,
    RecipePart,
    Sources,
    TableFile,
)
from cxr_embed.errors import ManifestError
from cxr_embed.manifest import DESCRIPTIVE, OPTIONAL, REQUIRED
from cxr_embed.prompts import LARGEST_YAML, load_yaml

_SPELLED_ALONE = ("image", "study", "patient")


class Recipe(RecipePart):
    """A data set's layout.

    Attributes:
        name: what `recipe` takes.
        title, source, licence, terms, citation: for people.
        blank, uncertain: what a blank finding and -1 mean there, in words.
        public_ids: whether its ids are published and name nobody: nothing is hashed.
        recognise: globs of files by which the data set is known, besides its tables.
        images: patterns of paths below the data set's folder; `*` and `?` stop at a slash, `**/` is any folders.
        not_images: patterns of those that are not radiographs: masks, say.
        keys: what tables call an image, a study and a patient; an image by its file's name where it is not said.
        tables: what comes with it, by name; an image that the first table lacks is not of the data set.
        columns: manifest column to sources, the first that is not blank; `image_id` and `patient_id` are required.
        split: split to the file that lists its images, one file name a line.
        labels: ways to label, by name; the first is taken where no other is asked for.
        official: labels that win on a part, or on several.
        boxes: where findings are.
    """

    name: str
    title: str
    source: str = ""
    licence: str
    terms: str = ""
    citation: str = ""
    blank: str = ""
    uncertain: str = ""
    public_ids: bool = False
    recognise: list[FileName] = pydantic.Field(default_factory=list)
    images: Names
    not_images: list[str] = pydantic.Field(default_factory=list)
    keys: dict[ColumnName, Sources] = pydantic.Field(default_factory=dict)
    tables: dict[ColumnName, TableFile] = pydantic.Field(default_factory=dict)
    columns: dict[ColumnName, Sources]
    split: dict[str, FileName] = pydantic.Field(default_factory=dict)
    labels: dict[ColumnName, LabelSource] = pydantic.Field(default_factory=dict)
    official: OneOrMore[Official] | None = None
    boxes: OneOrMore[Boxes] | None = None

    @pydantic.model_validator(mode="before")
    @classmethod
    def _first_edition(cls, value: Any) -> Any:
        """The first edition knew one table, and findings that one of its cells names."""
        if not isinstance(value, dict):
            return value
        value = dict(value)
        if isinstance(table := value.pop("table", None), dict) and "tables" not in value:
            value["tables"] = {"table": {"files": table.get("files"), "key": table.get("file_name")}}
        if isinstance(findings := value.pop("findings", None), dict) and "labels" not in value:
            value["labels"] = {"published": {"named": findings}}
        return value

    @pydantic.model_validator(mode="after")
    def _complete(self) -> Recipe:
        missing = {"image_id", "patient_id"} - set(self.columns)
        if missing:
            raise ValueError(f"columns lack {', '.join(sorted(missing))}")
        for name in self.labels or [None]:
            columns = self.manifest_columns(name)
            twice = [name for name, n in Counter(map(str.casefold, columns)).items() if n > 1]
            if twice:
                raise ValueError(
                    f"the manifest would have these columns twice: {', '.join(twice)} (path is always there)"
                )
        if strange := sorted(set(self.keys) - set(_SPELLED_ALONE)):
            raise ValueError(f"keys are image, study and patient, not {', '.join(strange)}")
        self._check_tables()
        return self

    def _check_tables(self) -> None:
        used = [*self.always_used(), *(pair for labels in self.labels.values() for pair in labels.used())]
        if used and not self.tables:
            raise ValueError("a column or the findings come from a table, but no table is named")
        named = {table for table, _ in used if table} | {box.in_ for box in self.boxes or []}
        named |= {table for labels in self.labels.values() for table in labels.tables()}
        if strange := sorted(named - set(self.tables)):
            raise ValueError(f"no table is named {', '.join(strange)}; there are {', '.join(self.tables) or 'none'}")
        if strange := sorted({official.labels for official in self.official or ()} - set(self.labels)):
            raise ValueError(f"official: no labels are named {', '.join(strange)}")
        for name, table in self.tables.items():
            if table.by != "image" and table.by not in self.keys:
                raise ValueError(f"table {name} is by {table.by}, and keys do not say what that is")

    def always_used(self) -> Iterator[tuple[str | None, list[str]]]:
        """The table (None: any) and the names of each column that is read whatever the labels."""
        for sources in (*self.columns.values(), *self.keys.values()):
            for source in sources:
                yield from source.columns()

    def used(self, labels: str | None) -> list[tuple[str | None, list[str]]]:
        """The table (None: any) and the names of each column that a scan reads, with the labels that are chosen."""
        chosen = {labels, *(official.labels for official in self.official or ())} - {None}
        pairs = [*self.always_used(), *(pair for name in chosen for pair in self.labels[str(name)].used())]
        return [*pairs, *(pair for box in self.boxes or [] for pair in box.used())]

    def chosen_labels(self, wanted: str | None) -> str | None:
        """The name of the labels to take: those that are wanted, else the first.

        Raises:
            ManifestError: for a name that the recipe does not have.
        """
        if wanted is None:
            return next(iter(self.labels), None)
        if wanted not in self.labels:
            there = ", ".join(self.labels) or "none"
            raise ManifestError(f"`labelled_by`: the recipe {self.name} has no labels {wanted!r}; there are: {there}")
        return wanted

    def findings(self, labels: str | None) -> list[str]:
        """The findings of some labels, and those that the official ones have besides."""
        names = list(self.labels[labels].findings) if labels else []
        official = [name for each in self.official or () if labels for name in self.labels[each.labels].findings]
        return list(dict.fromkeys([*names, *official]))

    def votes_columns(self, labels: str | None) -> list[str]:
        """The columns that count readers."""
        counted = labels is not None and self.labels[labels].votes == "counts"
        return [f"{name} votes" for name in self.findings(labels)] if counted else []

    def manifest_columns(self, labels: str | None) -> list[str]:
        """The columns of a manifest that is made by it, in their order."""
        own = [name for name in self.columns if name != "image_id"]
        split = ["split"] if self.split else []
        return ["image_id", "path", *own, *split, *self.findings(labels), *self.votes_columns(labels)]

    def not_findings(self, labels: str | None) -> list[str]:
        """The columns of its manifests that are not findings and that not every manifest knows."""
        known = {*REQUIRED, *OPTIONAL, *DESCRIPTIVE, *self.findings(labels)}
        return [name for name in self.manifest_columns(labels) if name not in known]

    @property
    def hashes(self) -> bool:
        """Whether patients' ids are to be hashed: not those that a public data set's own table has."""
        return not self.public_ids and not any(source.table for source in self.columns["patient_id"])


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
        near = difflib.get_close_matches(name, recipe_names(), 1)
        raise ManifestError(
            f"no recipe is named {name!r}{f' (is it {near[0]}?)' if near else ''}; there are "
            f"{', '.join(recipe_names())}, or give a .yaml file"
        )
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
