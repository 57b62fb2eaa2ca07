"""Elastic architectures and their genes."""

import itertools
import json

import numpy as np
import pytest
from tiny_elastic import MEMBERS, SPACE

from supernetnas.families.elastic import (
    LITE0_SPACE,
    Backbone,
    Block,
    ElasticArchitecture,
    ElasticSpace,
)


@pytest.mark.parametrize("space", [SPACE, LITE0_SPACE], ids=["tiny", "lite0"])
def test_genes_go_there_and_back(space):
    random = np.random.default_rng(0)
    seen = set()
    for _ in range(200):
        genes = [int(random.integers(n)) for n in space.genes]
        architecture = space.decode(genes)
        assert space.decode(space.encode(architecture)) == architecture
        assert ElasticArchitecture.from_dict(json.loads(json.dumps(architecture.to_dict()))) == (
            architecture
        )
        seen.add(architecture)
    assert len(seen) > 150


def test_every_gene_changes_the_largest_architecture():
    largest = SPACE.encode(SPACE.largest)
    assert largest == tuple(n - 1 for n in SPACE.genes)
    for position in range(len(largest)):
        fewer = list(largest)
        fewer[position] -= 1
        assert SPACE.decode(fewer) != SPACE.largest
        assert SPACE.encode(SPACE.decode(fewer))[position] == fewer[position]


def test_genes_of_missing_blocks_do_not_count():
    genes = [0] * len(SPACE.genes)
    same = {SPACE.decode([*genes[:-1], last]) for last in range(SPACE.genes[-1])}
    assert len(same) == SPACE.genes[-1]  # the last stage has one block, which is always there
    everything = itertools.product(*map(range, SPACE.genes[1:6]))
    architectures = {SPACE.decode([0, *head, *genes[6:]]) for head in everything}
    # stage 1: one block of 4 expansions, or two
    assert len({a.stages[1] for a in architectures}) == 4 + 4 * 4
    assert all(SPACE.decode(SPACE.encode(a)) == a for a in architectures)


def test_smallest_and_largest():
    assert str(SPACE.smallest) == "16 px: k3e1 | k3e2 | k3e2 | k3e2"
    assert str(SPACE.largest) == "32 px: k3e1 | 2 k3e6 | 3 k5e6 | k5e4"
    assert SPACE.is_whole(SPACE.largest.at(9))
    assert not SPACE.is_whole(SPACE.smallest)


def test_architectures_are_hashable_and_frozen():
    copies = [ElasticArchitecture.from_dict(member.to_dict()) for member in MEMBERS]
    assert dict.fromkeys(MEMBERS) == dict.fromkeys(copies)
    lists = [[list(block) for block in blocks] for blocks in MEMBERS[1].stages]
    assert hash(ElasticArchitecture(17, lists)) == hash(MEMBERS[1])
    assert MEMBERS[0].at(32) != MEMBERS[0] == MEMBERS[0].at(16)
    with pytest.raises(AttributeError):
        MEMBERS[0].size = 32


def test_space_goes_through_json():
    assert ElasticSpace.from_dict(json.loads(json.dumps(SPACE.to_dict()))) == SPACE


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        (MEMBERS[0].stages[:3], "has 4 stages; the architecture has 3"),
        (((Block(3, 1),) * 2, *MEMBERS[0].stages[1:]), "Stage 0 has 1 blocks at most"),
        (((Block(5, 1),), *MEMBERS[0].stages[1:]), "kernel of 3 and an expansion of 1; .* k5e1"),
        ((*MEMBERS[0].stages[:3], (Block(5, 5),)), "expansion of 2 or 3 or 4; .* k5e5"),
    ],
)
def test_foreign_architectures_are_refused(stages, message):
    with pytest.raises(ValueError, match=message):
        SPACE.encode(ElasticArchitecture(16, stages))


def test_bad_values_are_refused():
    with pytest.raises(ValueError, match=r"48 px is none of the space's sizes \(16, 17, 32\)"):
        SPACE.encode(SPACE.smallest.at(48))
    with pytest.raises(ValueError, match="at least 8 pixels; got 7"):
        SPACE.smallest.at(7)
    with pytest.raises(ValueError, match=r"at least 8 pixels; got 16\.5"):
        SPACE.smallest.at(16.5)
    with pytest.raises(ValueError, match="at least one block in every stage"):
        ElasticArchitecture(16, ((Block(3, 1),), ()))
    with pytest.raises(ValueError, match="below"):
        SPACE.decode(SPACE.genes)
    with pytest.raises(ValueError, match="Genes of this space are"):
        SPACE.decode([0])
    with pytest.raises(ValueError, match="stored as"):
        ElasticArchitecture.from_dict({"stages": []})
    with pytest.raises(ValueError, match="stored as"):
        ElasticArchitecture.from_dict({"size": 16, "stages": [[3, 1]]})
    with pytest.raises(TypeError, match="got str"):
        SPACE.check("smallest")


@pytest.mark.parametrize(
    ("stem", "stages"), [(0, SPACE.backbone.stages), (4, ()), (4, ((1, 4, 3, -1, 1),))]
)
def test_bad_backbones_are_refused(stem, stages):
    with pytest.raises(ValueError, match="at least one stage, and all its numbers are positive"):
        Backbone(stem, stages, 9)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kernels": (5, 3)}, "kernels must be ascending"),
        ({"kernels": (4, 5)}, "odd"),
        ({"expansions": (1, 6)}, "expansions must be at least 2"),
        ({"expansions": ()}, "expansions must be ascending"),
        ({"sizes": (4, 32)}, "at least 8 pixels"),
    ],
)
def test_bad_spaces_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        ElasticSpace(SPACE.backbone, **change)
