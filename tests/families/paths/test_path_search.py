"""Evolution and shifting of single paths."""

import pytest
import torch
import torch.nn.functional as F
from tiny_search import labelled, seeded

from supernetnas.families.paths.config import PathConfig
from supernetnas.families.paths.space import PathSpace
from supernetnas.families.paths.supernet import PathSupernet
from supernetnas.search.evolution import Evolution
from supernetnas.search.latency import LatencyModel
from supernetnas.search.limits import Latency, Limits
from supernetnas.search.method import SearchTask
from supernetnas.search.scoring import Scorer
from supernetnas.search.shifting import Shifting
from supernetnas.training.batch_norm import recalibrate_batch_norm
from supernetnas.training.seeds import seeded_modules

DATA = labelled(90), labelled(40, seed=3)
DEPTHS = {"shufflenetv2": (2, 1, 2, 1), "mobilenetv2": (2, 1, 1, 1, 2, 1)}


def supernet_of(name):
    space = PathSpace(name, width=0.125, depths=DEPTHS[name])
    with seeded_modules(0):
        return PathSupernet(PathConfig(space, (8, 8), 3, 3))


def drawn(space, n, seed=0):
    generator, found = seeded(seed), {}
    while len(found) < n:
        genes = [int(torch.randint(k, (), generator=generator)) for k in space.genes]
        found[space.decode(genes)] = None
    return list(found)


@pytest.mark.parametrize("name", DEPTHS)
def test_scores_are_those_of_recalibrated_networks(name):
    supernet = supernet_of(name)
    architectures = drawn(supernet.space, 6)
    scorer = Scorer(supernet, *DATA, seed=4)
    together = scorer(architectures)
    assert together == [scorer([architecture])[0] for architecture in architectures]
    for architecture, score in zip(architectures, together, strict=True):
        network = supernet.network(architecture).eval()
        recalibrate_batch_norm(network, DATA[0].images, generator=seeded(4))
        with torch.no_grad():
            scores = network(DATA[1].images.clean(torch.arange(40)))
        assert score.loss == pytest.approx(float(F.cross_entropy(scores, DATA[1].labels)), rel=1e-4)


@pytest.mark.parametrize("method", [Evolution, Shifting])
def test_a_search_finds_a_path_within_limits(method):
    supernet = supernet_of("shufflenetv2")
    least = supernet.costs(supernet.cheapest(Limits()))
    limits = Limits(max_macs=int(1.1 * least.macs))
    small = {"population": 4, "parents": 3, "mutations": 2, "crossovers": 1, "epochs": 1}
    task = SearchTask(*DATA, 16, seeded(), limits=limits)
    more = {"n_images": 16} if method is Shifting else {}
    search = method(2, **small, **more).start(supernet, task)
    rows = search.run()
    assert [row["candidates"] for row in rows[1:]] == [4, 4]
    best = search.derive()
    assert supernet.costs(best).macs <= limits.max_macs


def test_the_parts_of_every_path_are_measured_once():
    supernet = supernet_of("mobilenetv2")
    model = LatencyModel(supernet, (3, 8, 8), Latency(repeats=1))
    layers = sum(DEPTHS["mobilenetv2"])
    assert len(model._parts) == 6 * layers + 3
    architecture = supernet.space.largest
    assert model(architecture) == pytest.approx(
        model.factor * sum(model._parts[repr(key)] for key, _ in supernet.steps(architecture))
    )
