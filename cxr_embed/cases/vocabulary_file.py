"""What a file of findings' names may say."""

from __future__ import annotations

from typing import Annotated

import pydantic
import yaml

from cxr_embed.cases.common_findings import CommonFinding, Vocabulary, plain_name
from cxr_embed.cases.errors import CasesError
from cxr_embed.manifest import CONTROL
from cxr_embed.prompts import load_yaml


def _plain(text: str) -> str:
    if not text or text != text.strip() or CONTROL.search(text):
        raise ValueError("a name is text in one line, without space around it")
    return text


_Name = Annotated[str, pydantic.AfterValidator(_plain)]
_Names = Annotated[list[_Name], pydantic.Field(min_length=1)]


class _Part(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)


class _Entry(_Part):
    names: Annotated[dict[_Name, _Name | _Names], pydantic.Field(min_length=1)]
    cui: Annotated[str, pydantic.StringConstraints(pattern=r"^C[0-9]{7}$")] | None = None
    note: str = ""
    absence: bool = False


class _File(_Part):
    sources: dict[_Name, _Name]
    findings: Annotated[dict[_Name, _Entry], pydantic.Field(min_length=1)]


def parse_vocabulary(data: bytes, source: str) -> Vocabulary:
    """A vocabulary of YAML text in UTF-8; `source` is its name, for messages.

    Raises:
        CasesError: for what is not a vocabulary, a name or a UMLS concept that two findings have, or a data set of
            which no source is named.
    """
    try:
        file = _File.model_validate(load_yaml(data))
    except pydantic.ValidationError as error:
        fault = error.errors()[0]
        place = ".".join(map(str, fault["loc"]))
        raise CasesError(f"{source}: {place}: {fault['msg'].removeprefix('Value error, ')}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise CasesError(f"{source}: not YAML text ({' '.join(str(error).split())})") from None
    findings = tuple(
        CommonFinding(
            name=name,
            names={of: (each,) if isinstance(each, str) else tuple(each) for of, each in entry.names.items()},
            cui=entry.cui or "",
            note=entry.note,
            absence=entry.absence,
        )
        for name, entry in file.findings.items()
    )
    _check_once(findings, source)
    for finding in findings:
        if lacking := [of for of in finding.names if of not in file.sources]:
            raise CasesError(f"{source}: {finding.name}: no source of {lacking[0]} is named")
    return Vocabulary(findings, file.sources)


def _check_once(findings: tuple[CommonFinding, ...], source: str) -> None:
    """Refuses a name or a concept that two findings have: what has it would be one or the other by chance."""
    owners: dict[str, str] = {}
    for finding in findings:
        for name in (*finding.all_names(), *([finding.cui] if finding.cui else [])):
            owner = owners.setdefault(plain_name(name), finding.name)
            if owner != finding.name:
                raise CasesError(f"{source}: {name} stands for two findings, {owner} and {finding.name}")
