"""A fitted classifier becomes a source of a zoo."""

import numpy as np
import pytest
from tiny import EMBEDDER, patterns, tiny_classifier

from supernetnas import SupernetTransferClassifier, Zoo, ZooError
from supernetnas.distance.signature import Basis


@pytest.fixture
def zoo(tiny_zoo, tmp_path):
    """Return a copy of the zoo, to be written to."""
    return tiny_zoo.save(tmp_path / "zoo")


def make_basis(seed=0):
    components = np.random.default_rng(seed).standard_normal((5, EMBEDDER.dimension))
    return Basis(components.astype(np.float16))


def test_a_fitted_classifier_becomes_the_nearest_source_of_its_own_task(zoo):
    images, labels = patterns(kind="spots", seed=7, noise=60)
    clf = tiny_classifier(zoo, "ot").fit(images, labels)
    card = {"dataset": "Noisy spots", "licence": "CC0 1.0", "metrics": {"accuracy": 0.75}}
    source = zoo.add_classifier(clf, "noisy", card=card)
    assert zoo.verify() == []
    for name, array in clf.supernet_state_.items():
        np.testing.assert_array_equal(source.state_dict()[name], array)
    assert source.config == clf.supernet_config_
    assert (source.n_images, source.n_classes, source.classes) == (40, 4, ["0", "1", "2", "3"])
    assert source.provenance == {
        "dataset": "Noisy spots",
        "licence": "CC0 1.0",
        "started_from": "spots",
        "started_from_sha256": zoo["spots"].weights_sha256,
        "warm_start_datasets": ["spots"],
        "n_images": 40,
        "n_classes": 4,
    }
    assert source.metrics["accuracy"] == 0.75
    assert source.metrics["chance_accuracy"] == 0.25
    search = [row for row in clf.history_ if row["stage"] == "search"]
    assert source.metrics["validation_accuracy"] == search[-1]["validation_accuracy"]
    assert len(source.history()) == len(clf.history_)
    assert "| noisy | Noisy spots |" in (zoo.folder / "README.md").read_text()

    again = tiny_classifier(zoo, "ot").fit(*patterns(kind="spots", seed=8, noise=60))
    assert again.source_ == "noisy"
    # The task itself is at no distance but that of the debiased estimate's rounding.
    assert again.signature_.distance(source.signature()).distance == again.distances_["noisy"]
    assert clf.signature_.distance(source.signature()).distance < 1e-6


def test_what_a_source_had_seen_is_passed_on(zoo, tmp_path):
    X, y = patterns(kind="spots", seed=7)
    first = zoo.add_classifier(tiny_classifier(zoo, "ot").fit(X, y), "first")
    clf = tiny_classifier(zoo, "first").fit(X, y)
    assert clf.source_record_ == {
        "weights_sha256": first.weights_sha256,
        "trained_on": ["first", "spots"],
    }
    clf.save_pretrained(tmp_path / "model")
    again = SupernetTransferClassifier.from_pretrained(tmp_path / "model").set_params(
        embedder=EMBEDDER
    )
    assert again.source_record_ == clf.source_record_
    zoo.remove("first")  # the fit knows what it started from; the zoo need not
    second = zoo.add_classifier(again, "second", X=X, y=y)
    assert second.provenance["started_from_sha256"] == first.weights_sha256
    assert second.provenance["warm_start_datasets"] == ["first", "spots"]
    assert second.trained_on == ["first", "second", "spots"]
    assert "trained on first, spots: second" in (zoo.folder / "README.md").read_text()


def test_random_weights_have_seen_nothing(zoo):
    X, y = patterns()
    clf = tiny_classifier(embedder=EMBEDDER, search="none").fit(X, y)
    assert clf.source_record_ is None
    provenance = zoo.add_classifier(clf, "own", X=X, y=y).provenance
    assert provenance == {"started_from": "scratch", "n_images": 40, "n_classes": 4}


def test_the_signature_of_a_fit_is_small(fitted):
    assert fitted.signature_ is not None
    assert "_measure" not in vars(fitted.signature_)
    assert sum(a.nbytes for a in fitted.signature_.to_tensors().values()) < 10_000


def test_a_fit_without_a_signature_needs_the_images(zoo):
    images, labels = patterns()
    clf = tiny_classifier(zoo, "multi", retraining__epochs=1, embedder=EMBEDDER).fit(images, labels)
    assert clf.signature_ is None
    with pytest.raises(ValueError, match=r"strategy='multi' makes no signature.*X=X, y=y"):
        zoo.add_classifier(clf, "again")
    with pytest.raises(ValueError, match="Pass both X and y"):
        zoo.add_classifier(clf, "again", X=images)
    with pytest.raises(ValueError, match="y has 1 class that the fit has not seen: 9"):
        zoo.add_classifier(clf, "again", X=images, y=np.full(40, 9))
    assert "again" not in zoo
    source = zoo.add_classifier(clf, "again", X=images, y=labels)
    assert source.provenance["started_from"] == "both"
    other = tiny_classifier(zoo, "ot", retraining__epochs=1).fit(images, labels)
    assert other.source_ == "again" and other.distances_["again"] < 1e-6


def test_a_compact_zoo_gets_compact_signatures(fitted, tmp_path):
    basis = make_basis()
    zoo = Zoo.create(tmp_path / "compact", embedder_id=EMBEDDER.identity, basis=basis)
    signature = zoo.add_classifier(fitted, "mine").signature()
    assert signature.form == "compact" and signature.basis.id == basis.id
    assert fitted.signature_.form == "full"
    assert zoo.verify() == []


def test_what_cannot_become_a_source(zoo, fitted, tmp_path):
    other = Zoo.create(tmp_path / "other", embedder_id="another")
    with pytest.raises(ValueError, match=r"embedded with .* the zoo with 'another'"):
        other.add_classifier(fitted, "mine")
    with pytest.raises(Exception, match="not fitted"):
        zoo.add_classifier(tiny_classifier(zoo, "ot"), "mine")
    with pytest.raises(ValueError, match="cannot name a source"):
        zoo.add_classifier(fitted, "ot")
    with pytest.raises(ZooError, match="has a source 'bars' already"):
        zoo.add_classifier(fitted, "bars")
    assert zoo.names == ["bars", "both", "spots"]
