"""The errors that a user can meet. The command line prints them as one or two lines, never as a traceback."""

from __future__ import annotations

from typing import Literal

RemoteKind = Literal[
    "missing",
    "no-bucket",
    "denied",
    "no-credentials",
    "unreachable",
    "too-large",
    "refused",
    "no-package",
    "failed",
]
ImageFault = Literal[
    "missing",
    "unreadable",
    "unreachable",
    "linked-away",
    "empty",
    "not-an-image",
    "wrong-suffix",
    "truncated",
    "corrupt",
    "too-large",
    "too-small",
    "colour",
    "multi-frame",
    "not-a-radiograph",
    "no-decoder",
    "unsupported",
    "outside",
    "encoder",
    "out-of-memory",
    "worker-died",
]

# Faults of the machine, the engine or the file's name and place rather than of its content: the next run tries these
# again, others are remembered.
TRANSIENT_FAULTS: frozenset[str] = frozenset(
    {
        *("missing", "unreadable", "unreachable", "linked-away", "wrong-suffix"),
        *("no-decoder", "encoder", "out-of-memory", "worker-died"),
    }
)


class CxrEmbedError(Exception):
    """Base of every error that this package raises on purpose: what, where, what to do."""


class ManifestError(CxrEmbedError):
    """A manifest that cannot be used.

    Attributes:
        problems: every fault that was found, one line each.
        cure: a command that makes a manifest of the table, where there is one; else blank.
    """

    def __init__(self, message: str, problems: tuple[str, ...] = (), cure: str = "") -> None:
        super().__init__(message)
        self.problems = problems
        self.cure = cure


class ImageError(CxrEmbedError):
    """A file that is not a usable radiograph. `kind` is a stable word for the fault, e.g. `truncated`.

    The message never holds values read from a DICOM header: it is written into stores.
    """

    def __init__(self, kind: ImageFault, message: str) -> None:
        super().__init__(message)
        self.kind: ImageFault = kind

    def __reduce__(self) -> tuple[type[ImageError], tuple[str, str]]:
        # Exceptions with two arguments do not survive a process boundary by themselves.
        return type(self), (self.kind, str(self))


class RemoteError(CxrEmbedError):
    """An object at an address that cannot be read or written. `kind` is a stable word for why.

    The message never holds credentials, or an address with a signature in it: it is written into stores.
    """

    def __init__(self, kind: RemoteKind, message: str, timed_out: bool = False) -> None:
        super().__init__(message)
        self.kind: RemoteKind = kind
        self.timed_out = timed_out

    def __reduce__(self) -> tuple[type[RemoteError], tuple[str, str, bool]]:
        return type(self), (self.kind, str(self), self.timed_out)


class EncoderError(CxrEmbedError):
    """An encoder that cannot be loaded or that returned something unusable."""


class EncoderUnusable(EncoderError):
    """An encoder that cannot go on, whatever image comes next: its process dies, or its model is another one."""


class StoreError(CxrEmbedError):
    """A store that is missing, damaged, locked or made by another encoder."""


class CaseIndexError(CxrEmbedError):
    """An index of cases that is missing, damaged or made for other vectors, or a search that it cannot answer."""


class MapError(CxrEmbedError):
    """Heat maps that are missing or damaged, or places of findings that do not fit them."""


class MarksError(CxrEmbedError):
    """A reader's marks that cannot be read or written, or a mark that cannot be made."""


class ThumbnailError(CxrEmbedError):
    """A folder of thumbnails that cannot be read or written."""


class UnknownWordsWarning(UserWarning):
    """A prompt has words that its encoder never learned."""
