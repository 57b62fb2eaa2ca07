"""What a warm start takes over from its source."""

import pytest
import torch

from supernetnas.families.base import NetworkInput
from supernetnas.families.cells.config import SupernetConfig
from supernetnas.families.cells.family import Cells
from supernetnas.families.cells.supernet import CellSupernet
from supernetnas.families.layers import for_channels
from supernetnas.families.warm_start import starting_supernet
from supernetnas.training.seeds import seeded_modules


def source_supernet(inputs=3):
    with seeded_modules(1):
        source = CellSupernet(SupernetConfig("s1", 4, 3, (8, 8), inputs, 5))
        source.alphas_normal.data.normal_()
        source.alphas_reduce.data.normal_()
        source(torch.randn(8, inputs, 8, 8))  # its own running statistics
    return source


def headless(supernet):
    return {k: v for k, v in supernet.state_dict().items() if not k.startswith("classifier.")}


def start(source, inputs, seed=0, n_classes=7):
    seen = NetworkInput((16, 12), inputs)
    return starting_supernet(Cells(), seen, n_classes, seed, (source.config, headless(source)))


def test_weights_alphas_and_statistics_are_the_sources():
    source = source_supernet()
    target = start(source, 3)
    for name, value in headless(source).items():
        assert torch.equal(target.state_dict()[name], value), name
    assert target.genotype() == source.genotype()
    assert target.config == SupernetConfig("s1", 4, 3, (16, 12), 3, 7)


def test_the_source_stays_as_it_was():
    source = source_supernet()
    state, before = headless(source), {k: v.clone() for k, v in headless(source).items()}
    target = start(source, 1)
    with torch.no_grad():
        for parameter in target.parameters():
            parameter.zero_()
    assert source.config.input_channels == 3
    for name, value in state.items():
        assert torch.equal(value, before[name]), name


@pytest.mark.parametrize("training", [True, False])
def test_one_channel_equals_a_grey_image_of_three(training):
    source = source_supernet(3).double()
    target = start(source, 1).double()
    assert target.stem[0].weight.shape == (12, 1, 3, 3)
    generator = torch.Generator().manual_seed(0)
    grey = torch.randn(4, 1, 8, 8, dtype=torch.float64, generator=generator)
    expected = source.train(training).features(grey.repeat(1, 3, 1, 1))
    torch.testing.assert_close(
        target.train(training).features(grey), expected, rtol=1e-5, atol=1e-7
    )


@pytest.mark.parametrize(("of_source", "of_target"), [(1, 3), (3, 4), (4, 3)])
def test_grey_images_of_other_numbers_of_channels(of_source, of_target):
    source = source_supernet(of_source).eval()
    target = start(source, of_target).eval()
    grey = torch.randn(4, 1, 8, 8)
    expected = source.features(grey.repeat(1, of_source, 1, 1))
    result = target.features(grey.repeat(1, of_target, 1, 1))
    torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-5)


def test_channels_of_the_stem_train_apart():
    """They start equal but do not share memory."""
    weight = start(source_supernet(1), 3).stem[0].weight
    with torch.no_grad():
        weight[:, 0] += 1
    assert not torch.equal(weight[:, 0], weight[:, 1])


def test_the_head_is_new_small_and_seeded():
    source = source_supernet()
    first, again, other = start(source, 3, 0), start(source, 3, 0), start(source, 3, 1)
    assert first.classifier.weight.shape == (7, 64)
    assert torch.equal(first.classifier.weight, again.classifier.weight)
    assert not torch.equal(first.classifier.weight, other.classifier.weight)
    # A tenth of torch's uniform initialisation in +-1/sqrt(64).
    assert 0.01 < first.classifier.weight.abs().max() <= 0.0125
    assert first.classifier.bias.abs().max() == 0


def test_the_sources_head_is_not_taken_even_if_it_is_there():
    source = source_supernet()
    whole = source.config, source.state_dict()
    target = starting_supernet(Cells(), NetworkInput((8, 8), 3), 5, 0, whole)
    assert not torch.equal(target.classifier.weight, source.classifier.weight)


def test_the_global_random_state_stays():
    source = source_supernet()
    before = torch.get_rng_state()
    start(source, 3)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_state_that_does_not_fit():
    source = source_supernet()
    state = headless(source)
    del state["alphas_normal"]
    with pytest.raises(RuntimeError, match="alphas_normal"):
        starting_supernet(Cells(), NetworkInput((8, 8), 3), 5, 0, (source.config, state))


def test_without_a_source_all_weights_are_seeded():
    family, seen = Cells("s2", 4, 3), NetworkInput((12, 8), 1)
    first, again, other = (starting_supernet(family, seen, 5, seed) for seed in (0, 0, 1))
    assert first.config == SupernetConfig("s2", 4, 3, (12, 8), 1, 5)
    for name, value in first.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    assert not torch.equal(first.alphas_normal, other.alphas_normal)


def test_a_stem_sees_in_other_channels_what_it_saw_in_equal_ones():
    kernels = torch.randn(2, 3, 3, 3, generator=torch.Generator().manual_seed(0))
    assert for_channels(kernels, 3) is kernels
    grey = torch.randn(1, 1, 5, 5, generator=torch.Generator().manual_seed(1))
    expected = torch.nn.functional.conv2d(grey.expand(-1, 3, -1, -1), kernels)
    for channels in (1, 2, 13):
        adapted = for_channels(kernels, channels)
        assert adapted.shape == (2, channels, 3, 3) and adapted.is_contiguous()
        found = torch.nn.functional.conv2d(grey.expand(-1, channels, -1, -1), adapted)
        torch.testing.assert_close(found, expected)
