"""The questions: kernels applied lazily to stores and labelled arrays, one file a question."""

from actstore.queries.clones import clones
from actstore.queries.moments import moments
from actstore.queries.noise import noise
from actstore.queries.reconstruction import reconstruction
from actstore.queries.scaling import scaling

__all__ = ["clones", "moments", "noise", "reconstruction", "scaling"]
