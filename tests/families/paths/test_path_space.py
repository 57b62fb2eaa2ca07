"""Spaces of single paths, as data."""

import json
from itertools import pairwise

import pytest

from supernetnas.families.paths import PathArchitecture, PathConfig, PathNetworkConfig, PathSpace

SHUFFLE, MOBILE = PathSpace(), PathSpace("mobilenetv2")


def test_the_papers_space():
    assert SHUFFLE.depths == (4, 4, 8, 4)
    assert SHUFFLE.genes == (4,) * 20
    layers = list(SHUFFLE.layers((224, 224)))
    assert [layer.outputs for layer in layers[::4]] == [64, 160, 320, 320, 640]
    assert (SHUFFLE.stem, SHUFFLE.features) == (16, 1024)
    assert [place for place, layer in enumerate(layers) if layer.stride == 2] == [0, 4, 8, 16]
    assert [place for place, layer in enumerate(layers) if layer.first] == [0, 4, 8, 16]
    assert all(one.outputs == other.inputs for one, other in pairwise(layers))
    assert len(MOBILE.genes) == 21 and set(MOBILE.genes) == {6}


@pytest.mark.parametrize(
    ("side", "strides"),
    [
        (224, (2, 2, 2, 2, 2)),
        (128, (2, 2, 2, 2, 2)),
        (127, (1, 2, 2, 2, 2)),
        (64, (1, 2, 2, 2, 2)),
        (32, (1, 1, 2, 2, 2)),
        (8, (1, 1, 1, 1, 2)),
        (7, (1, 1, 1, 1, 1)),
    ],
)
def test_small_images_are_halved_less_often(side, strides):
    assert SHUFFLE.strides((side, side)) == strides
    assert SHUFFLE.strides((side, 3 * side)) == SHUFFLE.strides((3 * side, side)) == strides


def test_strides_of_mobilenet():
    assert MOBILE.strides((224, 224)) == (2, 2, 2, 2, 1, 2, 1)
    assert MOBILE.strides((32, 32)) == (1, 1, 2, 2, 1, 2, 1)


@pytest.mark.parametrize("width", [0.125, 0.3, 0.5, 1, 2, 4])
def test_widths(width):
    space = PathSpace(width=width)
    for layer in space.layers((32, 32)):
        assert layer.inputs % 4 == layer.outputs % 4 == 0
        assert layer.outputs > layer.inputs or not layer.first
    assert space.features == pytest.approx(1024 * width, abs=2)


@pytest.mark.parametrize("space", [SHUFFLE, MOBILE, PathSpace(width=0.5, depths=(1, 2, 3, 1))])
def test_genes_and_back(space):
    genes = [(3 * place) % n for place, n in enumerate(space.genes)]
    architecture = space.decode(genes)
    assert space.encode(architecture) == tuple(genes)
    assert [len(stage) for stage in architecture.stages] == list(space.depths)
    assert (
        PathArchitecture.from_dict(json.loads(json.dumps(architecture.to_dict()))) == architecture
    )
    assert len({architecture, space.decode(genes), space.smallest, space.largest}) == 3
    assert PathSpace.from_dict(json.loads(json.dumps(space.to_dict()))) == space


def test_genes_of_another_space():
    for genes in ((0,) * 19, (0,) * 19 + (4,), (-1,) * 20):
        with pytest.raises(ValueError, match="20 whole numbers from 0, below 4"):
            SHUFFLE.decode(genes)


def test_architectures_of_another_space():
    with pytest.raises(ValueError, match=r"\(4, 4, 8, 4\) layers; those of the architecture"):
        SHUFFLE.encode(MOBILE.smallest)
    with pytest.raises(ValueError, match="has 'k9'"):
        PathSpace(depths=(1, 1, 1, 1)).check(PathArchitecture((("k9",),) * 4))
    with pytest.raises(TypeError, match="Expected a PathArchitecture; got str"):
        SHUFFLE.check("k3")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "resnet"}, "one of 'shufflenetv2', 'mobilenetv2'; got 'resnet'"),
        ({"name": None}, "got None"),
        ({"width": 0.1}, "width must be from 0.125 to 8; got 0.1"),
        ({"width": float("nan")}, "width must be from"),
        ({"width": "1"}, "width must be a number"),
        ({"depths": (4, 4, 8)}, "4 whole numbers from 1 to 64, one for each stage"),
        ({"depths": (4, 4, 0, 4)}, "4 whole numbers"),
        ({"depths": (4, 4, 8.0, 4)}, "4 whole numbers"),
    ],
)
def test_what_is_no_space(arguments, message):
    with pytest.raises(ValueError, match=message):
        PathSpace(**arguments)


@pytest.mark.parametrize("data", [{}, [], {"stages": "k3"}, {"stages": [["k3", 5]]}, None])
def test_what_is_no_architecture(data):
    with pytest.raises(ValueError, match="is stored as"):
        PathArchitecture.from_dict(data)


def test_configs_and_back():
    config = PathConfig(SHUFFLE, (64, 32), 5, 7)
    assert PathConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    network = PathNetworkConfig(SHUFFLE, SHUFFLE.largest, (64, 32), 5, 7, 0.2)
    assert PathNetworkConfig.from_dict(json.loads(json.dumps(network.to_dict()))) == network
    assert len({config, network}) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_size": (32,)}, "height and width"),
        ({"image_size": (32, 10**6)}, "image_size must be an integer from 1 to 4096"),
        ({"input_channels": 0}, "input_channels must be an integer from 1"),
        ({"n_classes": 10**9}, "n_classes must be an integer from 1"),
        ({"n_classes": True}, "n_classes must be an integer"),
    ],
)
def test_sizes_that_a_stranger_may_claim(change, message):
    with pytest.raises(ValueError, match=message):
        PathConfig(SHUFFLE, **change)
    with pytest.raises(ValueError, match=message):
        PathNetworkConfig(SHUFFLE, SHUFFLE.smallest, **change)
