"""An elastic supernet computes what plain networks with parts of its weights compute."""

import copy
import json
import threading

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny_elastic import (
    BACKBONE,
    MEMBERS,
    SPACE,
    referee,
    tiny_images,
    tiny_supernet,
)
from torch.testing import assert_close

from supernetnas.families.elastic import (
    LITE0,
    LITE0_SPACE,
    ElasticConfig,
    NetworkConfig,
    member_costs,
)
from supernetnas.images.augmentation import Augmentation, ImageTensors
from supernetnas.search.costs import count_macs, count_parameters

EXACT = {"rtol": 1e-10, "atol": 1e-10}


def judged(supernet, architecture, images, training):
    """The referee's features, and the leaves and statistics that it used."""
    weights = {
        k: p.detach().clone().requires_grad_() for k, p in supernet.shared.named_parameters()
    }
    transforms = {
        tuple(map(int, key.split("_")[:2])): module.weight.detach().clone().requires_grad_()
        for key, module in supernet.transforms.items()
    }
    own = {}
    if architecture in supernet.config.members:
        buffers = supernet.statistics[supernet.config.members.index(architecture)].buffers_by_name()
        for name, buffer in buffers.items():
            module, _, kind = name.rpartition(".")
            if kind != "num_batches_tracked":
                own.setdefault(module, []).append(buffer.detach().clone())
    features = referee(weights, transforms, own, architecture, images, training)
    return features, weights, transforms, own


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("member", MEMBERS, ids=str)
def test_member_is_a_plain_network_with_sliced_weights(member, training):
    supernet = tiny_supernet().train(training)
    images = tiny_images(side=member.size)
    expected, weights, transforms, statistics = judged(supernet, member, images, training)
    features = supernet.features(images, member)
    assert_close(features, expected, **EXACT)

    direction = torch.randn(
        features.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64
    )
    (features * direction).sum().backward()
    (expected * direction).sum().backward()
    n_reached = 0
    for name, parameter in supernet.shared.named_parameters():
        if parameter.grad is None:
            assert weights[name].grad is None, name
            continue
        assert_close(parameter.grad, weights[name].grad, **EXACT)
        n_reached += 1
    assert n_reached >= 3 + 3 * len(member.stages)
    for key, module in supernet.transforms.items():
        place = tuple(map(int, key.split("_")[:2]))
        if transforms[place].grad is None:
            assert module.weight.grad is None
        else:
            assert_close(module.weight.grad, transforms[place].grad, **EXACT)
    assert all(p.grad is None for p in supernet.largest.parameters())

    index = MEMBERS.index(member)
    found = supernet.statistics[index].buffers_by_name()
    for name, (mean, variance) in statistics.items():
        assert_close(found[f"{name}.running_mean"], mean, **EXACT)
        assert_close(found[f"{name}.running_var"], variance, **EXACT)
        assert int(found[f"{name}.num_batches_tracked"]) == int(training)
    before = tiny_supernet()
    for other in set(range(len(MEMBERS))) - {index}:
        assert_close(supernet.statistics[other].mean, before.statistics[other].mean, **EXACT)


@pytest.mark.parametrize("member", MEMBERS, ids=str)
def test_extracted_network(member):
    supernet = tiny_supernet()
    images = tiny_images(side=20)  # resized by both
    network = supernet.network(member)
    assert_close(network(images), supernet(images, member), **EXACT)
    supernet.eval()
    found = supernet.statistics[MEMBERS.index(member)].buffers_by_name()
    assert_close(dict(network.trunk.named_buffers()), found, **EXACT)
    network.eval()
    assert_close(network(images), supernet(images, member), **EXACT)
    config = NetworkConfig.from_dict(json.loads(json.dumps(network.config.to_dict())))
    assert config == network.config
    before = copy.deepcopy(supernet.state_dict())
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(1)
    assert_close(supernet.state_dict(), before, rtol=0, atol=0)


def test_images_are_resized_to_the_architecture():
    supernet = tiny_supernet().eval()
    images = tiny_images(side=40)
    resized = F.interpolate(images, (17, 17), mode="bilinear", antialias=True)
    assert_close(supernet(images, MEMBERS[1]), supernet(resized, MEMBERS[1]), **EXACT)
    wide = tiny_images(side=40)[:, :, :8]
    assert supernet(wide, MEMBERS[1]).shape == (3, 4)
    assert_close(supernet(images, SPACE.largest.at(40)), supernet(images), **EXACT)


def test_largest_member_has_weights_of_its_own():
    supernet = tiny_supernet().eval()
    images = tiny_images(side=13)
    expected = supernet(images)
    assert_close(supernet(images, SPACE.largest.at(13)), expected, rtol=0, atol=0)
    assert_close(supernet.network(SPACE.largest.at(13)).eval()(images), expected, **EXACT)
    with torch.no_grad():
        for parameter in supernet.shared_parameters():
            parameter.add_(1)
    assert_close(supernet(images), expected, rtol=0, atol=0)
    supernet(images, SPACE.largest.at(13)).sum().backward()
    assert all(p.grad is None for p in supernet.shared_parameters())
    n_shared = sum(1 for _ in supernet.shared_parameters())
    n_largest = sum(1 for _ in supernet.largest.parameters())
    assert len(list(supernet.weight_parameters())) == n_shared + n_largest + 2


def test_kernel_transforms_start_at_the_centre():
    with torch.no_grad():
        supernet = tiny_supernet()
        for module in supernet.transforms.values():
            module.weight.copy_(torch.eye(9))
        slices = supernet.slices(SPACE.smallest)
    name = "stages.2.0._depthwise_conv.weight"
    whole = dict(supernet.shared.named_parameters())[name]
    assert_close(slices[name], whole[:10, :, 1:4, 1:4], rtol=0, atol=0)


@pytest.mark.parametrize("side", [8, 9, 15, 16, 31, 33])
@pytest.mark.parametrize("channels", [1, 2, 13])
def test_any_side_and_any_channels(side, channels):
    supernet = tiny_supernet(input_channels=channels)
    images = tiny_images(side=side, channels=channels)
    for member in (SPACE.smallest.at(side), SPACE.largest.at(side)):
        assert supernet(images, member).shape == (3, 4)
        network = supernet.network(member)
        costs = supernet.costs(member)
        assert costs.macs == count_macs(network, (channels, side, side))
        assert costs.parameters == count_parameters(network)


def test_costs_are_those_of_built_networks():
    supernet, random = tiny_supernet(), np.random.default_rng(0)
    for _ in range(20):
        architecture = SPACE.decode([int(random.integers(n)) for n in SPACE.genes])
        network = supernet.network(architecture)
        shape = (3, architecture.size, architecture.size)
        assert supernet.costs(architecture) == (
            count_macs(network, shape),
            count_parameters(network),
        )


def test_costs_of_lite0():
    """Counted by hand in the published description: 3.37 M parameters, 31.3 M MACs at 64 px."""
    costs = member_costs(LITE0, LITE0_SPACE.largest.at(64), input_channels=3, n_classes=1)
    assert costs.parameters - 1281 == 3_371_008
    assert round(costs.macs / 1e6, 1) == 31.3


def pixels(n=60, side=16, seed=0):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randint(256, (n, 3, side, side), generator=generator, dtype=torch.uint8)
    half = torch.full((3,), 0.5)
    return ImageTensors(values, half, half, Augmentation.NONE)


def test_recalibration_leaves_nothing_of_older_statistics():
    images, results = pixels(), []
    for seed in (0, 1):
        supernet = tiny_supernet().float()
        if seed:
            with torch.no_grad():
                for statistics in supernet.statistics:
                    statistics.mean.fill_(7)
        supernet.eval().recalibrate(
            images, generator=torch.Generator().manual_seed(0), batch_size=20
        )
        results.append([s.mean.clone() for s in supernet.statistics])
        assert not supernet.training
        for statistics in supernet.statistics:
            assert statistics.batches.tolist() == [3] * len(statistics.batches)
    assert_close(*results, rtol=0, atol=0)
    first = supernet.statistics[0].buffers_by_name()["stem_norm.running_mean"]
    everything = supernet.shared.stem(images.clean(torch.arange(60)))
    assert_close(first, everything.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)


def test_recalibration_of_some_members_and_of_strangers():
    supernet = tiny_supernet().float()
    before = [s.mean.clone() for s in supernet.statistics]
    supernet.recalibrate(pixels(), MEMBERS[1:2], generator=torch.Generator().manual_seed(0))
    changed = [not torch.equal(s.mean, b) for s, b in zip(supernet.statistics, before, strict=True)]
    assert changed == [False, True, False]
    with pytest.raises(ValueError, match="keeps no statistics for 32 px"):
        supernet.recalibrate(
            pixels(), [SPACE.smallest.at(32)], generator=torch.Generator().manual_seed(0)
        )


def test_member_without_statistics():
    """It trains on those of the batch; to evaluate it would be wrong."""
    supernet = tiny_supernet(members=())
    images = tiny_images()
    trained = supernet(images, MEMBERS[0])
    assert_close(trained, tiny_supernet()(images, MEMBERS[0]), **EXACT)
    with pytest.raises(ValueError, match="keeps no batch-norm statistics for 16 px"):
        supernet.eval()(images, MEMBERS[0])


def test_evaluation_mode_trains_with_frozen_statistics():
    supernet = tiny_supernet().eval()
    before = [s.mean.clone() for s in supernet.statistics]
    supernet(tiny_images(), MEMBERS[0]).sum().backward()
    assert supernet.shared.stem.weight.grad.abs().sum() > 0
    for statistics, mean in zip(supernet.statistics, before, strict=True):
        assert torch.equal(statistics.mean, mean)
        assert not statistics.batches.any()


def test_copies_and_state_dicts():
    supernet = tiny_supernet()
    supernet(tiny_images(), MEMBERS[0])
    copied = copy.deepcopy(supernet)
    other = tiny_supernet(seed=1)
    other.load_state_dict(supernet.state_dict())
    images = tiny_images(seed=1)
    for member in MEMBERS:
        expected = supernet.eval()(images, member)
        assert_close(copied.eval()(images, member), expected, rtol=0, atol=0)
        assert_close(other.eval()(images, member), expected, rtol=0, atol=0)
    config = ElasticConfig.from_dict(json.loads(json.dumps(supernet.config.to_dict())))
    assert config == supernet.config


def test_shared_state_is_all_that_members_need():
    supernet, other = tiny_supernet(), tiny_supernet(seed=1)
    supernet(tiny_images(), MEMBERS[0])
    largest, images = copy.deepcopy(other.largest.state_dict()), tiny_images(seed=1)
    state = {name: tensor.float() for name, tensor in supernet.shared_state().items()}
    other.load_shared_state(state)
    for member in MEMBERS:
        assert_close(
            other.eval().features(images, member),
            supernet.eval().features(images, member),
            rtol=1e-5,
            atol=1e-5,
        )
    assert_close(other.largest.state_dict(), largest, rtol=0, atol=0)
    assert not any(name.startswith(("largest", "classifier")) for name in state)


def test_shared_state_of_another_config_is_refused():
    supernet = tiny_supernet()
    with pytest.raises(ValueError, match=r"3 tensors are missing, .* such as 'statistics\.2"):
        supernet.load_shared_state(tiny_supernet(MEMBERS[:2]).shared_state())
    with pytest.raises(ValueError, match=r"1 tensors are .* 'shared\.stem\.weight'"):
        supernet.load_shared_state(tiny_supernet(input_channels=1).shared_state())


def test_threads_do_not_see_each_others_weights():
    supernets = [tiny_supernet(seed=seed).eval() for seed in range(4)]
    images = tiny_images()
    expected = [supernet(images, MEMBERS[1]) for supernet in supernets]
    wrong = []

    def run(supernet, right):
        for _ in range(20):
            if not torch.equal(supernet(images, MEMBERS[1]), right):
                wrong.append(supernet)

    threads = [threading.Thread(target=run, args=a) for a in zip(supernets, expected, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_global_random_state_stays():
    state = torch.random.get_rng_state()
    supernet = tiny_supernet()
    supernet(tiny_images(), SPACE.smallest.at(9))
    supernet.network(MEMBERS[0])
    assert torch.equal(torch.random.get_rng_state(), state)


def test_bad_input():
    supernet = tiny_supernet()
    with pytest.raises(ValueError, match="at least 8 pixels high and wide; got 16x7"):
        supernet(tiny_images()[..., :7], MEMBERS[0])
    with pytest.raises(ValueError, match="has 4 stages"):
        supernet(tiny_images(), LITE0_SPACE.smallest)
    with pytest.raises(ValueError, match="n_classes must be a positive whole number; got 0"):
        ElasticConfig(SPACE, 3, 0)
    with pytest.raises(ValueError, match="leave 32 px"):
        ElasticConfig(SPACE, 3, 4, (SPACE.largest,))
    with pytest.raises(ValueError, match="occurs twice"):
        ElasticConfig(SPACE, 3, 4, (MEMBERS[0], MEMBERS[0]))
    assert BACKBONE.stages[0].expansion == 1  # a stage without an expanding convolution is tested
