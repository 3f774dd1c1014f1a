"""Probes on disk: a folder with `probe.json`, for people and programs, and the numbers as safetensors. No pickle."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import safetensors.numpy

from cxr_embed.cases import Cases
from cxr_embed.io.digests import digest_fits, sha256_hex, with_digest
from cxr_embed.io.times import utc_now
from cxr_embed.probe.attention import AttentionProbe
from cxr_embed.probe.base import Probe
from cxr_embed.probe.features import ProbeError, StoreSource
from cxr_embed.probe.heads import KNNProbe, MLPProbe
from cxr_embed.probe.linear import LinearProbe
from cxr_embed.probe.loss import probability
from cxr_embed.probe.probe_folder import FORMAT, PROBE_JSON, replace_probe
from cxr_embed.store import Store
from cxr_embed.store.writer import describe
from cxr_embed.types import EncoderSpec
from cxr_embed.version import __version__

VERSION = 2
_STORED = {"C": "strength", "Cs": "strengths"}  # parameters that files have under another name
KINDS: dict[str, type[Probe]] = {kind.kind: kind for kind in (LinearProbe, MLPProbe, KNNProbe, AttentionProbe)}


@dataclass(frozen=True, kw_only=True)
class LabelRecord:
    """Where a probe's labels came from.

    Attributes:
        file: its name, without folders.
        sha256: of its bytes.
        split: the split that was learned from; None for all rows.
        uncertain: what a label of -1 counted as.
        blank: what a blank label counted as; earlier releases had `unknown` alone.
        images, patients: that were learned from.
        counts: finding to its positive, negative and unknown labels.
    """

    file: str
    sha256: str
    split: str | None
    uncertain: str
    images: int
    patients: int
    counts: Mapping[str, Mapping[str, int]]
    blank: str = "unknown"


@dataclass(frozen=True)
class ThresholdRecord:
    """Where a probe's thresholds came from.

    Attributes:
        split: that they were chosen on.
        rule: how, in words.
        patients: of the split.
    """

    split: str
    rule: str
    patients: int


@dataclass(frozen=True, kw_only=True)
class TrainedProbe:
    """A probe and what it is for.

    Attributes:
        probe: the classifier.
        spec: the encoder whose vectors it reads.
        output: of the encoder.
        findings: the `F` names.
        labels: what it learned from.
        patients: `(P,)` patients that it learned from, sorted.
        images: `(M,)` images that it learned from, sorted; empty for a probe of an earlier release.
        thresholds: finding to threshold on the probability, where some were chosen.
        chosen: how they were; None for none.
        chosen_on: `(Q,)` patients that they were chosen on, sorted.
        software: name to version.
        created: UTC, ISO 8601.
    """

    probe: Probe
    spec: EncoderSpec
    output: str
    findings: tuple[str, ...]
    labels: LabelRecord
    patients: np.ndarray
    images: np.ndarray = field(default_factory=lambda: np.empty(0, np.str_))
    thresholds: Mapping[str, float] = field(default_factory=dict)
    chosen: ThresholdRecord | None = None
    chosen_on: np.ndarray = field(default_factory=lambda: np.empty(0, np.str_))
    software: Mapping[str, str] = field(default_factory=dict)
    created: str = ""

    @property
    def undefined(self) -> dict[str, str]:
        """Findings that could not be learned, with the reasons."""
        return {self.findings[number]: reason for number, reason in self.probe.undefined_.items()}

    @property
    def unconverged(self) -> dict[str, str]:
        """Findings whose solver did not come to its end, with what it did not reach."""
        return {self.findings[number]: reason for number, reason in self.probe.unconverged_.items()}

    def check_store(self, store: Store) -> None:
        """Refuses vectors that the probe was not made for.

        Raises:
            ProbeError: naming both encoders.
        """
        if store.spec.fingerprint != self.spec.fingerprint:
            raise ProbeError(
                f"this probe was trained on vectors of {describe(self.spec)}, and {store.path} holds those of "
                f"{describe(store.spec)}; train one for this encoder, or give the other's store"
            )

    def predict(self, store: Store, ids: np.ndarray | None = None) -> np.ndarray:
        """Probabilities `(N, F)` float32 of some images, all by default; NaN for findings that were not learned.

        Raises:
            ProbeError: for another encoder's store.
            StoreError: for ids without a vector.
        """
        self.check_store(store)
        wanted = store.ids if ids is None else np.asarray(ids, np.str_)
        unique, place = np.unique(wanted, return_inverse=True)
        lost = np.setdiff1d(unique, store.ids)
        if len(lost):
            store.read(lost[:1])  # says it in the store's words
        source = StoreSource(store, unique, self.output, self.probe.pooling)
        return np.asarray(probability(self.probe.decision_source(source))[place], np.float32)

    def seen(self, patients: np.ndarray, ids: np.ndarray) -> np.ndarray:
        """`(N,)` bool: whether the probe learned from a patient, or from the image where nobody knows whose it is."""
        return np.asarray(np.isin(patients, self.patients) | np.isin(ids, self.images))

    def describe(self) -> dict[str, Any]:
        """Everything but the numbers, as plain JSON values."""
        chosen: dict[str, float] = {}
        if isinstance(self.probe, LinearProbe | AttentionProbe):
            found = zip(self.findings, self.probe.C_.tolist(), strict=True)
            chosen = {name: value for name, value in found if value == value}
        return {
            "format": FORMAT,
            "version": VERSION,
            "kind": self.probe.kind,
            "settings": {_STORED.get(name, name): value for name, value in self.probe.get_params().items()},
            "encoder": {"fingerprint": self.spec.fingerprint, "spec": self.spec.to_json()},
            "output": self.output,
            "findings": list(self.findings),
            "undefined": self.undefined,
            "unconverged": self.unconverged,
            "strengths": chosen,
            "thresholds": dict(self.thresholds),
            "thresholds_chosen": asdict(self.chosen) if self.chosen is not None else None,
            "labels": asdict(self.labels),
            "software": dict(self.software),
            "created": self.created,
        }


def make_trained(
    probe: Probe,
    store: Store,
    output: str,
    cases: Cases,
    source: tuple[str, str],
    *,
    split: str | None,
    uncertain: str,
) -> TrainedProbe:
    """Puts a fitted probe together with what it came from.

    Args:
        probe: fitted on `cases`.
        store, output: whose vectors it was fitted on.
        cases: what it learned.
        source: the name of the labels' file, and its SHA-256.
        split, uncertain: as it was read.
    """
    words = ("positive", "negative", "unknown")
    counts = {
        name: dict(zip(words, row, strict=True)) for name, row in zip(cases.names, probe.counts_.tolist(), strict=True)
    }
    patients = np.unique(cases.patients)
    record = LabelRecord(
        file=source[0],
        sha256=source[1],
        split=split,
        uncertain=uncertain,
        images=len(cases),
        patients=len(patients),
        counts=counts,
        blank=cases.blank,
    )
    software = {name: version(name) for name in ("numpy", "scipy", "scikit-learn")}
    software |= {"cxr-embed": __version__, "python": platform.python_version()}
    return TrainedProbe(
        probe=probe,
        spec=store.spec,
        output=output,
        findings=cases.names,
        labels=record,
        patients=patients,
        images=np.unique(cases.ids),
        software=software,
        created=utc_now(),
    )


def save_probe(path: Path, trained: TrainedProbe) -> None:
    """Writes a probe into a folder, which may hold an older one; a reader sees the old one or the new one.

    Raises:
        ProbeError: where it cannot be written, or the folder holds something else.
    """
    data = _numbers_of(trained)
    digest = sha256_hex(data)
    body = with_digest({**trained.describe(), "tensors": {"file": f"{digest[:16]}.safetensors", "sha256": digest}})
    text = json.dumps(body, indent=1, ensure_ascii=False).encode() + b"\n"
    try:
        replace_probe(path, body["tensors"]["file"], data, text)
    except filelock.Timeout:
        raise ProbeError(f"{path}: another process is writing a probe there; give another `out`") from None
    except OSError as error:
        raise ProbeError(f"{path}: cannot be written ({error.strerror}); give another `out`") from None


def packed_probe(trained: TrainedProbe) -> tuple[dict[str, Any], bytes]:
    """A probe for another process: JSON values and bytes, without whom it learned from."""
    nobody = np.empty(0, np.str_)
    return trained.describe(), _numbers_of(replace(trained, patients=nobody, images=nobody, chosen_on=nobody))


def unpacked_probe(body: dict[str, Any], data: bytes) -> TrainedProbe:
    """What `packed_probe` packed."""
    return _restored(Path("the probe"), body, safetensors.numpy.load(data))


def _numbers_of(trained: TrainedProbe) -> bytes:
    tensors = {name: np.ascontiguousarray(value) for name, value in trained.probe.tensors().items()}
    known = {"patients": trained.patients, "images": trained.images, "chosen_on": trained.chosen_on}
    tensors |= {name: _as_bytes(names) for name, names in known.items()}
    return bytes(safetensors.numpy.save(tensors))


def load_probe(path: Path) -> TrainedProbe:
    """Reads a probe.

    Raises:
        ProbeError: where it is missing, damaged, or written by a newer release.
    """
    body, text = _read_body(path)
    try:
        file = path / Path(body["tensors"]["file"]).name
        if not file.exists() and (path / PROBE_JSON).read_bytes() != text:
            return load_probe(path)  # it was replaced in between
        data = file.read_bytes()
        if sha256_hex(data) != body["tensors"]["sha256"]:
            raise ProbeError(f"{file}: damaged, its digest does not match; restore it from a copy")
        return _restored(path, body, safetensors.numpy.load(data))
    except (OSError, KeyError, TypeError, ValueError, AttributeError, safetensors.SafetensorError) as error:
        raise ProbeError(f"{path}: damaged ({type(error).__name__}); restore it from a copy") from None


def _read_body(path: Path) -> tuple[dict[str, Any], bytes]:
    """`probe.json`, and the bytes that it was read from."""
    try:
        text = (path / PROBE_JSON).read_bytes()
        body = json.loads(text)
    except (FileNotFoundError, NotADirectoryError):
        raise ProbeError(
            f"{path}: no probe here ({PROBE_JSON} is missing); `cxr-embed probe train` makes one"
        ) from None
    except (OSError, ValueError) as error:
        raise ProbeError(f"{path / PROBE_JSON}: cannot be read ({error})") from None
    if not isinstance(body, dict) or body.get("format") != FORMAT:
        raise ProbeError(f"{path / PROBE_JSON}: not a probe of this project")
    if body.get("version") != VERSION:
        raise ProbeError(f"{path}: format version {body.get('version')}, this release reads {VERSION}; train it again")
    if not digest_fits(body):
        raise ProbeError(f"{path / PROBE_JSON}: damaged, its digest does not match; restore it from a copy")
    return body, text


def _restored(path: Path, body: dict[str, Any], tensors: dict[str, np.ndarray]) -> TrainedProbe:
    parameters = {stored: name for name, stored in _STORED.items()}
    settings = {parameters.get(name, name): value for name, value in body["settings"].items()}
    if "Cs" in settings:
        settings["Cs"] = tuple(settings["Cs"])
    probe = KINDS[body["kind"]](**settings).restore(tensors)
    findings = tuple(body["findings"])
    probe.undefined_ = {findings.index(name): reason for name, reason in body["undefined"].items()}
    probe.unconverged_ = {findings.index(name): reason for name, reason in body.get("unconverged", {}).items()}
    spec = EncoderSpec.from_json(body["encoder"]["spec"])
    if spec.fingerprint != body["encoder"]["fingerprint"]:
        raise ProbeError(f"{path}: its encoder's fingerprint does not match its spec; restore it from a copy")
    return TrainedProbe(
        probe=probe,
        spec=spec,
        output=body["output"],
        findings=findings,
        labels=LabelRecord(**body["labels"]),
        patients=_as_names(tensors["patients"]),
        images=_as_names(tensors["images"]) if "images" in tensors else np.empty(0, np.str_),
        thresholds=body["thresholds"],
        chosen=ThresholdRecord(**body["thresholds_chosen"]) if body["thresholds_chosen"] is not None else None,
        chosen_on=_as_names(tensors["chosen_on"]),
        software=body["software"],
        created=body["created"],
    )


def _as_bytes(names: np.ndarray) -> np.ndarray:
    return np.frombuffer(json.dumps(names.tolist(), ensure_ascii=False).encode(), np.uint8)


def _as_names(data: np.ndarray) -> np.ndarray:
    return np.array(json.loads(data.tobytes()), np.str_)
