"""Where both SavedModels lie, and whether all of them is there."""

from __future__ import annotations

from pathlib import Path

from cxr_embed.encoders.hub import HubModel, cached_folder, hub_folder, local_folder
from cxr_embed.errors import EncoderError

FOLDER_VARIABLE = "CXR_FOUNDATION_DIR"
ELIXR_C, QFORMER = "elixr-c-v2-pooled", "pax-elixr-b-text"


def models_folder(named: Path | None, hub: HubModel) -> Path:
    """The folder that holds both SavedModels: the one that was named, the Hub's cache, or a download.

    What the cache holds whole is used without asking the network.

    Raises:
        EncoderError: where there is none, or only half of it.
    """
    if named is not None:
        folder = local_folder(named, hub)
    else:
        cached = cached_folder(hub)
        whole = cached is not None and not any(unfinished(cached / tower, True) for tower in (ELIXR_C, QFORMER))
        folder = cached if cached is not None and whole else hub_folder(hub)
    for tower in (ELIXR_C, QFORMER):
        missing = unfinished(folder / tower, False)
        if missing:
            raise EncoderError(f"{folder / tower}: {missing} is missing (half a download?); download {hub.repo} again")
    return folder


def unfinished(folder: Path, strict: bool) -> str:
    """What a SavedModel's folder lacks of its variables, in words; empty where it is whole.

    Args:
        folder: the SavedModel.
        strict: a folder without any variables is unfinished too.
    """
    variables = folder / "variables"
    shards = sorted(variables.glob("variables.data-*-of-*"))
    if not shards and not (variables / "variables.index").is_file():
        return "variables" if strict else ""
    if not (variables / "variables.index").is_file():
        return "variables/variables.index"
    count = int(shards[0].name.rpartition("-")[2]) if shards else 1
    return "" if len(shards) == count else f"a part of variables/variables.data ({len(shards)} of {count} are there)"
