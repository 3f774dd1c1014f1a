"""The nouns of a vocabulary: findings, with what each data set calls them."""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass


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
