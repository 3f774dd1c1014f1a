"""Model cards: what made the vectors and the scores, and what it was trained on."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np

from cxr_embed.encoders import encoder_card
from cxr_embed.errors import EncoderError
from cxr_embed.manifest import Manifest
from cxr_embed.probe.persistence import TrainedProbe
from cxr_embed.store import Store
from cxr_embed.types import EncoderSpec

# Words for one pool of images: RSNA's pneumonia, SIIM's pneumothorax and Google's labels are all of images that the
# NIH published first.
_SAME = (
    ("NIH", "ChestX-ray14", "ChestXray14", "ChestX-ray8", "RSNA", "SIIM", "Google"),
    ("CheXpert",),
    ("MIMIC", "MIMIC-CXR"),
    ("PadChest",),
    ("OpenI", "Indiana"),
    ("VinDr",),
    ("BRAX",),
    ("phantoms", "phantom"),
)
_PLACE = re.compile(r"(?<![\w:/.<~])(?:~?/|[A-Za-z]:\\)[^\s,;:()'\"]*[/\\][^\s,;:()'\"]*")


def store_names(stores: Sequence[Store]) -> list[str]:
    """A name for each store's encoder; with the store's own where several are of one."""
    names = [encoder_name(store.spec) for store in stores]
    return [
        f"{name} ({store.path.absolute().name})" if names.count(name) > 1 else name
        for name, store in zip(names, stores, strict=True)
    ]


def encoder_name(spec: EncoderSpec) -> str:
    """An encoder's name, which says so where its weights were never trained."""
    if "random numbers" in spec.weights_source:
        return f"{spec.name} with random weights"
    return f"{spec.name} with stand-in weights" if spec.untrained else spec.name


def store_card(store: Store, name: str) -> dict[str, Any]:
    """What a store says of its encoder."""
    return {
        **encoder_facts(store.spec),
        "name": name,
        "engines": store.engines,
        "dtype": store.header.dtype,
        "precision": store.header.precision,
        "images": len(store),
    }


def encoder_facts(spec: EncoderSpec) -> dict[str, Any]:
    """An encoder's spec, and its row of the encoder table."""
    facts: dict[str, Any] = {
        "encoder": spec.name,
        "name": encoder_name(spec),
        "revision": spec.revision,
        "fingerprint": spec.fingerprint,
        "preprocessing": spec.preprocessing,
        "outputs": {name: list(shape) for name, shape in spec.outputs.items()},
        "weights": spec.weights,
        "weights_source": without_places(spec.weights_source),
        "stand_in": without_places(spec.stand_in),
        "licence": "",
        "trained_on": "",
    }
    try:
        card = encoder_card(spec.name)
    except EncoderError:
        return facts
    trained_on = card.trained_on if not spec.untrained else "nothing: random or stand-in weights"
    return {**facts, "licence": card.licence, "trained_on": "nothing: computed" if not card.has_weights else trained_on}


def probe_card(trained: TrainedProbe, name: str) -> dict[str, Any]:
    """What a probe says of itself; its values of C as their range."""
    body = trained.describe()
    chosen = [value for value in body["strengths"].values() if value is not None]
    return {
        "name": name,
        "kind": body["kind"],
        "settings": {key: list(v) if isinstance(v, tuple) else v for key, v in body["settings"].items()},
        "strengths": [min(chosen), max(chosen)] if chosen else None,
        "undefined": body["undefined"],
        "output": body["output"],
        "findings": body["findings"],
        "thresholds": body["thresholds"],
        "labels": body["labels"],
        "software": body["software"],
        "created": body["created"],
        "encoder": encoder_facts(trained.spec),
    }


def origins(labels: Manifest, file: str) -> list[str]:
    """Names of known data sets that the labels give away: `source`, the patient ids' prefix, or the file's name."""
    sources = np.unique(labels.column("source")).tolist()
    prefixes = np.unique([patient.partition("-")[0] for patient in labels.column("patient_id").tolist()]).tolist()
    words = [*sources, *(prefix for prefix in prefixes[:100] if prefix.isalpha()), re.sub(r"[_.]", " ", file)]
    return [group[0] for group in _SAME if any(_names(word, group) for word in words)]


def seen_in_training(trained_on: str, data: Iterable[str]) -> list[str]:
    """The data sets among `data` whose images an encoder has been trained on, by what its table row says."""
    groups = {group[0]: group for group in _SAME}
    return [name for name in data if _names(trained_on, groups[name])]


def without_places(text: str) -> str:
    """Text with the paths of this machine cut down to names of files."""
    return _PLACE.sub(lambda match: PurePosixPath(PureWindowsPath(match[0]).as_posix()).name, text)


def _names(text: str, group: tuple[str, ...]) -> bool:
    return any(re.search(rf"(?<![a-z]){re.escape(word)}(?![a-z])", text, re.IGNORECASE) for word in group)
