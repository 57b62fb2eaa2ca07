"""Dataset signatures: both forms against the exact distance, and what a stranger's file may do."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from supernetnas.distance.otdd import Settings, otdd
from supernetnas.distance.signature import Basis, DatasetSignature, SignatureError, fit_basis

ALBUM = Path(__file__).parents[3] / "shared" / "album"
EMBEDDER = "some_network:0123456789ab @ 8x8 uint8"


def features(seed, n_classes=4, per_class=12, d=40):
    """Non-negative features with low-dimensional structure under noise, as networks give them."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(n_classes), per_class)
    directions = np.random.default_rng(99).normal(size=(6, d))
    x = rng.normal(size=(n_classes, d))[labels]
    x += rng.normal(size=(len(labels), 6)) @ (directions * rng.uniform(0.2, 1, size=(6, 1)))
    x += 0.2 * rng.normal(size=x.shape)
    order = rng.permutation(len(labels))
    return np.maximum(x + 1, 0)[order].astype(np.float32), labels[order]


def signature(seed=0, n_samples=1000, **kwargs):
    return DatasetSignature.from_features(
        *features(seed, **kwargs), embedder_id=EMBEDDER, n_samples=n_samples
    )


@pytest.fixture(scope="module")
def basis():
    return fit_basis([features(seed) for seed in range(6)], q=10)


def equal(a, b):
    assert a.metadata() == b.metadata()
    left, right = a.to_tensors(), b.to_tensors()
    assert left.keys() == right.keys()
    for name in left:
        np.testing.assert_array_equal(left[name], right[name])
        assert left[name].dtype == right[name].dtype
    return True


# ----------------------------------------------------------------------------------- the full form


@pytest.mark.parametrize("kind", ["gaussian", "diagonal", "means"])
def test_full_signatures_give_the_exact_distance(kind):
    exact = otdd(*features(0), *features(1, n_classes=3), label_distance=kind)
    found = signature(0).distance(signature(1, n_classes=3), label_distance=kind)
    assert found.distance == pytest.approx(exact.distance, rel=1e-4)
    assert found.similarity == pytest.approx(exact.similarity, rel=1e-4)
    np.testing.assert_allclose(found.label_distances, exact.label_distances, rtol=1e-2, atol=1e-4)
    assert found.classes_a == ("0", "1", "2", "3")


def test_unnormalised_signatures_and_the_paper_preset():
    a, b = (
        DatasetSignature.from_features(*features(seed), embedder_id=EMBEDDER, normalize="none")
        for seed in (0, 1)
    )
    exact = otdd(*features(0), *features(1), normalize="none", lambda_y=0.5)
    found = a.distance(b, lambda_y=0.5)
    assert found.distance == pytest.approx(exact.distance, rel=1e-3)
    assert found.similarity is None
    paper = otdd(*features(0), *features(1), preset="paper")
    assert a.distance(b, reg=0.1).distance == pytest.approx(paper.distance, rel=1e-3)


def test_one_to_many():
    target, others = signature(0), [signature(seed, n_classes=3) for seed in (1, 2)]
    found = target.distances(others, n_jobs=2)
    assert [r.distance for r in found] == [target.distance(o).distance for o in others]
    means = target.distances(others, Settings(label_distance="means"))
    alone = [target.distance(other, label_distance="means").distance for other in others]
    assert [r.distance for r in means] == alone
    raw = DatasetSignature.from_features(*features(1), embedder_id=EMBEDDER, normalize="none")
    with pytest.raises(SignatureError, match="'l2' and 'none'"):
        target.distances([others[0], raw])


def test_distance_to_itself_is_zero():
    assert signature(0).distance(signature(0)).distance == pytest.approx(0, abs=1e-12)


def test_kept_rows():
    x, y = features(0, n_classes=3, per_class=50)
    keep = ~((y == 1) & (np.cumsum(y == 1) > 10))
    whole = DatasetSignature.from_features(x[keep], y[keep], embedder_id=EMBEDDER)
    part = DatasetSignature.from_features(x[keep], y[keep], embedder_id=EMBEDDER, n_samples=44)
    assert whole.counts.tolist() == part.counts.tolist() == [50, 10, 50]
    assert whole.kept.tolist() == [50, 10, 50]
    assert part.kept.tolist() == [20, 4, 20]
    np.testing.assert_array_equal(part.means, whole.means)
    assert part.rows.shape == (44, 40)
    other = signature(1)
    exact = whole.distance(other).distance
    assert part.distance(other).distance == pytest.approx(exact, rel=0.1)
    np.testing.assert_allclose(
        part.distance(other).class_coupling.sum(axis=1), np.array([50, 10, 50]) / 110
    )


def test_names():
    named = DatasetSignature.from_features(
        *features(0), embedder_id=EMBEDDER, class_names=["ä", "b", "c", "d"]
    )
    assert named.distance(signature(1)).classes_a == ("ä", "b", "c", "d")
    with pytest.raises(ValueError, match="3 names for 4 classes"):
        DatasetSignature.from_features(*features(0), embedder_id=EMBEDDER, class_names="abc")


def test_features_beyond_float16_are_refused():
    x, y = features(0)
    with pytest.raises(ValueError, match="float16"):
        DatasetSignature.from_features(
            x.astype(float) * 1e5, y, embedder_id=EMBEDDER, normalize="none"
        )


def test_what_is_not_comparable():
    a = signature(0)
    foreign = DatasetSignature.from_features(*features(1), embedder_id="another_network")
    with pytest.raises(SignatureError, match=r"some_network.*another_network"):
        a.distance(foreign)
    raw = DatasetSignature.from_features(*features(1), embedder_id=EMBEDDER, normalize="none")
    with pytest.raises(SignatureError, match="'l2' and 'none'"):
        a.distance(raw)


# ------------------------------------------------------------------------------------ compact form


def test_compact_signatures_come_close(basis):
    target = signature(10)
    for seed in range(6):
        full = signature(seed)
        compact = full.compress(basis)
        exact, found = target.distance(full), target.distance(compact)
        assert found.distance == pytest.approx(exact.distance, rel=0.05)
        assert sum(v.nbytes for v in compact.to_tensors().values()) < 2000
        np.testing.assert_allclose(found.label_distances, exact.label_distances, rtol=0.15)


def test_a_complete_basis_loses_only_rounding():
    basis = fit_basis([features(seed) for seed in range(6)], q=40)
    full, target = signature(0), signature(10)
    exact = target.distance(full).distance
    assert target.distance(full.compress(basis)).distance == pytest.approx(exact, rel=5e-3)
    assert full.compress(basis).residuals.max() < 1e-4


def test_noise_replaces_what_a_basis_leaves_out():
    """The six directions that the classes share are in the basis, the noise around them is not."""
    narrow = fit_basis([features(seed) for seed in range(6)], q=6)
    full, target = signature(0), signature(10)
    compact = full.compress(narrow)
    stand_in, original = compact._measure, full._measure
    # Basis and noise together hold the energy of every class ...
    np.testing.assert_allclose(stand_in.traces, original.traces, rtol=0.01)
    # ... and what is lost by the basis is lost along the noise only.
    components = narrow.components.astype(float)
    difference = (stand_in.rows - original.rows) @ components.T
    assert np.square(difference).sum() < 1e-3 * np.square(original.rows @ components.T).sum()
    exact, found = target.distance(full).distance, target.distance(compact).distance
    assert found == pytest.approx(exact, rel=0.03)
    without = replace(compact, residuals=np.zeros_like(compact.residuals))
    assert abs(target.distance(without).distance - exact) > 2 * abs(found - exact)


def test_compact_signatures_among_themselves(basis):
    a, b = signature(0).compress(basis), signature(1).compress(basis)
    exact = signature(0).distance(signature(1)).distance
    assert a.distance(b).distance == pytest.approx(exact, rel=0.05)
    assert a.distance(b).distance == pytest.approx(b.distance(a).distance, rel=1e-10)
    again = DatasetSignature.from_tensors(a.to_tensors(), a.metadata(), basis)
    assert a.distance(again).distance == pytest.approx(0, abs=1e-12)


def test_signed_features_are_compressed():
    def signed(seed):
        x, y = features(seed)
        return x - 0.5, y

    basis = fit_basis([signed(seed) for seed in range(6)], q=10)
    a, b = (DatasetSignature.from_features(*signed(s), embedder_id=EMBEDDER) for s in (0, 1))
    assert not a.nonnegative
    found = a.distance(b.compress(basis)).distance
    assert found == pytest.approx(a.distance(b).distance, rel=0.05)


def test_single_rows_are_compressed(basis):
    x, y = features(0)
    first = np.flatnonzero(y == 0)[:1]
    with pytest.warns(UserWarning, match="single row"):
        full = DatasetSignature.from_features(
            np.concatenate([x[first], x[y > 0]]),
            np.concatenate([y[first], y[y > 0]]),
            embedder_id=EMBEDDER,
        )
    compact = full.compress(basis)
    assert compact._measure.traces[0] == 0
    target = signature(10)
    exact = target.distance(full).distance
    assert target.distance(compact).distance == pytest.approx(exact, rel=0.05)


def test_basis(basis):
    components = basis.components.astype(float)
    np.testing.assert_allclose(components @ components.T, np.eye(10), atol=2e-3)
    assert basis.id == fit_basis([features(seed) for seed in range(6)], q=10).id
    assert basis.id != fit_basis([features(seed) for seed in range(5)], q=10).id
    assert Basis.from_tensors(basis.to_tensors()).id == basis.id
    # The first direction is the one along which classes vary most.
    x, y = features(0)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    deviations = np.concatenate([x[y == c] - x[y == c].mean(axis=0) for c in range(4)])
    one = fit_basis([features(0)], q=1).components[0].astype(float)
    _, singular, _ = np.linalg.svd(deviations)
    assert np.linalg.norm(deviations @ one) == pytest.approx(singular[0], rel=1e-3)


def test_bad_bases(basis):
    with pytest.raises(ValueError, match="at least one dataset"):
        fit_basis([])
    with pytest.raises(ValueError, match="between 1 and the number of features 40"):
        fit_basis([features(0)], q=41)
    with pytest.raises(SignatureError, match="is for 40 features; the signature has 30"):
        signature(0, d=30).compress(basis)
    with pytest.raises(SignatureError, match="compact already"):
        signature(0).compress(basis).compress(basis)
    for components in (np.zeros((2, 3)), np.zeros(3, np.float16), np.full((1, 2), np.nan, "f2")):
        with pytest.raises(SignatureError):
            Basis.from_tensors({"components": components})
    with pytest.raises(SignatureError, match="'components' only"):
        Basis.from_tensors({})


# ----------------------------------------------------------------------------------------- storage


def test_storage(basis, tmp_path):
    from safetensors.numpy import load_file, save_file

    target = signature(10)
    for original in (signature(0), signature(0, n_samples=20), signature(0).compress(basis)):
        path = tmp_path / "signature.safetensors"
        save_file(original.to_tensors(), path, metadata=original.metadata())
        loaded = DatasetSignature.from_tensors(load_file(path), original.metadata(), basis)
        assert equal(loaded, original)
        assert target.distance(loaded).distance == target.distance(original).distance
        assert repr(loaded) == repr(original)


def changed(array, **changes):
    array = array.copy()
    for index, value in changes.items():
        array[int(index[1:])] = value
    return array


@pytest.mark.parametrize(
    ("form", "changes"),
    [
        ("full", {"rows": None}),
        ("full", {"more": lambda t: t["rows"]}),
        ("full", {"rows": lambda t: t["rows"].astype(np.float32)}),
        ("full", {"rows": lambda t: t["rows"][:-1]}),
        ("full", {"rows": lambda t: t["rows"][:, :-1]}),
        ("full", {"rows": lambda t: t["rows"].ravel()}),
        ("full", {"rows": lambda t: changed(t["rows"], _3=np.nan)}),
        ("full", {"means": lambda t: changed(t["means"], _1=np.inf)}),
        ("full", {"means": lambda t: t["means"][:-1]}),
        ("full", {"kept": lambda t: changed(t["kept"], _0=0)}),
        ("full", {"kept": lambda t: changed(t["kept"], _0=13)}),
        ("full", {"counts": lambda t: changed(t["counts"], _0=-12)}),
        ("full", {"counts": lambda t: t["counts"][:, None]}),
        ("compact", {"rows": lambda t: t["rows"][:, :-1]}),
        ("compact", {"row_scales": lambda t: -t["row_scales"]}),
        ("compact", {"mean_scales": lambda t: t["mean_scales"][:2]}),
        ("compact", {"residuals": lambda t: changed(t["residuals"], _0=-1)}),
        ("compact", {"residuals": None}),
        ("compact", {"means": lambda t: t["means"][:, :-1]}),
    ],
)
def test_malformed_tensors_are_refused(form, changes, basis):
    original = signature(0) if form == "full" else signature(0).compress(basis)
    tensors = original.to_tensors()
    for name, change in changes.items():
        if change is None:
            del tensors[name]
        else:
            tensors[name] = change(original.to_tensors())
    with pytest.raises(SignatureError):
        DatasetSignature.from_tensors(tensors, original.metadata(), basis)


@pytest.mark.parametrize(
    "changes",
    [
        {"format": "model"},
        {"version": "2"},
        {"embedder": None},
        {"embedder": ""},
        {"normalize": "l1"},
        {"nonnegative": "2"},
        {"class_names": "[1, 2, 3, 4]"},
        {"class_names": '["a"'},
        {"class_names": '["a", "b", "c"]'},
        {"class_names": "[]"},
        {"class_names": None},
        {"class_names": "[" * 100_000},
    ],
)
def test_malformed_metadata_is_refused(changes):
    original = signature(0)
    metadata = {k: v for k, v in (original.metadata() | changes).items() if v is not None}
    with pytest.raises(SignatureError):
        DatasetSignature.from_tensors(original.to_tensors(), metadata)


def test_another_basis_is_refused(basis):
    compact = signature(0).compress(basis)
    other = fit_basis([features(0)], q=10)
    for given, message in ((None, "none is given"), (other, other.id)):
        with pytest.raises(SignatureError, match=f"needs basis {basis.id}; .*{message}"):
            DatasetSignature.from_tensors(compact.to_tensors(), compact.metadata(), given)


# ----------------------------------------------------------------------------------- real datasets


@pytest.mark.skipif(not ALBUM.is_dir(), reason=f"no image sets at {ALBUM}")
def test_order_of_real_datasets():
    """Thumbnails of six real sets: compact signatures rank them as the exact distance does."""
    sets = {}
    for name in ("mnist5k", "omniglot", "flowers5", "cifar10", "corn_disease", "magnetic_tile"):
        with np.load(ALBUM / f"{name}.npz") as file:
            x, y = file["X"], file["y"]
        side = x.shape[1] // 8 * 8
        blocks = x[:, :side, :side].reshape(len(x), 8, side // 8, 8, side // 8, 3)
        rows = np.concatenate([np.flatnonzero(y == c)[:20] for c in np.unique(y)[:10]])
        sets[name] = blocks[rows].mean(axis=(2, 4)).reshape(len(rows), -1) + 1, y[rows]
    basis = fit_basis(sets.values(), q=32)
    full = {
        name: DatasetSignature.from_features(*data, embedder_id="8x8 thumbnails")
        for name, data in sets.items()
    }
    for target in sets:
        others = [name for name in sets if name != target]
        exact = [otdd(*sets[target], *sets[name]).distance for name in others]
        found = [full[target].distance(full[name].compress(basis)).distance for name in others]
        np.testing.assert_allclose(found, exact, rtol=0.05)
        assert np.argmin(found) == np.argmin(exact)
