"""The baselines."""

import torch
from tiny_search import build, labelled, seeded

from supernetnas.families.cells.genotype import random_genotype
from supernetnas.families.cells.paths import choices_of, path_scores
from supernetnas.families.cells.search.random_search import RandomChoice, SharedWeightsSearch
from supernetnas.families.cells.search.weight_training import SearchSettings
from supernetnas.training.batch_norm import frozen_batch_norm
from supernetnas.training.clock import Stopwatch
from supernetnas.training.steps import evaluate


def search(kind, **settings):
    settings = SearchSettings(**{"epochs": 1, "batch_size": 6, **settings})
    return kind(build(cells=2), labelled(), labelled(seed=2), settings, seeded())


def test_a_random_architecture_searches_nothing():
    one = RandomChoice(build(cells=2), seeded())
    before = {k: v.clone() for k, v in one.supernet.state_dict().items()}
    assert one.run() == []
    first, second = one.derive(), RandomChoice(build(cells=2), seeded()).derive()
    assert first == second
    for name, value in one.searched_supernet().state_dict().items():
        assert torch.equal(value, before[name]), name


class TestRandomSearch:
    def test_it_trains_weights_and_leaves_alphas(self):
        one = search(SharedWeightsSearch)
        alphas = one.supernet.alphas_reduce.clone()
        stem = one.supernet.stem[0].weight.clone()
        one.run()
        assert torch.equal(alphas, one.supernet.alphas_reduce)
        assert not torch.equal(stem, one.supernet.stem[0].weight)

    def test_the_best_of_those_drawn_is_kept(self):
        one = search(SharedWeightsSearch)
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
        one = search(SharedWeightsSearch)
        one.derive(Stopwatch(-1.0))
        assert one.history[-1]["candidates"] == 1
