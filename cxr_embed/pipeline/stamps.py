"""What is known of a manifest's files without opening one: of objects, from one listing a folder."""

from __future__ import annotations

from collections.abc import Sequence

from cxr_embed.errors import RemoteError
from cxr_embed.images import stamp_of
from cxr_embed.io.addresses import STORES, address_of, joined
from cxr_embed.io.objects import ObjectStamp, each_at_once, list_folder, object_stamp
from cxr_embed.manifest import Manifest
from cxr_embed.pipeline.worker import file_stamp
from cxr_embed.types import Stamp

_MOST = 2_000_000  # objects that are kept in memory, some 300 bytes each
_ALONE = 2  # a folder of which so few are wanted is not listed: it may hold a million others


def missing_objects(manifest: Manifest) -> list[str]:
    """The paths in the manifest that are objects at addresses, and are not there.

    Raises:
        RemoteError: where a service does not say.
    """
    objects = [path for _, path, _ in manifest.rows() if address_of(joined(manifest.root, path)) is not None]
    there = Stamps().there([joined(manifest.root, path) for path in objects])
    return [path for path, known in zip(objects, there, strict=True) if not known]


class Stamps:
    """Stamps of files and objects; a folder of objects is listed once."""

    def __init__(self) -> None:
        self._folders: dict[str, dict[str, ObjectStamp | None]] = {}
        self._listed: set[str] = set()
        self._closed: set[str] = set()  # folders that may be read and not listed

    def of(self, paths: Sequence[str]) -> list[Stamp]:
        """Each file's stamp; zeros where it is not there, or nobody says."""
        try:
            return [
                file_stamp(path) if address is None else stamp_of(self._found(address))
                for path, address in zip(paths, self._look(paths), strict=True)
            ]
        except RemoteError:  # whoever reads the files will say of each what is wrong
            return [Stamp() if address_of(path) is not None else file_stamp(path) for path in paths]

    def there(self, paths: Sequence[str]) -> list[bool]:
        """Whether each of some objects is there.

        Raises:
            RemoteError: where their service does not say.
        """
        return [address is not None and self._found(address) is not None for address in self._look(paths)]

    def _look(self, paths: Sequence[str]) -> list[str | None]:
        """The addresses among paths, of which everything is known afterwards."""
        addresses = [address_of(path) for path in paths]
        wanted: dict[str, list[str]] = {}
        for address in addresses:
            if address is not None and not self._is_known(address):
                wanted.setdefault(address.rpartition("/")[0], []).append(address)
        if wanted:
            self._make_room()
            few = [folder for folder, here in wanted.items() if not self._lists(folder, here)]
            each_at_once(self._list, [folder for folder in wanted if folder not in few])
            one_by_one = [address for folder, here in wanted.items() if folder not in self._listed for address in here]
            for address, found in zip(one_by_one, each_at_once(object_stamp, one_by_one), strict=True):
                folder, _, name = address.rpartition("/")
                self._folders.setdefault(folder, {})[name] = found
        return addresses

    def _lists(self, folder: str, wanted: Sequence[str]) -> bool:
        return folder.partition("://")[0] in STORES and folder not in self._closed and len(wanted) > _ALONE

    def _list(self, folder: str) -> None:
        try:
            self._folders[folder] = dict(list_folder(folder))
            self._listed.add(folder)
        except RemoteError as error:
            if error.kind not in ("denied", "no-credentials"):
                raise
            self._closed.add(folder)

    def _is_known(self, address: str) -> bool:
        folder, _, name = address.rpartition("/")
        return folder in self._listed or name in self._folders.get(folder, ())

    def _found(self, address: str) -> ObjectStamp | None:
        folder, _, name = address.rpartition("/")
        return self._folders[folder].get(name)

    def _make_room(self) -> None:
        while sum(map(len, self._folders.values())) > _MOST:
            oldest = next(iter(self._folders))
            del self._folders[oldest]
            self._listed.discard(oldest)
