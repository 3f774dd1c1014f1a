"""One name for what several data sets call otherwise: the published names of findings, of `findings.yaml`."""

from __future__ import annotations

import functools
import importlib.resources

from cxr_embed.cases.common_findings import Vocabulary

COMMON = "common"  # as `findings`: those of the vocabulary, under its names


@functools.cache
def vocabulary() -> Vocabulary:
    """The vocabulary that comes with the package."""
    # What reads and checks YAML is needed where names are not alike, and only there.
    from cxr_embed.cases.vocabulary_file import parse_vocabulary

    file = importlib.resources.files("cxr_embed.cases").joinpath("findings.yaml")
    return parse_vocabulary(file.read_bytes(), "findings.yaml")
