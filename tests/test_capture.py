from dataclasses import dataclass

import pytest
import torch
from torch import nn

from actstore.errors import CaptureError, InvalidParameterError
from actstore.recording.capture import (
    Capture,
    find_readout,
    find_taps,
    readout_arrays,
    spatial_mean,
    unwrap,
)


def mlp():
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))


class Convolutional(nn.Module):
    """Feature maps, averaged over their positions, and a readout."""

    def __init__(self, head: nn.Module):
        super().__init__()
        self.block = nn.Conv2d(2, 6, 3)
        self.head = head

    def forward(self, x):  # noqa: D102
        x = self.block(x)
        return self.head(torch.relu_(x).mean((2, 3)))


@dataclass
class Outputs:
    """What some libraries return in place of a tuple."""

    mask: torch.Tensor
    features: torch.Tensor


class Structured(nn.Module):
    """Gives whole numbers and its features in a ``form``."""

    def __init__(self, form):
        super().__init__()
        self.linear = nn.Linear(4, 8)
        self.form = form

    def forward(self, x):  # noqa: D102
        return self.form(torch.ones(len(x), dtype=torch.long), self.linear(x))


def captured(model, layers, x, *, rows=None, pool=None, readout=None):
    taps = find_taps(model, layers, readout=readout)
    with Capture(taps, pool=pool) as capture:
        model(x)
        return capture.take(len(x) if rows is None else rows)


def test_the_readout_is_the_last_linear_layer():
    assert find_readout(mlp()) == "2"
    assert find_readout(Convolutional(nn.Linear(6, 3))) == "head"
    assert find_readout(mlp(), "0") == "0"


def test_a_linear_head_that_shares_the_embedding_s_weight_is_the_readout():
    model = nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 4), nn.Linear(4, 9, bias=False))
    model[2].weight = model[0].weight
    assert find_readout(model) == "2"
    assert find_readout(nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 3))) == "1"


def test_the_input_of_the_readout_is_captured():
    model, x = mlp(), torch.randn(5, 4)
    found = captured(model, {"last_hidden": "2"}, x, readout="2")
    assert torch.equal(found["last_hidden"], torch.relu(model[0](x)).detach())


def test_another_module_is_captured_at_its_output():
    model, x = mlp(), torch.randn(5, 4)
    found = captured(model, {"first": "0", "again": "0:output", "pixels": "0:input"}, x)
    assert torch.equal(found["first"], model[0](x).detach())
    assert torch.equal(found["again"], found["first"])
    assert torch.equal(found["pixels"], x)


def test_feature_maps_are_averaged_over_positions_before_a_relu_in_place_changes_them():
    model, x = Convolutional(nn.Linear(6, 3)), torch.randn(5, 2, 7, 7)
    found = captured(model, {"block": "block"}, x)["block"]
    torch.testing.assert_close(found, model.block(x).mean((2, 3)).detach())


def test_channels_last_gives_the_same_activations():
    model, x = Convolutional(nn.Linear(6, 3)), torch.randn(5, 2, 7, 7)
    plain = captured(model, {"block": "block"}, x)["block"]
    model = model.to(memory_format=torch.channels_last)
    turned = captured(model, {"block": "block"}, x.to(memory_format=torch.channels_last))["block"]
    torch.testing.assert_close(turned, plain)


def test_an_activation_changed_in_place_afterwards_is_captured_as_it_was():
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(inplace=True), nn.Linear(8, 3))
    x = torch.randn(5, 4)
    before = model[0](x).detach().clone()
    with torch.no_grad():
        assert torch.equal(captured(model, {"first": "0"}, x)["first"], before)


def test_a_pool_turns_tokens_into_rows():
    model, x = mlp(), torch.randn(5, 6, 4)
    found = captured(model, {"first": "0"}, x, pool=lambda h: h[:, 0])["first"]
    torch.testing.assert_close(found, model[0](x[:, 0]).detach())


@pytest.mark.parametrize(
    "form",
    [
        lambda mask, features: (mask, features),
        lambda mask, features: {"mask": mask, "features": features},
        lambda mask, features: [None, {"deep": [mask, features]}],
        Outputs,
    ],
    ids=["tuple", "dict", "nested", "dataclass"],
)
def test_the_first_floating_tensor_of_a_structured_output_is_captured(form):
    model, x = nn.Sequential(Structured(form)), torch.randn(5, 4)
    found = captured(model, {"features": "0"}, x)["features"]
    assert torch.equal(found, model[0].linear(x).detach())


def test_keyword_inputs_are_captured():
    class Keyword(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(4, 3)

        def forward(self, x):
            return self.head(input=x)

    x = torch.randn(5, 4)
    assert torch.equal(captured(Keyword(), {"h": "head:input"}, x)["h"], x)


def test_half_precision_under_autocast_is_captured():
    model, x = mlp(), torch.randn(5, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = captured(model, {"last_hidden": "2"}, x, readout="2")["last_hidden"]
    assert found.dtype == torch.bfloat16


def test_hooks_are_gone_after_the_block_even_after_an_error():
    model = mlp()
    taps = find_taps(model, {"a": "0", "b": "2:input"}, readout="2")
    with pytest.raises(RuntimeError, match="shapes"), Capture(taps):
        model(torch.randn(5, 3))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_data_parallel_and_compile_are_looked_through():
    model = mlp()
    assert unwrap(nn.DataParallel(model)) is model
    assert unwrap(torch.compile(nn.DataParallel(model))) is model
    taps = find_taps(model, {"last_hidden": "2"}, readout="2")
    with Capture(taps) as capture:
        nn.DataParallel(model)(torch.randn(5, 4))
        assert capture.take(5)["last_hidden"].shape == (5, 8)


def test_the_readout_without_a_bias_has_a_bias_of_zero():
    weight, bias = readout_arrays(nn.Linear(8, 3, bias=False))
    assert weight.shape == (3, 8)
    assert bias.tolist() == [0, 0, 0]


def test_spatial_mean_is_over_all_positions():
    maps = torch.arange(24.0).reshape(1, 2, 3, 4)
    assert spatial_mean(maps).tolist() == [[5.5, 17.5]]


def test_the_mean_of_half_precision_maps_has_the_digits_of_single_precision():
    maps = torch.tensor([1.0, 1.0078125]).bfloat16().reshape(1, 1, 1, 2)  # neighbours in bfloat16
    assert spatial_mean(maps).item() == 1.00390625


@pytest.mark.parametrize(
    ("model", "name", "message"),
    [
        (nn.Sequential(nn.Conv2d(3, 4, 3)), None, "has no nn.Linear"),
        (Convolutional(nn.Conv2d(6, 3, 1)), None, "'head' is a 1×1 convolution"),
        (Convolutional(nn.Conv2d(6, 3, 1)), "head", "'head' is a 1×1 convolution"),
        (nn.Sequential(nn.Embedding(5, 4), nn.ReLU()), None, "tied to the embedding '0'"),
        (nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 5)), "0", "tied to the embedding '0'"),
        (mlp(), "1", r"'1' is a ReLU.*2 \(Linear\), 0 \(Linear\)"),
        (mlp(), "fc", r"no module 'fc' in Sequential; it has 2 \(Linear\), 0 \(Linear\)"),
        (Convolutional(nn.Linear(6, 3)), "heads", r"it has head \(Linear\)"),
        (
            Convolutional(nn.Sequential(nn.Linear(6, 6), nn.Conv2d(6, 3, 1))),
            None,
            r"'head.0' comes before the 1×1 convolution 'head.1'.*readout='head.0'",
        ),
        (
            nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 16), nn.Linear(16, 4)),
            None,
            r"'2' gives as many outputs as the embedding '0' has.*'2:output'",
        ),
        (nn.Sequential(nn.LazyLinear(3)), None, "run one batch through the model first"),
    ],
)
def test_a_model_without_such_a_readout_is_told_what_it_has(model, name, message):
    with pytest.raises(InvalidParameterError, match=message):
        find_readout(model, name)


def test_a_layer_is_read_at_its_input_or_output_only():
    with pytest.raises(InvalidParameterError, match="'MODULE:output'"):
        find_taps(mlp(), {"a": "0:middle"}, readout=None)


def test_a_layer_that_is_not_called_is_an_error():
    model = mlp()
    with Capture(find_taps(model, {"a": "0"}, readout=None)) as capture:
        mlp()(torch.randn(5, 4))
        with pytest.raises(CaptureError, match="nothing passed '0'"):
            capture.take(5)


def test_a_layer_that_is_called_twice_for_a_batch_is_an_error():
    model, x = mlp(), torch.randn(5, 4)
    with Capture(find_taps(model, {"a": "0"}, readout=None)) as capture:
        model(x)
        model(x)
        with pytest.raises(CaptureError, match="called 2 times for one batch"):
            capture.take(5)


def test_rows_must_be_as_many_as_labels():
    with pytest.raises(CaptureError, match="5 rows for a batch of 6 labels"):
        captured(mlp(), {"a": "0"}, torch.randn(5, 4), rows=6)


def test_tokens_without_a_pool_are_an_error_that_asks_for_one():
    with pytest.raises(CaptureError, match=r"shape \(5, 6, 8\).*pass pool="):
        captured(mlp(), {"a": "0"}, torch.randn(5, 6, 4))
