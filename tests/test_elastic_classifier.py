"""The classifier with elastic networks: from a published source, from random weights, and on."""

import pickle
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from elastic_zoo import coloured, elastic_classifier
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, StratifiedShuffleSplit
from tiny import EMBEDDER, tiny_classifier

from supernetnas import Evolution, Execution, Latency, SupernetTransferClassifier, Zoo
from supernetnas.families.elastic import LITE0_SPACE
from supernetnas.families.elastic.family import Elastic
from supernetnas.families.elastic.finetuning import FineTuning
from supernetnas.families.elastic.member_search import Front
from supernetnas.fitting.retraining import Retraining
from supernetnas.parameters import ParameterError
from supernetnas.search.costs import count_macs, count_parameters

IMAGES, LABELS = coloured()
NEW, NEW_LABELS = coloured(n_per_class=8, seed=5)
ONE_EPOCH = Retraining(epochs=1)
LARGEST = LITE0_SPACE.largest.at(32)


@pytest.fixture
def zoo(published_zoo):
    return published_zoo


@pytest.fixture(scope="session")
def alone(published_zoo):
    """The largest alone; not to be changed."""
    return elastic_classifier(published_zoo).fit(IMAGES, LABELS)


@pytest.fixture(scope="session")
def front(published_zoo):
    """A front of several networks; not to be changed."""
    return elastic_classifier(published_zoo, search="front").fit(IMAGES, LABELS)


@pytest.fixture(scope="session")
def limited(published_zoo, alone):
    """Within half of what the largest costs; not to be changed."""
    half, longer = alone.n_macs_ // 2, Retraining(12)
    clf = elastic_classifier(published_zoo, max_macs=half, retraining=longer)
    return clf.fit(IMAGES, LABELS)


def rows(clf):
    return [{k: v for k, v in row.items() if k != "seconds"} for row in clf.history_]


def assert_same_fit(one, other):
    assert one.architecture_ == other.architecture_
    assert rows(one) == rows(other)
    assert one.front_ == other.front_
    for name, value in one.supernet_state_.items():
        assert value.tobytes() == other.supernet_state_[name].tobytes(), name
    assert one.predict_proba(NEW).tobytes() == other.predict_proba(NEW).tobytes()


# A fit


@pytest.mark.parametrize("known", [{}, {"avx512_bf16": True}])
def test_it_is_trained_in_what_the_processor_multiplies_fast(zoo, monkeypatch, known):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: known)
    seen = set()
    forward = FineTuning.forward

    def watched(module, images):
        stages = module.supernet.largest.stages
        hook = stages[-1].register_forward_hook(lambda m, given, result: seen.add(result.dtype))
        try:
            return forward(module, images)
        finally:
            hook.remove()

    monkeypatch.setattr(FineTuning, "forward", watched)
    clf = elastic_classifier(zoo).fit(IMAGES[::2], LABELS[::2])
    assert seen == {torch.bfloat16 if known else torch.float32}
    assert all(value.dtype != torch.bfloat16 for value in clf.network_.state_dict().values())


def test_the_largest_alone(alone):
    assert alone.family_ == "elastic" and alone.source_ == "multi"
    assert alone.architecture_ == LARGEST
    assert alone.image_size_ == (32, 32)
    assert alone.classes_.tolist() == [0, 1, 2]
    assert (alone.n_macs_, alone.n_parameters_) == (
        count_macs(alone.network_, (3, 32, 32)),
        count_parameters(alone.network_),
    )
    assert 0.99 < alone.inherited_ < 1
    probabilities = alone.predict_proba(NEW)
    assert probabilities.shape == (24, 3)
    assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    assert_array_equal(alone.predict(NEW), probabilities.argmax(axis=1))
    assert alone.score(NEW, NEW_LABELS) > 0.6
    (row,) = alone.front_
    assert row["architecture"] == LARGEST
    assert (row["n_macs"], row["n_parameters"]) == (alone.n_macs_, alone.n_parameters_)
    assert 0.5 < row["probe_accuracy"] <= 1 and "validation_accuracy" not in row
    assert [row["stage"] for row in alone.history_] == ["retrain"] * 4


def test_the_same_seed_gives_the_same_network(zoo, alone):
    before = torch.random.get_rng_state(), np.random.mtrand._rand.get_state()[1].copy()
    assert_same_fit(elastic_classifier(zoo).fit(IMAGES, LABELS), alone)
    other = elastic_classifier(zoo, random_state=1).fit(IMAGES, LABELS)
    assert not np.array_equal(other.predict_proba(NEW), alone.predict_proba(NEW))
    assert torch.equal(torch.random.get_rng_state(), before[0])
    assert np.array_equal(np.random.mtrand._rand.get_state()[1], before[1])


def test_grey_images_of_two_classes(zoo):
    images, labels = coloured(n_classes=2, channels=1, side=20)
    new, new_labels = coloured(n_classes=2, channels=1, side=20, seed=5)
    names = np.array(["left", "right"])
    clf = elastic_classifier(zoo).fit(images[..., 0], names[labels])
    assert clf.network_.config.input_channels == 1
    assert clf.predict_proba(new[..., 0]).shape == (12, 2)
    assert clf.score(new[..., 0], names[new_labels]) > 0.6
    rows_of_pixels = new.reshape(12, -1)
    assert_array_equal(clf.predict_proba(rows_of_pixels), clf.predict_proba(new[..., 0]))


def test_pil_images_of_other_sizes(zoo, alone):
    pictures = [Image.fromarray(image) for image in IMAGES]
    pictures[0] = pictures[0].resize((50, 60))
    clf = elastic_classifier(zoo).fit(pictures, LABELS)
    assert clf.score([Image.fromarray(image) for image in NEW], NEW_LABELS) > 0.6


@pytest.mark.parametrize("channels", [2, 13])
def test_images_of_other_channels(zoo, channels):
    images, labels = coloured(channels=channels, side=24)
    new, new_labels = coloured(channels=channels, side=24, seed=5)
    longer = Retraining(8, learning_rate=1e-3)  # after four epochs of two steps it is chance
    clf = elastic_classifier(zoo, search="front", retraining=longer).fit(images, labels)
    assert clf.network_.config.input_channels == channels
    assert clf.network_.trunk.stem.weight.shape[1] == channels
    assert clf.score(new, new_labels) > 0.6


def test_the_network_sees_what_it_was_pretrained_on(zoo, alone):
    """Standardised by half of the range, on whatever scale the values are."""
    assert alone.preprocessing_.mean == alone.preprocessing_.std == (0.5, 0.5, 0.5)
    unit = IMAGES.astype(np.float32) / 255
    fits = {
        "unit": elastic_classifier(zoo).fit(unit, LABELS),
        "signed": elastic_classifier(zoo).fit(6 * unit - 2, LABELS),
    }
    assert (IMAGES.min(), IMAGES.max()) == (0, 255)
    assert_allclose(fits["unit"].preprocessing_.mean, (0.5,) * 3, rtol=1e-6)
    assert_allclose(fits["signed"].preprocessing_.mean, (1.0,) * 3, rtol=1e-6)
    assert_allclose(fits["signed"].preprocessing_.std, (3.0,) * 3, rtol=1e-6)
    new = NEW.astype(np.float32) / 255
    for name, given in (("unit", new), ("signed", 6 * new - 2)):
        assert_allclose(
            fits[name].predict_proba(given), alone.predict_proba(NEW), atol=0.15, err_msg=name
        )


def test_dark_images_are_stretched(zoo):
    """8-bit values that leave the brighter half of them unused count as a range of their own."""
    clf = elastic_classifier(zoo).fit(IMAGES // 4, LABELS)
    half = 63 / 255 / 2
    assert_allclose(clf.preprocessing_.mean, (half,) * 3)
    assert_allclose(clf.preprocessing_.std, (half,) * 3)
    assert clf.score(NEW // 4, NEW_LABELS) > 0.6


def test_squares_only(zoo, monkeypatch):
    def untouched(*args, **kwargs):
        raise AssertionError("the zoo was opened")

    monkeypatch.setattr("supernetnas.fitting.sources.open_zoo", untouched)
    for size in ((32, 48), [48, 32]):
        with pytest.raises(ParameterError, match=r"see squares; got image_size="):
            elastic_classifier(zoo, image_size=size).fit(IMAGES, LABELS)
    with pytest.raises(AssertionError, match="opened"):
        elastic_classifier(zoo, image_size=(32, 32)).fit(IMAGES, LABELS)


def test_image_size_auto(zoo):
    clf = elastic_classifier(zoo, image_size="auto", retraining=ONE_EPOCH)
    clf.fit(IMAGES[:9], [0, 1, 2] * 3)
    assert clf.image_size_ == (128, 128) and clf.architecture_.size == 128


# Several networks


def test_front(front):
    assert front.architecture_ == front.front_[0]["architecture"] == LARGEST
    assert len(front.front_) == 4
    costs = [row["n_macs"] for row in front.front_]
    assert costs == sorted(costs, reverse=True) and len(set(costs)) == 4
    for row in front.front_:
        assert 0 <= row["probe_accuracy"] <= 1 and 0 <= row["validation_accuracy"] <= 1
    assert front.supernet_config_.front == tuple(row["architecture"] for row in front.front_)
    assert front.score(NEW, NEW_LABELS) > 0.6
    # The largest is what the user gets, and is in training from the first epoch to the last.
    trained = [row for row in front.history_ if row["stage"] in ("retrain", "teach")]
    assert all("validation_accuracy" in row for row in trained)
    assert trained[-1]["validation_accuracy"] == front.front_[0]["validation_accuracy"]


def test_validation_accuracy_is_that_of_the_networks(zoo, monkeypatch):
    """On images of each class that nothing was trained on."""
    from supernetnas import classifier

    given = {}

    def spy(module, name, position):
        original = getattr(module, name)

        def spied(*args, **kwargs):
            given[name] = args[position]
            return original(*args, **kwargs)

        monkeypatch.setattr(module, name, spied)

    spy(classifier, "validate_front", 3)
    spy(Elastic, "training_data", 2)
    clf = elastic_classifier(zoo, search=Front(validation_fraction=0.5), augmentation="none")
    clf.fit(IMAGES, LABELS)
    pixels = {}
    for name, data in given.items():
        assert data.labels.bincount().tolist() == [3, 3, 3]
        images = data.images.clean(torch.arange(9))
        pixels[name] = {image.numpy().tobytes() for image in images}
        assert len(pixels[name]) == 9
    assert not pixels["validate_front"] & pixels["training_data"]
    data, state = given["validate_front"], clf.supernet_state_
    images = data.images.clean(torch.arange(9))
    state = {name: torch.from_numpy(array) for name, array in state.items()}
    for row in clf.front_:
        network = Elastic().member(clf.supernet_config_, state, row["architecture"])
        with torch.no_grad():
            hits = network(images).argmax(1) == data.labels
        assert row["validation_accuracy"] == pytest.approx(float(hits.float().mean()))


def test_at(front):
    seen = set()
    for row in front.front_:
        clf = front.at(max_macs=row["n_macs"])
        assert isinstance(clf, SupernetTransferClassifier) and clf is not front
        allowed = [other for other in front.front_ if other["n_macs"] <= row["n_macs"]]
        best = max(allowed, key=lambda r: r["n_macs"])
        assert clf.architecture_ == best["architecture"]
        assert (clf.n_macs_, clf.n_parameters_) == (best["n_macs"], best["n_parameters"])
        assert clf.n_macs_ == count_macs(clf.network_, (3, 32, 32)) <= row["n_macs"]
        assert clf.n_parameters_ == count_parameters(clf.network_)
        assert clf.max_macs == row["n_macs"] and clf.front_ == front.front_
        assert clf.predict_proba(NEW).shape == (24, 3)
        seen.add(clf.architecture_)
    assert len(seen) > 1
    assert front.max_macs is None and front.architecture_ == LARGEST
    least = min(row["n_parameters"] for row in front.front_)
    clf = front.at(max_parameters=least)
    assert clf.n_parameters_ == count_parameters(clf.network_) == least
    assert clf.max_parameters == least and clf.max_macs is None


def test_at_says_what_it_chose_and_why(front, caplog):
    rows = sorted(front.front_, key=lambda row: row["n_macs"])
    better = [{**row, "validation_accuracy": 0.9 - 0.1 * place} for place, row in enumerate(rows)]
    other = pickle.loads(pickle.dumps(front))
    other.front_ = better
    caplog.set_level("INFO", "supernetnas")
    clf = other.at(max_macs=rows[2]["n_macs"])
    assert clf.n_macs_ == rows[2]["n_macs"]
    assert caplog.messages == [clf.outcome_]
    assert clf.outcome_ == (
        f"in a front of {len(rows)} networks the most expensive of the 3 within the limits, with "
        f"{rows[2]['n_macs']:,} multiply-accumulates and a validation accuracy of 0.700; 0.900 has "
        f"one with {rows[0]['n_macs']:,}, which max_macs would give"
    )
    cheapest = other.at(max_macs=rows[0]["n_macs"]).outcome_
    assert " the only one within the limits" in cheapest and "max_macs" not in cheapest


def test_at_a_latency(front):
    def measure(network, shape):
        assert shape == (2, 3, 32, 32)
        return count_macs(network, (3, 32, 32)) / 1e9

    seconds = sorted(row["n_macs"] / 1e9 for row in front.front_)
    latency = Latency(seconds[1], batch_size=2, measure=measure)
    clf = front.at(max_latency=latency)
    assert clf.n_macs_ / 1e9 <= seconds[1] and clf.max_latency == latency
    assert " the most expensive of the 2 within the limits, with " in clf.outcome_
    clf = front.at(max_latency=latency, max_macs=round(seconds[0] * 1e9))
    assert clf.n_macs_ == round(seconds[0] * 1e9)
    with pytest.raises(ValueError, match=rf"within max_latency={seconds[0] / 2}, .* in .* seconds"):
        front.at(max_latency=replace(latency, seconds=seconds[0] / 2))
    with pytest.raises(ValueError, match=r"max_latency=20 is no limit: it is in seconds"):
        front.at(max_latency=20)
    for bad in (0, -1, "fast"):
        with pytest.raises(ParameterError, match="'max_latency'"):
            front.at(max_latency=bad)
    with pytest.raises(ParameterError, match="'repeats' parameter of Latency"):
        front.at(max_latency=replace(latency, repeats=0))


def test_at_a_latency_is_measured_on_the_device_of_the_network(front):
    clf = pickle.loads(pickle.dumps(front)).set_params(device="cuda:99")
    assert clf.at(max_latency=0.1).device_ == "cpu"


def test_at_its_own_cost_is_the_network_of_the_fit(front, alone):
    best = front.at()
    if best.architecture_ == front.architecture_:
        assert_array_equal(best.predict_proba(NEW), front.predict_proba(NEW))
    same = alone.at(max_macs=alone.n_macs_)
    assert_array_equal(same.predict_proba(NEW), alone.predict_proba(NEW))


def test_at_under_any_surroundings(front):
    with torch.inference_mode(), torch.device("meta"):
        clf = front.at(max_macs=front.n_macs_)
    assert not any(tensor.is_inference() for tensor in clf.network_.state_dict().values())
    assert_array_equal(clf.predict(NEW), front.at(max_macs=front.n_macs_).predict(NEW))


def test_errors_of_at(front, alone, fitted):
    with pytest.raises(NotFittedError):
        elastic_classifier().at(max_macs=10)
    cheapest = min(row["n_macs"] for row in front.front_)
    with pytest.raises(ValueError, match=f"no network within max_macs=1000.*{cheapest:,} multipl"):
        front.at(max_macs=1000)
    with pytest.raises(ValueError, match="search='front'"):
        alone.at(max_macs=alone.n_macs_ - 1)
    for bad in (0, -5, 2.5, "many"):
        with pytest.raises(ParameterError, match="'max_macs'"):
            front.at(max_macs=bad)
        with pytest.raises(ParameterError, match="'max_parameters'"):
            front.at(max_parameters=bad)
    with pytest.raises(ValueError, match="one architecture alone"):  # of the family of cells
        fitted.at(max_macs=10**12)


def test_where_nothing_was_compared_there_was_no_search(limited, alone, tmp_path):
    assert alone.outcome_.startswith(
        "there was no search: it is the largest network allowed of the source"
    )
    card = (alone.save_pretrained(tmp_path / "alone") / "README.md").read_text()
    assert "validation accuracy" not in card and "| search | there was no search: " in card
    # The limited one is the largest at fewer pixels.
    for clf, stages in ((alone, {"retrain"}), (limited, {"retrain", "teach"})):
        assert {row["stage"] for row in clf.history_} == stages
        assert "comparisons" not in clf.outcome_


@pytest.mark.parametrize("kind", ["largest", "fewer pixels", "another shape", "front"])
def test_all_stages_are_expected(zoo, alone, monkeypatch, kind):
    """With as many epochs as they then have, before the first."""
    told = []
    monkeypatch.setattr(
        "supernetnas.fitting.progress.Progress.expect",
        lambda self, n_images, stages: told.append({name: n for name, (n, _) in stages.items()}),
    )
    options = {
        "largest": {},
        "fewer pixels": {"max_macs": alone.n_macs_ // 2},
        "another shape": {"max_parameters": alone.n_parameters_ - 1},
        "front": {"search": "front"},
    }[kind]
    clf = elastic_classifier(zoo, retraining=Retraining(1), verbose=1, **options)
    clf.fit(IMAGES, LABELS)
    expected = {name: n for name, n in told[0].items() if not name.startswith("search")}
    stages = [row["stage"] for row in clf.history_ if row["stage"] != "search"]
    assert expected == {stage: stages.count(stage) for stage in dict.fromkeys(stages)}
    assert ("teach" in expected) == (kind != "largest")


def test_what_was_compared_is_counted(zoo, alone, tmp_path):
    most = alone.n_parameters_ - 1
    clf = elastic_classifier(zoo, max_parameters=most, retraining=Retraining(1))
    clf.fit(IMAGES, LABELS)
    (row,) = (row for row in clf.history_ if row["stage"] == "search")
    assert row["candidates"] > 1
    # One epoch for the teacher, and eight fifths for what is of another shape.
    assert [row["stage"] for row in clf.history_] == ["search", "retrain", "teach", "teach"]
    assert clf.outcome_.endswith(f", in {row['candidates']} comparisons")
    card = (clf.save_pretrained(tmp_path / "model") / "README.md").read_text()
    assert "supernet, on the images that architectures were compared on" in card


def test_a_member_drawn_at_random_was_not_searched(zoo, alone, capsys):
    half = alone.n_macs_ // 2
    clf = elastic_classifier(zoo, max_macs=half, search="random", retraining=Retraining(1))
    clf.set_params(verbose=2).fit(IMAGES, LABELS)
    assert {row["stage"] for row in clf.history_} == {"retrain", "teach"}
    assert "compared" not in clf.outcome_
    lines = [line for line in capsys.readouterr().err.splitlines() if ": epoch " in line]
    assert lines[0].startswith("probe of multi: epoch 1 of at most 1")
    assert not any(line.startswith("search") for line in lines)


def test_limits_are_kept(limited, alone):
    limit = alone.n_macs_ // 2
    assert limited.n_macs_ == count_macs(limited.network_, (3, 32, 32)) <= limit
    assert limited.architecture_ != LARGEST
    # It has all weights and sees fewer pixels, so the teacher cannot be had any more.
    assert LITE0_SPACE.is_whole(limited.architecture_)
    assert [row["architecture"] for row in limited.front_] == [limited.architecture_]
    assert limited.score(NEW, NEW_LABELS) > 0.6
    assert_array_equal(limited.at(max_macs=limit).predict_proba(NEW), limited.predict_proba(NEW))


def test_parameters_are_limited(zoo, alone):
    limit = alone.n_parameters_ // 2
    limits = {"max_parameters": limit, "retraining": ONE_EPOCH}
    clf = elastic_classifier(zoo, search="front", **limits).fit(IMAGES, LABELS)
    assert count_parameters(clf.network_) == clf.n_parameters_ <= limit
    assert clf.architecture_ == clf.front_[1]["architecture"]
    small = elastic_classifier(zoo, **limits).fit(IMAGES, LABELS)
    assert [row["architecture"] for row in small.front_] == [LARGEST, small.architecture_]
    assert small.at(max_macs=alone.n_macs_).architecture_ == LARGEST


@pytest.mark.parametrize("search", ["probe", "front", "random"])
def test_limits_below_the_smallest(zoo, monkeypatch, search):
    def untouched(*args, **kwargs):
        raise AssertionError("images were decoded")

    monkeypatch.setattr("supernetnas.classifier.prepare", untouched)
    with pytest.raises(ValueError, match=r"nearest has ([\d,]+) multiply-acc") as error:
        elastic_classifier(zoo, search=search, max_macs=1000).fit(IMAGES, LABELS)
    monkeypatch.undo()
    least = int(str(error.value).split("nearest has ")[1].split()[0].replace(",", ""))
    clf = elastic_classifier(zoo, search=search, max_macs=least, retraining=ONE_EPOCH)
    assert clf.fit(IMAGES, LABELS).n_macs_ == least


def test_classes_of_two_images(zoo):
    """A front holds one of them out."""
    chosen = np.concatenate(
        [np.flatnonzero(LABELS == 0), *(np.flatnonzero(n == LABELS)[:2] for n in (1, 2))]
    )
    for search, n_networks in (("front", 4), ("probe", 1)):
        clf = elastic_classifier(zoo, search=search, retraining=ONE_EPOCH)
        clf.fit(IMAGES[chosen], LABELS[chosen])
        assert len(clf.front_) == n_networks
        assert clf.predict_proba(NEW).shape == (24, 3)


def test_weights_of_classes(zoo, alone):
    """The first classifiers follow them, too: few steps of training could not."""
    weighed = elastic_classifier(zoo, class_weight={1: 1000}).fit(IMAGES, LABELS)
    counts = [(clf.predict(NEW) == 1).sum() for clf in (alone, weighed)]
    assert counts[1] > 20 > 12 > counts[0]


def test_random_members(zoo, limited):
    limit = limited.max_macs
    clf = elastic_classifier(zoo, search="random", max_macs=limit, retraining=ONE_EPOCH)
    assert clf.fit(IMAGES, LABELS).n_macs_ <= limit
    assert clf.architecture_ in clf.supernet_config_.members


@pytest.fixture(scope="module")
def greyish(published_zoo):
    """Images without black and white, their classes, new ones, and a fit; not to be changed."""
    images, labels = coloured(side=32)
    new, _ = coloured(n_per_class=8, seed=5, side=32)
    images, new = (20 + 0.6 * images).astype(np.uint8), (20 + 0.6 * new).astype(np.uint8)
    return images, labels, new, elastic_classifier(published_zoo).fit(images, labels)


@pytest.mark.parametrize(
    "on_another_scale",
    [
        lambda images: (images / 255).astype(np.float32),
        lambda images: images / 255,
        lambda images: images.astype(np.float32),
        lambda images: images.astype(np.uint16),
        lambda images: images / 127.5 - 1,
    ],
    ids=["0 to 1", "0 to 1 in double precision", "0 to 255", "in 16 bits", "-1 to 1"],
)
def test_a_picture_is_the_same_on_any_scale(zoo, greyish, on_another_scale):
    """Though no pixel is white, as little as black ones."""
    images, labels, new, clf = greyish
    other = elastic_classifier(zoo).fit(on_another_scale(images), labels)
    other.network_ = clf.network_  # a training amplifies the rounding
    expected = clf.predict_proba(new)
    assert np.ptp(expected, axis=0).min() > 0.5
    assert_allclose(other.predict_proba(on_another_scale(new)), expected, atol=0.05)
    other.network_ = clf.network_
    assert_allclose(other.predict_proba(on_another_scale(new)), expected, atol=1e-4)


# Kept and passed on


@pytest.mark.parametrize("name", ["alone", "front", "limited"])
def test_saved_and_pickled(request, tmp_path, name):
    clf = request.getfixturevalue(name)
    clf.save_pretrained(tmp_path / "saved")
    for again in (
        SupernetTransferClassifier.from_pretrained(tmp_path / "saved", device="cpu"),
        pickle.loads(pickle.dumps(clf)),
    ):
        assert again.front_ == clf.front_
        assert again.architecture_ == clf.architecture_
        assert again.history_ == clf.history_
        assert_array_equal(again.predict_proba(NEW), clf.predict_proba(NEW))
        for row in clf.front_:
            limits = {"max_macs": row["n_macs"], "max_parameters": row["n_parameters"]}
            assert_array_equal(
                again.at(**limits).predict_proba(NEW), clf.at(**limits).predict_proba(NEW)
            )


def test_what_at_returns_is_saved(front, tmp_path):
    cheapest = min(row["n_macs"] for row in front.front_)
    clf = front.at(max_macs=cheapest)
    clf.save_pretrained(tmp_path / "saved")
    again = SupernetTransferClassifier.from_pretrained(tmp_path / "saved", device="cpu")
    assert again.n_macs_ == cheapest
    assert_array_equal(again.predict_proba(NEW), clf.predict_proba(NEW))
    assert again.at().architecture_ == front.at().architecture_


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"architecture": LITE0_SPACE.smallest.at(31).to_dict()}, "no classifier"),
        ({"n_macs": 0}, "n_macs"),
        ({"validation_accuracy": 1.5}, "validation_accuracy"),
        ({"loss": 0.5}, "loss"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_changed_fronts_are_not_saved(front, tmp_path, changes, match):
    clf = pickle.loads(pickle.dumps(front))
    row = {**clf.front_[1], **changes}
    if isinstance(row["architecture"], dict):
        row["architecture"] = type(LARGEST).from_dict(row["architecture"])
    clf.front_[1] = row
    with pytest.raises(ValueError, match=match):
        clf.save_pretrained(tmp_path / "saved")


def test_published_supernets_are_no_fits(alone, tmp_path):
    clf = pickle.loads(pickle.dumps(alone))
    clf.supernet_config_ = replace(clf.supernet_config_, published=True)
    with pytest.raises(ValueError, match="not saved"):
        clf.save_pretrained(tmp_path / "saved")


def test_a_fitted_classifier_as_a_source(front, tmp_path, zoo):
    grown = Zoo.create(tmp_path / "zoo", embedder_id=EMBEDDER.identity)
    front_with_embedder = pickle.loads(pickle.dumps(front)).set_params(embedder=EMBEDDER)
    grown.add_classifier(front_with_embedder, "photos", X=IMAGES, y=LABELS)
    assert not grown.verify()
    source = grown["photos"]
    assert source.family == "elastic" and source.config.front == front.supernet_config_.front
    clf = elastic_classifier(grown, "photos", search="front").fit(IMAGES, LABELS)
    assert clf.source_ == "photos"
    assert clf.score(NEW, NEW_LABELS) > 0.6
    # Its weights go on from those of the fit.
    state, fitted = source.state_dict(), front.supernet_state_
    name = "shared.stages.3.0._expand_conv.weight"
    assert_allclose(state[name].numpy(), fitted[name], atol=1e-3)
    grey, labels = coloured(channels=1)
    assert elastic_classifier(grown, "photos").fit(grey[..., 0], labels).source_ == "photos"


# Interruptions


class Steps:
    """Interrupts at one of the steps of the retraining, or before the search."""

    def __init__(self, monkeypatch):
        import supernetnas.fitting.retraining as module

        self.count, self.stop_at = 0, None
        original = module.cosine_schedule

        def counted(*args, **kwargs):
            self.count += 1
            if self.count == self.stop_at:
                raise KeyboardInterrupt
            return original(*args, **kwargs)

        monkeypatch.setattr(module, "cosine_schedule", counted)


@pytest.mark.parametrize(
    ("parameters", "moments"),
    [
        ({}, (1, 3)),
        pytest.param({"search": "front"}, (1,), marks=pytest.mark.slow),
        ({"search": "front"}, (3, 5)),
        pytest.param({"family": Elastic(frozen_stages=0)}, (2,), marks=pytest.mark.slow),
        pytest.param({"strategy": "scratch", "search": "front"}, (2,), marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_an_interruption_changes_nothing(zoo, monkeypatch, tmp_path, parameters, moments):
    options = {"retraining": Retraining(epochs=3), "batch_size": 16, **parameters}
    whole = elastic_classifier(zoo, **options).fit(IMAGES, LABELS)
    steps = Steps(monkeypatch)
    for stop_at in moments:
        steps.stop_at, steps.count = stop_at, 0
        clf = elastic_classifier(zoo, **options, checkpoint_dir=tmp_path)
        with pytest.raises(KeyboardInterrupt):
            clf.fit(IMAGES, LABELS)
        steps.stop_at, steps.count = None, 0
        clf.fit(IMAGES, LABELS)
        n_epochs = 3 + 3 * ("search" in parameters)  # of what is taught four fifths, rounded up
        assert steps.count == n_epochs - (stop_at - 1)  # one step an epoch
        assert_same_fit(clf, whole)
        assert not any(tmp_path.iterdir())


def test_an_interrupted_search_changes_nothing(zoo, front, monkeypatch, tmp_path):
    def interrupted(*args):
        raise KeyboardInterrupt

    name = "supernetnas.families.elastic.member_search.linear_head"
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(name, interrupted)
        elastic_classifier(zoo, search="front", checkpoint_dir=tmp_path).fit(IMAGES, LABELS)
    clf = elastic_classifier(zoo, search="front", checkpoint_dir=tmp_path).fit(IMAGES, LABELS)
    assert_same_fit(clf, front)


# Other ways to start and to be used


@pytest.mark.parametrize("search", ["probe", "front"])
def test_from_random_weights(search):
    clf = elastic_classifier(strategy="scratch", search=search, retraining=Retraining(epochs=2))
    clf.fit(IMAGES, LABELS)
    assert clf.source_ == "scratch"
    assert clf.predict_proba(NEW).shape == (24, 3)
    assert {row["architecture"].size for row in clf.front_} == {32}
    # Statistics are those of the images, as there are none to keep.
    moved = {k: v for k, v in clf.supernet_state_.items() if k.startswith("largest.stem_norm.run")}
    assert all(np.abs(v - v[0]).max() > 0 for v in moved.values())


def test_grid_search(zoo):
    grid = GridSearchCV(
        elastic_classifier(zoo),
        {"search": ["probe", "front"]},
        cv=StratifiedShuffleSplit(1, test_size=0.5, random_state=0),
        error_score="raise",
    )
    grid.fit(IMAGES, LABELS)
    assert set(grid.cv_results_["param_search"]) == {"probe", "front"}
    assert grid.best_score_ > 0.6
    assert grid.best_estimator_.search == grid.best_params_["search"]


def test_clone_and_parameters(zoo):
    clf = elastic_classifier(zoo, search="front", family=Elastic(frozen_stages=2))
    again = clone(clf)
    assert again.get_params()["family__frozen_stages"] == 2
    again.set_params(search__n_members=1, family__frozen_stages=4)
    assert again.search.n_members == 1 and again.family.frozen_stages == 4
    assert clf.family.frozen_stages == 2


@pytest.mark.parametrize(("asked", "computed"), [("auto", "float32"), ("bfloat16", "bfloat16")])
def test_an_evolution_computes_in_float32_unless_another_precision_is_asked_for(
    zoo, monkeypatch, asked, computed
):
    seen, start = [], Evolution.start

    def begun(self, supernet, task):
        seen.append(task.execution.precision)
        return start(self, supernet, task)

    monkeypatch.setattr(Evolution, "start", begun)
    search = Evolution(1, population=2, mutations=1, crossovers=1, epochs=0)
    retraining = Retraining(epochs=1)
    elastic_classifier(zoo, search=search, precision=asked, retraining=retraining).fit(
        IMAGES, LABELS
    )
    assert seen == [computed]


def test_time_limit(zoo, monkeypatch):
    retraining = Retraining(epochs=10_000)
    start = time.monotonic()
    clf = elastic_classifier(zoo, time_limit=3, retraining=retraining).fit(IMAGES, LABELS)
    assert time.monotonic() - start < 30
    assert 1 <= len(clf.history_) < 10_000
    assert clf.score(NEW, NEW_LABELS) > 0.6


def test_what_comes_before_the_first_epoch_counts_in_the_time_limit(zoo, monkeypatch):
    looked = Elastic.training_data

    def slowly(self, *args):
        time.sleep(4)
        return looked(self, *args)

    monkeypatch.setattr(Elastic, "training_data", slowly)
    clf = elastic_classifier(zoo, time_limit=4, retraining=Retraining(50)).fit(IMAGES, LABELS)
    assert [row["epoch"] for row in clf.history_ if row["stage"] == "retrain"] == [1]


def test_without_augmentation(zoo):
    clf = elastic_classifier(zoo, augmentation="none").fit(IMAGES, LABELS)
    assert clf.score(NEW, NEW_LABELS) > 0.6


def test_searches_of_other_families_are_refused(zoo):
    with pytest.raises(ParameterError, match="'probe', 'front', 'random'"):
        elastic_classifier(zoo, search="sdarts").fit(IMAGES, LABELS)
    with pytest.raises(ParameterError, match="'search'"):
        tiny_classifier(family="cells", search="front").fit(IMAGES, LABELS)


def test_other_random_state_objects(zoo, alone):
    clf = elastic_classifier(zoo, random_state=np.random.RandomState(0)).fit(IMAGES, LABELS)
    assert_array_equal(clf.predict_proba(NEW), alone.predict_proba(NEW))


def test_what_elastic_networks_cannot_do_is_said(zoo):
    clf = elastic_classifier(zoo, precision=Execution(checkpointing=True))
    with pytest.raises(ParameterError, match=r"neither compiled.*checkpointing=True"):
        clf.fit(IMAGES, LABELS)
