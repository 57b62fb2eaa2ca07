"""What tells how a search goes."""

import warnings

import pytest
import torch
from tiny_cells import build
from tiny_search import search

from supernetnas.families.cells.genotype import Genotype
from supernetnas.families.cells.search.diagnostics import (
    SearchCollapseWarning,
    genotype_agreement,
    warn_of_collapse,
)
from supernetnas.search.stopping import unchanged_epochs

SKIP, SEP = "skip_connect", "sep_conv_3x3"


def genotype(*names):
    """Edges of the first normal node are the given ones; all others are convolutions."""
    node = ((SEP, 0), (SEP, 1))
    first = tuple((name, state) for state, name in enumerate(names))
    return Genotype("s2", (first, node, node, node), (node,) * 4)


def test_agreement():
    a, b, c = genotype(SEP, SEP), genotype(SEP, SKIP), genotype(SKIP, SKIP)
    assert genotype_agreement(a, [a]) == 1.0
    assert genotype_agreement(a, [b]) == 15 / 16
    assert genotype_agreement(a, [a, b, c]) == pytest.approx((16 + 15 + 14) / 48)
    assert genotype_agreement(a, [c, c, a], window=1) == 1.0


def test_an_edge_is_its_operation_its_state_and_its_node():
    node, other = ((SEP, 0), (SEP, 1)), ((SEP, 0), (SEP, 2))
    first = Genotype("s2", (node, node, other, node), (node,) * 4)
    second = Genotype("s2", (node, other, node, node), (node,) * 4)
    assert genotype_agreement(first, [second]) == 14 / 16


def test_unchanged_epochs():
    assert unchanged_epochs("a") == 0
    assert unchanged_epochs("ab") == 0
    assert unchanged_epochs("abbb") == 2
    assert unchanged_epochs("bbab") == 0


def supernet(skips, lead=0.2, cells=3, space="s2"):
    """The first ``skips`` kept edges of the normal cell are skip connections, by ``lead``."""
    net = build(space, cells=cells)
    with torch.no_grad():
        net.alphas_normal.zero_()
        # Edges 0 and 1 of the nodes are kept: 0, 1; 2, 3; 5, 6; 9, 10.
        kept = [0, 1, 2, 3, 5, 6, 9, 10]
        gap = torch.tensor((1 + lead) / (1 - lead)).log()  # of two weights that differ by lead
        for count, edge in enumerate(kept):
            net.alphas_normal[edge, 0 if count < skips else 1] = gap + 0.01
    assert sum(op == SKIP for node in net.genotype().normal for op, _ in node) == skips
    return net


def warn(net):
    warn_of_collapse(net, net.genotype())


@pytest.mark.parametrize(("skips", "lead"), [(6, 0.2), (8, 0.06)])
def test_collapse(skips, lead):
    with pytest.warns(SearchCollapseWarning, match=f"collapsed: {skips} of the 8 edges"):
        warn(supernet(skips, lead))


def test_a_collapse_within_a_budget():
    net = supernet(6, 0.2)
    with pytest.warns(SearchCollapseWarning, match="Raise max_macs or max_parameters"):
        warn_of_collapse(net, net.genotype(), within_budget=True)


@pytest.mark.parametrize(("skips", "lead", "cells"), [(5, 0.5, 3), (8, 0.02, 3), (8, 0.5, 2)])
def test_no_collapse(skips, lead, cells):
    """Too few, not decided for, or no normal cells."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn(supernet(skips, lead, cells))


def test_rows_of_the_history():
    one = search(space="s2")
    rows = one.run()
    assert len(one.architectures) == 3
    expected = [
        genotype_agreement(one.architectures[1], one.architectures[:1]),
        genotype_agreement(one.architectures[2], one.architectures[:2]),
    ]
    assert [row["genotype_agreement"] for row in rows] == expected
    tensors, state = one.state()
    other = search(space="s2", seed=4)
    other.load_state(tensors, state)
    assert other.architectures == one.architectures
