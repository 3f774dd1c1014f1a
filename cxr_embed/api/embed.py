"""Images to vectors: a data set into a store, or a few images in memory."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from cxr_embed.api.inputs import StrPath
from cxr_embed.arguments import checked_arguments
from cxr_embed.choices import Colour, Dtype, EmbedEngine
from cxr_embed.encoders import CheckedEncoder, encoder_card, load_encoder
from cxr_embed.encoders.registry import is_own
from cxr_embed.errors import EncoderError, ImageError, ManifestError
from cxr_embed.images import NOTES, looks_like_chest, prepared_encoder, read_image
from cxr_embed.io.addresses import address_of, shown_address
from cxr_embed.io.digests import file_sha256, sha256_hex
from cxr_embed.manifest import Manifest, read_manifest
from cxr_embed.pipeline.embedding import embed as run
from cxr_embed.pipeline.summary import EmbedSummary
from cxr_embed.pipeline.summary import Progress as EmbedProgress
from cxr_embed.store import Store
from cxr_embed.store.keys import patient_key
from cxr_embed.store.layout import HEADER
from cxr_embed.types import CxrImage, Encoder

DEFAULT_ENCODER = "mini"
_OF_SUMMARY = frozenset(EmbedSummary.__dataclass_fields__) | {"done", "to_json"}


class EmbeddedStore(Store):
    """The open store after a run.

    Attributes:
        summary: what the run did.
    """

    def __init__(self, path: str | os.PathLike[str], summary: EmbedSummary) -> None:
        super().__init__(path)
        self.summary = summary

    def __getattr__(self, name: str) -> Any:
        # Until 0.3 `embed` gave the summary itself.
        if name in _OF_SUMMARY and "summary" in vars(self):
            warnings.warn(f"`embed` gives the open store now: read `.summary.{name}`", DeprecationWarning, stacklevel=2)
            return getattr(self.summary, name)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")


@checked_arguments
def embed(
    manifest: Manifest | StrPath | None = None,
    encoder: str | Encoder = DEFAULT_ENCODER,
    store: StrPath | None = None,
    *,
    images: Sequence[StrPath] | None = None,
    root: StrPath | None = None,
    extra: Sequence[str] = (),
    weights: StrPath | None = None,
    outputs: Sequence[str] | None = None,
    pixels: str | None = None,
    prepare: str | None = None,
    colour: Colour = "refuse",
    device: str = "auto",
    precision: str = "auto",
    dtype: Dtype | None = None,
    batch_size: int | Literal["auto"] = "auto",
    workers: int | Literal["auto"] = "auto",
    limit: int | None = None,
    part: str | None = None,
    follow_links: bool = False,
    key_file: StrPath | None = None,
    engine: EmbedEngine = "local",
    address: str | None = None,
    actors: int | None = None,
    progress: EmbedProgress | None = None,
) -> EmbeddedStore:
    """Embeds every radiograph of a manifest that the store does not hold yet, and opens the store.

    A file is known by its content. One broken file never stops the run: it is in `.summary.failed`. Ctrl-C keeps what
    is done.

    Args:
        manifest: a `Manifest` or the path of one.
        encoder: a name from `cxr-embed encoders`, `package.module:function`, or an `Encoder` object.
        store: the store's folder; made where it is missing.
        images: instead of a manifest, radiographs by their paths. Their ids are their paths below the folder that they
            share, or a keyed hash where a path gives a person away, as `cxr-embed manifest scan` has it.
        root: the folder that the manifest's paths are relative to, if not its own; of `images`, the folder that their
            ids are below, so that a file has the same id whichever others are named with it.
        extra: columns of the manifest that are not findings.
        weights: a safetensors file or a checkpoint's folder.
        outputs, pixels: which of the encoder's outputs to store, which of its pixel recipes to use.
        prepare: what is done to a picture before the encoder sees it: `stretch`; its vectors need a store of their own.
        colour: `grey` reads pictures in colour by their luma instead of refusing them.
        device: `auto`, `cpu` or `cuda`, or GPUs, an engine each: `cuda:0,cuda:1`.
        precision: `auto` (fastest that is native here; an existing store's), `float32` or `bf16`.
        dtype: `float16` (a new store's default) or `float32`.
        batch_size, workers: images the encoder takes at once; processes, on a GPU those that decode.
        limit: the first so many rows only.
        part: only one part of so many, `3/16`, by a hash of the image id; other processes may do the others at the same
            time, into the same store. `env` takes it from a Slurm array.
        follow_links: also read files outside the root that links lead to.
        key_file: the key of the patient ids, if not the user's own.
        engine: `ray` embeds on the machines of a Ray cluster; `local` in processes of this one.
        address: for `ray`, of the cluster's head (`HOST:PORT`, or `auto`); None starts Ray here, for this run alone.
        actors: for `ray`, how many embed at once; one a device by default.
        progress: called now and then with the summary so far; in a notebook, a bar by default.

    Returns:
        The open store; `.summary` says what was done, failures included.

    Raises:
        ManifestError, EncoderError, StoreError: for what cannot be used. EncoderError without a `store` as well.
    """
    _check_encoder(encoder)
    if store is None:
        raise EncoderError("`store` is the folder for the vectors; `embed_images` gives a few vectors without one")
    table = manifest_of(manifest, images, root, extra, key_file)
    if images is not None and root is None:
        _check_ids(table, Path(store))
    summary = run(
        table,
        encoder,
        store,
        weights=weights,
        device=device,
        precision=precision,
        outputs=outputs,
        pixels=pixels,
        prepare=prepare,
        colour=colour,
        follow_links=follow_links,
        dtype=dtype,
        batch_size=batch_size,
        workers=workers,
        limit=limit,
        part=part,
        key_file=Path(key_file) if key_file is not None else None,
        engine=engine,
        address=address,
        actors=actors,
        progress=progress,
    )
    return EmbeddedStore(store, summary)


def manifest_of(
    manifest: Manifest | StrPath | None,
    images: Sequence[StrPath] | None,
    root: StrPath | None,
    extra: Sequence[str],
    key_file: StrPath | None,
) -> Manifest:
    """The table of images that a manifest or a list of files is, of which one is given.

    Raises:
        ManifestError: for both, neither, or a table or files that cannot be used.
    """
    if (manifest is None) == (images is None):
        raise ManifestError("`embed` takes a `manifest` or a list of `images`, one of the two")
    if isinstance(manifest, Manifest):
        return replace(manifest, root=Path(root)) if root is not None else manifest
    if manifest is not None:
        given: object = manifest
        if not isinstance(given, str | os.PathLike):
            kind = type(given).__name__
            raise ManifestError(
                f"`manifest` is a table's path, or what `read_manifest` gives, not {kind}; files are `images`"
            )
        return read_manifest(manifest, root=root, extra=extra)
    assert images is not None
    if isinstance(images, str | os.PathLike) or not len(images):
        raise ManifestError("`images` is a list of files, such as ['a.dcm']")
    if away := [path for path in (*images, *([root] if root is not None else ())) if address_of(path) is not None]:
        raise ManifestError(f"`images`: {shown_address(away[0])} is an address; name it as the path of a manifest")
    files = list(dict.fromkeys(Path(os.path.abspath(path)) for path in images))  # one named twice is one image
    below = Path(os.path.abspath(root)) if root is not None else Path(os.path.commonpath([f.parent for f in files]))
    if outside := [path for path in files if not path.is_relative_to(below)]:
        raise ManifestError(f"`images`: {outside[0]} is not below {below} (`root`)")
    from cxr_embed.datasets import scan_files  # a manifest does not need it

    key, _ = patient_key(Path(key_file) if key_file is not None else None)
    columns = scan_files(files, below, patient_key=key).columns
    return Manifest(pa.table(columns), below, ())


def _check_ids(manifest: Manifest, store: Path) -> None:
    """Refuses an id that is another file's in the store: it would replace that one.

    Raises:
        ManifestError: naming the first file.
    """
    if not (store / HEADER).exists():
        return
    opened = Store(store)
    known = dict(zip(opened.ids.tolist(), opened.content_ids.tolist(), strict=True))
    for image_id, path, _ in manifest.rows():
        if image_id in known and file_sha256(manifest.root / path) != known[image_id]:
            raise ManifestError(
                f"`images`: {manifest.root / path} would be {image_id!r}, which is another file in {store}; name the "
                "folder that all of them share as `root`"
            )


@checked_arguments
def embed_images(
    images: Sequence[str | os.PathLike[str] | np.ndarray | CxrImage],
    encoder: str | Encoder = DEFAULT_ENCODER,
    *,
    output: str | None = None,
    weights: str | os.PathLike[str] | None = None,
    device: str = "auto",
    precision: str = "auto",
    pixels: str | None = None,
    prepare: str | None = None,
    colour: Colour = "refuse",
    batch_size: int = 16,
) -> np.ndarray:
    """The vectors of a few images, in this process and without a store.

    Args:
        images: files (PNG, JPEG, TIFF, DICOM), `CxrImage` objects, or arrays `(H, W)` of uint8 or uint16, brighter =
            denser.
        encoder: a name from `cxr-embed encoders`, or an `Encoder` object.
        output: one of the encoder's outputs; its first by default.
        weights, device, precision, pixels: as `load_encoder` takes them.
        prepare: what is done to a picture before the encoder sees it: `stretch`.
        colour: `grey` reads files in colour by their luma instead of refusing them.
        batch_size: images the encoder takes at once.

    Returns:
        `(N, D)`, `(N, T, D)` or `(N, H, W, D)` float32, row i for image i. A warning names images that do not look
        like chest radiographs, and files that are odd.

    Raises:
        ImageError: for a file that is not a radiograph, or an array of another shape or dtype; it names the image.
        EncoderError: where the encoder cannot be loaded, or has no such output.
    """
    if isinstance(images, str | os.PathLike | np.ndarray):
        raise ImageError("unsupported", "`images` is a list of files or arrays; put the one image into [...]")
    _check_encoder(encoder)
    images = _listed(images)
    loaded = (
        load_encoder(
            encoder,
            weights=weights,
            device=device,
            precision=precision,
            pixels=pixels,
            outputs=[output] if output and not is_own(encoder) and encoder_card(encoder).has_choice else None,
        )
        if isinstance(encoder, str)
        else CheckedEncoder(encoder)
    )
    outputs = loaded.spec.outputs
    chosen = output or next(iter(outputs))
    if chosen not in outputs:
        raise EncoderError(f"{loaded.spec.name} has no output {chosen!r}; it has {', '.join(outputs)}")
    prepared = CheckedEncoder(prepared_encoder(loaded.encoder, prepare))
    parts = [np.empty((0, *outputs[chosen]), np.float32)]
    try:
        for start in range(0, len(images), batch_size):
            batch = []
            for number, image in enumerate(images[start : start + batch_size], start):  # no comprehension: `stacklevel`
                batch.append(prepared.preprocess(_looked_at(_image(image, number, colour), number)))
            parts.append(prepared.embed(_stacked(batch))[chosen])
    finally:
        loaded.close()
    return np.concatenate(parts)


def _listed(images: Any) -> list[Any]:
    try:
        return list(images)
    except TypeError:
        raise ImageError("unsupported", f"`images` is a list of files or arrays, not {type(images).__name__}") from None


def _check_encoder(encoder: Any) -> None:
    if not isinstance(encoder, str) and not all(hasattr(encoder, part) for part in ("spec", "preprocess", "embed")):
        kind = type(encoder).__name__
        raise EncoderError(f"`encoder` is a name, or an object with spec, preprocess and embed, not {kind}")


def _stacked(batch: list[np.ndarray]) -> np.ndarray | list[np.ndarray]:
    """One array of inputs that are alike; a list of those that differ, such as files of an encoder that decodes."""
    return np.stack(batch) if len({(part.shape, part.dtype) for part in batch}) == 1 else batch


def _looked_at(image: CxrImage, number: int) -> CxrImage:
    """The image, after a warning where a user should know something of it."""
    odd = [NOTES[note] for note in image.notes]
    odd += [] if looks_like_chest(image.pixels, image.max_value) else ["does not look like a chest radiograph"]
    if odd:
        warnings.warn(f"image {number}: {'; '.join(odd)}; embedded all the same", UserWarning, stacklevel=4)
    return image


def _image(image: Any, number: int, colour: Colour) -> CxrImage:
    if isinstance(image, CxrImage):
        return image
    if isinstance(image, str | os.PathLike):
        try:
            return read_image(image, colour)
        except ImageError as error:
            raise ImageError(error.kind, f"image {number} ({os.path.basename(image)}): {error}") from None
    pixels = np.asarray(image)
    if pixels.ndim != 2 or pixels.dtype not in (np.uint8, np.uint16) or not pixels.size:
        raise ImageError(
            "unsupported",
            f"image {number}: an array is (H, W) of uint8 or uint16, brighter = denser, not {pixels.shape} of "
            f"{pixels.dtype}",
        )
    content = sha256_hex(f"{pixels.shape}{pixels.dtype.str}".encode() + pixels.tobytes())
    return CxrImage(
        pixels=np.ascontiguousarray(pixels), bits=8 * pixels.dtype.itemsize, content_id=content, source="array"
    )
