"""Weights on the Hugging Face Hub: pinned, only what is needed, and each failure with the one thing to do."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

from cxr_embed.errors import EncoderError

ANSWER_SECONDS = 5  # in which the Hub says anything at all
_DOWN = (500, 502, 503, 504)
# What a checkpoint in transformers' layout consists of: by name, since repositories hold other formats too.
CHECKPOINT_FILES = (
    "config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "model.safetensors",
    "model-*-of-*.safetensors",
    "model.safetensors.index.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "spiece.model",
    "tokenizer.model",
    "README.md",  # its head and the licence say what binds
    "LICENSE*",
)


@dataclass(frozen=True)
class HubModel:
    """A model on the Hub.

    Attributes:
        repo: ORG/NAME.
        revision: the commit that is taken, 40 hexadecimal digits; or a branch, whose newest commit is taken.
        patterns: the files that are needed; a checkpoint's by default: never pickles, never code.
        required: files without which a folder is half a download.
        gated: whether its terms must be accepted first.
    """

    repo: str
    revision: str
    patterns: tuple[str, ...] = CHECKPOINT_FILES
    required: tuple[str, ...] = ("config.json",)
    gated: bool = False


_DOWNLOADS: ContextVar[bool] = ContextVar("downloads", default=True)


class NotHere(EncoderError):
    """A model that is not in the Hub's cache, while nothing may be downloaded.

    Attributes:
        model: which one.
    """

    def __init__(self, model: HubModel) -> None:
        super().__init__(f"{model.repo} is not in the Hub's cache")
        self.model = model


@contextmanager
def no_downloads() -> Iterator[None]:
    """Inside, what is not on this machine is `NotHere`, and the network is left alone."""
    token = _DOWNLOADS.set(False)
    try:
        yield
    finally:
        _DOWNLOADS.reset(token)


def cached_folder(model: HubModel) -> Path | None:
    """Where the pinned revision lies in the Hub's cache, complete; None where it does not. Never uses the network."""
    try:
        from huggingface_hub import try_to_load_from_cache
    except ImportError:
        return None
    found = [try_to_load_from_cache(model.repo, name, revision=model.revision) for name in model.required]
    if not all(isinstance(path, str) for path in found):
        return None
    return Path(str(found[0])).parents[model.required[0].count("/")]


def local_folder(folder: Path, model: HubModel) -> Path:
    """A folder of the user's, checked for the files that must be in it.

    Raises:
        EncoderError: where it is not a folder, or only part of a download.
    """
    if not folder.is_dir():
        raise EncoderError(f"{folder}: no such folder; give one that holds {', '.join(model.required)}")
    missing = [name for name in model.required if not (folder / name).is_file()]
    if missing:
        raise EncoderError(f"{folder}: {missing[0]} is missing (half a download?); download {model.repo} again")
    return folder


def hub_folder(model: HubModel) -> Path:
    """The model's files in the Hub's cache, downloaded where they are not there yet.

    Raises:
        EncoderError: with the one thing to do: accept the terms, log in, go online, name a folder.
        NotHere: inside `no_downloads`.
    """
    if not _DOWNLOADS.get():
        if (here := cached_folder(model)) is not None:
            return here
        raise NotHere(model)
    try:
        import huggingface_hub
        from huggingface_hub import constants, errors
    except ImportError:
        raise EncoderError(
            "downloading from the Hub needs huggingface-hub: pip install 'cxr-embed[cxr-foundation]', "
            "or name a folder with `weights`"
        ) from None
    here = cached_folder(model)
    offline = constants.HF_HUB_OFFLINE
    absent = f"{model.repo} is not in the Hub's cache"
    online = "go online once, or name a folder with `weights`"
    if offline and here is None:
        raise EncoderError(
            f"{absent} and HF_HUB_OFFLINE is set; unset it once to download, or name a folder with `weights`"
        )
    if not offline and (why := unreachable()):
        if here is not None:
            return here
        raise EncoderError(f"{absent} and the Hub cannot be reached ({why}); {online}")
    try:
        with _retries_unlogged():
            folder = huggingface_hub.snapshot_download(
                model.repo, revision=model.revision, allow_patterns=list(model.patterns), local_files_only=bool(offline)
            )
    except errors.LocalEntryNotFoundError:
        if here is not None:
            return here
        raise EncoderError(f"{absent} and the Hub cannot be reached; {online}") from None
    except (errors.HfHubHTTPError, OSError) as error:
        raise EncoderError(_refusal(model, error)) from None
    return local_folder(Path(folder), model)


def _refusal(model: HubModel, error: Exception) -> str:
    """Why the Hub does not hand a model out, and the one thing to do."""
    import huggingface_hub
    from huggingface_hub import errors

    page = f"https://huggingface.co/{model.repo}"
    if isinstance(error, errors.GatedRepoError):
        if huggingface_hub.get_token() is None:
            return f"{model.repo} is gated and no token is here; log in with `hf auth login` (or set HF_TOKEN)"
        return f"{model.repo} is gated; accept its terms at {page} with the account of your token"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{model.repo} has no revision {model.revision}; check the commit at {page}"
    if isinstance(error, errors.RepositoryNotFoundError):
        return f"{model.repo} is not on the Hub, or is private; check the name, or log in"
    reason = (str(error).splitlines() or [type(error).__name__])[0][:160]
    return f"{model.repo} cannot be downloaded ({reason}); run it again, what has arrived is kept"


def unreachable() -> str:
    """Why the Hub does not answer; blank where it does.

    It is checked once, before a download: its client tries for half a minute, and has no option against that. A name
    server that is silent keeps to no timeout, so that the check is a thread's.
    """
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session

    limit = constants.HF_HUB_ETAG_TIMEOUT if "HF_HUB_ETAG_TIMEOUT" in os.environ else ANSWER_SECONDS
    answers: list[str] = []

    def ask() -> None:
        try:
            status = get_session().head(constants.ENDPOINT, timeout=limit).status_code
            answers.append(f"HTTP status {status}" if status in _DOWN else "")
        except Exception as error:  # whatever the Hub's client of HTTP is by now
            answers.append((str(error).splitlines() or [type(error).__name__])[0][:160])

    question = threading.Thread(target=ask, daemon=True)
    question.start()
    question.join(limit)
    return answers[0] if answers else f"no answer in {limit:g} s; HF_HUB_ETAG_TIMEOUT allows more"


@contextmanager
def _retries_unlogged() -> Iterator[None]:
    """Keeps the Hub's client from logging each try; the last one ends in an error, or all went well."""
    logger = logging.getLogger("huggingface_hub.utils._http")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def named_folder(weights: Path | None, variable: str) -> Path | None:
    """The folder that a user named, by `weights` or by an environment variable."""
    if weights is not None:
        return weights
    value = os.environ.get(variable)
    return Path(value) if value else None
