"""The user's secret that ids are hashed with, and where it is kept."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path

from cxr_embed.errors import ManifestError
from cxr_embed.io.files import partial_of, sync


def key_path(key_file: Path | None) -> Path:
    """Where the key is: the user's own place, or the file that is named.

    Raises:
        ManifestError: for a user without a home.
    """
    try:
        config = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
        return key_file or Path(config).expanduser() / "cxr-embed" / "patient-id.key"
    except RuntimeError:  # a user without a home, as containers have
        raise ManifestError("no home folder to keep the key for the patient ids in; give `key_file`") from None


def patient_key(key_file: Path | None) -> tuple[bytes, Path]:
    """The secret that patient ids are hashed with, and where it is kept.

    Without a file of the user's, a key is made once and kept for this user only, so that later scans give the same
    patient the same hash. Share the key file between machines that scan one hospital's data; never with the data.

    Raises:
        ManifestError: where the named file is missing or nearly empty.
    """
    path = key_path(key_file)
    try:
        if key_file is None and not path.exists():
            _make_key(path)
        key = path.read_bytes().strip()
    except OSError as error:
        raise ManifestError(f"{path}: no key for the patient ids ({error.strerror}); give `key_file`") from None
    if len(key) < 16:
        raise ManifestError(f"{path}: a key of at least 16 characters is needed for the patient ids")
    return key, path


def _make_key(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with partial_of(path) as partial:
        partial.chmod(0o600)  # before the secret is in it
        partial.write_text(secrets.token_hex(32) + "\n", encoding="ascii")
        sync(partial)
        # A link, unlike a rename, never replaces the key of a scan that started at the same moment.
        with contextlib.suppress(FileExistsError):
            os.link(partial, path)
    sync(path.parent)
