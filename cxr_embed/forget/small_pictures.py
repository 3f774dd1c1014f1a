"""Folders of thumbnails: somebody's out of them."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

from cxr_embed.errors import CaseIndexError
from cxr_embed.forget.known import Known, cases_in
from cxr_embed.index import CaseIndex
from cxr_embed.index.case_table import thumbnail_keys
from cxr_embed.thumbnails import drop_thumbnails


class GoingThumbnails:
    """Which thumbnails are somebody's: by their files, and of single regions by the indexes that know their boxes.

    Args:
        known: who is meant.
        indexes: folders of indexes, before anything was taken out of them.
    """

    def __init__(self, known: Known, indexes: Sequence[Path]) -> None:
        self._known, self._keys = known, set[str]()
        for path in indexes:
            with contextlib.suppress(CaseIndexError):  # taking cases out of it says what is wrong
                index = CaseIndex(path)
                every = zip(cases_in(index), thumbnail_keys(index.table), strict=True)
                self._keys.update(key for case, key in every if case.is_covered(known.forgotten))

    def take_out(self, path: Path, dry_run: bool = False) -> int:
        """Deletes them out of a folder, or counts them; how many are gone.

        Raises:
            ThumbnailError: where the folder is damaged or cannot be written.
        """
        return drop_thumbnails(path, self._goes, dry_run)

    def _goes(self, key: str) -> bool:
        content = bytes.fromhex(key.partition("-")[0])
        return key in self._keys or self._known.forgotten.has_content(content)
