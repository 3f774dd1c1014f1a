"""CheXlocalize's heat maps: a pickle for each, read without running anything that it holds.

The files are named `PATIENT_STUDY_VIEW_FINDING_map.pkl` and hold a dict: `map`, a tensor `(1, 1, rows, columns)`;
`prob`; `task`, the finding; `cxr_dims`, width and height of the picture. Tensors are torch's of before 1.6, or what its
storages write to this day. Only arrays are built; another class or function ends the reading.
"""

from __future__ import annotations

import io
import math
import pickle
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from cxr_embed.errors import MapError
from cxr_embed.explanation.record import MapFolder, MapRecord

SUFFIX = "_map.pkl"
_MAGIC = 0x1950A86A20F9469CFC6C  # torch's, before its archives
_LARGEST = 1 << 30  # bytes
_STORAGES: dict[str, np.dtype[Any]] = {
    "FloatStorage": np.dtype("<f4"),
    "DoubleStorage": np.dtype("<f8"),
    "HalfStorage": np.dtype("<f2"),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
    "ByteStorage": np.dtype("u1"),
    "BoolStorage": np.dtype("?"),
}


@dataclass(frozen=True)
class PickledMaps(MapFolder):
    """A folder of CheXlocalize's maps."""

    def load(self, record: MapRecord) -> np.ndarray:
        """The map of an entry, `(rows, columns)` float32; raises as `MapFolder` does."""
        return _checked(self.root / record.map)[0]


def has_pickled_maps(root: Path) -> bool:
    """Whether some lie in the folder."""
    return next(root.rglob(f"*{SUFFIX}"), None) is not None


def read_pickled_maps(root: Path) -> PickledMaps:
    """The maps of a folder.

    Raises:
        MapError: naming a file that is no such map.
    """
    records = []
    for path in sorted(root.rglob(f"*{SUFFIX}")):
        image, _, finding = path.name.removesuffix(SUFFIX).rpartition("_")
        _, (width, height), score = _checked(path)
        records.append(
            MapRecord(
                image_id=image,
                patient_id=image.partition("_")[0],
                finding=finding,
                score=score,
                map=path.relative_to(root).as_posix(),
                area=(0.0, 0.0, float(width), float(height)),
                height=height,
                width=width,
            )
        )
    return PickledMaps(root, {"encoder": "", "method": "of CheXlocalize's files", "layer": ""}, tuple(records))


def _checked(path: Path) -> tuple[np.ndarray, tuple[int, int], float | None]:
    """Map `(rows, columns)` float32, width and height of the picture, score.

    Raises:
        MapError: naming the file.
    """
    try:
        if path.stat().st_size > _LARGEST:
            raise MapError(f"{path}: larger than {_LARGEST >> 30} GiB, not a heat map")
        data = path.read_bytes()
    except OSError as error:
        raise MapError(f"{path}: cannot be read ({error.strerror})") from None
    try:
        found = _Arrays(io.BytesIO(data)).load()
        values = np.asarray(found["map"])
        width, height = (int(side) for side in found["cxr_dims"])
        score = found.get("prob")
    except _Refused as refused:
        raise MapError(f"{path}: not opened: this pickle asks for {refused}, and only arrays are built") from None
    except Exception as error:  # a damaged pickle fails in a dozen ways
        raise MapError(f"{path}: not a heat map of CheXlocalize ({type(error).__name__})") from None
    grid = values.squeeze() if values.ndim > 2 else values
    if grid.ndim != 2 or grid.dtype.kind != "f" or 0 in grid.shape or not np.isfinite(grid).all():
        raise MapError(f"{path}: not a heat map: {values.dtype} {values.shape}, expected finite (1, 1, rows, columns)")
    if min(width, height) < 1 or width * height > 1 << 28:
        raise MapError(f"{path}: a picture of {width} x {height} pixels")
    return grid.astype(np.float32), (width, height), score if isinstance(score, float) else None


class _Refused(Exception):
    """What a pickle named."""


@dataclass(frozen=True)
class _Storage:
    """The class of a storage, by its name."""

    dtype: np.dtype


class _Arrays(pickle.Unpickler):
    """Builds arrays, and what Python writes as text: dicts, lists, numbers."""

    def __init__(self, file: io.BytesIO, stored: dict[str, np.ndarray] | None = None) -> None:
        super().__init__(file)
        self._stored = stored if stored is not None else {}

    def find_class(self, module: str, name: str) -> Any:
        known: Mapping[tuple[str, str], Callable[..., Any]] = {
            ("torch._utils", "_rebuild_tensor_v2"): _tensor,
            ("torch.storage", "_load_from_bytes"): _storage,
            ("collections", "OrderedDict"): OrderedDict,
        }
        if module == "torch" and name in _STORAGES:
            return _Storage(_STORAGES[name])
        if (module, name) not in known:
            raise _Refused(f"{module}.{name}"[:80])
        return known[module, name]

    def persistent_load(self, pid: Any) -> Any:
        kind, storage, key, _, count = pid[:5]
        if kind != "storage" or not isinstance(storage, _Storage) or not 0 <= count <= _LARGEST:
            raise pickle.UnpicklingError("no storage")
        if count * storage.dtype.itemsize > _LARGEST:
            raise pickle.UnpicklingError("a storage of that size")
        return self._stored.setdefault(key, np.zeros(count, storage.dtype))


def _storage(data: bytes) -> np.ndarray:
    """The values of a storage that torch wrote as bytes: a head of pickles, then keys, counts and values."""
    file = io.BytesIO(data)
    stored: dict[str, np.ndarray] = {}
    read = partial(_Arrays, file, stored)
    if read().load() != _MAGIC:
        raise pickle.UnpicklingError("another format")
    read().load(), read().load()  # the protocol; the machine
    found = read().load()
    for key in read().load():
        count = int.from_bytes(file.read(8), "little")
        if key not in stored or count != len(stored[key]):
            raise pickle.UnpicklingError("a storage of another size")
        stored[key][:] = np.frombuffer(file.read(stored[key].nbytes), stored[key].dtype)
    if not isinstance(found, np.ndarray):
        raise pickle.UnpicklingError("no storage")
    return found


def _tensor(values: np.ndarray, offset: int, shape: Sequence[int], strides: Sequence[int], *_: Any) -> np.ndarray:
    """An array of a storage's values; never a view of what lies beyond them."""
    if not isinstance(values, np.ndarray) or len(shape) != len(strides) or len(shape) > 8:
        raise pickle.UnpicklingError("no tensor")
    if offset < 0 or min((*shape, *strides, 0)) < 0:
        raise pickle.UnpicklingError("a tensor beyond its values")
    last = offset + sum((side - 1) * step for side, step in zip(shape, strides, strict=True))
    if 0 in shape or last >= len(values) or math.prod(shape) > len(values):
        raise pickle.UnpicklingError("a tensor beyond its values")
    steps = [step * values.itemsize for step in strides]
    return np.lib.stride_tricks.as_strided(values[offset:], tuple(shape), steps).copy()
