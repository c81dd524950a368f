"""Recording activations while a model trains (PyTorch)."""

from actstore.recording.recorder import Recorder
from actstore.recording.schedule import Schedule, estimate_bytes
from actstore.recording.snapshot import EpochSnapshot

__all__ = ["EpochSnapshot", "Recorder", "Schedule", "estimate_bytes"]
