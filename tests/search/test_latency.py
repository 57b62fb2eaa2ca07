"""Measured latency, its prediction, and limits on it."""

import json
import math
import random

import numpy as np
import pytest
import torch
from scipy.stats import kendalltau
from tiny_elastic import SPACE as ELASTIC
from tiny_elastic import tiny_supernet
from tiny_paths import PathSpace, drawn, tiny_paths
from tiny_search import labelled, seeded
from torch import nn

from supernetnas import SupernetTransferClassifier
from supernetnas.fitting.checkpoints import fingerprint
from supernetnas.fitting.parameter_values import decode_parameters, encode_parameters
from supernetnas.parameters import ParameterError
from supernetnas.search import latency as latency_module
from supernetnas.search.bounds import Bounds
from supernetnas.search.evolution import Evolution
from supernetnas.search.latency import LatencyModel, measured_seconds, time_in_turn
from supernetnas.search.limits import Latency, Limits
from supernetnas.search.method import SearchTask
from supernetnas.search.shifting import Shifting

SHAPE = (3, 8, 8)
SPACE = PathSpace(layers=5)


class Clock:
    """Time that passes only where it is told to."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        monkeypatch.setattr(latency_module, "perf_counter", lambda: self.now)

    def taking(self, seconds):
        def call():
            self.now += seconds() if callable(seconds) else seconds

        return call


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


@pytest.fixture
def slow_convolutions(clock):
    """Every convolution takes as many milliseconds as its kernel has values, a network 1 more."""
    handles = [
        torch.nn.modules.module.register_module_forward_hook(
            lambda module, *_: clock.taking(
                math.prod(module.kernel_size) / 1000 if isinstance(module, nn.Conv2d) else 0
            )()
        )
    ]
    yield clock
    for handle in handles:
        handle.remove()


def test_the_median_after_a_warm_up(clock):
    durations = iter([9, 9, 9, 1, 5, 2])
    (seconds,) = time_in_turn([clock.taking(lambda: next(durations))], repeats=3)
    assert seconds == 2


def test_a_machine_that_becomes_slower_favours_none(clock):
    speed = [1.0]

    def drifting():
        speed[0] *= 1.01
        return speed[0]

    times = time_in_turn([clock.taking(drifting)] * 5, repeats=20)
    assert max(times) / min(times) < 1.05


def test_networks_are_measured_in_evaluation_mode(clock):
    seen = []

    class Network(nn.Module):
        def forward(self, images):
            seen.append((self.training, tuple(images.shape), torch.is_grad_enabled()))
            clock.taking(0.25)()

    (seconds,) = measured_seconds(
        [Network().train()], SHAPE, Latency(batch_size=4, repeats=2), torch.device("cpu")
    )
    assert seconds == 0.25
    assert set(seen) == {(False, (4, *SHAPE), False)}


def test_parts_predict_networks(slow_convolutions):
    supernet = tiny_paths(space=SPACE).train()
    model = LatencyModel(supernet, SHAPE, Latency(repeats=3))
    for architecture in drawn(SPACE, 10):
        seconds = (9 + sum((2 * c + 1) ** 2 for c in architecture.choices)) / 1000
        assert model(architecture) == pytest.approx(seconds)
        assert model.measured([architecture]) == [pytest.approx(seconds)]
    assert all(module.training for module in supernet.modules())


def test_networks_that_take_longer_than_their_parts_correct_the_prediction(
    slow_convolutions, monkeypatch
):
    supernet = tiny_paths(space=SPACE)
    build = supernet.network

    class Slower(nn.Module):
        def __init__(self, network):
            super().__init__()
            self.network = network

        def forward(self, images):
            before = slow_convolutions.now
            result = self.network(images)
            slow_convolutions.now += 0.5 * (slow_convolutions.now - before)
            return result

    monkeypatch.setattr(supernet, "network", lambda architecture: Slower(build(architecture)))
    model = LatencyModel(supernet, SHAPE, Latency(repeats=3))
    assert model.factor == pytest.approx(1.5)
    (architecture,) = drawn(SPACE, 1)
    seconds = 1.5 * (9 + sum((2 * c + 1) ** 2 for c in architecture.choices)) / 1000
    assert model(architecture) == pytest.approx(seconds)


def test_members_of_every_size_are_predicted(slow_convolutions):
    supernet = tiny_supernet().float()
    model = LatencyModel(supernet, (3, 16, 16), Latency(repeats=1))
    generator = random.Random(0)
    members = [ELASTIC.decode([generator.randrange(n) for n in ELASTIC.genes]) for _ in range(5)]
    for member, seconds in zip(members, model.measured(members), strict=True):
        assert model(member) == pytest.approx(seconds)


def test_a_callable_measures_every_architecture_once():
    asked = []

    def measure(network, shape):
        assert shape == (2, *SHAPE)
        asked.append(network)
        return float(sum(p.numel() for p in network.parameters()))

    supernet = tiny_paths(space=SPACE)
    model = LatencyModel(supernet, SHAPE, Latency(batch_size=2, measure=measure))
    before = len(asked)
    architectures = drawn(SPACE, 4)
    first = [model(a) for a in architectures]
    assert first == [model(a) for a in architectures] == model.measured(architectures)
    assert len(asked) == before + 4
    costs = [supernet.costs(a).parameters for a in architectures]
    assert kendalltau(first, costs).statistic == 1


@pytest.mark.parametrize(
    ("measure", "words"),
    [
        (lambda network, shape: 1 / 0, "failed.*ZeroDivisionError"),
        (lambda network: 1.0, "failed.*TypeError"),
        (lambda network, shape: None, "returned None"),
        (lambda network, shape: -1.0, "returned -1.0"),
        (lambda network, shape: math.nan, "returned nan"),
        (lambda network, shape: "1", "returned '1'"),
        (lambda network, shape: True, "returned True"),
        (lambda network, shape: np.float64(np.inf), "inf"),
    ],
)
def test_a_callable_that_fails_is_found_before_the_search(measure, words):
    task = SearchTask(
        labelled(6),
        labelled(6),
        4,
        seeded(),
        limits=Limits(max_latency=Latency(1.0, measure=measure)),
    )
    with pytest.raises(ValueError, match=f"measure of max_latency.*{words}"):
        Evolution(epochs=100).start(tiny_paths(), task)


@pytest.mark.parametrize(
    ("latency", "words"),
    [
        (Latency(0), "'seconds' parameter of Latency"),
        (Latency("fast"), "'seconds'"),
        (Latency(1.0, batch_size=0), "'batch_size'"),
        (Latency(1.0, repeats=0.5), "'repeats'"),
        (Latency(1.0, measure=3), "'measure'.*callable"),
    ],
)
def test_values_that_may_not_be(latency, words):
    with pytest.raises(ParameterError, match=words):
        latency.check()
    Latency().check()
    Latency(0.1, measure=max).check()


def test_it_is_saved_unless_it_has_a_callable():
    latency = Latency(0.02, batch_size=4, repeats=7)
    encoded = json.loads(json.dumps(encode_parameters({"max_latency": latency})))
    assert decode_parameters(encoded) == {"max_latency": latency}
    with pytest.warns(UserWarning, match="max_latency"):
        assert encode_parameters({"max_latency": Latency(0.02, measure=max)}) == {}


def test_fits_with_other_limits_have_other_checkpoints():
    latencies = [Latency(0.02, measure=max), Latency(0.03, measure=max), Latency(0.02, measure=min)]
    names = {fingerprint({"max_latency": one}, [], [], "cpu") for one in latencies}
    assert len(names) == 3


@pytest.mark.parametrize("value", [0, -1.0, "20ms", math.nan, Latency(-1)])
def test_a_classifier_refuses_limits_that_are_none(value):
    clf = SupernetTransferClassifier("scratch", max_latency=value)
    with pytest.raises(ParameterError, match=r"'(max_latency|seconds)' parameter"):
        clf.fit(np.zeros((4, 8, 8)), [0, 0, 1, 1])


def test_a_search_that_keeps_no_limits_is_refused():
    clf = SupernetTransferClassifier("scratch", search="drnas", max_latency=1.0)
    with pytest.raises(ParameterError, match="max_latency need a search"):
        clf.fit(np.zeros((4, 8, 8)), [0, 0, 1, 1])


def test_a_limit_in_another_unit_is_refused(slow_convolutions):
    with pytest.raises(ValueError, match=r"in seconds, and a large network takes 0.134"):
        Bounds(tiny_paths(space=SPACE), Limits(max_latency=Latency(20, repeats=1)), SHAPE)


def test_a_limit_that_none_keeps_is_refused_with_the_fastest(slow_convolutions):
    with pytest.raises(ValueError, match=r"the fastest network takes 0.014 seconds for a batch of"):
        Bounds(tiny_paths(space=SPACE), Limits(max_latency=Latency(0.013, repeats=1)), SHAPE)
    Bounds(tiny_paths(space=SPACE), Limits(max_latency=Latency(0.0141, repeats=1)), SHAPE)


def test_the_fastest_need_not_be_the_smallest():
    def measure(network, shape):
        return 1 + sum(1 for m in network.modules() if getattr(m, "kernel_size", 0) == (1, 1))

    limits = Limits(max_latency=Latency(1.5, measure=measure))
    bounds = Bounds(tiny_paths(space=SPACE), limits, SHAPE)
    assert 0 not in bounds.cheapest.choices
    assert bounds.keep(bounds.cheapest)
    assert not bounds.keep(SPACE.smallest)
    assert 0 not in bounds.random(seeded()).choices


def evolving(limits, generations=2, **settings):
    settings = {"population": 6, "mutations": 2, "crossovers": 2, "parents": 3, **settings}
    task = SearchTask(labelled(30), labelled(24, seed=2), 8, seeded(), limits=limits)
    return Evolution(generations, epochs=0, **settings).start(tiny_paths(space=SPACE), task)


def searched(limits, **settings):
    search = evolving(limits, **settings)
    search.run()
    return search


def test_every_candidate_is_predicted_within_the_limit(slow_convolutions):
    search = searched(Limits(max_latency=Latency(0.05, repeats=1)))
    assert {search.bounds.latency(a) <= 0.05 for a in search.scores} == {True}
    assert search.bounds.confirmed(search.derive())


def test_a_network_that_is_too_slow_when_it_is_built_is_passed_over(slow_convolutions):
    search = searched(Limits(max_latency=Latency(0.05, repeats=1)))
    best, second = search.ranking()[:2]
    search.bounds.latency._measured |= {best: 0.06, second: 0.04}
    assert search.derive() == second
    search.bounds.latency._measured |= dict.fromkeys(search.scores, 0.06)
    with pytest.warns(UserWarning, match="slower than predicted"):
        assert search.derive() == search.bounds.cheapest


def test_a_shifting_search_scores_what_it_falls_back_to(slow_convolutions, monkeypatch):
    """Of its scores the finalists are left, and none of them has to be the cheapest."""
    limits, data = (
        Limits(max_latency=Latency(0.05, repeats=1)),
        (labelled(30), labelled(24, seed=2)),
    )
    task = SearchTask(*data, 8, seeded(), limits=limits)
    method = Shifting(2, population=6, mutations=2, crossovers=2, finalists=1, n_images=10)
    search = method.start(tiny_paths(space=SPACE), task)
    search.run()
    monkeypatch.setattr(search.bounds, "confirmed", lambda architecture: False)
    search.scores.pop(search.bounds.cheapest, None)
    with pytest.warns(UserWarning, match="though it is slower, too"):
        best = search.derive()
    assert best == search.bounds.cheapest
    assert search.history[-1]["validation_loss"] == search.scores[best].loss


def test_a_resumed_search_keeps_what_was_measured(monkeypatch):
    """Another measurement would give other times, and so another search."""
    moods = iter(range(1000))

    def timed(calls, repeats):
        mood = 1 + next(moods) / 10
        return [mood * (1 + sum(p.numel() for p in c.func.parameters())) / 1e5 for c in calls]

    monkeypatch.setattr(latency_module, "time_in_turn", timed)
    settings = {"generations": 3, "limits": Limits(max_latency=Latency(0.01, repeats=1))}
    whole, part = evolving(**settings), evolving(**settings)
    for search in (whole, part):  # of the same mood
        search.bounds.load_state(whole.bounds.state())
    whole.run()
    part.run(on_epoch=lambda search: search.epoch == 1)
    tensors, state = part.state()
    resumed = evolving(**settings)
    resumed.load_state(tensors, json.loads(json.dumps(state)))
    resumed.run()
    assert resumed.scores == whole.scores
    assert resumed.bounds.state() == whole.bounds.state()


def test_latency_as_an_objective_needs_no_limit(slow_convolutions):
    search = searched(Limits(), objectives=("accuracy", "latency"))
    front = search.front()
    seconds = [search.bounds.latency(a) for a in front]
    assert seconds == sorted(seconds, reverse=True)
