"""Which supernet and which image size a fit starts from."""

import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.linear_model import RidgeClassifierCV
from sklearn.preprocessing import StandardScaler
from tiny import EMBEDDER, patterns, tiny_classifier

from supernetnas import Execution, Latency, Retraining, SupernetTransferClassifier, Zoo
from supernetnas.families.base import NetworkInput, get_family
from supernetnas.families.warm_start import starting_supernet
from supernetnas.fitting.checkpoints import FitCheckpoints, StageCheckpoint
from supernetnas.fitting.racing import raced
from supernetnas.fitting.resolved import method_of, only_family_of, settings_of
from supernetnas.fitting.sources import chosen_start
from supernetnas.fitting.starts import choose_start, possible_starts
from supernetnas.fitting.target import prepare
from supernetnas.fitting.validation import read_training_data
from supernetnas.parameters import ParameterError
from supernetnas.search.limits import Limits
from supernetnas.search.shifting import Shifting
from supernetnas.training.batches import stratified_split
from supernetnas.training.clock import Stopwatch

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def data():
    X, y = patterns(colour=True)
    return read_training_data(tiny_classifier(), X, y)


def starts_of(sources, data, image_size="auto", limits=None):
    return possible_starts(
        sources,
        lambda source: get_family("cells" if source is None else source.family),
        data,
        image_size,
        limits or Limits(),
    )


def test_a_single_start_is_not_measured(tiny_zoo, data):
    starts = starts_of([tiny_zoo["both"]], data)
    start, scores = choose_start(starts, data, Limits(), CPU, 0)
    assert (start.source.name, start.seen.size, scores) == ("both", (8, 8), [])


def test_the_best_probe_wins(tiny_zoo, data, caplog):
    starts = starts_of([tiny_zoo["bars"], tiny_zoo["both"]], data)
    with caplog.at_level(logging.INFO, "supernetnas.fitting.starts"):
        start, scores = choose_start(starts, data, Limits(), CPU, 0)
    assert [row["source"] for row in scores] == ["bars", "both"]
    best = max(scores, key=lambda row: row["accuracy"])
    assert start.source.name == best["source"]
    (message,) = caplog.messages
    assert f"starting from {best['source']} at 8x8" in message


class TestRace:
    """Of the two best, where probes do not tell them apart."""

    def chosen(self, tiny_zoo, data, monkeypatch, probes, reached, checkpoint=None):
        names = ["bars", "both", "spots"][: len(probes)]
        starts = starts_of([tiny_zoo[name] for name in names], data)
        monkeypatch.setattr(
            "supernetnas.fitting.starts.linear_probe", lambda *_, left=list(probes): left.pop(0)
        )
        asked = []

        def race(start):
            asked.append(starts.index(start))
            return reached[starts.index(start)]

        start, scores = choose_start(starts, data, Limits(), CPU, 0, checkpoint, "squeeze", race)
        return starts.index(start), asked, scores

    def test_nearer_than_a_standard_error(self, tiny_zoo, data, monkeypatch):
        n = len(data.labels)
        error = (0.5 * 0.5 * 2 / n) ** 0.5  # about that of 0.5 and what is near it
        place, asked, scores = self.chosen(
            tiny_zoo, data, monkeypatch, [0.5, 0.5 + 0.9 * error], [0.8, 0.7]
        )
        assert (place, sorted(asked)) == (0, [0, 1])
        assert [row["race_accuracy"] for row in scores] == [0.8, 0.7]
        place, asked, scores = self.chosen(
            tiny_zoo, data, monkeypatch, [0.5, 0.5 + 1.1 * error], [0.8, 0.7]
        )
        assert (place, asked) == (1, [])
        assert not any("race_accuracy" in row for row in scores)

    def test_however_far_apart_where_probes_do_not_tell(self, tiny_zoo, data, monkeypatch):
        """As of members of other shapes, which are only taught; if there are enough images."""
        family, n = type(get_family("cells")), len(data.labels)
        monkeypatch.setattr(family, "probes_tell", lambda self, budget: False)
        for least, expected in ((n, (0, [0, 1])), (n + 1, (1, []))):
            monkeypatch.setattr("supernetnas.fitting.starts._LEAST_UNTOLD", least)
            place, asked, _ = self.chosen(tiny_zoo, data, monkeypatch, [0.1, 0.9], [0.8, 0.7])
            assert (place, sorted(asked)) == expected

    def test_the_best_of_those_untold_whatever_its_probe(self, tiny_zoo, data, monkeypatch):
        """Also if two others, of which probes tell, are ahead of it."""
        for tell, rivals in (
            ([True, False, False], [0, 1]),
            ([True, True, False], [0, 2]),
            ([False, True, True], [0, 1]),
        ):
            answers = iter(tell)  # the best probe is asked first
            monkeypatch.setattr(
                type(get_family("cells")), "probes_tell", lambda *_, answers=answers: next(answers)
            )
            monkeypatch.setattr("supernetnas.fitting.starts._LEAST_UNTOLD", 1)
            probes, reached = [0.9, 0.5, 0.1], [0.5, 0.6, 0.7]
            place, asked, _ = self.chosen(tiny_zoo, data, monkeypatch, probes, reached)
            assert (asked, place) == (rivals, rivals[1])

    def test_equal_brief_fits_are_told_apart_by_probes(self, tiny_zoo, data, monkeypatch):
        assert self.chosen(tiny_zoo, data, monkeypatch, [0.5, 0.51], [0.7, 0.7])[0] == 1

    def test_where_it_cannot_be_had(self, tiny_zoo, data, monkeypatch):
        place, _, scores = self.chosen(tiny_zoo, data, monkeypatch, [0.5, 0.51], [None, None])
        assert place == 1 and not any("race_accuracy" in row for row in scores)

    def test_it_is_kept(self, tiny_zoo, data, monkeypatch, tmp_path):
        kept = FitCheckpoints(tmp_path, Stopwatch()).stage("start")
        first = self.chosen(tiny_zoo, data, monkeypatch, [0.5, 0.51], [0.9, 0.7], kept)
        kept = FitCheckpoints(tmp_path, Stopwatch()).stage("start")
        again = self.chosen(tiny_zoo, data, monkeypatch, [0.0, 0.0], [0.0, 0.0], kept)
        assert again[0] == first[0] == 0 and again[1] == []
        assert again[2] == first[2]


def test_a_brief_fit_is_one_of_two_thirds_of_the_epochs(tiny_zoo, monkeypatch):
    X, y = patterns(30, colour=True)
    names = np.array(["a", "b", "c", "d"])[y]
    settings = {"retraining__epochs": 7, "class_weight": "balanced"}
    clf = tiny_classifier(tiny_zoo, "auto", **settings)
    data = read_training_data(clf, X, names)
    (start,) = starts_of([tiny_zoo["both"]], data)
    seen, fit = [], SupernetTransferClassifier.fit
    monkeypatch.setattr(
        SupernetTransferClassifier, "fit", lambda self, X, y: seen.append(fit(self, X, y))
    )
    accuracy = raced(clf, start, data, 3)
    (brief,) = seen
    assert (brief.retraining.epochs, brief.random_state, brief.image_size) == (5, 3, (8, 8))
    assert set(brief.classes_) == set(names)
    assert raced(clf, start, data, 3) == accuracy
    clf.set_params(retraining=None, preset="quick")
    raced(clf, replace(start, times_epochs=2.0), data, 3)
    assert seen[-1].retraining.epochs == 14  # two thirds of a third of twice 30
    assert 0 <= accuracy <= 1 and accuracy * 32 == pytest.approx(round(accuracy * 32))


@pytest.mark.parametrize("n_per_class", [24, 25])
def test_few_images_decide_nothing(tiny_zoo, n_per_class):
    X, y = patterns(n_per_class, colour=True)
    clf = tiny_classifier(tiny_zoo, "auto", retraining__epochs=1)
    data = read_training_data(clf, X, y)
    (start,) = starts_of([tiny_zoo["both"]], data)
    assert (raced(clf, start, data, 0) is None) == (n_per_class == 24)


@pytest.mark.parametrize("n_rare", [2, 3])
def test_a_race_leaves_each_class_what_a_fit_needs(tiny_zoo, n_rare):
    X, y = patterns(40, colour=True)
    kept = np.flatnonzero((y != 3) | (np.cumsum(y == 3) <= n_rare))
    clf = tiny_classifier(tiny_zoo, "auto", retraining__epochs=1)
    data = read_training_data(clf, X[kept], y[kept])
    (start,) = starts_of([tiny_zoo["both"]], data)
    assert (raced(clf, start, data, 0) is None) == (n_rare == 2)


def test_a_race_does_not_mind_an_outlier_among_what_it_holds_out(tiny_zoo, monkeypatch):
    X, y = patterns(40, colour=True)
    clf = tiny_classifier(tiny_zoo, "auto", retraining__epochs=1)
    X = (X / 255).astype(np.float32)
    data = read_training_data(clf, X, y)
    (start,) = starts_of([tiny_zoo["both"]], data)
    taken, fit = [], SupernetTransferClassifier.fit
    monkeypatch.setattr(
        SupernetTransferClassifier,
        "fit",
        lambda self, X, y: taken.append(len(X)) or fit(self, X, y),
    )
    own = torch.Generator().manual_seed(0)
    _, aside = stratified_split(torch.from_numpy(y), 1 / 4, own)
    X[aside.numpy()[0], 0, 0, 0] = 80.0
    data = read_training_data(clf, X, y)
    assert 0 <= raced(clf, start, data, 0) <= 1
    assert taken == [len(y) - len(aside)]


def test_probes_are_those_of_the_networks_features(tiny_zoo, data):
    """Against the network built by hand, whose features scikit-learn classifies."""
    starts = starts_of([tiny_zoo["bars"], tiny_zoo["both"]], data)
    _, scores = choose_start(starts, data, Limits(), CPU, 0)
    family, source = get_family("cells"), tiny_zoo["both"]
    supernet = starting_supernet(family, starts[1].seen, 4, 0, (source.config, source.state_dict()))
    network = family.probed(supernet, None, starts[1].seen)
    pixels = data.images.tensor(8, 8).float() / 255
    pixels = (pixels - pixels.mean((0, 2, 3), keepdim=True)) / pixels.std(
        (0, 2, 3), keepdim=True, correction=0
    )
    network.train()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        network(pixels)  # all images are one batch
        features = network.eval().features(pixels).numpy()
    rows = StandardScaler().fit_transform(features.astype(float))
    model = RidgeClassifierCV(10.0 ** np.arange(-1, 6), scoring="accuracy").fit(rows, data.labels)
    # One image of 40 may fall on the other side for the rounding of features.
    assert scores[1]["accuracy"] == pytest.approx(model.best_score_, abs=0.026)


def test_fewer_pixels_leave_time_for_more_epochs(tiny_zoo):
    """In proportion to the pixels, up to twice as many; see also the inputs of cells."""
    X = np.zeros((8, 32, 32, 3), np.uint8)
    data = read_training_data(tiny_classifier(), X, np.arange(8) % 4)
    source, family = tiny_zoo["both"], get_family("cells")
    ((free,), (most,)) = (starts_of([source], data, limits=each) for each in (None, Limits(10**9)))
    assert free == most and (free.seen.size, free.times_epochs) == ((32, 32), 1)
    times = {}
    for side in (28, 24, 20, 16):
        (start,) = starts_of([source], data, limits=Limits(own_macs(source, side)))
        times[start.seen.size] = start.times_epochs
    assert times == {
        (28, 28): pytest.approx((32 / 28) ** 2),
        (24, 24): pytest.approx((32 / 24) ** 2),
        (20, 20): 2,
        (16, 16): 2,
    }
    clf = SupernetTransferClassifier(preset="quick")
    assert settings_of(clf, family, True, 300, 16 / 9).epochs == 18  # 17.8
    assert settings_of(clf.set_params(retraining=Retraining(4)), family, True, 300, 2.0).epochs == 4


def own_macs(source, side):
    """What the network of a source's genotype costs at a size, with 4 classes."""
    family, seen = get_family("cells"), NetworkInput((side, side), 3)
    supernet = starting_supernet(family, seen, 4, 0, (source.config, source.state_dict()))
    budget = family.budget(supernet.config, seen, 4, Limits(max_macs=10**9))
    return budget.cost.of(supernet.genotype())[0]


class TestSizeWithinLimits:
    X = np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3), dtype=np.uint8)
    y = np.arange(8) % 4

    def test_nothing_is_loaded_to_check_them(self, tiny_zoo, monkeypatch, caplog):
        data = read_training_data(tiny_classifier(), self.X, self.y)
        source, limits = tiny_zoo["both"], Limits(own_macs(tiny_zoo["both"], 16) - 1)

        def untouched(self):
            raise AssertionError("weights were loaded")

        monkeypatch.setattr(type(source), "state_dict", untouched)
        family_of = lambda source: get_family("cells")  # noqa: E731
        with caplog.at_level(logging.INFO, "supernetnas"):
            possible_starts([source], family_of, data, "auto", limits, loads=False)
        assert not caplog.messages
        with pytest.raises(AssertionError, match="loaded"):
            possible_starts([source], family_of, data, "auto", limits)

    def test_latency_that_only_fewer_pixels_keep(self, tiny_zoo):
        """It is not refused by what it would be at the images' own size."""

        def measure(network, shape):  # of parts and of the whole
            return 1.0 if max(shape[2:], default=0) > 12 else 0.1

        limit = {"max_latency": Latency(0.5, measure=measure)}
        clf = tiny_classifier(tiny_zoo, "both", search="none", image_size="auto", **limit)
        with pytest.raises(ValueError, match=r"max_latency=0\.5 cannot be met"):
            clone(clf).fit(self.X, self.y)
        clf.set_params(max_macs=own_macs(tiny_zoo["both"], 16) - 1).fit(self.X, self.y)
        assert clf.image_size_ == (12, 12)

    @pytest.mark.parametrize("names", [["bars", "spots"], ["spots", "bars"]])
    def test_the_smallest_of_sources_that_are_compared(self, tiny_zoo, names):
        sources = [tiny_zoo[name] for name in names]
        costs = [own_macs(source, 16) for source in sources]
        assert costs[0] != costs[1]
        clf = tiny_classifier(tiny_zoo, "oracle", image_size="auto", max_macs=min(costs))
        data = read_training_data(clf, self.X, self.y)
        kept = FitCheckpoints(None, Stopwatch())
        start, scores, searched = chosen_start(clf, sources, data, CPU, 0, kept)
        assert (start.seen.size, scores, searched) == ((12, 12), [], sources)

    def test_sources_that_cannot_keep_them_are_not_searched(self, tiny_zoo, tmp_path):
        zoo = tiny_zoo.subset(["bars"]).save(tmp_path / "zoo")
        large = tiny_classifier(family__init_channels=8, embedder=EMBEDDER).fit(self.X, self.y)
        zoo.add_classifier(large, "large", X=self.X, y=self.y)
        clf = tiny_classifier(zoo, "large", max_parameters=2000)
        with pytest.raises(ValueError, match="max_parameters=2000 cannot be met"):
            clone(clf).fit(self.X, self.y)
        clf.set_params(strategy="oracle").fit(self.X, self.y)
        assert clf.source_ == "bars" and clf.n_parameters_ <= 2000


def test_starts_that_cannot_keep_the_limits_are_left_out(tiny_zoo, data):
    sources = [tiny_zoo["both"]]
    assert len(starts_of(sources, data, limits=Limits(max_macs=10**9))) == 1
    with pytest.raises(ValueError, match="max_macs"):
        starts_of(sources, data, limits=Limits(max_macs=10))


def test_auto_chooses_among_the_families(tiny_zoo, tmp_path):
    zoo = Zoo.create(tmp_path / "zoo", embedder_id=tiny_zoo.embedder_id)
    zoo.merge(tiny_zoo.subset(["both"]))
    add_elastic(zoo)
    X, y = patterns(kind="spots", colour=True)
    clf = SupernetTransferClassifier("auto", zoo=zoo, retraining=None, random_state=0)
    clf.set_params(retraining__epochs=1).fit(X, y)
    assert {(row["source"], row["family"]) for row in clf.scores_} == {
        ("both", "cells"),
        ("elastic", "elastic"),
    }
    best = max(clf.scores_, key=lambda row: row["accuracy"])
    assert (clf.source_, clf.family_) == (best["source"], best["family"])
    assert list(clf.image_size_) == best["image_size"]
    only = clf.set_params(family="cells").fit(X, y)
    assert (only.family_, only.scores_) == ("cells", None)
    assert clf.set_params(family="auto", search="probe").fit(X, y).family_ == "elastic"
    assert not hasattr(clf, "genotype_")  # of the fit before
    clf.set_params(search="random", max_macs=10**8).fit(X, y)  # which cells keep no limits with
    assert (clf.family_, clf.scores_) == ("elastic", None) and clf.n_macs_ <= 10**8
    clf.set_params(max_macs=None)
    with pytest.raises(ValueError, match="'nosuch'"):
        clf.set_params(search="nosuch").fit(X, y)


def test_scores_survive_saving(tiny_zoo, tmp_path):
    zoo = Zoo.create(tmp_path / "zoo", embedder_id=tiny_zoo.embedder_id)
    zoo.merge(tiny_zoo.subset(["both"]))
    add_elastic(zoo)
    X, y = patterns(colour=True)
    clf = SupernetTransferClassifier("auto", zoo=zoo, random_state=0)
    clf.set_params(retraining__epochs=1).fit(X, y)
    clf.save_pretrained(tmp_path / "model")
    loaded = SupernetTransferClassifier.from_pretrained(tmp_path / "model")
    assert loaded.scores_ == clf.scores_


def test_a_fit_that_goes_on_starts_from_the_same(tiny_zoo, data, tmp_path, monkeypatch):
    starts = starts_of([tiny_zoo["bars"], tiny_zoo["both"]], data)
    checkpoint = StageCheckpoint(tmp_path / "start.safetensors", Stopwatch())
    known = choose_start(starts, data, Limits(), CPU, 0, checkpoint)

    def compared(*args):
        raise AssertionError("starts were compared")

    monkeypatch.setattr("supernetnas.fitting.starts._features", compared)
    assert choose_start(starts, data, Limits(), CPU, 0, checkpoint) == known
    others = starts_of([tiny_zoo["bars"], tiny_zoo["spots"]], data)
    with pytest.raises(AssertionError, match="compared"):
        choose_start(others, data, Limits(), CPU, 0, checkpoint)


def test_images_are_resized_once(tiny_zoo, data, monkeypatch):
    """Each start is shown what the fit from it would see, whatever sizes others want."""
    import supernetnas.fitting.starts as module

    shown, original = [], module._features

    def seen(start, images, *args):
        shown.append((start.seen.size, images.clean(torch.arange(len(images)))))
        return original(start, images, *args)

    monkeypatch.setattr(module, "_features", seen)
    starts = [starts_of([tiny_zoo["both"]], data, size)[0] for size in (8, 64, 24)]
    choose_start(starts, data, Limits(), CPU, 0)
    assert [size for size, _ in shown] == [(8, 8), (64, 64), (24, 24)]
    for start, (_, images) in zip(starts, shown, strict=True):
        target = prepare(data, start.seen, "none", CPU)
        assert torch.equal(images, target.part().images.clean(torch.arange(len(images))))


@pytest.mark.parametrize(
    "parameters",
    [{"image_size": (8, 12)}, {"precision": Execution(checkpointing=True)}],
    ids=str,
)
def test_families_that_cannot_are_left_out(tiny_zoo, tmp_path, monkeypatch, parameters):
    """Elastic networks see squares and compute nothing again; an explicit wish is refused."""
    zoo = Zoo.create(tmp_path / "zoo", embedder_id=tiny_zoo.embedder_id)
    zoo.merge(tiny_zoo.subset(["both"]))
    add_elastic(zoo)
    X, y = patterns(colour=True)
    clf = SupernetTransferClassifier("auto", zoo=zoo, random_state=0, **parameters)
    clf.set_params(search="none", retraining__epochs=1).fit(X, y)
    clf = SupernetTransferClassifier("auto", zoo=zoo, random_state=0, **parameters)
    data = read_training_data(clf, X, y)
    kept = FitCheckpoints(None, Stopwatch())
    start, scores, _ = chosen_start(clf, zoo.multis(), data, CPU, 0, kept)
    assert (start.family.name, scores) == ("cells", [])

    def untouched(*args):
        raise AssertionError("starts were compared")

    monkeypatch.setattr("supernetnas.fitting.sources.choose_start", untouched)
    for wish in ({"family": "elastic"}, {"strategy": "elastic"}):
        with pytest.raises(ParameterError, match=r"squares|neither compiled"):
            clone(clf).set_params(**wish).fit(X, y)


def test_a_named_source_without_the_search_is_refused_at_once(tiny_zoo, tmp_path, monkeypatch):
    zoo = Zoo.create(tmp_path / "zoo", embedder_id=tiny_zoo.embedder_id)
    add_elastic(zoo)

    def untouched(*args):
        raise AssertionError("starts were compared")

    monkeypatch.setattr("supernetnas.fitting.sources.choose_start", untouched)
    clf = SupernetTransferClassifier("elastic", zoo=zoo, search="gdas")
    with pytest.raises(ParameterError, match="'probe', 'front'"):
        clf.fit(*patterns(colour=True))


def test_searches_of_one_name_are_of_their_family():
    """Both families have a "random"; an object is of one of them."""
    for family, other in (("cells", "elastic"), ("elastic", "cells")):
        search = get_family(family).method("random")
        assert get_family(family).method(search) is search
        with pytest.raises(ParameterError, match=f"family '{other}'"):
            get_family(other).method(search)
        clf = SupernetTransferClassifier(search=search)
        assert only_family_of(clf) == family and method_of(clf) is search
    assert only_family_of(SupernetTransferClassifier(search="random")) is None


def test_a_search_that_is_derived_from_another_families_is_not_its():
    class Own(get_family("cells").searches["none"]):
        pass

    assert get_family("cells").has_search(Own()) and not get_family("elastic").has_search(Own())
    for search in ("shifting", Shifting()):  # which is an evolution, and elastic networks have one
        assert not get_family("elastic").has_search(search)
        assert only_family_of(SupernetTransferClassifier(search=search)) == "cells"


def add_elastic(zoo):
    """Add EfficientNet-Lite0 without further members."""
    from dataclasses import replace

    from supernetnas.families.elastic.lite0 import lite0_supernet

    supernet = lite0_supernet()
    config = replace(supernet.config, published=True)
    zoo.add("elastic", config=config, state_dict=supernet.shared_state(), kind="multi")
