"""Cases of a report, explained with the probe that scored them."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from cxr_embed.api.inputs import StrPath
from cxr_embed.api.probe import FindingsProbe
from cxr_embed.explanation.answers import answers_of
from cxr_embed.explanation.explainer import REGION
from cxr_embed.explanation.loading import encoder_of
from cxr_embed.explanation.small import SmallMap, SmallMaps
from cxr_embed.explanation.targets import of_probe
from cxr_embed.reporting import ReportError
from cxr_embed.reporting.examples import Example, Explain
from cxr_embed.types import CxrImage, counted

if TYPE_CHECKING:
    from cxr_embed.reporting.panels import Places

SIDE = 320  # pixels of a picture's longer side in the page
_APART = 0.02  # of probabilities: more than a store's float16 or another engine explain
_QUALITY = 82  # of WebP
Progress = Callable[[str, int, int], object]


@dataclass(frozen=True, kw_only=True)
class ExplainedCases:
    """How the cases of a report are explained.

    Attributes:
        probe: that made the scores.
        places: where the radiographs are.
        most: cases of a kind and a finding.
        measured: what `explain evaluate --json` printed of such maps.
        weights, device: of the encoder.
        announce: called with a line on what occlusion costs, before it begins.
        progress: called with a word, the images that are done and how many there are.
    """

    probe: FindingsProbe
    places: Places
    most: int
    measured: Path | None = None
    weights: StrPath | None = None
    device: str = "auto"
    announce: Callable[[str], object] | None = None
    progress: Progress | None = None

    def how(self) -> Explain:
        """For `collect`."""
        trained = self.probe.trained
        findings = [name for name in trained.findings if name not in trained.undefined]
        return Explain(self.most, findings, trained.thresholds, self.draw)

    def draw(self, examples: Sequence[Example]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """See `Explain.draw`.

        Raises:
            ReportError: where no radiograph can be read, or the scores are not the probe's.
            EncoderError, MapError: where the encoder cannot be loaded, or is another one.
        """
        from cxr_embed.reporting.panels import case_image

        trained = self.probe.trained
        targets = of_probe(trained, tuple(dict.fromkeys(example.finding for example in examples)))
        encoder = encoder_of(trained.spec, trained.output, weights=self.weights, device=self.device)
        wanted: dict[str, list[Example]] = {}
        for example in examples:
            wanted.setdefault(example.image_id, []).append(example)
        found: dict[Example, SmallMap | str] = {}
        try:
            maps = SmallMaps(
                encoder, targets, side=SIDE, measured=self.measured, announce=self.announce, images=len(wanted)
            )
            for number, (image_id, shown) in enumerate(wanted.items()):
                if self.progress is not None:
                    self.progress("explaining", number, len(wanted))
                image = case_image({"image_id": image_id}, self.places)
                if not isinstance(image, CxrImage):
                    found |= dict.fromkeys(shown, image)
                    continue
                answer = {output: vectors[0] for output, vectors in answers_of(encoder, [image]).items()}
                drawn = maps.of(image, answer, [targets.names.index(example.finding) for example in shown])
                found |= dict(zip(shown, drawn, strict=True))
        finally:
            encoder.close()
        about = maps.explainer.about
        kept = ("encoder", "fingerprint", "method", "layer", "words", "line", "measured", "stand_in")
        notes = _remarks(found)
        said = [_said(example, found[example]) for example in examples]
        return said, {
            **{name: about[name] for name in kept},
            "probe": Path(self.probe.name).name,
            "region": REGION,
            "notes": notes,
        }


def check_scores(scores: Path, probe: FindingsProbe) -> None:
    """Refuses scores whose file says that another encoder's vectors, or no probe, made them; CSV files say nothing.

    Raises:
        ReportError: naming both.
    """
    if scores.suffix.lower() != ".parquet" or not scores.is_file():
        return
    try:
        metadata = pyarrow.parquet.read_schema(scores).metadata or {}
    except (pa.ArrowException, OSError):
        return  # who reads it says so
    about = {key.decode(errors="replace"): value.decode(errors="replace") for key, value in metadata.items()}
    spec = probe.trained.spec
    if about.get("score", "probability") != "probability":
        raise ReportError(
            f"{scores}: scores of prompts ({about['score']}), not of the probe; `cxr-embed explain --prompt` maps those"
        )
    if about.get("fingerprint", spec.fingerprint) != spec.fingerprint:
        raise ReportError(
            f"{scores}: scores of {about.get('encoder', 'another encoder')} [{about['fingerprint'][:12]}], and the "
            f"probe reads {spec.name} [{spec.fingerprint[:12]}]; name the `probes` that made them"
        )


def _remarks(found: Mapping[Example, SmallMap | str]) -> list[str]:
    """What a reader should know of the explained cases.

    Raises:
        ReportError: where no radiograph was read, or most scores are not the probe's.
    """
    lost = {example.image_id: why for example, why in found.items() if isinstance(why, str)}
    drawn = {example: made for example, made in found.items() if isinstance(made, SmallMap)}
    if found and not drawn:
        why = next(iter(lost.values()))
        raise ReportError(
            f"`explain`: none of {counted(len(lost), 'radiograph')} can be shown ({why}); name the `root`"
        )
    other = [example for example, made in drawn.items() if _differs(example, made)]
    if 2 * len(other) > len(drawn):
        first = other[0]
        raise ReportError(
            f"the scores are not this probe's: {first.finding} of {first.image_id} has {first.score:.3f}, by the probe "
            f"{drawn[first].score:.3f}, and so with {len(other):,} of {len(drawn):,}; name the `probes` that made them"
        )
    notes = [f"{counted(len(lost), 'image')} of these cannot be shown"] if lost else []
    if other:
        notes.append(
            f"{len(other):,} of {len(drawn):,} scores are not those that the probe gives here: said below each"
        )
    return notes


def _differs(example: Example, made: SmallMap) -> bool:
    return abs(example.score - made.score) > _APART


def _said(example: Example, made: SmallMap | str) -> dict[str, Any]:
    """One case, as JSON values."""
    blank = {"log_odds": None, "probe_score": None, "without_region": None, "without_elsewhere": None}
    if isinstance(made, str):
        return {**blank, "line": "", "below": "", "differs": "", "why": made}
    differs = f"the probe gives {made.score:.3f} here, the score file {example.score:.3f}"
    words = made.line.removeprefix(f"{example.finding}: ")
    return {
        "log_odds": made.value,
        "probe_score": made.score,
        "without_region": made.claim.without,
        "without_elsewhere": made.claim.elsewhere,
        "line": words,
        "below": made.below,
        "differs": differs if _differs(example, made) else "",
        "why": "",
        "mixed": _data_uri(made.mixed),
        "plain": _data_uri(made.plain),
    }


def _data_uri(picture: np.ndarray) -> str:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(picture).save(file, "WEBP", quality=_QUALITY, method=4)
    return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"


def check_explain(most: int, probe: FindingsProbe | None, thresholds: Iterable[object]) -> None:
    """Refuses what cannot be explained, before anything is computed.

    Args:
        most: cases of a kind and a finding.
        probe: that made the scores; None where none is named.
        thresholds: what thresholds may come from; None or an empty dict for nothing.

    Raises:
        ReportError: saying what is missing.
    """
    if most < 1:
        raise ReportError(f"`explain` is the number of cases of a kind, at least 1, not {most}")
    if probe is None:
        raise ReportError(
            "`explain` needs `probes`, the first of them the one that made the scores; of scores of prompts "
            "`cxr-embed explain --prompt` makes maps"
        )
    if all(given is None or given == {} for given in thresholds):
        raise ReportError(
            "`explain` needs a threshold, to tell true from false positives: name a `threshold` or a "
            "`thresholds_split`, or a probe that has its own"
        )
