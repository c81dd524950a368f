"""A layer with too few samples is answered for, with a warning."""

import warnings

import pytest

import actstore
from actstore.errors import UndecidedWarning
from actstore.testing import planted_dataset

QUESTIONS = ["reconstruction", "clones", "noise", "dynamics", "scaling"]


@pytest.mark.parametrize("question", QUESTIONS)
def test_fewer_than_two_samples_a_neuron_are_warned_of(question: str) -> None:
    with pytest.warns(UndecidedWarning, match="at worst 50 samples for 32 neurons"):
        getattr(actstore, question)(planted_dataset(samples=50, width=32))


@pytest.mark.parametrize("question", QUESTIONS)
def test_two_samples_a_neuron_are_enough(question: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        getattr(actstore, question)(planted_dataset(samples=64, width=32))
