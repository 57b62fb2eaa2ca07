"""The supernet of all paths, and the networks of single ones."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.testing import assert_close

from supernetnas.families.paths import PathConfig, PathNetwork, PathSpace, PathSupernet
from supernetnas.parameters import ParameterError
from supernetnas.search.samplers import Uniform
from supernetnas.training.execution import Execution
from supernetnas.training.seeds import seeded_modules

SPACES = [
    PathSpace(width=0.125, depths=(2, 1, 1, 1)),
    PathSpace("mobilenetv2", width=0.125, depths=(2, 1, 1, 1, 1, 1)),
]


def build(space=SPACES[0], size=(16, 16), channels=3, n_classes=4, seed=0):
    with seeded_modules(seed):
        return PathSupernet(PathConfig(space, size, channels, n_classes)).double()


def images(n=4, channels=3, size=(16, 16), seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, channels, *size, generator=generator, dtype=torch.float64)


def drawn(space, n=3, seed=0):
    return [Uniform(space, seed=seed)(step)[0] for step in range(n)]


@pytest.mark.parametrize("space", SPACES, ids=lambda s: s.name)
@pytest.mark.parametrize("size", [(8, 8), (16, 16), (17, 40), (64, 64)])
@pytest.mark.parametrize("channels", [1, 5])
def test_images_of_any_size(space, size, channels):
    supernet = build(space, size, channels)
    for architecture in (None, *drawn(space)):
        features = supernet.features(images(2, channels, size), architecture)
        assert features.shape == (2, space.features)
        assert supernet(images(2, channels, size), architecture).shape == (2, 4)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("space", SPACES, ids=lambda s: s.name)
def test_a_path_is_what_its_network_and_its_steps_are(space, training):
    supernet = build(space)
    for architecture in drawn(space):
        supernet.train()
        supernet(images(seed=1), architecture)
        network = supernet.train(training).network(architecture)
        assert network.training == training
        expected = supernet(images(), architecture)
        assert_close(network(images()), expected)
        x = images()
        for step in supernet.steps(architecture):
            x = step.module(x)
        assert_close(x, expected)


def test_without_an_architecture_it_is_the_smallest():
    supernet = build()
    assert_close(supernet(images()), supernet(images(), supernet.space.smallest))


def test_steps_of_paths_that_begin_alike():
    supernet = build()
    first, other = (supernet.space.decode(genes) for genes in ((0, 1, 2, 3, 0), (0, 1, 3, 3, 0)))
    pairs = zip(supernet.steps(first), supernet.steps(other), strict=True)
    alike = [one.key == two.key for one, two in pairs]
    assert alike == [True, True, True, False, True, True, True, True]
    assert supernet.steps(first)[-1].module is supernet.classifier


@pytest.mark.parametrize("space", SPACES, ids=lambda s: s.name)
def test_gradients_reach_the_path_and_nothing_else(space):
    supernet = build(space)
    (architecture,) = drawn(space, 1)
    supernet(images(), architecture).sum().backward()
    names = [name for stage in architecture.stages for name in stage]
    for name, parameter in supernet.named_parameters():
        part, place, choice, *_ = [*name.split("."), ""]
        on_path = part != "layers" or choice == names[int(place)]
        assert (parameter.grad is not None) == on_path, name


def test_batch_norms_of_supernets_have_no_scale_and_those_of_networks_do():
    supernet = build()
    network = supernet.network(supernet.space.largest)
    for module, affine in ((supernet, False), (network, True)):
        norms = [m for m in module.modules() if isinstance(m, nn.BatchNorm2d)]
        assert norms and all(norm.affine is affine for norm in norms)
    assert supernet.classifier.bias is None and network.classifier.bias is None


def test_a_block_by_its_plain_definition():
    """Every other channel goes around the main branch of all blocks but the first of a stage."""
    supernet = build()
    block = supernet.layers[1]["k5"]
    x = images(2, 8)
    y = block(x)
    assert_close(y[:, :4], x[:, [0, 2, 4, 6]])
    pointwise, _, _, depthwise, _, last, _, _ = block.main

    def norm(z):
        mean, variance = z.mean((0, 2, 3), keepdim=True), z.var((0, 2, 3), False, keepdim=True)
        return (z - mean) / (variance + 1e-5).sqrt()

    z = norm(F.conv2d(x[:, [1, 3, 5, 7]], pointwise.weight)).relu()
    z = norm(F.conv2d(z, depthwise.weight, padding=2, groups=4))
    assert_close(y[:, 4:], norm(F.conv2d(z, last.weight)).relu())
    assert depthwise.weight.shape[-1] == 5


def test_the_first_block_of_a_stage_uses_the_whole_input_twice():
    supernet = build(size=(64, 64))
    layer = next(iter(supernet.space.layers((64, 64))))
    for name in supernet.space.choices:
        block = supernet.layers[0][name]
        assert block(images(2, layer.inputs, (8, 8))).shape == (2, layer.outputs, 4, 4)
        assert block.beside[0].weight.shape[:2] == (layer.inputs, 1)
        assert block.main[0].weight.shape[1] == (1 if name == "xception" else layer.inputs)


def test_residuals_where_shapes_allow_it():
    supernet = build(SPACES[1])
    residual = [layer["k3e3"].residual for layer in supernet.layers]
    layers = list(supernet.space.layers((16, 16)))
    expected = [row.stride == 1 and row.inputs == row.outputs for row in layers]
    assert residual == expected and residual[1]
    x = images(2, layers[1].inputs)
    block = supernet.layers[1]["k3e3"]
    assert_close(block(x) - block.main(x), x)


def test_an_architecture_of_another_space():
    with pytest.raises(ValueError, match="The stages of the space have"):
        build()(images(), PathSpace().smallest)


def test_execution():
    supernet = build()
    assert supernet.place(torch.device("cpu"), Execution("bfloat16")) is supernet
    for execution in (
        Execution(compile=True),
        Execution(compile="graph"),
        Execution(checkpointing=True),
    ):
        with pytest.raises(ParameterError, match="neither compiled nor captured"):
            supernet.place(torch.device("cpu"), execution)


def test_networks_are_built_from_what_their_config_says():
    supernet = build()
    network = supernet.network(supernet.space.largest, dropout=0.3)
    with seeded_modules(1):
        again = PathNetwork(network.config).double()
    again.load_state_dict(network.state_dict())
    assert_close(again.eval()(images()), network.eval()(images()))
    assert network.config.dropout == 0.3
