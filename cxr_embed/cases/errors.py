"""What can be wrong with labels beside what they are joined with."""

from __future__ import annotations

from cxr_embed.errors import ManifestError


class CasesError(ManifestError):
    """Labels that do not fit what they are joined with: no image, finding or split in common, other patients."""


class NothingKnown(CasesError):
    """Every label of the images that are left is unknown."""
