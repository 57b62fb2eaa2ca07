"""Evolution of architectures under limits."""

import sys

import numpy as np
import pytest
import torch
from tiny_paths import PathSpace, drawn, tiny_paths
from tiny_search import assert_same_state, build, labelled, seeded

from supernetnas import Execution
from supernetnas.families.base import NetworkInput, get_family
from supernetnas.parameters import ParameterError
from supernetnas.search.evolution import Evolution
from supernetnas.search.fronts import by_rank_and_crowding, nearest_to_ideal
from supernetnas.search.limits import Limits
from supernetnas.search.method import SearchTask
from supernetnas.search.scoring import Score
from supernetnas.search.shifting import Shifting
from supernetnas.training.checkpoints import load_checkpoint, save_checkpoint
from supernetnas.training.clock import Stopwatch

SMALL = {"population": 8, "parents": 3, "mutations": 4, "crossovers": 3, "epochs": 0}
SPACE = PathSpace(layers=6)
DATA = labelled(30), labelled(24, seed=2)
SEEN = NetworkInput((8, 8), 3)


def started(method=None, supernet=None, limits=None, seed=0, data=DATA, **settings):
    method = method or Evolution(**{"generations": 4, **SMALL, **settings})
    method.check()
    task = SearchTask(*data, 16, seeded(seed), limits=limits or Limits())
    return method.start(supernet or tiny_paths(space=SPACE), task)


class Worth:
    """Scores without a supernet: the share of genes that are 1."""

    def __init__(self):
        self.calls = []

    def __call__(self, architectures):
        self.calls.append(list(architectures))
        return [
            Score(sum(c == 1 for c in a.choices) / len(a.choices), sum(a.choices) / 100)
            for a in architectures
        ]


def known(search):
    search.scorer = Worth()
    return search


def test_generations_are_of_the_numbers_that_were_asked_for():
    search = known(started())
    rows = search.run()
    assert [len(call) for call in search.scorer.calls] == [8] * 4
    assert len({a for call in search.scorer.calls for a in call}) == 32  # each once ever
    assert [row["candidates"] for row in rows] == [8] * 4
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4]
    best = [row["validation_accuracy"] for row in rows]
    assert best == sorted(best)
    assert search.derive() == max(search.scores, key=lambda a: search.scores[a].rank)
    assert search.validation_accuracy == search.scores[search.derive()].accuracy


def test_children_come_from_the_best():
    supernet = tiny_paths(space=PathSpace(layers=16))
    settings = {"population": 40, "mutations": 20, "crossovers": 15}
    search = known(started(supernet=supernet, mutation_probability=0.15, **settings))
    search.run_epoch()
    parents = search.parents
    assert parents == sorted(search.scores, key=lambda a: search.scores[a].rank, reverse=True)[:3]
    children = search.generation()
    mutations, crosses, randoms = children[:20], children[20:-5], children[-5:]
    assert len(randoms) == 5

    def distance(a):
        return min(sum(x != y for x, y in zip(a.choices, p.choices, strict=True)) for p in parents)

    assert np.mean([distance(a) for a in mutations]) < np.mean([distance(a) for a in randoms])
    for child in crosses:
        options = zip(*(p.choices for p in parents), strict=True)
        assert all(c in given for c, given in zip(child.choices, options, strict=True))
    assert not set(children) & set(search.scores)


def test_the_last_generation_counts(monkeypatch):
    search = known(started())
    best = SPACE.decode([1] * 6)
    draw = search.generation
    monkeypatch.setattr(
        search, "generation", lambda: [*draw(), *([best] if search.n_generations == 3 else [])]
    )
    search.run()
    assert search.derive() == best


def test_evolution_beats_random_search_of_the_same_budget():
    settings = {"generations": 8, **SMALL}
    wins = 0
    for seed in range(6):
        found = []
        for parts in ({}, {"mutations": 0, "crossovers": 0}):
            space = tiny_paths(space=PathSpace(layers=12))
            search = known(started(Evolution(**{**settings, **parts}), space, seed=seed))
            search.run()
            assert len(search.scores) == 64
            found.append(search.validation_accuracy)
        wins += found[0] > found[1]
    assert wins >= 5


@pytest.mark.parametrize("kind", ["max_macs", "max_parameters"])
def test_every_candidate_keeps_the_limits(kind):
    supernet = tiny_paths(space=SPACE)
    costs = [getattr(supernet.costs(a), kind[4:]) for a in drawn(SPACE, 200)]
    limit = sorted(costs)[20]
    search = known(started(supernet=supernet, limits=Limits(**{kind: limit})))
    search.run()
    assert {getattr(supernet.costs(a), kind[4:]) <= limit for a in search.scores} == {True}
    assert len(search.scores) == 32


def test_a_limit_that_none_keeps_is_refused_at_once():
    with pytest.raises(ValueError, match="smallest"):
        started(limits=Limits(max_parameters=3))


def test_a_space_smaller_than_the_population_is_scored_once():
    search = known(started(supernet=tiny_paths(space=PathSpace(layers=1)), generations=5))
    rows = search.run()
    assert [row["candidates"] for row in rows] == [3, 0]
    assert search.derive() == PathSpace(layers=1).decode([1])


def test_the_same_seed_finds_the_same():
    first, second, other = (started(seed=seed) for seed in (0, 0, 1))
    for search in (first, second, other):
        search.run()
    assert first.scores == second.scores
    assert first.derive() == second.derive()
    assert first.scores != other.scores


@pytest.mark.parametrize("stop", [1, 2, 3, 4])
def test_a_resumed_search_equals_an_uninterrupted_one(tmp_path, stop):
    settings = {"generations": 3, "epochs": 2}
    whole = started(**settings)
    whole.run()
    assert [("train_loss" in row) for row in whole.history] == [True] * 2 + [False] * 3
    part = started(**settings)
    part.run(on_epoch=lambda search: search.epoch == stop)
    save_checkpoint(tmp_path / "c.safetensors", *part.state())
    resumed = started(supernet=tiny_paths(seed=7, space=SPACE), seed=3, **settings)
    resumed.load_state(*load_checkpoint(tmp_path / "c.safetensors"))
    resumed.run()
    assert_same_state(whole, resumed)
    assert whole.scores == resumed.scores
    assert list(whole.scores) == list(resumed.scores)
    assert whole.derive() == resumed.derive()


def test_the_training_teaches_the_paths():
    scored = started(generations=1)
    trained = started(generations=1, epochs=15, learning_rate=0.03)
    for search in (scored, trained):
        search.run()
    mean = [np.mean([s.loss for s in search.scores.values()]) for search in (scored, trained)]
    assert mean[1] < mean[0]
    assert trained.training.ended


def test_a_divergence_of_the_training_is_found_at_once():
    search = started(generations=1, epochs=2, learning_rate=1e25)
    with pytest.raises(FloatingPointError, match=r"epoch \d: .* learning_rate \(1e\+25\)"):
        search.run()


@pytest.mark.parametrize("family", ["paths", "cells"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    "method",
    [
        Evolution(1, **{**SMALL, "population": 2, "epochs": 1}),
        Shifting(1, population=2, mutations=1, crossovers=1, n_images=10, epochs=1),
        Shifting(1, population=2, mutations=1, crossovers=1, n_images=10, frozen=True),
    ],
    ids=["evolution", "shifting", "frozen"],
)
def test_convolutions_compute_in_the_precision_of_the_fit(family, precision, method):
    supernet = build() if family == "cells" else tiny_paths(space=SPACE)
    evolvable = get_family(family).evolvable(supernet, SEEN, 3)
    wanted, seen = getattr(torch, precision), set()
    for module in supernet.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(lambda module, given, out: seen.add(out.dtype))
    task = SearchTask(*DATA, 16, seeded(), evolvable=evolvable, execution=Execution(precision))
    search = method.start(supernet, task)
    search.run()
    search.derive()
    assert seen == {wanted}
    assert {p.dtype for p in supernet.parameters()} == {torch.float32}


def test_the_training_gets_half_of_the_time():
    class Watch(Stopwatch):
        def expired(self, share=1.0):
            return share < 1

    search = started(generations=2, epochs=5)
    search.run(stopwatch=Watch())
    assert ["train_loss" in row for row in search.history] == [True, False, False]
    assert not search.out_of_time


def test_a_search_without_any_time_still_compares():
    search = started(generations=3, epochs=5)
    search.run(stopwatch=Stopwatch(-1.0))
    assert search.out_of_time and search.epoch == 1 and not search.scores
    assert search.derive() in search.scores
    assert len(search.scores) == 8


def test_global_random_states_stay_as_they_are():
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    search = started(generations=2, epochs=1, objectives=("accuracy", "macs"))
    search.run()
    search.derive()
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert (np.random.get_state()[1] == numpy_state).all()  # noqa: NPY002


def dominates(first, second):
    return (first <= second).all() and (first < second).any()


def test_with_several_objectives_parents_are_on_the_front():
    search = known(started(objectives=("accuracy", "parameters"), generations=6))
    search.run()
    points = dict(zip(search.scores, search._points([*search.scores]), strict=True))
    front = search.front()
    assert len(front) > 1
    for architecture, point in points.items():
        beaten = any(dominates(points[other], point) for other in points)
        assert (architecture in front) == (not beaten)
    assert set(search.parents) <= set(front) or len(front) < 3
    scaled = np.array([points[a] for a in front])
    scaled = (scaled - scaled.min(0)) / np.ptp(scaled, axis=0)
    assert search.derive() == front[int((scaled**2).sum(1).argmin())]


def test_ranks_and_crowding():
    points = np.array([[0, 4], [1, 1], [4, 0], [1.1, 1.1], [0.9, 1.2], [5, 5], [0, 4]])
    order, ranks = by_rank_and_crowding(points)
    assert ranks.tolist() == [0, 0, 0, 1, 0, 2, 0]
    assert {*order[:5].tolist()} == {0, 1, 2, 4, 6}
    assert order[5:].tolist() == [3, 5]
    assert by_rank_and_crowding(points)[0].tolist() == order.tolist()


def test_nearest_to_ideal():
    assert nearest_to_ideal(np.array([[0, 100], [0.3, 20], [1, 0]])) == 1
    assert nearest_to_ideal(np.array([[0.5, 3.0]])) == 0


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"population": 1}, "population.*>= 2"),
        ({"population": 10, "mutations": 8, "crossovers": 3}, "more than its population=10"),
        ({"objectives": ()}, "objectives"),
        ({"objectives": ("macs",)}, "accuracy"),
        ({"objectives": ("accuracy", "flops")}, "macs"),
        ({"objectives": ("accuracy", "accuracy")}, "objectives"),
        ({"objectives": "accuracy"}, "tuple"),
        ({"mutation_probability": 10}, "<= 1"),
        ({"score": "loss"}, "probe"),
    ],
)
def test_parameters_that_may_not_be(settings, words):
    with pytest.raises(ParameterError, match=words):
        Evolution(**settings).check()


def test_without_pymoo_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "pymoo", None)
    Evolution().check()
    with pytest.raises(ImportError, match=r"supernetnas\[evolution\]"):
        Evolution(objectives=("accuracy", "macs")).check()
