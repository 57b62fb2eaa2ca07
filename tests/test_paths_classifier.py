"""The classifier with single paths: from random weights, from a zoo, and on."""

import copy
import pickle

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from paths_zoo import FAMILY, SEARCH, datasets, paths_classifier, pretrained
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, StratifiedShuffleSplit
from tiny import EMBEDDER, patterns

from supernetnas import (
    Evolution,
    Paths,
    RandomPaths,
    Shifting,
    Split,
    SupernetTransferClassifier,
    Zoo,
    ZooError,
)
from supernetnas.families.base import get_family
from supernetnas.families.paths import PathSpace
from supernetnas.fitting.retraining import Retraining
from supernetnas.parameters import ParameterError
from supernetnas.pretraining.whole_zoo import Pretraining
from supernetnas.search.costs import count_macs, count_parameters

IMAGES, LABELS = patterns(8, colour=True)
NEW, NEW_LABELS = patterns(8, colour=True, seed=5)

ONE_SPLIT = StratifiedShuffleSplit(1, test_size=0.5, random_state=0)
ONE_EPOCH = Retraining(epochs=1)
SPLIT = RandomPaths(3, epochs=1, n_recalibration=32, split=Split(2, epochs=3, n_batches=1))


@pytest.fixture(scope="session")
def zoo(tmp_path_factory):
    """Not to be written to."""
    return pretrained(tmp_path_factory.mktemp("paths") / "zoo")


@pytest.fixture(scope="session")
def scratch():
    """From random weights; not to be changed."""
    return paths_classifier().fit(IMAGES, LABELS)


@pytest.fixture(scope="session")
def split():
    """From random weights, split at the third layer; not to be changed."""
    return paths_classifier(search=SPLIT).fit(IMAGES, LABELS)


@pytest.fixture(scope="session")
def warm(zoo):
    """From all datasets; not to be changed."""
    return paths_classifier(zoo, "multi").fit(IMAGES, LABELS)


def rows(clf):
    return [{k: v for k, v in row.items() if k != "seconds"} for row in clf.history_]


def assert_same_fit(one, other):
    assert one.architecture_ == other.architecture_
    assert rows(one) == rows(other)
    for name, value in one.supernet_state_.items():
        assert value.tobytes() == other.supernet_state_[name].tobytes(), name
    assert one.predict_proba(NEW).tobytes() == other.predict_proba(NEW).tobytes()


# A fit


@pytest.mark.parametrize("fit", ["scratch", "warm"])
def test_a_fit(fit, request):
    clf = request.getfixturevalue(fit)
    assert clf.family_ == "paths"
    assert clf.source_ == {"scratch": "scratch", "warm": "multi-paths"}[fit]
    assert [len(stage) for stage in clf.architecture_.stages] == [1, 1, 1, 1]
    assert clf.inherited_ == 1
    assert clf.n_macs_ == count_macs(clf.network_, (3, 8, 8))
    assert clf.n_parameters_ == count_parameters(clf.network_)
    assert [row["stage"] for row in clf.history_] == ["search"] * 2 + ["retrain"] * 8
    assert clf.history_[1]["candidates"] == 3
    probabilities = clf.predict_proba(NEW)
    assert probabilities.shape == (32, 4)
    assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    assert clf.score(NEW, NEW_LABELS) > 0.6
    assert clf.front_ == []


def test_the_same_seed_gives_the_same_fit(scratch):
    before = torch.random.get_rng_state(), np.random.mtrand._rand.get_state()[1].copy()
    assert_same_fit(paths_classifier().fit(IMAGES, LABELS), scratch)
    assert torch.equal(torch.random.get_rng_state(), before[0])
    assert np.array_equal(np.random.mtrand._rand.get_state()[1], before[1])
    other = paths_classifier(random_state=1).fit(IMAGES, LABELS)
    assert not np.array_equal(other.predict_proba(NEW), scratch.predict_proba(NEW))


def test_the_source_brings_its_weights(zoo, warm, monkeypatch):
    """All but the head, whose classes are the target's; and a supernet of its own size."""
    from supernetnas import classifier as module

    starts = []
    original = module.search_best

    def spied(candidates, *args, **kwargs):
        starts.extend(copy.deepcopy([c.supernet for c in candidates]))
        return original(candidates, *args, **kwargs)

    monkeypatch.setattr(module, "search_best", spied)
    with pytest.warns(UserWarning, match=r"width=0.25 is not used: its supernet has 0\.125"):
        paths_classifier(zoo, "multi", family=Paths(width=0.25)).fit(IMAGES, LABELS)
    source, (supernet,) = zoo.multi("paths"), starts
    assert supernet.config.space == PathSpace(width=0.125, depths=(1, 1, 1, 1))
    for name, tensor in source.state_dict().items():
        assert torch.equal(supernet.state_dict()[name].float(), tensor.float()), name
    assert 0 < supernet.classifier.weight.abs().max() < 0.1 / supernet.space.features**0.5


@pytest.mark.parametrize(
    "search",
    [
        RandomPaths(1, epochs=0),
        Evolution(2, population=3, parents=2, mutations=1, crossovers=1, epochs=1),
        Shifting(2, population=3, parents=2, mutations=1, crossovers=1, epochs=1, n_images=16),
    ],
    ids=lambda search: search.name,
)
def test_every_search(zoo, search):
    clf = paths_classifier(zoo, "multi", search=search).fit(IMAGES, LABELS)
    assert [row.get("stage") for row in clf.history_].count("search") == search.n_epochs
    assert clf.score(NEW, NEW_LABELS) > 0.5


def test_by_default_a_path_is_drawn_and_trained(zoo):
    clf = paths_classifier(zoo, "multi", search="auto").fit(IMAGES, LABELS)
    assert clf.score(NEW, NEW_LABELS) > 0.5
    others = [
        clone(clf).set_params(random_state=seed, retraining=ONE_EPOCH).fit(IMAGES, LABELS)
        for seed in (1, 2)
    ]
    assert len({one.architecture_ for one in (clf, *others)}) > 1
    limit = int(0.9 * clf.n_macs_)
    limited = clone(clf).set_params(max_macs=limit, retraining=ONE_EPOCH)
    assert limited.fit(IMAGES, LABELS).n_macs_ <= limit


def test_names_of_searches():
    family = get_family("paths")
    assert [*family.searches] == ["none", "evolution", "shifting", "random"]
    assert family.method("auto").name == "none"
    assert type(family.method("auto", searching=True)) is Evolution
    for name in family.searches:
        assert family.method(name).name == name
        family.method(name).check()
    with pytest.raises(ParameterError, match="'auto', 'none', 'evolution', 'shifting', 'random'"):
        paths_classifier(search="sdarts").fit(IMAGES, LABELS)


def test_grey_images_and_rows(zoo):
    images, labels = patterns(8)
    new, new_labels = patterns(8, seed=5)
    clf = paths_classifier(zoo, "multi").fit(images, labels)
    assert clf.network_.config.input_channels == 1
    assert clf.score(new, new_labels) > 0.6
    assert_array_equal(clf.predict_proba(new.reshape(len(new), -1)), clf.predict_proba(new))


@pytest.mark.parametrize("size", [32, (12, 40)])
def test_other_sizes_than_the_source(zoo, size):
    clf = paths_classifier(zoo, "multi", image_size=size, retraining=ONE_EPOCH)
    clf.fit(IMAGES, LABELS)
    assert clf.image_size_ == tuple(np.broadcast_to(size, 2).tolist())
    assert clf.network_.config.image_size == clf.image_size_
    strides = [m.stride[0] for m in clf.network_.modules() if isinstance(m, torch.nn.Conv2d)]
    assert strides.count(2) == {32: 6, (12, 40): 2}[size]  # two branches of each first block
    assert clf.predict_proba(NEW).shape == (32, 4)


def test_image_size_auto():
    family = get_family("paths")
    for typical, expected in (((8, 8), (32, 32)), ((33, 40), (36, 40)), ((300, 48), (64, 48))):
        assert family.input(typical, 3, "auto").size == expected


# Limits


def test_limits_are_kept(zoo, scratch):
    for strategy in ("scratch", "multi"):
        limit = scratch.n_macs_
        clf = paths_classifier(zoo, strategy, max_macs=limit, retraining=ONE_EPOCH)
        clf.fit(IMAGES, LABELS)
        assert clf.n_macs_ == count_macs(clf.network_, (3, 8, 8)) <= limit
    space = PathSpace(width=0.125, depths=(1, 1, 1, 1))
    limit = sum(_costs(a).parameters for a in (space.smallest, space.largest)) // 2
    clf = paths_classifier(max_parameters=limit, retraining=ONE_EPOCH).fit(IMAGES, LABELS)
    assert clf.n_parameters_ == count_parameters(clf.network_) <= limit


def _costs(architecture):
    from supernetnas.families.paths import PathCosts

    space = PathSpace(width=0.125, depths=(1, 1, 1, 1))
    return PathCosts(space, (8, 8), 3, 4).of(architecture)


@pytest.mark.parametrize("strategy", ["scratch", "multi"])
def test_limits_that_cannot_be_met_are_refused_at_once(zoo, monkeypatch, strategy):
    def untouched(*args, **kwargs):
        raise AssertionError("images were decoded")

    monkeypatch.setattr("supernetnas.classifier.prepare", untouched)
    with pytest.raises(ValueError, match=r"cheapest have ([\d,]+) multiply-acc") as error:
        paths_classifier(zoo, strategy, max_macs=100).fit(IMAGES, LABELS)
    monkeypatch.undo()
    least = int(str(error.value).split("cheapest have ")[1].split()[0].replace(",", ""))
    clf = paths_classifier(zoo, strategy, max_macs=least, retraining=ONE_EPOCH)
    clf.fit(IMAGES, LABELS)
    assert clf.n_macs_ == least


@pytest.mark.parametrize(
    ("family", "message"),
    [
        (Paths("resnet"), "'space' parameter of Paths must be"),
        (Paths(width=0.1), "'width' parameter of Paths must be float >= 0.125 and <= 8"),
        (Paths(depth=0), "'depth' parameter of Paths must be float > 0 and <= 8 or tuple"),
        (Paths(depth=(2, 0, 1, 1)), "'depth' parameter of Paths"),
        (Paths(depth=(2, 1, 1)), "4 whole numbers from 1 to 64, one for each stage"),
    ],
)
def test_sizes_that_there_are_not(family, message):
    with pytest.raises(ParameterError, match=message):
        paths_classifier(family=family).fit(IMAGES, LABELS)


def test_sizes():
    assert Paths()._space() == PathSpace(width=0.5, depths=(2, 2, 4, 2))
    assert Paths(depth=1)._space().depths == (4, 4, 8, 4)
    assert Paths(depth=4, width=1)._space() == PathSpace(depths=(16, 16, 32, 16))
    assert Paths("mobilenetv2")._space().depths == (2, 2, 2, 2, 2, 1)
    assert Paths(depth=[1, 2, 3, 4])._space().depths == (1, 2, 3, 4)


# Splits


def test_the_network_inherits_from_its_part(split, monkeypatch):
    from supernetnas import classifier as module

    found, original = [], module.search_best
    monkeypatch.setattr(
        module, "search_best", lambda *args: found.append(original(*args)) or found[0]
    )
    clf = clone(split).fit(IMAGES, LABELS)
    assert_same_fit(clf, split)
    parts = found[0].search.searched
    part = parts.part(clf.architecture_).state_dict()
    for name, value in clf.supernet_state_.items():
        assert np.array_equal(part[name].numpy(), value), name
    others = [
        other.state_dict() for other in parts.parts if other is not parts.part(clf.architecture_)
    ]
    assert all(not np.array_equal(o["stem.0.weight"], part["stem.0.weight"]) for o in others)
    assert [row.get("split") for row in clf.history_[:5]].count(None) == 4
    assert clf.history_[1]["split"].startswith("layer 2: choices ")
    assert clf.score(NEW, NEW_LABELS) > 0.5


@pytest.mark.parametrize("kind", [Evolution, Shifting])
def test_split_searches_within_limits_from_a_zoo(zoo, scratch, kind):
    small = {"population": 3, "parents": 2, "mutations": 1, "crossovers": 1, "n_recalibration": 32}
    search = kind(2, **small, epochs=0, split=Split(epochs=2, n_batches=1))
    if kind is Shifting:
        search.set_params(n_images=16)
    clf = paths_classifier(zoo, "multi", search=search, max_macs=scratch.n_macs_)
    clf.fit(IMAGES, LABELS)
    assert clf.n_macs_ == count_macs(clf.network_, (3, 8, 8)) <= scratch.n_macs_
    assert clf.score(NEW, NEW_LABELS) > 0.5


def test_a_saved_split(tmp_path, split):
    split.save_pretrained(tmp_path / "model")
    loaded = SupernetTransferClassifier.from_pretrained(tmp_path / "model")
    assert_array_equal(loaded.predict_proba(NEW), split.predict_proba(NEW))
    assert loaded.get_params(deep=False)["search"] == SPLIT
    assert loaded.history_[1]["split"] == split.history_[1]["split"]
    assert clone(loaded).get_params()["search__split__layer"] == 2


def test_grids_reach_the_split():
    grid = {"search__split__by": ["gradients", "choices"], "search__split__layer": [3]}
    clf = paths_classifier(search=SPLIT, retraining=ONE_EPOCH)
    found = GridSearchCV(clf, grid, cv=ONE_SPLIT, error_score="raise").fit(IMAGES, LABELS)
    assert found.best_estimator_.history_[1]["split"].startswith("layer 3")


def test_a_layer_that_there_is_not():
    with pytest.raises(ParameterError, match=r"'layer' parameter of Split is 4, .* 0 to 3"):
        paths_classifier(search=RandomPaths(2, split=Split(4))).fit(IMAGES, LABELS)


# What is done with a fit


def test_saved_and_loaded(tmp_path, warm):
    warm.save_pretrained(tmp_path / "model")
    loaded = SupernetTransferClassifier.from_pretrained(tmp_path / "model")
    assert_array_equal(loaded.predict_proba(NEW), warm.predict_proba(NEW))
    assert loaded.architecture_ == warm.architecture_
    assert loaded.get_params(deep=False)["search"] == SEARCH
    assert loaded.get_params(deep=False)["family"] == FAMILY
    assert "shufflenetv2" in (tmp_path / "model" / "README.md").read_text()
    again = pickle.loads(pickle.dumps(warm))
    assert_array_equal(again.predict_proba(NEW), warm.predict_proba(NEW))


def test_folding_changes_nothing_but_rounding(warm):
    family = get_family("paths")
    folded = family.folded(warm.network_)
    norms = [m for m in folded.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert not norms
    images = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert_allclose(folded(images), warm.network_(images), rtol=1e-3, atol=1e-4)
    with pytest.raises(ValueError, match="training mode"):
        family.folded(copy.deepcopy(warm.network_).train())


def test_as_a_source(tmp_path, zoo, warm):
    own = Zoo.create(tmp_path / "own", embedder_id=EMBEDDER.identity)
    embedding = copy.deepcopy(warm).set_params(embedder=EMBEDDER)
    own.add_classifier(embedding, "mine", X=IMAGES, y=LABELS)
    source = Zoo.open(own.folder)["mine"]
    assert source.family == "paths"
    clf = paths_classifier(own, "mine", retraining=ONE_EPOCH).fit(IMAGES, LABELS)
    assert clf.source_ == "mine"


def test_grid_search():
    grid = {"search__candidates": [1, 2]}
    clf = paths_classifier(retraining=ONE_EPOCH)
    found = GridSearchCV(clf, grid, cv=ONE_SPLIT, error_score="raise").fit(IMAGES, LABELS)
    assert found.best_params_["search__candidates"] in (1, 2)


class Killed(Exception):
    pass


@pytest.mark.parametrize(
    ("fit", "stage", "epoch"),
    [
        ("scratch", "search", 1),
        ("scratch", "retrain", 1),
        ("split", "search", 1),
        ("split", "search", 3),
        ("split", "retrain", 1),
    ],
)
def test_a_fit_that_was_interrupted_goes_on(tmp_path, monkeypatch, stage, epoch, fit, request):
    from supernetnas.fitting import checkpoints as module

    whole = request.getfixturevalue(fit)
    original = module.StageCheckpoint.save

    def save(self, tensors, state):
        original(self, tensors, state)
        last = (state.get("history") or [{}])[-1]
        if (last.get("stage"), last.get("epoch")) == (stage, epoch):
            raise Killed

    monkeypatch.setattr(module.StageCheckpoint, "save", save)
    clf = clone(whole).set_params(checkpoint_dir=tmp_path)
    with pytest.raises(Killed):
        clone(clf).fit(IMAGES, LABELS)
    monkeypatch.undo()
    resumed = clone(clf).fit(IMAGES, LABELS)
    assert_same_fit(resumed, whole)


def test_a_fit_that_was_interrupted_after_its_choice_inherits_from_the_part(
    tmp_path, monkeypatch, split
):
    from supernetnas.fitting import checkpoints as module

    original = module.StageCheckpoint.save

    def save(self, tensors, state):
        original(self, tensors, state)
        if "architecture" in state:
            raise Killed

    monkeypatch.setattr(module.StageCheckpoint, "save", save)
    clf = clone(split).set_params(checkpoint_dir=tmp_path)
    with pytest.raises(Killed):
        clone(clf).fit(IMAGES, LABELS)
    monkeypatch.undo()
    assert_same_fit(clone(clf).fit(IMAGES, LABELS), split)


def test_time_limit(zoo):
    clf = paths_classifier(zoo, "multi", time_limit=1e-9).fit(IMAGES, LABELS)
    assert clf.history_[-1]["stage"] == "retrain"
    assert clf.predict_proba(NEW).shape == (32, 4)


def test_auto_compares_it_with_other_families(zoo):
    clf = paths_classifier(zoo, "auto", family="auto", search="random", retraining=ONE_EPOCH)
    clf.fit(IMAGES, LABELS)
    assert (clf.family_, clf.source_) == ("paths", "multi-paths")


# Pretraining


def test_a_zoo_of_paths(zoo):
    assert set(zoo.names) == {"bars-paths", "spots-paths", "multi-paths"}
    source = zoo.multi("paths")
    assert source.config.space == PathSpace(width=0.125, depths=(1, 1, 1, 1))
    assert [row["stage"] for row in source.history()] == ["search"] * 2
    for key in ("validation_accuracy", "train_accuracy"):
        assert 0 <= source.metrics[key] <= 1
    dtypes = {name: t.dtype for name, t in source.state_dict().items()}
    assert not any(name.startswith("classifier") for name in dtypes)
    assert "shufflenetv2" in (zoo.folder / "README.md").read_text()


def test_an_interrupted_pretraining_goes_on(tmp_path, zoo):
    def kill(search):
        if search.epoch == 1:
            raise Killed

    with pytest.raises(Killed):
        pretrained(tmp_path / "zoo", on_epoch=kill, singles=False)
    resumed = pretrained(tmp_path / "zoo", singles=False)
    for name, tensor in resumed.multi("paths").state_dict().items():
        assert torch.equal(tensor, zoo.multi("paths").state_dict()[name]), name


def test_a_pretraining_of_other_sizes_is_another(tmp_path):
    pretrained(tmp_path / "zoo", singles=False)
    other = Pretraining(Paths(width=0.25, depth=(1, 1, 1, 1)), image_side=8, multi_epochs=2)
    with pytest.raises(ZooError, match=r"its supernet is width 0\.125"):
        pretrained(tmp_path / "zoo", singles=True, pretraining=other)


def test_datasets_are_those_of_the_zoo(zoo):
    assert {source.dataset for source in zoo.values()} == {*(d.name for d in datasets()), None}
