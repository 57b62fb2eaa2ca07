"""A fit says what its search has changed."""

import logging
from dataclasses import replace

import pytest
from tiny import patterns, tiny_classifier

from supernetnas import Cells, Elastic, ElasticArchitecture, Evolution, Genotype, get_space
from supernetnas.families.elastic.space import Block

NODES = ((("skip_connect", 0), ("sep_conv_3x3", 1)),) * 4
OTHER = ((("skip_connect", 0), ("skip_connect", 1)), *NODES[1:])


def fit(zoo=None, strategy="scratch", **parameters):
    return tiny_classifier(zoo, strategy, retraining__epochs=1, **parameters).fit(*patterns())


def test_edges_that_differ_are_counted():
    before, after = Genotype("s2", NODES, NODES), Genotype("s2", OTHER, OTHER)
    assert Cells().difference(before, after) == "2 of 16 edges differ"
    assert Cells().difference(before, before) == ""


def test_blocks_and_sizes_that_differ_are_counted():
    before = ElasticArchitecture(64, ((Block(3, 1),), (Block(5, 4), Block(5, 4))))
    after = ElasticArchitecture(48, ((Block(3, 1),), (Block(3, 4),)))
    said = Elastic().difference(before, after)
    assert said == "2 of 3 blocks differ and images have 48 instead of 64 pixels a side"
    assert Elastic().difference(before, before) == ""
    assert Elastic().difference(before, before.at(48)).startswith("images have 48")


def test_architectures_of_a_space_are_counted():
    def pairs(n):  # two of n edges, two operations on each
        return 4 * n * (n - 1) // 2

    two = get_space("s2")
    names = {name for edge in two.normal + two.reduce for name in edge}
    assert names == {"skip_connect", "sep_conv_3x3"}
    assert two.n_architectures == (pairs(2) * pairs(3) * pairs(4) * pairs(5)) ** 2
    assert get_space("darts").n_architectures == get_space("darts_no_none").n_architectures
    with_none = replace(two, name="x", normal=(("none", "skip_connect", "sep_conv_3x3"),) * 14)
    assert with_none.n_architectures == two.n_architectures


def test_a_search_says_how_many_edges_it_has_changed(tiny_zoo, caplog):
    with caplog.at_level(logging.INFO, "supernetnas"):
        clf = fit(tiny_zoo, "bars", search__epochs=3, search__alpha_learning_rate=1.0)
    rows = [row for row in clf.history_ if row["stage"] == "search"]
    changes = rows[-1]["changes"]
    assert changes > 0
    assert clf.outcome_.startswith(
        f"{changes} of 16 edges differ from the genotype of the source 'bars'; chosen from "
    )
    assert clf.outcome_.endswith("genotypes of space s1")
    assert clf.outcome_ in caplog.messages


def test_a_search_that_changed_nothing_says_so(tiny_zoo):
    clf = fit(tiny_zoo, "bars", search__alpha_learning_rate=1e-9)
    assert clf.outcome_.startswith("the search changed nothing: it is the genotype of the source")
    assert [row["changes"] for row in clf.history_ if row["stage"] == "search"] == [0]


def test_no_search_says_so(tiny_zoo):
    clf = fit(tiny_zoo, "bars", search="none")
    assert clf.outcome_ == "there was no search: it is the genotype of the source 'bars'"


def test_random_weights_are_no_source():
    assert "of the random weights" in fit(search="random").outcome_


def test_what_was_compared_is_counted():
    clf = fit(search="random_search", search__n_candidates=3, search__epochs=1)
    assert clf.outcome_.endswith(", in 3 comparisons")


@pytest.mark.parametrize("verbose", [1, 2])
def test_it_is_said_while_the_fit_goes_on(capsys, verbose):
    clf = fit(verbose=verbose)
    assert clf.outcome_ in capsys.readouterr().err
    assert fit().outcome_ == clf.outcome_
    assert capsys.readouterr().err == ""


def test_all_generations_are_counted():
    clf = fit(search=Evolution(2, population=4, parents=2, mutations=2, crossovers=1, epochs=1))
    new = [row["candidates"] for row in clf.history_ if "candidates" in row]
    assert len(new) == 2 and all(new)
    assert clf.outcome_.endswith(f", in {sum(new)} comparisons")
