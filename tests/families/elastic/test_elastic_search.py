"""Members are chosen by linear probes, within limits, and nothing of the supernet is changed."""

import copy
import json
from dataclasses import replace
from typing import ClassVar

import pytest
import torch
from tiny_elastic import SPACE, tiny_supernet
from torch.testing import assert_close

from supernetnas.families.elastic import ElasticArchitecture
from supernetnas.families.elastic.family import Elastic
from supernetnas.families.elastic.member_search import Front, MemberSearch, Probe, RandomMember
from supernetnas.images.augmentation import Augmentation, ImageTensors
from supernetnas.parameters import ParameterError
from supernetnas.search.limits import Latency, Limits
from supernetnas.search.method import SearchTask
from supernetnas.search.splitting import Split
from supernetnas.training.batch_norm import recalibrate_batch_norm
from supernetnas.training.batches import LabelledImages
from supernetnas.training.execution import FLOAT32
from supernetnas.training.probes import linear_head, linear_probe

SIDE = 16
LARGEST = SPACE.largest.at(SIDE)
EQUAL = {"rtol": 0, "atol": 0}

# Blocks that cost differently, of one side, so that each share of a front has two or none.
_ROWS = ((2, 3, 1), (2, 5, 1), (3, 5, 1), (3, 5, 2), (4, 5, 2), (6, 3, 2), (6, 5, 2))


def member(expansion, kernel, depth):
    """A member whose last stages are as given."""
    stages = [[(3, 1)]]
    for stage, most in zip(SPACE.backbone.stages[1:], (2, 3, 1), strict=True):
        block = (min(kernel, stage.kernel), min(expansion, stage.expansion))
        stages.append([block] * min(depth, most))
    return ElasticArchitecture(SIDE, tuple(map(tuple, stages)))


MANY = tuple(member(*row) for row in _ROWS)


def labelled(n=48, n_classes=4, seed=1):
    """Images of noise, of each class a colour, in part."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % n_classes
    pixels = torch.randn(n, 3, SIDE, SIDE, generator=generator)
    colours = torch.randn(n_classes, 3, 1, 1, generator=generator)
    images = ImageTensors(
        pixels + 0.3 * colours[labels], torch.zeros(3), torch.ones(3), Augmentation(0.125)
    )
    return LabelledImages(images, labels)


DATA = labelled()  # neither the cheapest nor the most expensive members are best


@pytest.fixture(autouse=True)
def exact_features(monkeypatch):
    name = "supernetnas.families.elastic.member_search.fast_inference"
    monkeypatch.setattr(name, lambda device: FLOAT32)


@pytest.fixture(scope="module")
def supernet():
    supernet = tiny_supernet(members=MANY).float()
    supernet.recalibrate(DATA.images, generator=torch.Generator().manual_seed(0))
    return supernet.eval()


def budget_of(supernet, limits):
    return Elastic().budget(supernet.config, Elastic().input((SIDE, SIDE), 3, SIDE), 4, limits)


def started(method, supernet, limits=None, seed=0):
    budget = budget_of(supernet, limits) if limits else None
    task = SearchTask(
        DATA, DATA, 16, torch.Generator().manual_seed(seed), None, budget, limits or Limits()
    )
    search = method.start(supernet, task)
    assert search.validation_accuracy == float("-inf")
    return search, task


def searched(method, supernet, limits=None, seed=0):
    """The search after its epoch, and the architecture."""
    search, task = started(method, supernet, limits, seed)
    search.run()
    return search, method.derive(search, task)


@torch.no_grad()
def features(supernet, architecture):
    network = supernet.network(architecture).eval()
    return network.features(DATA.images.clean(torch.arange(len(DATA)))).numpy()


def probe(supernet, architecture):
    return linear_probe(features(supernet, architecture), DATA.labels.numpy())


def test_without_limits_it_is_the_largest(supernet):
    assert Elastic().probes_tell(budget_of(supernet, Limits()))
    search, architecture = searched(Probe(), supernet)
    assert architecture == LARGEST
    assert search.members == search.chosen == [LARGEST]
    assert search.scores == {LARGEST: pytest.approx(probe(supernet, LARGEST))}
    (row,) = search.history
    assert row["stage"] == "search" and row["epoch"] == 1 and row["candidates"] == 0
    assert not search.searches
    assert row["validation_accuracy"] == search.validation_accuracy == search.scores[LARGEST]
    assert search.heads == []


@pytest.mark.parametrize("seconds, told", [(0.3, True), (0.2, False)])
def test_probes_tell_where_the_largest_is_fast_enough(supernet, seconds, told):
    """Which other member keeps a limit on latency is known when they are built."""
    asked = []

    def measure(network, shape):
        asked.append((network.config.architecture, shape))
        return 0.25

    limits = Limits(max_latency=Latency(seconds, batch_size=5, measure=measure))
    assert Elastic().probes_tell(budget_of(supernet, limits)) == told
    assert asked == [(LARGEST, (5, 3, LARGEST.size, LARGEST.size))]
    limits = replace(limits, max_macs=min(supernet.costs(member).macs for member in MANY))
    assert not Elastic().probes_tell(budget_of(supernet, limits)) and len(asked) == 1


def test_limits_that_the_largest_keeps_change_nothing(supernet):
    macs, parameters = supernet.costs(LARGEST)
    search, architecture = searched(Probe(), supernet, Limits(macs, parameters))
    assert architecture == LARGEST and search.members == [LARGEST]


@pytest.mark.parametrize("kind", ["max_macs", "max_parameters"])
def test_under_limits_the_best_by_probe_of_those_that_keep_them(supernet, kind):
    place = ("max_macs", "max_parameters").index(kind)
    whole = {SPACE.largest.at(m.size) for m in MANY if m.size < LARGEST.size}
    costs = {m: supernet.costs(m)[place] for m in (*MANY, *whole, LARGEST)}
    macs = {m: supernet.costs(m).macs for m in costs}
    probes = {m: probe(supernet, m) for m in costs}
    chosen = set()
    for limit in sorted(set(costs.values()))[:-1]:
        search, architecture = searched(Probe(), supernet, Limits(**{kind: limit}))
        is_whole = SPACE.is_whole(architecture)
        assert Elastic().probes_tell(budget_of(supernet, Limits(**{kind: limit}))) == is_whole
        kept = [m for m in costs if costs[m] <= limit]
        within = [m for m in kept if macs[m] >= max(macs[k] for k in kept) / 2]
        assert set(search.scores) == {*within, LARGEST}  # that of the teacher is reported
        for m, score in search.scores.items():
            assert score == pytest.approx(probes[m])
        assert architecture in within
        assert probes[architecture] == max(probes[m] for m in within)
        assert search.validation_accuracy == search.scores[architecture]
        assert search.members == [LARGEST, architecture]
        assert len(search.heads) == 1
        weight, bias = linear_head(features(supernet, architecture), DATA.labels.numpy(), 4)
        assert_close(search.heads[0], (weight, bias), rtol=1e-4, atol=1e-4)
        deviation = torch.from_numpy(features(supernet, LARGEST).std(axis=0)).clamp(min=1e-3)
        assert_close(search.deviation, deviation, rtol=1e-4, atol=1e-5)
        chosen.add(architecture)
    assert len(chosen) > 1


def test_of_equal_probes_the_most_expensive(supernet, monkeypatch):
    monkeypatch.setattr("supernetnas.families.elastic.member_search.linear_probe", lambda *_: 0.5)
    limit = sorted(supernet.costs(m) for m in MANY)[4]
    _, architecture = searched(Probe(), supernet, Limits(limit.macs))
    assert supernet.costs(architecture) == limit


@pytest.mark.parametrize("limited", [False, True])
@pytest.mark.parametrize("n_members", [1, 2, 3, 8])
def test_front(supernet, n_members, limited):
    """Of each share of the largest's cost the best by probe; the largest, or the best of all."""
    costs = {m: supernet.costs(m).macs for m in (*MANY, LARGEST)}
    limit = sorted(costs.values())[3] if limited else None
    search, architecture = searched(
        Front(n_members=n_members), supernet, Limits(limit) if limited else None
    )
    allowed = [m for m in MANY if not limited or costs[m] <= limit]
    probes = {m: probe(supernet, m) for m in (*MANY, LARGEST)}
    wanted = [max(probes[m] for m in allowed)] if limited else [probes[LARGEST]]
    for place in range(n_members):
        high = 0.5 / 2**place * costs[LARGEST]
        group = [probes[m] for m in allowed if high / 2 < costs[m] <= high]
        if group:
            wanted.append(max(group))
    assert [probes[m] for m in search.chosen] == pytest.approx(wanted)
    assert len(wanted) >= 2
    assert search.members[0] == LARGEST
    assert architecture == search.chosen[0]
    assert architecture == LARGEST if not limited else architecture in allowed
    assert len(set(search.members)) == len(search.members) == len(search.heads) + 1
    assert {LARGEST, *search.chosen} == set(search.members) <= {LARGEST, *allowed}


@pytest.fixture(scope="module")
def shrinking():
    """A supernet with a member of fewer pixels, and so the largest at these, too."""
    supernet = tiny_supernet(members=(*MANY, MANY[0].at(8))).float()
    supernet.recalibrate(DATA.images, generator=torch.Generator().manual_seed(0))
    return supernet.eval()


class TestFewerPixels:
    """The largest at fewer pixels is taken where it uses two thirds of what is allowed."""

    def test_one_member(self, shrinking):
        costs = sorted(shrinking.costs(m).macs for m in shrinking.config.members)
        taken = {side: shrinking.costs(SPACE.largest.at(side)).macs for side in (8, 12)}
        for limit in sorted([*costs, *taken.values()]):
            side = max((side for side, cost in taken.items() if cost <= limit), default=None)
            dearest = max(cost for cost in [*costs, *taken.values()] if cost <= limit)
            search, architecture = searched(Probe(), shrinking, Limits(limit))
            if side is not None and taken[side] > 2 / 3 * dearest:
                assert architecture == SPACE.largest.at(side)
                assert search.members == [LARGEST, architecture]
                assert search.scores.keys() == set(search.members)
            else:
                assert not SPACE.is_whole(architecture)
                assert not any(SPACE.is_whole(m) for m in {*search.scores} - {LARGEST})
        assert taken[12] < costs[-2] < 1.5 * taken[12] and costs[0] < taken[8] < costs[1]

    def test_random(self, shrinking):
        """A baseline draws a shape, unless there is none."""
        limit = shrinking.costs(SPACE.largest.at(12)).macs
        for seed in range(5):
            _, architecture = searched(RandomMember(), shrinking, Limits(limit), seed)
            assert not SPACE.is_whole(architecture)

    def test_front(self, shrinking):
        """Of the share between a quarter and a half it is the largest, unless others cost more."""
        whole = SPACE.largest.at(8)
        share = sorted(shrinking.costs(m).macs for m in MANY)[:3]
        assert whole not in searched(Front(), shrinking)[0].chosen
        search, architecture = searched(Front(), shrinking, Limits(share[1]))
        assert shrinking.costs(whole).macs > 2 / 3 * share[1]
        assert architecture == whole and search.members == [LARGEST, whole, MANY[0].at(8)]


def test_front_holds_images_out():
    assert Front().holds_out and Front().validation_share == 0.2
    assert Front(validation_fraction=0.5).validation_share == 0.5
    assert not Probe().holds_out and Probe().validation_share == 0
    for bad in ({"n_members": 0}, {"n_members": 9}, {"validation_fraction": 0}):
        with pytest.raises(ParameterError, match=next(iter(bad))):
            Front(**bad).check()


def test_random_member(supernet):
    costs = {m: supernet.costs(m).macs for m in MANY}
    limit = sorted(costs.values())[4]
    near = {m for m in MANY if 0.75 * limit <= costs[m] <= limit}
    drawn = set()
    for seed in range(20):
        search, architecture = searched(RandomMember(), supernet, Limits(limit), seed)
        assert search.members == [LARGEST, architecture]
        drawn.add(architecture)
    assert drawn == near and len(near) > 1
    assert searched(RandomMember(), supernet)[1] == LARGEST


@pytest.mark.parametrize("method", [Probe(), Front(), RandomMember()], ids=lambda m: m.name)
def test_a_search_leaves_the_supernet_as_it_is(supernet, method):
    before = {name: tensor.clone() for name, tensor in supernet.state_dict().items()}
    config = supernet.config
    searched(method, supernet.train(), Limits(sorted(supernet.costs(m) for m in MANY)[3].macs))
    assert_close(dict(supernet.state_dict()), before, **EQUAL)
    assert supernet.config is config
    assert all(parameter.grad is None for parameter in supernet.parameters())


@pytest.mark.parametrize("method", [Probe(), Front()], ids=lambda m: m.name)
def test_state(supernet, method):
    limits = Limits(sorted(supernet.costs(m) for m in MANY)[3].macs)
    search, architecture = searched(method, supernet, limits)
    tensors, state = search.state()
    state = json.loads(json.dumps(state))
    again, task = started(method, supernet, limits, seed=1)
    again.load_state({name: tensor.clone() for name, tensor in tensors.items()}, state)
    assert again.run() == search.history  # nothing is left to do
    assert method.derive(again, task) == architecture
    for name in ("members", "chosen", "scores", "epoch"):
        assert getattr(again, name) == getattr(search, name)
    assert_close(again.heads, search.heads, **EQUAL)
    assert_close(again.deviation, search.deviation, **EQUAL)
    assert torch.equal(again.generator.get_state(), search.generator.get_state())


def test_classes_of_a_single_image(supernet):
    """They are in the classifiers, but no probe can leave an image of theirs out."""
    labels = torch.tensor([0] * 20 + [1] * 20 + [2] * 7 + [3])
    alone = LabelledImages(DATA.images, labels)
    task = SearchTask(alone, alone, 16, torch.Generator().manual_seed(0))
    search = Probe().start(supernet, task)
    search.run()
    expected = linear_probe(features(supernet, LARGEST)[:47], labels[:47].numpy())
    assert search.scores[LARGEST] == pytest.approx(expected)
    taught = MemberSearch(supernet, task, [MANY], True)
    taught.run()
    assert taught.heads[0][0].shape == (4, 9)
    pixels = torch.rand(4, 3, SIDE, SIDE, generator=task.generator)
    few = LabelledImages(ImageTensors(pixels, torch.zeros(3), torch.ones(3)), torch.arange(4))
    search = MemberSearch(supernet, SearchTask(few, few, 16, task.generator), [MANY], True)
    search.run()
    assert search.members == [LARGEST, MANY[0]]  # the first of equals
    assert set(search.scores.values()) == {0.0}


class TestEvolution:
    SMALL: ClassVar = {"generations": 2, "population": 4, "mutations": 2, "crossovers": 1}

    def evolved(self, supernet, limits=None, size=SIDE):
        method = Elastic().method("evolution").set_params(**self.SMALL)
        task = SearchTask(
            DATA, DATA, 16, torch.Generator().manual_seed(0), limits=limits or Limits()
        )
        search = method.start(copy.deepcopy(supernet), task)
        search.run()
        return search, method.derive(search, task)

    def test_it_compares_by_probes_and_trains_nothing(self, supernet):
        search, architecture = self.evolved(supernet)
        assert len(search.scores) == 8
        assert {a.size for a in search.scores} == {SIDE}  # no more pixels than the images have
        before, after = supernet.state_dict(), search.supernet.state_dict()
        assert_close(after, before, **EQUAL)
        assert search.scores[architecture].accuracy == search.validation_accuracy
        network = search.supernet.network(architecture)
        generator = torch.Generator().manual_seed(search.seed)
        recalibrate_batch_norm(network, DATA.images, generator=generator)
        with torch.no_grad():
            seen = network.eval().features(DATA.images.clean(torch.arange(len(DATA))))
        probed = linear_probe(seen.numpy(), DATA.labels.numpy())
        assert search.scores[architecture].accuracy == pytest.approx(probed, abs=0.03)

    def test_limits_are_kept(self, supernet):
        most = supernet.costs(SPACE.smallest.at(SIDE)).macs * 2
        search, _ = self.evolved(supernet, Limits(max_macs=most))
        assert max(supernet.costs(a).macs for a in search.scores) <= most

    def test_what_it_finds_is_trained_with_the_largest_as_its_teacher(self, supernet):
        search, architecture = self.evolved(supernet)
        module, inherited = Elastic(frozen_stages=0).learner(
            search, architecture, dropout=0.0, seed=0, pretrained=True
        )
        assert module.members == (LARGEST, architecture)
        assert 0 < inherited < 1
        assert architecture in search.supernet.config.members
        network = search.supernet.network(architecture)
        running = network.trunk.stem_norm.running_mean
        assert running.abs().sum() > 0  # the statistics of the images
        assert Elastic().teaches(module)
        assert torch.isfinite(module(DATA.images.clean(torch.arange(8)))).all()
        rows = Elastic().front(module, search)
        assert [row["architecture"] for row in rows] == [LARGEST, architecture]
        assert rows[1]["probe_accuracy"] == search.scores[architecture].accuracy

    def test_it_can_be_split(self, supernet):
        method = Elastic().method("evolution").set_params(**self.SMALL)
        method.set_params(epochs=1, split=Split(epochs=1, n_batches=1))
        task = SearchTask(DATA, DATA, 16, torch.Generator().manual_seed(0))
        search = method.start(copy.deepcopy(supernet), task)
        search.run()
        architecture = method.derive(search, task)
        part = search.searched.part(architecture)
        assert_close(search.supernet.state_dict(), part.state_dict(), **EQUAL)
        assert search.scorer([architecture]) == [search.scores[architecture]]
        module, _ = Elastic(frozen_stages=0).learner(
            search, architecture, dropout=0.0, seed=0, pretrained=True
        )
        assert architecture in module.members

    def test_the_whole_network_needs_no_further_statistics(self, supernet):
        search, _ = self.evolved(supernet)
        n_members = len(search.supernet.config.members)
        module, _ = Elastic(frozen_stages=0).learner(
            search, LARGEST, dropout=0.0, seed=0, pretrained=True
        )
        assert module.members == (LARGEST,)
        assert len(search.supernet.config.members) == n_members


@pytest.mark.parametrize("method", [Probe(), Front(n_members=1)])
def test_members_that_are_too_slow_when_built_are_not_chosen(supernet, method):
    def measure(network, shape):
        assert shape == (1, 3, SIDE, SIDE)
        return sum(p.numel() for p in network.parameters()) / 1e6

    seconds = {m: supernet.costs(m).parameters / 1e6 for m in MANY}
    most = sorted(seconds.values())[3]
    limits = Limits(max_latency=Latency(most, measure=measure))
    _, architecture = searched(method, supernet, limits)
    assert seconds[architecture] <= most
    fastest = min(seconds.values())
    with pytest.raises(ValueError, match=r"max_latency=.* cannot be met.*fastest takes"):
        searched(method, supernet, Limits(max_latency=Latency(fastest / 2, measure=measure)))
    milliseconds = Latency(1000 * max(seconds.values()), measure=measure)
    with pytest.raises(ValueError, match=r"is no limit: it is in seconds"):
        searched(method, supernet, Limits(max_latency=milliseconds))
