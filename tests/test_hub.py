"""Weights of the Hub without the Hub: what is asked of it, and each failure with the one thing to do."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cxr_embed.encoders import ENCODERS, hub
from cxr_embed.encoders.cxr_foundation import models_folder
from cxr_embed.encoders.hub import HubModel, hub_folder, local_folder
from cxr_embed.errors import EncoderError

huggingface_hub = pytest.importorskip("huggingface_hub", reason="needs huggingface-hub: an extra brings it")

from huggingface_hub import constants, errors  # noqa: E402

COMMIT = "0123456789abcdef0123456789abcdef01234567"
MODEL = HubModel("org/model", COMMIT, gated=True)
FOUNDATION = ENCODERS["cxr-foundation"].hub
assert FOUNDATION is not None
REALLY_UNREACHABLE = hub.unreachable


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The Hub's cache: empty, and no token."""
    cache = tmp_path / "cache"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    monkeypatch.setattr(hub, "unreachable", lambda: "")
    return cache


def failing(kind: str, **attributes: Any) -> Callable[..., str]:
    """A download that ends in the Hub's error of that name."""
    error_type = getattr(errors, kind)

    def download(*_: object, **__: object) -> str:
        error = error_type.__new__(error_type)
        Exception.__init__(error, "the Hub's own words\nand a page more")
        error.__dict__.update(attributes)
        raise error

    return download


def put(cache: Path, model: HubModel, *names: str) -> Path:
    """Files in the Hub's cache, as a download leaves them."""
    repo = cache / f"models--{model.repo.replace('/', '--')}"
    for name in names:
        file = repo / "snapshots" / model.revision / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"x")
    return repo / "snapshots" / model.revision


@pytest.mark.parametrize(
    ("kind", "token", "words"),
    [
        ("GatedRepoError", None, r"is gated and no token is here; log in with `hf auth login` \(or set HF_TOKEN\)"),
        ("GatedRepoError", "hf_x", "is gated; accept its terms at https://huggingface.co/org/model with the account"),
        ("RevisionNotFoundError", None, f"has no revision {COMMIT}"),
        ("RepositoryNotFoundError", None, "is not on the Hub, or is private; check the name, or log in"),
        ("LocalEntryNotFoundError", None, "the Hub cannot be reached; go online once, or name a folder with `weights`"),
        (
            "HfHubHTTPError",
            None,
            r"cannot be downloaded \(the Hub's own words\); run it again, what has",
        ),
    ],
)
def test_each_failure_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, kind: str, token: str | None, words: str
) -> None:
    monkeypatch.setattr(huggingface_hub, "snapshot_download", failing(kind))
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: token)
    with pytest.raises(EncoderError, match=words) as told:
        hub_folder(MODEL)
    assert str(told.value).startswith("org/model ")
    assert "\n" not in str(told.value)


def test_a_full_disk_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def download(*_: object, **__: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with pytest.raises(EncoderError, match="No space left on device"):
        hub_folder(MODEL)


def test_only_what_is_needed_is_asked_for_at_the_pinned_commit(
    monkeypatch: pytest.MonkeyPatch, empty_cache: Path
) -> None:
    asked = SimpleNamespace()

    def download(repo: str, **options: object) -> str:
        asked.repo, asked.options = repo, options
        return str(put(empty_cache, FOUNDATION, *FOUNDATION.required))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    folder = models_folder(None, FOUNDATION)
    assert (folder / "pax-elixr-b-text" / "saved_model.pb").is_file()
    assert asked.repo == "google/cxr-foundation"
    assert asked.options["revision"] == FOUNDATION.revision
    assert len(FOUNDATION.revision) == 40
    assert asked.options["allow_patterns"] == ["elixr-c-v2-pooled/*", "pax-elixr-b-text/*"]
    assert asked.options["local_files_only"] is False


def test_what_the_cache_holds_whole_needs_no_network(monkeypatch: pytest.MonkeyPatch, empty_cache: Path) -> None:
    monkeypatch.setattr(huggingface_hub, "snapshot_download", failing("LocalEntryNotFoundError"))
    towers = ("elixr-c-v2-pooled", "pax-elixr-b-text")
    parts = ("saved_model.pb", "variables/variables.index", "variables/variables.data-00000-of-00002")
    folder = put(empty_cache, FOUNDATION, *(f"{tower}/{part}" for tower in towers for part in parts))
    with pytest.raises(EncoderError, match=r"a part of variables/variables.data \(1 of 2 are there\) is missing"):
        models_folder(None, FOUNDATION)  # cut off in the middle, and no network to go on
    put(empty_cache, FOUNDATION, *(f"{tower}/variables/variables.data-00001-of-00002" for tower in towers))
    assert models_folder(None, FOUNDATION) == folder
    assert ENCODERS["cxr-foundation"].weights_here is True


@pytest.fixture
def closed_port() -> Iterator[str]:
    """The address of a port that is taken, and at which nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


def test_no_network_is_one_line_at_once(
    monkeypatch: pytest.MonkeyPatch, empty_cache: Path, closed_port: str, capfd: pytest.CaptureFixture[str]
) -> None:
    def wait(_: float) -> None:
        raise AssertionError("tried again")

    monkeypatch.setattr(hub, "unreachable", REALLY_UNREACHABLE)
    monkeypatch.setattr(constants, "ENDPOINT", closed_port)
    monkeypatch.setattr("time.sleep", wait)
    with pytest.raises(EncoderError, match=r"and the Hub cannot be reached \(.*Connection refused.*\); go online once"):
        hub_folder(MODEL)
    assert capfd.readouterr() == ("", "")
    folder = put(empty_cache, MODEL, *MODEL.required)
    assert hub_folder(MODEL) == folder  # what is there may do


def test_a_hub_that_is_silent_or_down_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "ANSWER_SECONDS", 0.05)
    monkeypatch.delenv("HF_HUB_ETAG_TIMEOUT", raising=False)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        assert REALLY_UNREACHABLE() in ("timed out", "no answer in 0.05 s; HF_HUB_ETAG_TIMEOUT allows more")
    monkeypatch.setattr(hub, "ANSWER_SECONDS", 5)
    for status, told in ((200, ""), (404, ""), (401, ""), (503, "HTTP status 503")):
        client = SimpleNamespace(head=lambda *_, status=status, **__: SimpleNamespace(status_code=status))
        monkeypatch.setattr("huggingface_hub.utils.get_session", lambda client=client: client)
        assert REALLY_UNREACHABLE() == told


def test_tries_of_a_download_are_not_told(
    monkeypatch: pytest.MonkeyPatch, empty_cache: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    logger = logging.getLogger("huggingface_hub.utils._http")
    assert logger.isEnabledFor(logging.WARNING)

    def download(*_: object, **__: object) -> str:
        logger.warning("Retrying in 1s [Retry 1/5].")
        return str(put(empty_cache, MODEL, *MODEL.required))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    hub_folder(MODEL)
    assert capfd.readouterr() == ("", "")
    assert logger.isEnabledFor(logging.WARNING)


def test_offline_is_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    def download(*_: object, **__: object) -> str:
        raise AssertionError("asked for the network")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(EncoderError, match="HF_HUB_OFFLINE is set; unset it once to download, or name a folder"):
        models_folder(None, FOUNDATION)
    assert ENCODERS["cxr-foundation"].weights_here is False


def test_a_folder_with_half_a_download_is_told(tmp_path: Path) -> None:
    with pytest.raises(EncoderError, match="no such folder; give one that holds config"):
        local_folder(tmp_path / "none", MODEL)
    (tmp_path / "model").mkdir()
    with pytest.raises(EncoderError, match=r"config.json is missing \(half a download\?\); download org/model again"):
        local_folder(tmp_path / "model", MODEL)
