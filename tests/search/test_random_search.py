"""The baselines."""

import itertools
from collections import Counter

import pytest
import torch
from tiny_cells import MIXED
from tiny_search import build, labelled, seeded

from supernetnas.families.cells.genotype import random_genotype
from supernetnas.families.cells.paths import choices_of, path_scores
from supernetnas.families.cells.search.bilevel import SearchSettings
from supernetnas.families.cells.search.methods import RandomArchitecture, RandomSearch
from supernetnas.families.cells.space import get_space
from supernetnas.training.batches import Stopwatch, evaluate, frozen_batch_norm


def search(kind, **settings):
    settings = SearchSettings(**{"epochs": 1, "batch_size": 6, **settings})
    return kind(build(cells=2), labelled(), labelled(seed=2), settings, seeded())


class TestGenotype:
    def test_uniform_edges_and_operations(self):
        n, generator = 3000, seeded()
        drawn = [random_genotype(get_space("s2"), generator) for _ in range(n)]
        for node in range(4):
            pairs = Counter(tuple(s for _, s in g.reduce[node]) for g in drawn)
            every = list(itertools.combinations(range(node + 2), 2))
            assert set(pairs) == set(every)
            share = 1 / len(every)
            for count in pairs.values():
                assert abs(count / n - share) < 5 * (share * (1 - share) / n) ** 0.5 + 1e-12
            skips = sum(op == "skip_connect" for g in drawn for op, _ in g.normal[node])
            assert abs(skips / (2 * n) - 0.5) < 5 * (0.25 / (2 * n)) ** 0.5

    @pytest.mark.parametrize("space", ["s3", "darts", MIXED.name])
    def test_it_is_one_of_the_space_and_has_no_none(self, space):
        generator, net = seeded(), build(space, cells=1)
        for _ in range(50):
            genotype = random_genotype(get_space(space), generator)
            assert genotype.count("none") == 0
            choices_of(genotype, net)  # raises for an operation that its edge does not offer
            assert all(len(node) == 2 for node in genotype.normal + genotype.reduce)


def test_a_random_architecture_searches_nothing():
    one = search(RandomArchitecture)
    before = {k: v.clone() for k, v in one.supernet.state_dict().items()}
    assert one.run() == []
    first, second = one.derive(), search(RandomArchitecture).derive()
    assert first == second
    for name, value in one.searched_supernet().state_dict().items():
        assert torch.equal(value, before[name]), name


class TestRandomSearch:
    def test_it_trains_weights_and_leaves_alphas(self):
        one = search(RandomSearch)
        alphas = one.supernet.alphas_reduce.clone()
        stem = one.supernet.stem[0].weight.clone()
        one.run()
        assert torch.equal(alphas, one.supernet.alphas_reduce)
        assert not torch.equal(stem, one.supernet.stem[0].weight)

    def test_the_best_of_those_drawn_is_kept(self):
        one = search(RandomSearch)
        one.n_candidates = 6
        one.run()
        state = one.generator.get_state()
        buffers = {k: v.clone() for k, v in one.supernet.named_buffers()}
        result = one.derive()
        for name, value in one.supernet.named_buffers():
            assert torch.equal(value, buffers[name]), name

        one.generator.set_state(state)
        scores = {}
        for _ in range(6):
            genotype = random_genotype(one.supernet.space, one.generator)
            choices = choices_of(genotype, one.supernet)
            with frozen_batch_norm(one.supernet):
                loss, accuracy = evaluate(
                    lambda x, choices=choices: path_scores(one.supernet, x, choices),
                    one.validation,
                )
            scores[genotype] = (accuracy, -loss)
        assert len(scores) == 6
        assert scores[result] == max(scores.values())
        row = one.history[-1]
        assert (row["stage"], row["candidates"]) == ("derive", 6)
        assert row["validation_accuracy"] == max(scores.values())[0]

    def test_when_time_is_up_one_is_drawn(self):
        one = search(RandomSearch)
        one.derive(Stopwatch(-1.0))
        assert one.history[-1]["candidates"] == 1
