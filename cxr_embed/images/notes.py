"""Sentences for what is odd about a file that was read all the same."""

from __future__ import annotations

from collections.abc import Mapping

from cxr_embed.types import ImageNote

# After 'n images', so that a run can count them. No value from a header may enter.
NOTES: Mapping[ImageNote, str] = {
    "window": "with a window that the standard does not allow; read as viewers do, through another one or none",
    "rescale": "with a rescale slope of 0, which was left out",
    "range": "with values in under a tenth of the stated range, so nearly one shade; `prepare='stretch'` helps",
    "aspect": "whose pixels are not square, read as if they were",
    "colour": "in colour, read as grey",
    "lateral": "of a lateral view, by the header or the manifest",
}
