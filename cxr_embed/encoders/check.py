"""Whether an encoder that is to run here loads, what it is, and whether it does as it should."""

from __future__ import annotations

import os
import platform
import re
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cxr_embed.encoders import load_encoder
from cxr_embed.encoders.card import EncoderCard
from cxr_embed.encoders.checked import CheckedEncoder
from cxr_embed.encoders.conversion import DIGEST_UNKNOWN
from cxr_embed.encoders.digests import announced_sha256, remembered_sha256
from cxr_embed.encoders.golden import compared, picture
from cxr_embed.encoders.hub import HubModel, NotHere, no_downloads
from cxr_embed.encoders.listing import install_command, tasks_of
from cxr_embed.encoders.registry import encoder_card, is_own
from cxr_embed.encoders.weights import weights_folder, weights_path
from cxr_embed.errors import EncoderError
from cxr_embed.types import CxrImage

PROMPTS = ("The heart is of normal size.", "There is a large pneumothorax on the left.")
_REPEATS, _SECONDS = 3, 10.0  # a time is the median of so many, or of what fits into so many seconds


def check_encoder(
    name: str,
    images: Sequence[CxrImage],
    *,
    weights: str | os.PathLike[str] | None = None,
    pixels: str | None = None,
    device: str = "auto",
) -> dict[str, Any]:
    """Loads an encoder, runs it and returns what was found, as plain JSON values. Nothing is downloaded.

    Args:
        name: as for `load_encoder`.
        images: two or more radiographs that differ.
        weights, pixels, device: as for `load_encoder`.

    Returns:
        `ok`; `problems`: sentences; `missing`: what is not here (`what`), how to get it (`get`, `offline`); `licence`,
        `terms`, `gated`, `trained_on` and `tasks` by the table of encoders. Where it loads, also `spec`, `fingerprint`,
        `files` with sizes, digests and what is known of them, `engine`, `machine`, `notes`, `seconds_an_image`
        (medians), `picture` (see `golden.compared`), `prompts`, `vectors`, and `own`: what only this kind of encoder
        knows.

    Raises:
        EncoderError: for an unknown name, and where an encoder of one's own cannot be loaded.
    """
    card = None if is_own(name) else encoder_card(name)
    about = {
        "name": name,
        "licence": card.licence if card else "",
        "terms": card.terms if card else "",
        "gated": card.gated if card else False,
        "trained_on": card.trained_on if card else "",
        "tasks": tasks_of(card) if card else [],
    }
    try:
        with no_downloads():
            encoder = load_encoder(name, weights=weights, pixels=pixels, device=device)
            try:
                found = _run(encoder, images)
            finally:
                encoder.close()
    except EncoderError as error:
        if card is None:
            raise
        missing = _missing(card, name, weights is not None, error)
        problems = [f"missing: {part['what']}" for part in missing] or [_on_one_line(error)]
        return {**about, "ok": False, "problems": problems, "missing": missing}
    return {**about, "ok": not found["problems"], "missing": [], **found}


def _run(encoder: CheckedEncoder, images: Sequence[CxrImage]) -> dict[str, Any]:
    """What a loaded encoder does with the radiographs, the test picture and two prompts."""
    inputs = [encoder.preprocess(image) for image in images]
    seconds = {"pixels": _median(lambda: encoder.preprocess(images[0]))}
    encoder.embed(_batch(inputs[:1]))  # what is built with the first calls is no part of the times
    seconds["alone"] = _median(lambda: encoder.embed(_batch(inputs[:1])))
    found = encoder.embed(_batch(inputs))
    seconds["in_a_batch"] = _median(lambda: encoder.embed(_batch(inputs))) / len(inputs)
    rows = np.concatenate([np.asarray(array).reshape(len(images), -1) for array in found.values()], axis=1)
    different = len(np.unique(rows, axis=0)) == len(images)
    own = encoder.encoder.check(images) if hasattr(encoder.encoder, "check") else {}
    vectors = {output: array[0] for output, array in encoder.embed(_batch([encoder.preprocess(picture())])).items()}
    golden = compared(encoder.spec, vectors, "bf16" if " bf16 " in encoder.engine else "float32")
    prompts = _prompts(encoder)
    problems = [] if different else ["radiographs that differ have the same vector"]
    problems += [
        f"{output} of the test picture is {result['apart']:.1e} from the vector that was measured for these weights"
        for output, result in golden.items()
        if result["apart"] is not None and not result["apart"] <= result["allowed"]
    ]
    if prompts is not None and prompts["problem"]:
        problems.append(prompts["problem"])
    return {
        "problems": problems,
        "fingerprint": encoder.spec.fingerprint,
        "spec": encoder.spec.to_json(),
        "files": file_facts(encoder),
        "engine": encoder.engine,
        "machine": machine(),
        "notes": list(encoder.notes),
        "images": len(images),
        "seconds_an_image": seconds,
        "picture": golden,
        "prompts": prompts,
        "vectors": {"different": different},
        "own": own,
    }


def _prompts(encoder: CheckedEncoder) -> dict[str, Any] | None:
    """Whether two sentences have vectors that differ; None for an encoder without text."""
    if encoder.spec.text is None:
        return None
    try:
        found = encoder.embed_text(PROMPTS)
    except EncoderError as error:
        return {"different": False, "problem": f"no prompts: {_on_one_line(error)}"}
    different = not np.allclose(found[0], found[1])
    return {"different": different, "problem": "" if different else "prompts that differ have the same vector"}


def file_facts(encoder: CheckedEncoder) -> list[dict[str, Any]]:
    """The files that an encoder was read from: name, size, SHA-256, and with what that was compared."""
    files = sorted(encoder.files)
    folder = os.path.commonpath([path.parent for path in files]) if files else ""
    listed = []
    for path in files:
        sha256 = remembered_sha256(path)
        known = _known(path, sha256, encoder)
        relative = path.relative_to(folder).as_posix()
        listed.append({"file": relative, "bytes": path.stat().st_size, "sha256": sha256, "digest": known})
    return listed


def _known(path: Path, sha256: str, encoder: CheckedEncoder) -> str:
    """With what a file's digest was compared: in words."""
    source = encoder.spec.weights_source
    if sha256 in encoder.pinned:
        return "pinned here"
    if announced_sha256(path) == sha256:
        return "as the Hub announced it"
    if re.fullmatch(r"[0-9a-f]{40}", path.parent.name):  # the Hub's cache, of small files
        return "of the Hub's commit"
    if any(pin in source for pin in encoder.pinned):
        return "made from a file whose digest is pinned here, by its own note"
    if "as given by `sha256`" in source:
        return "made from a file whose digest a user gave, by its own note"
    if DIGEST_UNKNOWN in source:
        return "made from a file of unknown digest"
    return "digest unknown"


def _missing(card: EncoderCard, name: str, named: bool, error: EncoderError) -> list[dict[str, str]]:
    """What is not here, and how to get it."""
    if card.missing:
        package = install_command(card).removeprefix("pip install ")
        return [
            {
                "what": f"{'package' if len(card.missing) == 1 else 'packages'} {', '.join(card.missing)}",
                "get": install_command(card),
                "offline": f"elsewhere: pip download {package} -d wheels; "
                f"here: pip install --no-index --find-links wheels {package}",
            }
        ]
    offline = f"the same elsewhere; copy what that writes into {weights_folder()}"
    if isinstance(error, NotHere):
        parts = [_from_the_hub(error.model, name)]
        if card.converted and not weights_path(name).is_file():
            get = f"`cxr-embed weights convert {name} FILE` makes them of the published file"
            parts.append({"what": f"converted weights of {name}", "get": get, "offline": offline})
        return parts
    if not named and card.weights_here is False:
        get = re.sub(r"^no weights for \S+ here \([^)]*\)[.;] ", "", _on_one_line(error))
        return [{"what": f"weights of {name}", "get": get, "offline": offline}]
    return []


def _from_the_hub(model: HubModel, name: str) -> dict[str, str]:
    terms = f"accept the terms at https://huggingface.co/{model.repo}, `hf auth login`; then " if model.gated else ""
    folder = model.repo.partition("/")[2]
    one_file = len(model.patterns) == 1 and "*" not in model.patterns[0]
    here = f"{folder}/{model.patterns[0]}" if one_file else folder
    parts = "".join(f" --include '{pattern}'" for pattern in model.patterns if one_file or "/" in pattern)
    return {
        "what": f"{model.repo} at {model.revision[:12]}",
        "get": f"{terms}`cxr-embed embed ... --encoder {name}` downloads it, once",
        "offline": f"elsewhere: {terms}hf download {model.repo} --revision {model.revision}{parts} --local-dir "
        f"{folder}; here: `--weights {here}`",
    }


def machine() -> str:
    """Processor and cores, for the line of a time."""
    from joblib import cpu_count

    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file() and (found := re.search(r"model name\s*:\s*(.+)", info.read_text(errors="replace"))):
        model = found[1].strip()
    cores = cpu_count()
    return f"{model}, {cores} core{'' if cores == 1 else 's'}"


def _on_one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _batch(inputs: list[np.ndarray]) -> np.ndarray | list[np.ndarray]:
    return inputs if inputs[0].ndim == 1 and inputs[0].dtype == np.uint8 else np.stack(inputs)


def _median(call: Callable[[], object]) -> float:
    """Seconds of a call: the median of several, of fewer where they take long."""
    begun, seconds = time.perf_counter(), []
    for _ in range(_REPEATS):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
        if time.perf_counter() - begun > _SECONDS:
            break
    return statistics.median(seconds)
