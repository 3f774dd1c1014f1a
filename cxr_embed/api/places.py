"""Where the radiographs of a manifest are, for what shows them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cxr_embed.api.inputs import StrPath
from cxr_embed.manifest import Manifest, read_paths, read_root

if TYPE_CHECKING:
    from cxr_embed.reporting.panels import Places


def places_of(manifest: Manifest | StrPath, root: StrPath | None = None) -> Places:
    """Where the radiographs of a manifest are.

    Raises:
        ManifestError: for a table without paths.
    """
    from cxr_embed.reporting.panels import Places

    if isinstance(manifest, Manifest):
        paths = dict(zip(manifest.column("image_id").tolist(), manifest.column("path").tolist(), strict=True))
        return Places(Path(root) if root is not None else manifest.root, paths)
    paths = read_paths(manifest)
    return Places(Path(root) if root is not None else read_root(manifest), paths)
