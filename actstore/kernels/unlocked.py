"""BLAS routines of SciPy called without the interpreter's lock, so that threads run them at once.

The functions of :mod:`scipy.linalg.blas` hold the lock while they compute: two Dask threads, or
a thread that reads ahead, would wait for each other. The same routines are exported by
:mod:`scipy.linalg.cython_blas`, and a call through :mod:`ctypes` lets go of the lock. Matrices
are float64 in Fortran order, and only lower triangles are read and written.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import blas, cython_blas

Matrix: TypeAlias = NDArray[np.float64]
Routine: TypeAlias = Callable[..., None]

_INT, _DOUBLE = ctypes.POINTER(ctypes.c_int), ctypes.POINTER(ctypes.c_double)
_KINDS: dict[str, Any] = {"char": ctypes.c_char_p, "int": _INT, "d": _DOUBLE}


def _routine(name: str) -> Routine | None:
    """Return a routine of BLAS; None where SciPy does not export it with 32-bit integers."""
    capsule = getattr(cython_blas, "__pyx_capi__", {}).get(name)
    if capsule is None:
        return None
    api = ctypes.pythonapi
    api.PyCapsule_GetName.restype = ctypes.c_char_p
    api.PyCapsule_GetName.argtypes = [ctypes.py_object]
    api.PyCapsule_GetPointer.restype = ctypes.c_void_p
    api.PyCapsule_GetPointer.argtypes = [ctypes.py_object, ctypes.c_char_p]
    signature = api.PyCapsule_GetName(capsule)
    # "void (char *, int *, __pyx_t_5scipy_6linalg_11cython_blas_d *, …)"
    words = signature.decode().removeprefix("void (").removesuffix(")").split(", ")
    names = [word.removesuffix(" *").rsplit("_", 1)[-1] for word in words]
    if not set(names) <= set(_KINDS):
        return None
    kinds = [_KINDS[name] for name in names]
    pointer = api.PyCapsule_GetPointer(capsule, signature)
    return ctypes.CFUNCTYPE(None, *kinds)(pointer)


_dsyrk = _routine("dsyrk")
_dtrsm = _routine("dtrsm")
_dsymv = _routine("dsymv")


def add_gram(c: Matrix, a: Matrix, *, scale: float = 1.0) -> None:
    """Add ``scale · a aᵀ`` to the lower triangle of ``c``, in place.

    Parameters
    ----------
    c : array
        ``(n, n)``, Fortran order.
    a : array
        ``(n, k)``, Fortran order.

    Examples
    --------
    >>> c = np.zeros((2, 2), order="F")
    >>> add_gram(c, np.asfortranarray([[1.0], [2.0]]))
    >>> c.tolist()
    [[1.0, 0.0], [2.0, 4.0]]
    """
    n, k = _shape(a)
    if _shape(c) != (n, n):
        raise ValueError(f"a matrix of shape {c.shape} for the products of {n} rows")
    if _dsyrk is None:
        blas.dsyrk(scale, a, beta=1.0, c=c, lower=1, overwrite_c=1)
    elif n and k:
        _dsyrk(
            b"L", b"N", _int(n), _int(k), _double(scale), _at(a), _int(n), _double(1.0), _at(c),
            _int(n),
        )  # fmt: skip


def solve_right(triangle: Matrix, b: Matrix) -> Matrix:
    """Return ``b L⁻ᵀ`` for a lower triangle L, in Fortran order.

    Parameters
    ----------
    triangle : array
        ``(k, k)``, Fortran order.
    b : array
        ``(m, k)``, any order; it is not changed.

    Examples
    --------
    >>> solve_right(np.asfortranarray([[2.0, 0.0], [1.0, 1.0]]), np.array([[2.0, 3.0]])).tolist()
    [[1.0, 2.0]]
    """
    x = np.array(b, order="F")
    m, k = x.shape
    if _shape(triangle) != (k, k):
        raise ValueError(f"a triangle of shape {triangle.shape} for {k} columns")
    if _dtrsm is None:
        solved: Matrix = blas.dtrsm(1.0, triangle, x, side=1, lower=1, trans_a=1, overwrite_b=1)
        return solved
    if m and k:
        _dtrsm(
            b"R", b"L", b"T", b"N", _int(m), _int(k), _double(1.0), _at(triangle), _int(k),
            _at(x), _int(m),
        )  # fmt: skip
    return x


def symmetric_times(a: Matrix, x: Matrix) -> Matrix:
    """Return the product of a symmetric matrix, of which the lower triangle counts, and a vector.

    Parameters
    ----------
    a : array
        ``(n, n)``, Fortran order.
    x : array
        ``(n,)``, contiguous.

    Examples
    --------
    >>> symmetric_times(np.asfortranarray([[1.0, 9.0], [2.0, 3.0]]), np.array([1.0, 1.0])).tolist()
    [3.0, 5.0]
    """
    n = len(x)
    if _shape(a) != (n, n) or x.dtype != np.float64 or not x.flags.c_contiguous:
        raise ValueError(f"a matrix of shape {a.shape} for a {x.dtype} vector of {n}")
    if _dsymv is None:
        product: Matrix = blas.dsymv(1.0, a, x, lower=1)
        return product
    y = np.zeros(n)
    if n:
        _dsymv(
            b"L", _int(n), _double(1.0), _at(a), _int(n), _at(x), _int(1), _double(0.0), _at(y),
            _int(1),
        )  # fmt: skip
    return y


def _shape(a: Matrix) -> tuple[int, int]:
    """Return the shape of a matrix that can be handed on as it lies."""
    if a.ndim != 2 or a.dtype != np.float64 or not a.flags.f_contiguous:
        raise ValueError(f"a {a.dtype} array of shape {a.shape}, not float64 in Fortran order")
    return a.shape[0], a.shape[1]


def _int(value: int) -> Any:
    return ctypes.byref(ctypes.c_int(value))


def _double(value: float) -> Any:
    return ctypes.byref(ctypes.c_double(value))


def _at(a: Matrix) -> Any:
    return a.ctypes.data_as(_DOUBLE)
