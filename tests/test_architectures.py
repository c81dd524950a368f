import numpy as np
import pytest
import torch
from torch import nn

from actstore.errors import InvalidParameterError
from actstore.recording import Recorder
from actstore.storage.catalogue import Catalogue
from actstore.training.architectures import densenet, mlp, parity_network, resnet50
from actstore.training.losses import square_hinge
from actstore.training.wide_resnet import Block, wide_resnet


def parameters(make, *arguments, **keywords):
    with torch.device("meta"):  # shapes without memory
        model = make(*arguments, **keywords)
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("millions", "make", "width", "keywords"),
    [
        # arXiv 1605.07146, tables 4 and 5; the names are WRN-depth-k, the width is 64 k
        (36.5, wide_resnet, 640, {"depth": 28}),
        (11.0, wide_resnet, 512, {"depth": 16}),
        (17.1, wide_resnet, 640, {"depth": 16}),
        (17.2, wide_resnet, 512, {"depth": 22}),
        (26.8, wide_resnet, 640, {"depth": 22}),
        (8.9, wide_resnet, 256, {"depth": 40}),
        # arXiv 1608.06993, table 2: DenseNet-BC of depth 100, 250, 190 and growth 12, 24, 40
        (0.8, densenet, 342, {"depth": 100}),
        (15.3, densenet, 1734, {"depth": 250}),
        (25.6, densenet, 2190, {"depth": 190}),
        (25.6, resnet50, 2048, {}),
        (25.6, resnet50, 2048, {"widen": "all"}),
    ],
)
def test_parameters_are_as_many_as_published(millions, make, width, keywords):
    assert round(parameters(make, width, **keywords) / 1e6, 1) == millions


def test_resnet_50_is_torchvision_s_to_the_last_parameter():
    from torchvision.models import resnet50 as published

    assert parameters(resnet50) == parameters(published) == 25_557_032
    torch.manual_seed(0)
    theirs, ours = published(), resnet50(2048)
    assert {n: p.shape for n, p in theirs.named_parameters()} == {
        n: p.shape for n, p in ours.named_parameters()
    }


@pytest.mark.parametrize(
    ("make", "width", "keywords", "shape"),
    [
        (wide_resnet, 16, {"depth": 10}, (3, 32, 32)),
        (wide_resnet, 32, {"depth": 16, "outputs": 100}, (3, 32, 32)),
        (wide_resnet, 48, {"depth": 10, "widen": "last", "base": 16, "channels": 1}, (1, 32, 32)),
        (densenet, 44, {}, (3, 32, 32)),
        (resnet50, 32, {"widen": "all"}, (3, 64, 64)),
        (resnet50, 512, {"outputs": 7}, (3, 64, 64)),
        (mlp, 24, {"widen": "last"}, (64,)),
        (parity_network, 24, {"batch_norm": True}, (10,)),
    ],
)
def test_the_recorded_layer_is_as_wide_as_asked(tmp_path, make, width, keywords, shape):
    model = make(width, **keywords)
    outputs = keywords.get("outputs", {resnet50: 1000, parity_network: 2}.get(make, 10))
    readout = "readout" if make is parity_network else None
    labels = torch.zeros(4, dtype=torch.long)
    batch = [(torch.randn(4, *shape), labels)]
    with (
        Recorder(tmp_path / "s.zarr", model, epochs=1, width=width, readout=readout) as recorder,
        recorder.epoch(1) as snapshot,
    ):
        for inputs, _ in snapshot.watch(batch, "test"):
            logits = model(inputs)
    assert logits.shape == (4, outputs)
    run = Catalogue(tmp_path / "s.zarr").only()
    recorded, linear = run.dataset("test").activations.values[0], run.readout().compute()
    assert recorded.shape == (4, width)
    expected = recorded @ linear.weight.values[0].T + linear.bias.values[0]
    np.testing.assert_allclose(logits.numpy(), expected, atol=1e-4)


def test_the_groups_of_a_wide_resnet_are_those_of_the_paper():
    def planes(**keywords):
        model = wide_resnet(**keywords)
        return [model.stem.out_channels, *(group[-1].conv2.out_channels for group in model.groups)]

    assert planes(width=128, depth=10) == [16, 32, 64, 128]  # WRN-10-2
    assert planes(width=64, depth=10) == [16, 16, 32, 64]
    assert planes(width=32, depth=10) == [8, 8, 16, 32]  # by shrinking the input planes
    assert planes(width=16, depth=10) == [4, 4, 8, 16]
    assert planes(width=20, depth=10, widen="last", base=128) == [16, 32, 64, 20]
    with torch.device("meta"):
        depths = {28: 4, 16: 2, 40: 6}
        for depth, blocks in depths.items():
            assert [len(group) for group in wide_resnet(16, depth=depth).groups] == [blocks] * 3


def test_the_last_layer_of_a_wide_resnet_is_signed():
    torch.manual_seed(0)
    model = wide_resnet(16, depth=10)
    seen = []
    model.readout.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    model(torch.randn(8, 3, 32, 32))
    assert (seen[0] < 0).float().mean() > 0.2


def test_a_block_adds_its_input_and_halves_the_resolution_with_its_stride():
    block = Block(8, 8, 1)
    nn.init.zeros_(block.conv2.weight)
    x = torch.randn(2, 8, 6, 6)
    torch.testing.assert_close(block(x.clone()), x)
    halved = Block(8, 12, 2)
    nn.init.zeros_(halved.conv2.weight)
    expected = nn.functional.conv2d(x, halved.shortcut.weight, stride=2)
    torch.testing.assert_close(halved(x), expected)


def test_weights_begin_as_in_the_paper():
    torch.manual_seed(0)
    model = wide_resnet(256, depth=10)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            fan_in = module.in_channels * module.kernel_size[0] ** 2
            expected = (2 / fan_in) ** 0.5
            assert float(module.weight.detach().std()) == pytest.approx(expected, rel=0.1)
            assert module.bias is None
        elif isinstance(module, nn.BatchNorm2d) and module.num_features > 100:
            gamma = module.weight.detach().numpy()
            assert 0 <= gamma.min() < 0.1 < 0.9 < gamma.max() <= 1
            assert not module.bias.any()
    parity = parity_network(32, batch_norm=True)
    linear = [m for m in parity.modules() if isinstance(m, nn.Linear)]
    assert len(linear) == 6
    for m in linear:
        weight = m.weight.detach().numpy()
        gram = weight @ weight.T if len(weight) <= weight.shape[1] else weight.T @ weight
        np.testing.assert_allclose(gram, np.eye(len(gram)), atol=1e-5)
        assert not m.bias.any()


def test_the_two_logits_of_a_sign_readout_differ_by_its_one_output():
    torch.manual_seed(0)
    model = parity_network(8)
    readout = model.readout
    x = torch.randn(20, 8)
    logits, output = readout(x), readout.slope(x)[:, 0]
    torch.testing.assert_close(logits[:, 1] - logits[:, 0], output)
    torch.testing.assert_close(x @ readout.weight.T + readout.bias, logits)
    assert torch.equal(logits.argmax(1) == 1, output > 0)
    labels = torch.arange(20) % 2
    margin = (2 * labels - 1).numpy() * output.detach().numpy()
    expected = np.mean(0.5 * np.maximum(0, 1 - margin) ** 2)
    assert square_hinge(logits, labels).item() == pytest.approx(expected)
    assert square_hinge(logits, labels, reduction="sum").item() == pytest.approx(20 * expected)


@pytest.mark.parametrize(
    ("make", "arguments", "message"),
    [
        (wide_resnet, {"width": 18}, "width 18 was given; .* multiple of 4"),
        (wide_resnet, {"width": 16, "depth": 20}, "depth 20 was given; .* 6n"),
        (wide_resnet, {"width": 16, "widen": "first"}, "widen is 'first'; expected all or last"),
        (densenet, {"width": 100}, "nearest widths are 99 and 110"),
        (densenet, {"width": 44, "depth": 42}, "depth 42"),
        (resnet50, {"width": 600}, "multiple of 512"),
        (resnet50, {"width": 100, "widen": "all"}, "multiple of 32"),
        (mlp, {"width": 8, "depth": 0}, "no hidden layer"),
        (parity_network, {"width": 8, "widen": "some"}, "widen is 'some'"),
    ],
)
def test_a_width_that_no_such_network_has_is_an_error_that_says_which_has(make, arguments, message):
    with pytest.raises(InvalidParameterError, match=message):
        make(**arguments)
