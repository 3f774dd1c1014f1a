"""Many small positive definite systems in float32, one after the other, while other threads go on.

NumPy solves systems of any precision in float64, and SciPy's functions hold Python's lock. LAPACK's own routine does
neither; SciPy hands its address to compiled code (`scipy.linalg.cython_lapack`), which ctypes calls without the lock.
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

import numpy as np
from scipy.linalg import cython_lapack


@cache
def _sposv() -> Any:
    capsule = cython_lapack.__pyx_capi__["sposv"]
    name, pointer = ctypes.pythonapi.PyCapsule_GetName, ctypes.pythonapi.PyCapsule_GetPointer
    name.restype, name.argtypes = ctypes.c_char_p, [ctypes.py_object]
    pointer.restype, pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    # uplo, n, nrhs, a, lda, b, ldb, info
    return ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 8)(pointer(capsule, name(capsule)))


def solve_in_place(systems: np.ndarray, sides: np.ndarray) -> np.ndarray:
    """Replaces right-hand sides by the solutions; the systems are overwritten.

    Args:
        systems: `(P, M, M)` float32, symmetric, in C order.
        sides: `(P, R, M)` float32, in C order: R right-hand sides of each system.

    Returns:
        `(F,)` numbers of the systems that are not positive definite in float32; their sides hold nothing of use.
    """
    if systems.dtype != np.float32 or sides.dtype != np.float32:
        raise TypeError("systems and sides are float32")
    if not (systems.flags.c_contiguous and sides.flags.c_contiguous):
        raise ValueError("systems and sides are in C order")
    count, size = systems.shape[:2]
    if systems.shape != (count, size, size) or sides.shape != (count, sides.shape[1], size):
        raise ValueError(f"systems {systems.shape} and sides {sides.shape} don't fit")
    triangle, order, number, info = (
        ctypes.c_char(b"L"),
        ctypes.c_int(size),
        ctypes.c_int(sides.shape[1]),
        ctypes.c_int(),
    )
    at = [ctypes.addressof(each) for each in (triangle, order, number, info)]
    solve, failed = _sposv(), []
    system, side = systems.ctypes.data, sides.ctypes.data
    for index in range(count):
        solve(at[0], at[1], at[2], system, at[1], side, at[1], at[3])
        if info.value:
            failed.append(index)
        system += systems.strides[0]
        side += sides.strides[0]
    return np.array(failed, dtype=np.intp)
