"""Prompts as data: findings and the words that are looked for, in YAML files; some come with the package.

A prompt file::

    title: what it asks                  # for people; so are `sources`, where the words come from
    template: "chest radiograph: {}"     # optional; a finding may have its own
    findings:
      Pneumothorax:
        positive: [small pneumothorax, large pneumothorax]
        negative: [no pneumothorax]      # optional where the score needs none
"""

from __future__ import annotations

import difflib
import importlib.resources
import re
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pydantic
import yaml

from cxr_embed.errors import CxrEmbedError
from cxr_embed.io.digests import json_digest

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_PLACEHOLDER = re.compile(r"\{\w*\}")
_SUFFIXES = (".yaml", ".yml")


class PromptError(CxrEmbedError):
    """Prompts that cannot be used. `problems` holds every fault that was found, one line each."""

    def __init__(self, message: str, problems: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.problems = problems


@dataclass(frozen=True)
class Finding:
    """A question in words: prompts that say yes, and prompts that say no; templates are filled in."""

    name: str
    positive: tuple[str, ...]
    negative: tuple[str, ...] = ()


@dataclass(frozen=True)
class PromptSet:
    """Findings to ask for, in the order of their columns.

    Attributes:
        name: of the built-in set, or the file.
        findings: at least one, each with at least one positive prompt.
        title, sources: for people.
    """

    name: str
    findings: tuple[Finding, ...]
    title: str = ""
    sources: tuple[str, ...] = ()

    @property
    def prompts(self) -> tuple[str, ...]:
        """Every prompt once, in the order of the file."""
        return tuple(dict.fromkeys(p for finding in self.findings for p in (*finding.positive, *finding.negative)))

    @property
    def digest(self) -> str:
        """64 hexadecimal digits that change when a word, a finding or their order changes."""
        return json_digest([[finding.name, finding.positive, finding.negative] for finding in self.findings])


def check_filled(text: str) -> None:
    """Refuses words with a template's `{}` in them: a model would read the brackets.

    Raises:
        ValueError: showing it.
    """
    if found := _PLACEHOLDER.search(text):
        raise ValueError(f"{text!r} holds {found[0]}, which nothing fills: write the words out, or as a template")


def _prompt(text: str) -> str:
    text = text.strip()
    if not text:
        raise ValueError("is blank")
    if _CONTROL.search(text):
        raise ValueError("holds a line break or another control character")
    check_filled(text)
    return text


def _prompts(texts: list[str]) -> list[str]:
    twice = [text for text, count in Counter(text.casefold() for text in texts).items() if count > 1]
    if twice:
        raise ValueError(f"these prompts stand twice: {', '.join(map(repr, twice))}")
    return texts


def _template(text: str) -> str:
    if text.count("{}") != 1 or text.strip() == "{}":
        raise ValueError("a template is words around one {}, where the prompt goes, e.g. 'chest radiograph: {}'")
    return text.strip()


def _name(text: str) -> str:
    if not text or text != text.strip() or _CONTROL.search(text) or text.casefold() == "image_id":
        raise ValueError("a finding names a column of the scores: plain words, not image_id")
    return text


Template = Annotated[str, pydantic.AfterValidator(_template)]
Texts = Annotated[list[Annotated[str, pydantic.AfterValidator(_prompt)]], pydantic.AfterValidator(_prompts)]


class _Part(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)


class _Entry(_Part):
    positive: Annotated[Texts, pydantic.Field(min_length=1)]
    negative: Texts = []
    template: Template | None = None

    @pydantic.model_validator(mode="after")
    def _apart(self) -> _Entry:
        negative = {text.casefold() for text in self.negative}
        both = [text for text in self.positive if text.casefold() in negative]
        if both:
            raise ValueError(f"both positive and negative: {', '.join(map(repr, both))}")
        return self


class _File(_Part):
    title: str = ""
    sources: list[str] = []
    template: Template | None = None
    findings: Annotated[
        dict[Annotated[str, pydantic.AfterValidator(_name)], _Entry],
        pydantic.Field(min_length=1),
    ]

    @pydantic.model_validator(mode="after")
    def _distinct(self) -> _File:
        twice = [name for name, count in Counter(name.casefold() for name in self.findings).items() if count > 1]
        if twice:
            raise ValueError(f"findings that differ only in case: {', '.join(twice)}")
        return self


LARGEST_YAML = 4 << 20  # bytes
_LONG_NUMBER = re.compile(r"[0-9][0-9_:.]{1000}")


class _Loader(yaml.SafeLoader):
    """YAML of people's: every value is the text that stands there, and no mapping names a key twice.

    YAML 1.1 makes a truth value of `Yes` and `no`, a number of `1_0` and a date of `2020-01-01`, as names and as words;
    and of two findings of one name the first would be lost unseen. Nothing (`null`, `~`, blank) stays nothing.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            name = str(getattr(key, "value", ""))
            if name in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{name} stands twice", key.start_mark)
            seen.add(name)
        return super().construct_mapping(node, deep=deep)


_Loader.yaml_implicit_resolvers = {
    first: [pair for pair in pairs if pair[0] in ("tag:yaml.org,2002:null", "tag:yaml.org,2002:merge")]
    for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def prompt_set_names() -> list[str]:
    """The sets that come with the package."""
    folder = importlib.resources.files(__name__)
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def load_prompt_set(name: str) -> PromptSet:
    """A set by its name, or from a YAML file.

    Raises:
        PromptError: for an unknown name, or a file that is not a prompt file, with every fault in it.
    """
    if not name.endswith(_SUFFIXES) and not Path(name).is_file():
        known = prompt_set_names()
        if name not in known:
            near = difflib.get_close_matches(name, known, n=2, cutoff=0.4)
            hint = f"did you mean {' or '.join(near)}? " if near else ""
            raise PromptError(
                f"no prompt set is named {name!r}; {hint}there are {', '.join(known)}, or give a .yaml file"
            )
        return _parse(name, (importlib.resources.files(__name__) / f"{name}.yaml").read_bytes())
    try:
        with open(name, "rb") as file:
            return _parse(name, file.read(LARGEST_YAML + 1))
    except OSError as error:
        raise PromptError(f"{name}: cannot be read ({error.strerror})") from None


def yaml_text(data: bytes) -> str:
    """The text of a YAML file of people's, as far as reading it takes seconds.

    Raises:
        ValueError: for text that is not UTF-8, too large, or with numbers that YAML takes hours to read.
    """
    if len(data) > LARGEST_YAML:
        raise ValueError(f"larger than {LARGEST_YAML >> 20} MiB")
    text = data.decode("utf-8-sig")
    if number := _LONG_NUMBER.search(text):
        raise ValueError(f"a number of more than 1,000 digits in line {text.count(chr(10), 0, number.start()) + 1}")
    return text


def load_yaml(data: bytes) -> Any:
    """The values of a YAML file of people's: mappings, lists, texts and None.

    Raises:
        ValueError: as `yaml_text`.
        yaml.YAMLError: where it is not YAML.
    """
    # The loader is a SafeLoader: no tag makes an object.
    return yaml.load(yaml_text(data), Loader=_Loader)


def _parse(name: str, data: bytes) -> PromptSet:
    try:
        value = load_yaml(data)
    except yaml.MarkedYAMLError as error:
        where = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise PromptError(f"{name}: not a prompt file ({error.problem}{where})") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise PromptError(f"{name}: not YAML text ({(str(error).splitlines() or [''])[0]})") from None
    try:
        file = _File.model_validate(value)
    except pydantic.ValidationError as error:
        faults = tuple(format_fault(fault) for fault in error.errors())
        raise PromptError(
            f"{name}: not a prompt file\n" + "\n".join(f"  {fault}" for fault in faults), faults
        ) from None
    findings = []
    for finding, entry in file.findings.items():
        template = entry.template or file.template or "{}"
        positive, negative = (
            tuple(template.replace("{}", text) for text in texts) for texts in (entry.positive, entry.negative)
        )
        findings.append(Finding(finding, positive, negative))
    return PromptSet(name, tuple(findings), file.title, tuple(file.sources))


def check_entry(name: str, positive: Sequence[str], negative: Sequence[str]) -> None:
    """Holds one finding against the rules of a prompt file.

    Raises:
        pydantic.ValidationError: for a name or words that no prompt file may have.
    """
    _File.model_validate({"findings": {name: {"positive": list(positive), "negative": list(negative)}}})


def format_fault(fault: Any) -> str:
    """One of pydantic's faults in the words of a prompt file."""
    where, kind = [str(part) for part in fault["loc"]], fault["type"]
    if kind == "extra_forbidden":
        known = list((_File if len(where) == 1 else _Entry).model_fields)
        near = difflib.get_close_matches(where[-1], known, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
        what = f"unknown key; {hint}"
    else:
        what = {
            "missing": "is missing",
            "too_short": "is empty",
            "string_type": "must be text",
            "list_type": "must be a list, e.g. [small pneumothorax]",
            "dict_type": "must map findings to their prompts",
            "model_type": "must map keys to values, e.g. findings: {Pneumothorax: {positive: [...], negative: [...]}}",
        }.get(kind, fault["msg"].removeprefix("Value error, "))
    # pydantic marks a fault in a mapping's key itself.
    place = ".".join(part for part in where if part != "[key]")
    return f"{place}: {what}" if place else str(what)
