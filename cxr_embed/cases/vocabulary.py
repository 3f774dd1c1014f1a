"""One name for what several data sets call otherwise: the published names of findings, of `findings.yaml`."""

from __future__ import annotations

import functools
import importlib.resources
import re
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

COMMON = "common"  # as `findings`: those of the vocabulary, under its names


@dataclass(frozen=True)
class CommonFinding:
    """A finding of the vocabulary.

    Attributes:
        name: the common one.
        names: what each data set calls it, by the data set.
        cui: UMLS concept, where a published source gives one; else blank.
        note: what to know before data sets are compared on it; else blank.
        absence: whether it says that findings are absent.
    """

    name: str
    names: Mapping[str, tuple[str, ...]]
    cui: str = ""
    note: str = ""
    absence: bool = False

    def all_names(self) -> Iterator[str]:
        """The common name, and what each data set says."""
        yield self.name
        for names in self.names.values():
            yield from names


@dataclass(frozen=True)
class Vocabulary:
    """Published names of findings, each of one finding.

    Attributes:
        findings: in the order of the file.
        sources: where each data set's names are published.
    """

    findings: tuple[CommonFinding, ...]
    sources: Mapping[str, str]

    @functools.cached_property
    def _by_name(self) -> dict[str, CommonFinding]:
        return {plain_name(name): finding for finding in self.findings for name in finding.all_names()}

    def find(self, name: str) -> CommonFinding | None:
        """The finding that a name, published or common, stands for; case, spaces, hyphens and underscores aside."""
        return self._by_name.get(plain_name(name))

    def common_name(self, name: str) -> str:
        """The common name; the name itself where the vocabulary does not have it."""
        found = self.find(name)
        return found.name if found is not None else name


def plain_name(name: str) -> str:
    """A finding's name without what people spell differently: case, spaces, hyphens, underscores."""
    return re.sub(r"[\s_-]+", " ", unicodedata.normalize("NFC", name)).strip().casefold()


@functools.cache
def vocabulary() -> Vocabulary:
    """The vocabulary that comes with the package."""
    # What reads and checks YAML is needed where names are not alike, and only there.
    from cxr_embed.cases.vocabulary_file import parse_vocabulary

    file = importlib.resources.files("cxr_embed.cases").joinpath("findings.yaml")
    return parse_vocabulary(file.read_bytes(), "findings.yaml")
