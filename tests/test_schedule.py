import pytest

from actstore.errors import InvalidParameterError
from actstore.recording import Schedule, estimate_bytes
from actstore.recording.schedule import PAPER_EPOCHS


def test_paper_schedule_of_200_epochs_is_the_list_of_the_authors():
    assert Schedule("paper").epochs(200) == PAPER_EPOCHS


@pytest.mark.parametrize(
    ("rule", "total", "epochs"),
    [
        ("every:10", 35, (10, 20, 30, 35)),
        ("geometric", 20, (1, 2, 4, 8, 16, 20)),
        ("geometric:3", 30, (1, 3, 9, 27, 30)),
        ("0,1,5", 5, (0, 1, 5)),
        ("5, 0", 7, (0, 5, 7)),
        ("0,every:4", 8, (0, 4, 8)),
        ("0,paper", 100, (0, 1, 2, 5, 10, 20, 40, 60, 80, 100)),
        ("zero_train_error", 9, (9,)),
        ("0", 0, (0,)),
    ],
)
def test_terms_join_and_the_last_epoch_is_always_recorded(rule, total, epochs):
    assert Schedule(rule).epochs(total) == epochs


@pytest.mark.parametrize("factor", ["1.1", "1.5", "2", "10"])
def test_geometric_epochs_grow_and_stay_within_the_training(factor):
    epochs = Schedule(f"geometric:{factor}").epochs(500)
    assert epochs[0] == 1
    assert epochs[-1] == 500
    assert list(epochs) == sorted(set(epochs))


def test_schedule_is_made_of_a_rule_a_list_or_nothing():
    assert Schedule.of([0, 3]).epochs(3) == (0, 3)
    assert Schedule.of("every:2").epochs(4) == (2, 4)
    assert Schedule.of(None) == Schedule("paper")
    assert Schedule.of(Schedule("0")) == Schedule("0")


def test_an_event_needs_one_slot_more():
    assert Schedule("1,5").slots(10) == 3
    assert Schedule("1,5,zero_train_error").slots(10) == 4


@pytest.mark.parametrize(
    "rule", ["", "every", "every:0", "every:x", "geometric:1", "geometric:x", "often", "-1", "1;2"]
)
def test_an_unknown_term_is_named_with_the_terms_that_exist(rule):
    with pytest.raises(InvalidParameterError, match=r"expected an epoch, 'every:N'"):
        Schedule(rule)


def test_a_listed_epoch_beyond_the_training_is_an_error():
    with pytest.raises(InvalidParameterError, match="epoch 120 of a training of 100 epochs"):
        Schedule("1,120").epochs(100)


def test_estimated_bytes_are_those_of_the_arrays():
    samples = {"train": 800, "test": 997}
    activations = 10 * (800 + 997) * (64 + 32) * 4
    readout = 10 * (5 * 64 + 5) * 4
    widths = {"last_hidden": 64, "block": 32}
    assert estimate_bytes(samples, widths=widths, slots=10, outputs=5) == activations + readout


def test_moments_take_two_widths_a_sample_of_the_space() -> None:
    samples, widths = {"train": 50_000, "test": 10_000}, {"last_hidden": 256, "block3": 64}
    both = ("activations", "moments")
    kept = {
        keep: estimate_bytes(samples, widths=widths, slots=3, keep=keep)
        for keep in (("activations",), ("moments",), both)
    }
    matrices = 3 * 2 * 8 * sum(w * w + w + 1 for w in widths.values())  # slots, splits, float64
    assert kept["moments",] == matrices
    assert kept[both] == matrices + kept["activations",]
