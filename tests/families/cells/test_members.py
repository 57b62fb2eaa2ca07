"""Genotypes as members of a cell supernet: their genes, their parts, what they cost."""

import copy
from collections import Counter

import pytest
import torch
from tiny_cells import MIXED, build, pair
from tiny_search import labelled, seeded
from torch.testing import assert_close

from supernetnas import Cells, Evolution, Split
from supernetnas.families.base import NetworkInput
from supernetnas.families.cells.costs import network_cost
from supernetnas.families.cells.genes import GenotypeSpace
from supernetnas.families.cells.genotype import Genotype, random_genotype
from supernetnas.families.cells.paths import choices_of, path_scores
from supernetnas.families.cells.space import get_space
from supernetnas.search.bounds import Bounds
from supernetnas.search.costs import count_macs, count_parameters
from supernetnas.search.latency import LatencyModel
from supernetnas.search.limits import Latency, Limits
from supernetnas.search.method import SearchTask
from supernetnas.search.samplers import Uniform
from supernetnas.search.scoring import Scorer
from supernetnas.search.shifting import Shifting
from supernetnas.training.batch_norm import recalibrate_batch_norm
from supernetnas.training.checkpoints import load_checkpoint, save_checkpoint
from supernetnas.training.steps import evaluate

DATA = labelled(30), labelled(24, seed=2)
SEEN = NetworkInput((8, 8), 3)
SMALL = {"population": 5, "mutations": 2, "crossovers": 2, "epochs": 1, "n_recalibration": 32}


def space_of(name):
    return GenotypeSpace(network_cost(name, 4, 3, (3, 8, 8), 3))


def members(supernet=None, family=None):
    return (family or Cells()).evolvable(supernet or build(), SEEN, 3)


def drawn(space, n, seed=0):
    return list(Uniform(space, n, seed)(0))


# Genes


@pytest.mark.parametrize("name", ["s1", "s2", "s3", "s4", "darts", MIXED.name])
def test_genes_stand_for_genotypes(name):
    space = space_of(name)
    assert len(space.genes) == 24
    assert space.genes[0::3] == (1, 3, 6, 10) * 2
    for genotype in [*drawn(space, 60), space.smallest, space.largest]:
        assert space.decode(space.encode(genotype)) == genotype
        assert Genotype.from_dict(genotype.to_dict()) == genotype
        assert genotype.count("none") == 0
    for genotype in (random_genotype(get_space(name), seeded(n)) for n in range(30)):
        assert space.decode(space.encode(genotype)) == genotype


def test_where_edges_offer_alike_every_genotype_has_genes_of_its_own():
    space = space_of("s3")
    for genes in ((0, 1, 0, 2, 1, 1, 5, 0, 1, 9, 1, 0) * 2, (0,) * 24):
        assert space.encode(space.decode(genes)) == genes
    n_genes = 1
    for n in space.genes:
        n_genes *= n
    assert n_genes == get_space("s3").n_architectures


def test_uniform_genes_are_uniform_genotypes():
    space, generator = space_of("darts"), seeded(1)
    ours = drawn(space, 1500, seed=3)
    theirs = [random_genotype(get_space("darts"), generator) for _ in range(1500)]
    counts = [Counter(g.normal[3] for g in found) for found in (ours, theirs)]
    assert [len(count) for count in counts] == pytest.approx([len(counts[1])] * 2, rel=0.05)
    for found in (ours, theirs):
        states = Counter(state for g in found for _, state in g.reduce[3])
        assert min(states.values()) > 500
        names = Counter(name for g in found for name, _ in g.reduce[3])
        assert len(names) == 7
        assert min(names.values()) > 350


def test_a_gene_changes_an_operation_or_the_inputs_of_a_node():
    space = space_of("darts_no_none")
    genes = list(space.encode(drawn(space, 1)[0]))
    for place, n in enumerate(space.genes):
        before = space.decode(genes)
        after = space.decode([*genes[:place], (genes[place] + 1) % n, *genes[place + 1 :]])
        changed = after.n_edges_beyond(before)
        assert changed in ([1] if place % 3 else [0] if n == 1 else [1, 2])
        kept = [[name for name, _ in node] for g in (before, after) for node in g.normal + g.reduce]
        if place % 3 == 0:  # other inputs, the same operations
            assert kept[:8] == kept[8:]


def test_mutations_and_crosses_are_genotypes_of_the_space():
    tiny = members(build("darts"))
    bounds, generator = Bounds(tiny, Limits(), (3, 8, 8)), seeded(4)
    parents = drawn(tiny.space, 2)
    edges = parents[0].edges() | parents[1].edges()
    for _ in range(30):
        child = bounds.crossed(*parents, generator)
        assert all(len(node) == 2 for node in child.normal + child.reduce)
        states = {(kind, node, state) for kind, node, _, state in child.edges()}
        assert states <= {(kind, node, state) for kind, node, _, state in edges}
        mutated = bounds.mutated(parents[0], 0.2, generator)
        assert all(len(node) == 2 for node in mutated.normal + mutated.reduce)
        assert space_of("darts").decode(space_of("darts").encode(mutated)) == mutated


def test_genotypes_that_have_no_genes():
    space = space_of("s2")
    with pytest.raises(ValueError, match="of space 's1', not 's2'"):
        space.encode(random_genotype(get_space("s1"), seeded()))
    nodes = ((("skip_connect", 0),),) * 4
    with pytest.raises(ValueError, match="node 0 of normal has 1"):
        space.encode(Genotype("s2", nodes, nodes))


# Costs


@pytest.mark.parametrize("sizes", [{}, {"network_channels": 8, "network_cells": 5}])
def test_costs_are_those_of_the_final_network(sizes):
    supernet = build("darts")
    found = members(supernet, Cells(**sizes))
    for genotype in drawn(found.space, 3):
        network = found.network(genotype)
        assert found.costs(genotype) == (count_macs(network, (3, 8, 8)), count_parameters(network))


@pytest.mark.parametrize("name", ["s1", "darts", MIXED.name])
def test_the_cheapest_within_limits(name):
    found = members(build(name))
    costs = [found.costs(g) for g in drawn(found.space, 300)]
    least = found.costs(found.space.smallest)
    assert least.macs <= min(cost.macs for cost in costs)
    assert found.costs(found.space.largest).macs >= max(cost.macs for cost in costs)
    assert found.cheapest(Limits()) == found.space.smallest
    assert found.costs(found.cheapest(Limits(max_macs=least.macs))).macs == least.macs
    fewest = found.costs(found.cheapest(Limits(max_parameters=10**9))).parameters
    assert fewest <= min(cost.parameters for cost in costs)
    limits = Limits(sorted(c.macs for c in costs)[5], sorted(c.parameters for c in costs)[30])
    assert limits.keep(*found.costs(found.cheapest(limits)))
    with pytest.raises(ValueError, match=f"cheapest have {least.macs:,} multiply-accumulates"):
        found.cheapest(Limits(max_macs=least.macs - 1))


# What a member computes


@pytest.mark.parametrize("name", ["s1", "s3", "darts", MIXED.name])
@pytest.mark.parametrize("training", [False, True])
def test_parts_one_after_another_are_the_path(name, training):
    """The plain definition, the rewritten path and the parts give the same."""
    plain, fused = pair(name, cells=4)
    images = torch.randn(6, 3, 8, 8, dtype=torch.float64, generator=seeded(1))
    found = members(fused)
    for genotype in drawn(found.space, 3):
        plain.train(training)
        found.train(training)
        weights = [torch.zeros_like(alphas) for alphas in plain.alpha_parameters()]
        for kind, choices in enumerate(choices_of(genotype, plain)):
            for edge, index in enumerate(choices):
                if index is not None:
                    weights[kind][edge, index] = 1.0
        expected = plain(images, tuple(weights))
        assert_close(found(images, genotype), expected)
        x = images
        for step in found.steps(genotype):
            x = step.module(x)
        assert_close(x, expected)
        assert_close(
            found.supernet.classifier(found.features(images, genotype)),
            path_scores(fused, images, choices_of(genotype, fused)),
        )
    assert_close(found(images), fused(images))


def test_only_the_chosen_operations_run():
    found = members(build("darts"))
    genotype = drawn(found.space, 1)[0]
    ran = set()
    for name, module in found.supernet.named_modules():
        if isinstance(module, torch.nn.Conv2d) and ".edges." in name:
            module.register_forward_hook(lambda *_, name=name: ran.add(name))
    x = DATA[0].images.clean(torch.arange(4))
    for step in found.steps(genotype):
        x = step.module(x)
    allowed = {
        f"cells.{number}.edges.{edge}.{index}."
        for number, kind in enumerate(found.supernet.kinds)
        for edge, index in enumerate(choices_of(genotype, found.supernet)[kind])
        if index is not None
    }
    assert ran
    assert all(any(name.startswith(prefix) for prefix in allowed) for name in ran)


@pytest.mark.parametrize("name", ["s2", "s4"])
def test_a_score_is_that_of_the_network_of_inherited_weights(name):
    """Of spaces without pools, which a network does not normalise."""
    found = members(build(name))
    scorer = Scorer(found, *DATA, seed=5, n_recalibration=64)
    genotypes = drawn(found.space, 4)
    for genotype, score in zip(genotypes, scorer(genotypes), strict=True):
        network = found.network(genotype)
        recalibrate_batch_norm(network, DATA[0].images, generator=seeded(5), max_batches=1)
        loss, accuracy = evaluate(network.eval(), DATA[1])
        assert score.accuracy == pytest.approx(accuracy)
        assert score.loss == pytest.approx(loss, rel=1e-5)


def test_genotypes_with_common_first_edges_are_scored_together():
    found = members(build("darts"))
    first = drawn(found.space, 1)[0]
    genes = found.space.encode(first)
    alike = [found.space.decode([*genes[:-1], n]) for n in range(3)]
    keys = [[step.key for step in found.steps(g)] for g in alike]
    assert keys[0] != keys[1]
    common = next(i for i, (a, b) in enumerate(zip(*keys[:2], strict=True)) if a != b)
    assert common > 10
    scorer = Scorer(found, *DATA, seed=5, n_recalibration=64)
    mixed = [*alike, *drawn(found.space, 3, seed=8)]
    assert scorer(mixed) == [scorer([g])[0] for g in mixed]


def test_latency_of_genotypes():
    found = members(build("s1"))
    model = LatencyModel(found, (3, 8, 8), Latency(repeats=1))
    one, other = drawn(found.space, 2)
    assert model(one) > 0
    n_parts = len(model._parts)
    model(other)
    assert len(model._parts) <= n_parts + 2 * 2 * 8 * 3  # operations, not combinations of them


# Searches


def started(method, seed=0, name="s4", limits=None):
    supernet = build(name, seed=seed)
    task = SearchTask(*DATA, 16, seeded(), limits=limits or Limits(), evolvable=members(supernet))
    return method.start(supernet, task)


METHODS = {
    "evolution": Evolution(2, **SMALL),
    "shifting": Shifting(2, **SMALL, n_images=16),
    "split": Evolution(2, **SMALL, split=Split(4, epochs=2, n_batches=1)),
}


@pytest.mark.parametrize("name", METHODS)
def test_a_resumed_search_equals_an_uninterrupted_one(tmp_path, name):
    """In a space of noise, whose draws follow from the epoch."""
    state = torch.get_rng_state()
    whole = started(METHODS[name])
    whole.run()
    for stop in (1, 2, 3):
        part = started(METHODS[name])
        part.run(on_epoch=lambda search, stop=stop: search.epoch == stop)
        save_checkpoint(tmp_path / "c.safetensors", *part.state())
        resumed = started(METHODS[name], seed=9)
        resumed.load_state(*load_checkpoint(tmp_path / "c.safetensors"))
        resumed.run()
        assert resumed.scores == whole.scores
        weights = whole.searched.state_dict()
        assert_close(resumed.searched.state_dict(), weights, rtol=0, atol=0)
    assert whole.derive() == resumed.derive()
    assert_close(resumed.supernet.state_dict(), whole.supernet.state_dict(), rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), state)


def test_training_moves_what_a_genotype_has_and_no_alphas():
    search = started(Evolution(1, **SMALL), name="s2")
    before = copy.deepcopy(search.supernet.state_dict())
    search.run_epoch()
    moved = {
        name for name, p in search.supernet.named_parameters() if not torch.equal(p, before[name])
    }
    assert "stem.0.weight" in moved
    assert any(".edges." in name for name in moved)
    assert not any(name.startswith("alphas_") for name in moved)


def test_candidates_keep_limits():
    found = members(build("s1"))
    macs = sorted(found.costs(g).macs for g in drawn(found.space, 60))[10]
    search = started(Evolution(3, **SMALL), name="s1", limits=Limits(max_macs=macs))
    search.run()
    assert {found.costs(g).macs <= macs for g in search.scores} == {True}
    assert len(search.scores) == 15
