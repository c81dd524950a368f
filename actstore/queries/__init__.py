"""The questions: kernels applied lazily to stores and labelled arrays, one file a question."""

from actstore.queries.clones import clones
from actstore.queries.dynamics import dynamics
from actstore.queries.ensemble import ensemble
from actstore.queries.error import error
from actstore.queries.moments import moments
from actstore.queries.noise import noise
from actstore.queries.reconstruction import reconstruction
from actstore.queries.scaling import scaling
from actstore.queries.spectrum import spectrum

__all__ = [
    "clones",
    "dynamics",
    "ensemble",
    "error",
    "moments",
    "noise",
    "reconstruction",
    "scaling",
    "spectrum",
]
