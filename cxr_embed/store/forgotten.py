"""Patients, images and files that are to stay out, for ever: a list of keyed hashes, which does not say who it was.

`forgotten.json` lies in every store and index that somebody was taken out of, and goes where its folder goes; another
one beside the key, `KEY.forgotten.json`, speaks for every store and index that is written with this key. Without the
key a list says nothing, so whoever would have to honour it refuses.
"""

from __future__ import annotations

import hmac
import json
import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path

import filelock

from cxr_embed.errors import ManifestError, StoreError
from cxr_embed.io.digests import json_digest, keyed_hash
from cxr_embed.io.files import write_whole
from cxr_embed.store.keys import key_path, patient_key

FORGOTTEN = "forgotten.json"
_FORMAT, _VERSION = "cxr_embed.forgotten", 1
_PATIENCE = 60  # seconds that a list is waited for: it takes milliseconds to write
_DIGITS = 32  # of a hash: 128 bits
_TELLS_THE_KEY = "the key of this list"
_HASHED_ID = re.compile(r"[0-9a-f]{16}\Z")  # what a scan makes of a hospital's id, perhaps behind a prefix


class Forgotten:
    """What is to stay out.

    Args:
        key: of the hashes.
        hashes: of what was forgotten.
    """

    def __init__(self, key: bytes = b"", hashes: Iterable[str] = ()) -> None:
        self.key, self.hashes = key, set(hashes)
        self._known: dict[str, bool] = {}  # patients have many images

    def __bool__(self) -> bool:
        return bool(self.hashes)

    def _hash(self, kind: str, value: str) -> str:
        text = f"cxr_embed forgotten {kind}\0{value}".encode(errors="surrogatepass")
        return hmac.digest(self.key, text, "sha256").hex()[:_DIGITS]

    def _add(self, kind: str, value: str) -> None:
        self.hashes.add(self._hash(kind, unicodedata.normalize("NFC", value)))

    def _has(self, kind: str, value: str) -> bool:
        # An id is the same with its accents taken apart; lists of earlier days have it as it stood.
        return any(self._hash(kind, each) in self.hashes for each in {unicodedata.normalize("NFC", value), value})

    def add_patient(self, patient: str) -> None:
        """Keeps a patient out, by the id as it stands in a store or a manifest."""
        self._add("patient", patient)
        self._known.clear()

    def add_image(self, patient: str, image_id: str) -> None:
        """Keeps an image's id out for its patient, and for whoever does not know the patient.

        Ids such as `17` stand for other images in other data: those of another patient are none of ours. Where the
        patient is not known, blank, the id stays out for all.
        """
        owners = {patient, ""} if patient else {"", "*"}
        for owner in owners:
            self._add("image", f"{owner}\0{image_id}")

    def add_content(self, content: bytes) -> None:
        """Keeps a file out, by its SHA-256."""
        self.hashes.add(self._hash("content", content.hex()))

    def has_patient(self, patient: str) -> bool:
        """Whether a patient is forgotten, by this id or by what a scan makes of it; nobody has the blank id."""
        if not self.hashes or not patient:
            return False
        if patient not in self._known:
            found = _HASHED_ID.search(patient)
            spelt = {patient, found[0] if found else keyed_hash(patient, self.key)}
            self._known[patient] = any(self._has("patient", each) for each in spelt)
        return self._known[patient]

    def has_image(self, patient: str, image_id: str) -> bool:
        """Whether an image's id is."""
        if not self.hashes:
            return False
        owners = (patient, "*") if patient else ("",)
        return any(self._has("image", f"{owner}\0{image_id}") for owner in owners)

    def has_content(self, content: bytes | None) -> bool:
        """Whether a file is; a file that nobody has read is not."""
        return bool(self.hashes) and content is not None and self._hash("content", content.hex()) in self.hashes

    def covers(self, patient: str, image_id: str, content: bytes | None = None) -> bool:
        """Whether an image is to stay out, for whatever reason."""
        return self.has_patient(patient) or self.has_image(patient, image_id) or self.has_content(content)

    def save(self, path: Path) -> None:
        """Adds what is forgotten to a list, which is made where it is missing.

        Raises:
            StoreError: where it cannot be written, is damaged, or of another key.
        """
        hashes = self.hashes | (_read(path, self) if path.exists() else set())
        body = {"format": _FORMAT, "version": _VERSION, "key": self._hash("key", _TELLS_THE_KEY)}
        body |= {"hashes": sorted(hashes)}
        body["digest"] = json_digest(body)
        try:
            write_whole(path, json.dumps(body, indent=1).encode() + b"\n")
        except OSError as error:
            raise StoreError(f"{path}: cannot be written ({error.strerror})") from None


def list_beside(key: Path) -> Path:
    """The list that speaks for everything that is written with a key."""
    return Path(f"{key}.forgotten.json")


def save_beside(forgotten: Forgotten, key: Path) -> Path:
    """Adds what is forgotten to the list beside the key; one process at a time, so that none undoes another's.

    Raises:
        StoreError: as `Forgotten.save`.
    """
    path = list_beside(key)
    try:
        with filelock.FileLock(path.with_name(f"{path.name}.lock"), timeout=_PATIENCE):
            forgotten.save(path)
    except filelock.Timeout:
        raise StoreError(f"{path}: another process is writing it; wait for it, and run the same again") from None
    except OSError as error:
        raise StoreError(f"{path}: cannot be written ({error.strerror})") from None
    return path


def gather_forgotten(*folders: Path, key_file: Path | None = None) -> Forgotten:
    """All that is to stay out of what is made of stores and indexes.

    Args:
        folders: of these; they need not exist.
        key_file: the key; the user's own by default.

    Raises:
        StoreError: where there is a list and the key is missing or another one, or a list is damaged.
    """
    lists = [folder / FORGOTTEN for folder in folders]
    try:
        key = key_path(key_file)
        lists.append(list_beside(key))
    except ManifestError as error:
        if not any(path.exists() for path in lists):
            return Forgotten()
        raise StoreError(str(error)) from None
    found = list(dict.fromkeys(path for path in lists if path.exists()))
    if key_file is None and not key.exists():
        if not found:
            return Forgotten()
        raise StoreError(f"{_who(found[0])}, and the key {key} is missing: give `key_file`")
    if not found and not key_file:
        return Forgotten()  # the key may be anything, nothing was hashed with it
    try:
        forgotten = Forgotten(patient_key(key_file)[0])
    except ManifestError as error:
        raise StoreError(f"{_who(found[0])}; {error}" if found else str(error)) from None
    for path in found:
        forgotten.hashes |= _read(path, forgotten)
    return forgotten


def _who(path: Path) -> str:
    return f"{path}: patients were forgotten here, only the key that it was done with shows whom"


def _read(path: Path, forgotten: Forgotten) -> set[str]:
    """A list's hashes."""
    try:
        body = json.loads(path.read_bytes())
        digest = body.pop("digest")
        if body["format"] != _FORMAT or body["version"] != _VERSION:
            raise StoreError(f"{path}: written by a newer release; this one does not know whom to leave out")
        sound = digest == json_digest(body)
    except OSError as error:
        raise StoreError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        sound = False
    if not sound:
        raise StoreError(f"{path}: damaged; restore it from a copy, it says who is to stay out")
    if body["key"] != forgotten._hash("key", _TELLS_THE_KEY):
        raise StoreError(f"{_who(path)}, and this is another key: give `key_file`")
    return set(body["hashes"])


def carry_forgotten(folders: Iterable[Path], target: Path, forgotten: Forgotten) -> bool:
    """Adds the lists of stores to one list, which goes where their images go; whether there is any.

    Args:
        folders: of the stores.
        target: the list; made where it is missing.
        forgotten: of `gather_forgotten`, with the key.

    Raises:
        StoreError: where a list is damaged or of another key, or cannot be written.
    """
    lists = [path for folder in folders if (path := folder / FORGOTTEN).exists()]
    for path in lists:
        Forgotten(forgotten.key, _read(path, forgotten)).save(target)
    return bool(lists)
