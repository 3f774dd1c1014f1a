"""open_clip's pickles (`open_clip_pytorch_model.bin`, a training's `epoch_N.pt`) to a folder that can be loaded."""

from __future__ import annotations

from pathlib import Path

from cxr_embed.encoders.conversion import Converted, all_matching, tensors_of
from cxr_embed.encoders.open_clip_folder import (
    BIOMEDCLIP,
    BIOMEDCLIP_SHA256,
    SETTINGS,
    WEIGHTS,
    OpenClipCheckpoint,
)
from cxr_embed.encoders.open_clip_towers import model_shapes, own_names
from cxr_embed.errors import EncoderError


def convert_open_clip(name: str, path: Path, sha256: str | None) -> Converted:
    """A pickle's tensors under open_clip's names, and the files beside it that belong to them.

    Args:
        name: `biomedclip`, whose digest is pinned, or `open_clip:ORG/NAME`.
        path: the pickle; its folder has the checkpoint's settings and its tokenizer's files.
        sha256: what the publisher says of it.

    Raises:
        EncoderError: where the folder lacks a file, the pickle has another digest, or its tensors are not those of the
            model that the settings describe.
    """
    folder = path.parent
    if not (folder / SETTINGS).is_file():
        raise EncoderError(
            f"{folder}: {SETTINGS} is missing, which says what model {path.name} is; put it and its tokenizer's files "
            "beside the pickle"
        )
    checkpoint = OpenClipCheckpoint(folder, folder.resolve().name, name)
    checkpoint.recipe, checkpoint.context, checkpoint.reads_with_transformers  # noqa: B018 (before a gigabyte is read)
    expected = BIOMEDCLIP_SHA256 if name == "biomedclip" else sha256
    known = {BIOMEDCLIP_SHA256: f"{BIOMEDCLIP.repo}@{BIOMEDCLIP.revision[:7]}"}
    tensors, source = tensors_of(path, expected, known)
    shapes = model_shapes(checkpoint)
    names = own_names(list(tensors), list(shapes))
    found = {short: tensors[other] for other, short in names.items()}
    for short in ("logit_scale", "logit_bias"):  # one number, which some releases kept as an array of one
        if short in found and found[short].size == 1 and short in shapes:
            found[short] = found[short].reshape(shapes[short])
    fitting = all_matching(path, "the model", found, shapes)
    return Converted(fitting, source, beside=[*checkpoint.companions, *checkpoint.papers], file=WEIGHTS)
