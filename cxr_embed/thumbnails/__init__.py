"""Small pictures of cases on disk, for whoever asked for them: WebP, called by their radiographs' digests.

`folder` reads and writes them, `removal` takes them out again.
"""

from cxr_embed.thumbnails.folder import HEADER, SIDE, Thumbnails, is_thumbnails, thumbnail_key, thumbnails_path
from cxr_embed.thumbnails.removal import drop_thumbnails, sound_thumbnails, without

__all__ = [
    "HEADER",
    "SIDE",
    "Thumbnails",
    "drop_thumbnails",
    "is_thumbnails",
    "sound_thumbnails",
    "thumbnail_key",
    "thumbnails_path",
    "without",
]
