"""A fitted classifier comes back from a folder as it was, or not at all."""

import errno
import itertools
import json
import os
import pickle
import shutil

import numpy as np
import pytest
import torch
from sklearn.exceptions import NotFittedError
from tiny import patterns, tiny_classifier

from supernetnas import SupernetTransferClassifier, Zoo
from supernetnas.fitting.parameter_values import decode_parameters, encode_parameters
from supernetnas.images.augmentation import Augmentation
from supernetnas.saving import model_files
from supernetnas.storage import folders
from supernetnas.storage.files import FileError

FILES = {"config.json", "model.safetensors", "supernet.safetensors", "README.md"}
SAVED_WITHOUT = {"embedder": "efficientnet_lite0", "zoo": None}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A classifier with unusual parameters and string labels, and the folder it was saved to."""
    images, labels = patterns()
    names = np.array(["ä", "b", "c c", "dd"])
    clf = tiny_classifier(
        class_weight={"ä": 2, "dd": 0.5},
        augmentation=Augmentation(shift=0.25),
        image_size=(8, 12),
        search__perturbation_radius=[0.1, 0.2],
        time_limit=1000.0,
    ).fit(images, names[labels])
    return clf, clf.save_pretrained(tmp_path_factory.mktemp("models") / "modèle")


@pytest.fixture
def copy(saved, tmp_path):
    """A fresh folder of the same content, to be spoiled."""
    return saved[0].save_pretrained(tmp_path / "copy")


def edit_config(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    config.update(changes)
    (folder / "config.json").write_text(json.dumps(config))


def load(folder):
    return SupernetTransferClassifier.from_pretrained(folder, device="cpu")


# The round trip


def assert_same(clf, loaded, X):
    assert loaded.predict_proba(X).tobytes() == clf.predict_proba(X).tobytes()
    np.testing.assert_array_equal(loaded.predict(X), clf.predict(X))
    attributes = {name for name in vars(clf) if name.endswith("_")}
    assert {name for name in vars(loaded) if name.endswith("_")} == attributes
    arrays = {"network_", "supernet_state_", "classes_", "feature_names_in_", "signature_"}
    for name in attributes - arrays:
        assert getattr(loaded, name) == getattr(clf, name), name
        assert type(getattr(loaded, name)) is type(getattr(clf, name)), name
    np.testing.assert_array_equal(loaded.classes_, clf.classes_)
    assert loaded.classes_.dtype == clf.classes_.dtype
    assert loaded.supernet_state_.keys() == clf.supernet_state_.keys()
    for name, array in clf.supernet_state_.items():
        np.testing.assert_array_equal(loaded.supernet_state_[name], array)
    if clf.signature_ is None:
        assert loaded.signature_ is None
    else:
        assert loaded.signature_.metadata() == clf.signature_.metadata()
        for name, array in clf.signature_.to_tensors().items():
            np.testing.assert_array_equal(loaded.signature_.to_tensors()[name], array)


def test_everything_comes_back(saved):
    clf, folder = saved
    assert {path.name for path in folder.iterdir()} == FILES
    loaded = load(folder)
    assert_same(clf, loaded, patterns(seed=1)[0])
    expected = {**clf.get_params(), "zoo": None}
    assert loaded.get_params() == expected
    assert [type(v) for v in loaded.get_params().values()] == list(map(type, expected.values()))


@pytest.mark.parametrize(
    "labels",
    [np.array([3, 7, 12, 40], dtype=np.int16), np.array(["a", "b", 'c"', "ü"], dtype=object)],
)
def test_kinds_of_labels(labels, tmp_path):
    images, y = patterns(n_per_class=4)
    clf = tiny_classifier(retraining__epochs=1).fit(images, labels[y])
    assert_same(clf, load(clf.save_pretrained(tmp_path / "model")), images)


def test_a_table_keeps_the_names_of_its_columns(tmp_path):
    pandas = pytest.importorskip("pandas")
    images, y = patterns(n_per_class=4, n_classes=2)
    frame = pandas.DataFrame(images.reshape(len(images), 64)).add_prefix("pixel")
    clf = tiny_classifier(retraining__epochs=1).fit(frame, y == 1)
    loaded = load(clf.save_pretrained(tmp_path / "model"))
    assert_same(clf, loaded, frame)
    assert loaded.feature_names_in_.tolist() == list(frame)
    assert loaded.classes_.dtype == bool


def test_a_transferred_classifier(fitted, tmp_path):
    with pytest.warns(UserWarning, match="embedder=<Embedder .* cannot be saved"):
        folder = fitted.save_pretrained(tmp_path / "model")
    loaded = load(folder)
    assert_same(fitted, loaded, patterns(seed=1)[0])
    assert loaded.get_params() == {**fitted.get_params(), **SAVED_WITHOUT}
    assert "`bars`" in (folder / "README.md").read_text()


def test_a_saved_classifier_can_be_saved_and_fitted_again(saved, tmp_path):
    _, folder = saved
    loaded = load(folder)
    again = loaded.save_pretrained(tmp_path / "again")
    for name in FILES:
        assert (again / name).read_bytes() == (folder / name).read_bytes()
    images, labels = patterns()
    loaded.set_params(class_weight=None).fit(images, labels)
    assert loaded.classes_.tolist() == [0, 1, 2, 3]


def test_parameters():
    parameters = {
        "plain": [1, 0.1, "s", None, True],
        "tuple": (1, (2, 3), [4]),
        "class_weight": {1: 0.5, "b": 2, False: 3.0},
        "augmentation": Augmentation.NONE,
        "zoo": "builtin",
        "infinite": float("-inf"),
        "seed": np.int64(3),
    }
    encoded = json.loads(json.dumps(encode_parameters(parameters)))
    decoded = decode_parameters(encoded)
    assert decoded == parameters
    assert [type(v) for v in decoded.values()][:-1] == [type(v) for v in parameters.values()][:-1]


def test_places_do_not_travel(tiny_zoo, tmp_path):
    for zoo in (tiny_zoo, tiny_zoo.subset(["bars"]), tiny_zoo.folder, "org/zoo", "hf://org/zoo"):
        places = {"zoo": zoo, "checkpoint_dir": "builtin", "of_a_subclass": tmp_path}
        nowhere = dict.fromkeys(places)
        assert encode_parameters(places) == nowhere
        assert decode_parameters(encode_parameters(places)) == nowhere
    assert encode_parameters({"zoo": Zoo.open("builtin")}) == {"zoo": "builtin"}
    some = Zoo.open("builtin").subset(["multi"])
    assert encode_parameters({"zoo": some}) == {"zoo": None}


def test_loading_draws_no_random_number(saved):
    state = torch.random.get_rng_state()
    load(saved[1])
    assert torch.equal(torch.random.get_rng_state(), state)


# What is refused


def test_before_fit(tmp_path):
    with pytest.raises(NotFittedError):
        tiny_classifier().save_pretrained(tmp_path / "model")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", sorted(FILES - {"README.md"}))
def test_a_missing_file(copy, name):
    (copy / name).unlink()
    with pytest.raises(FileError, match=name):
        load(copy)


@pytest.mark.parametrize("name", ["model.safetensors", "supernet.safetensors"])
def test_a_changed_file(copy, name):
    data = bytearray((copy / name).read_bytes())
    data[-1] ^= 1
    (copy / name).write_bytes(data)
    with pytest.raises(FileError, match="not the file that was saved"):
        load(copy)


def test_a_file_of_another_network(copy, saved):
    config = json.loads((copy / "config.json").read_text())
    hashes = dict.fromkeys(config["sha256"], config["sha256"]["supernet.safetensors"])
    edit_config(copy, sha256=hashes)
    (copy / "model.safetensors").write_bytes((copy / "supernet.safetensors").read_bytes())
    with pytest.raises(FileError, match="expected tensors"):
        load(copy)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"format_version": 3}, "Upgrade supernetnas"),
        ({"format_version": None}, "Upgrade supernetnas"),
        ({"class": "Other"}, "does not describe a SupernetTransferClassifier"),
        ({"fitted": {}}, "does not describe a SupernetTransferClassifier"),
        ({"fitted": None}, "does not describe a SupernetTransferClassifier"),
        ({"parameters": {"colour": 1}}, "colour"),
        ({"parameters": {"strategy": {"eval": "1"}}}, "eval"),
        ({"sha256": {}}, "model.safetensors"),
    ],
)
def test_another_config(copy, changes, text):
    edit_config(copy, **changes)
    with pytest.raises(FileError, match=text):
        load(copy)


@pytest.mark.parametrize("dtype", ["<U9999999", "V4", "datetime64[s]", "no"])
def test_labels_of_a_strange_dtype(copy, dtype):
    config = json.loads((copy / "config.json").read_text())
    config["fitted"]["classes"]["dtype"] = dtype
    edit_config(copy, **config)
    with pytest.raises(FileError, match="does not describe"):
        load(copy)


def test_a_config_that_is_no_json(copy):
    (copy / "config.json").write_text("{")
    with pytest.raises(FileError, match="not valid JSON"):
        load(copy)


class Planted:
    def __reduce__(self):
        return os.mkdir, ("planted",)


def test_a_planted_pickle_never_runs(copy, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pickled = pickle.dumps(Planted())
    for name in ("model.pt", "model.pkl", "pytorch_model.bin"):
        (copy / name).write_bytes(pickled)
    load(copy)
    for name in ("model.safetensors", "supernet.safetensors", "config.json"):
        (copy / name).write_bytes(pickled)
        with pytest.raises(FileError):
            load(copy)
    assert not (tmp_path / "planted").exists()
    pickle.loads(pickled)
    assert (tmp_path / "planted").exists()


def test_a_device_that_is_not_there(copy):
    with pytest.raises(ValueError, match="device must be"):
        SupernetTransferClassifier.from_pretrained(copy, device="tpu")


# Where it is written


@pytest.mark.parametrize("content", [["notes.txt"], ["README.md"], [".git"], ["config.json"]])
def test_a_foreign_folder_is_left_alone(saved, tmp_path, content):
    for name in content:
        (tmp_path / name).write_text("{}")
    with pytest.raises(FileError, match=content[0]):
        saved[0].save_pretrained(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == content


def test_files_of_the_system_and_hidden_ones_may_stay_beside_a_model(saved, tmp_path):
    (tmp_path / ".DS_Store").write_text("x")
    saved[0].save_pretrained(tmp_path)
    (tmp_path / ".gitattributes").write_text("y")
    saved[0].save_pretrained(tmp_path)
    assert (tmp_path / ".DS_Store").read_text() == "x"
    assert (tmp_path / ".gitattributes").read_text() == "y"


def test_a_file_in_the_place(saved, tmp_path):
    (tmp_path / "model").write_text("mine")
    with pytest.raises(FileError, match="is a file"):
        saved[0].save_pretrained(tmp_path / "model")
    assert (tmp_path / "model").read_text() == "mine"


def test_an_old_model_is_replaced(saved, fitted, tmp_path):
    (tmp_path / "model").mkdir()
    saved[0].save_pretrained(tmp_path / "model")
    with pytest.warns(UserWarning, match="cannot be saved"):
        fitted.save_pretrained(tmp_path / "model")
    assert load(tmp_path / "model").source_ == fitted.source_
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError("disk full")])
@pytest.mark.parametrize("at", range(1, 5))
def test_an_interrupted_save_leaves_the_old_model(copy, saved, fitted, monkeypatch, at, error):
    """`test_folders` interrupts every step; this is what is made of it."""
    calls, write_new = [], folders.write_new

    def interrupted(*arguments):
        calls.append(arguments)
        if len(calls) == at:
            raise error
        return write_new(*arguments)

    with (
        monkeypatch.context() as patched,
        pytest.raises((KeyboardInterrupt, FileError)),
        pytest.warns(UserWarning, match="cannot be saved"),
    ):
        patched.setattr(folders, "write_new", interrupted)
        fitted.save_pretrained(copy)
    assert [path.name for path in copy.parent.iterdir()] == [copy.name]
    assert {path.name for path in copy.iterdir()} == FILES
    assert_same(saved[0], load(copy), patterns(seed=1)[0])


def test_a_save_that_was_killed_is_finished(copy, saved, fitted, monkeypatch):
    """The last file that moves says what the others are; without it, two models are mixed."""

    def killed(source, target):
        if os.path.basename(target) == "config.json":
            raise SystemExit
        os.rename(source, target)

    with (
        monkeypatch.context() as patched,
        pytest.raises(SystemExit),
        pytest.warns(UserWarning, match="cannot be saved"),
    ):
        patched.setattr(os, "replace", killed)
        fitted.save_pretrained(copy)
    assert load(copy).source_ == fitted.source_
    saved[0].save_pretrained(copy)
    assert {path.name for path in copy.iterdir()} == FILES
    assert_same(saved[0], load(copy), patterns(seed=1)[0])


@pytest.mark.parametrize("kind", ["link", "foreign"])
def test_what_only_looks_interrupted_is_left_alone(copy, saved, tmp_path, kind):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    if kind == "link":
        (copy / folders.READY).symlink_to(tmp_path / "mine")
    else:
        shutil.copytree(tmp_path / "mine", copy / folders.READY)
    with pytest.raises(FileError, match="not of a saved classifier"):
        saved[0].save_pretrained(copy)
    assert (copy / folders.READY / "thesis.tex").exists()


def test_the_current_folder(saved, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert saved[0].save_pretrained(".") == tmp_path.resolve()
    assert set(os.listdir(".")) == FILES
    load(".")


def test_a_name_that_is_too_long(saved, tmp_path):
    with pytest.raises(FileError, match=r"stays fitted.*Choose a shorter name"):
        saved[0].save_pretrained(tmp_path / ("x" * 256))
    load(saved[0].save_pretrained(tmp_path / ("x" * 255)))


def test_the_folders_of_a_file_system_are_not_in_the_way(saved, tmp_path):
    (tmp_path / "lost+found").mkdir()
    (tmp_path / ".nfs000000000000123400000001").touch()
    saved[0].save_pretrained(tmp_path)
    load(tmp_path)


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOSPC, "The disk is full: free some space"),
        (errno.EROFS, "mounted to be read only: choose another folder"),
        (errno.EACCES, "may not write there"),
        (errno.EBUSY, "Try again"),
    ],
)
def test_a_refusal_says_what_to_do(saved, tmp_path, monkeypatch, number, remedy):
    def refuse(path, data):
        raise OSError(number, os.strerror(number), str(path))

    with monkeypatch.context() as patched:
        patched.setattr(folders, "write_new", refuse)
        with pytest.raises(FileError, match=f"stays fitted.*model.*{remedy}") as caught:
            saved[0].save_pretrained(tmp_path / "model")
    assert caught.value.errno == (number if number == errno.ENOSPC else None)
    assert not any(tmp_path.iterdir())
    load(saved[0].save_pretrained(tmp_path / "model"))


@pytest.mark.parametrize("times", [1, 3, 100])
def test_loading_while_other_models_are_saved(saved, fitted, tmp_path, monkeypatch, times):
    """Each time that files are about to be read, another model takes the place of theirs."""
    first = load(saved[1])
    with pytest.warns(UserWarning, match="cannot be saved"):
        second = load(fitted.save_pretrained(tmp_path / "other"))
    folder = first.save_pretrained(tmp_path / "model")
    savers = itertools.cycle([second, first])
    left, read = iter(range(times)), model_files.ModelFiles.read

    def late(self, limits, hashes):
        if next(left, None) is not None:
            next(savers).save_pretrained(folder)
        return read(self, limits, hashes)

    monkeypatch.setattr(model_files.ModelFiles, "read", late)
    if times == 100:
        monkeypatch.setattr(model_files, "_TRIES", 2)
        with pytest.raises(FileError, match="was replaced 2 times while it was loaded"):
            load(folder)
    else:
        assert load(folder).source_ == second.source_ != first.source_


def test_a_damaged_model_is_not_loaded_again_and_again(copy, monkeypatch):
    reads = []
    original = model_files.ModelFiles.read

    def read(self, limits, hashes):
        reads.append(limits)
        return original(self, limits, hashes)

    monkeypatch.setattr(model_files.ModelFiles, "read", read)
    (copy / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(FileError, match="not the file that was saved"):
        load(copy)
    assert len(reads) == 1


# What could not be loaded is not saved


@pytest.mark.parametrize(
    ("labels", "text"),
    [
        (np.arange(4).astype("datetime64[ns]"), r"datetime64\[ns\]"),
        (np.arange(4).astype("timedelta64[ns]"), r"timedelta64\[ns\]"),
        (np.arange(4).astype("datetime64[s]"), "datetime"),
        (np.array(["a", "b", "c", "caf\udce9"]), "valid Unicode"),
        (np.array(["a", "b", "c", "caf\udce9"], dtype=object), "valid Unicode"),
        (np.array(["a", "b", "c", "d" * (2**22 + 1)]), "4 labels of dtype <U4194305"),
    ],
    ids=["datetime", "timedelta", "datetime of seconds", "latin", "latin objects", "long"],
)
def test_labels_that_could_not_be_loaded_are_refused_before_the_fit(labels, text, monkeypatch):
    images, y = patterns(n_per_class=4)
    clf = tiny_classifier()
    monkeypatch.setattr("supernetnas.classifier.search_best", None)
    with pytest.raises(ValueError, match=f"cannot be saved with the classifier: .*{text}.*astype"):
        clf.fit(images, labels[y])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_network_of_another_precision_is_saved_as_float32(saved, tmp_path, dtype):
    clf = load(saved[1])
    clf.network_.to(dtype)
    expected = {name: value.float() for name, value in clf.network_.state_dict().items()}
    for loaded in (load(clf.save_pretrained(tmp_path / "m")), pickle.loads(pickle.dumps(clf))):
        state = loaded.network_.state_dict()
        assert all(torch.equal(state[name].float(), value) for name, value in expected.items())
        assert {v.dtype for v in state.values()} == {torch.float32, torch.int64}


def test_changed_attributes_are_refused_before_anything_is_written(saved, tmp_path):
    clf = load(saved[1])
    clf.classes_ = clf.classes_[:3]
    with pytest.raises(ValueError, match=r"could not be loaded: .*number of classes"):
        clf.save_pretrained(tmp_path / "model")
    assert not any(tmp_path.iterdir())


def test_a_path_that_is_no_text_is_left_out(saved, tmp_path):
    clf = load(saved[1]).set_params(embedder="caf\udce9", zoo="caf\udce9")
    with pytest.warns(UserWarning, match="embedder=.* cannot be saved"):
        folder = clf.save_pretrained(tmp_path / "model")
    loaded = load(folder)
    assert (loaded.embedder, loaded.zoo) == ("efficientnet_lite0", None)


def test_labels_that_json_cannot_hold(saved, tmp_path):
    clf = load(saved[1])
    clf.classes_ = np.array([b"a", b"b", b"c", b"d"])
    with pytest.raises(TypeError, match="bytes"):
        clf.save_pretrained(tmp_path / "model")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("resize", ["crop", "pad"])
def test_the_way_of_resizing_comes_back(resize, tmp_path):
    images = np.random.default_rng(0).integers(0, 255, (8, 12, 20), dtype=np.uint8)
    clf = tiny_classifier(resize=resize, retraining__epochs=1).fit(images, [0, 1] * 4)
    folder = clf.save_pretrained(tmp_path / "model")
    loaded = load(folder)
    assert loaded.preprocessing_.resize == loaded.resize == resize
    assert loaded.predict_proba(images).tobytes() == clf.predict_proba(images).tobytes()
    said = {"crop": "cropped", "pad": "padded with zeros"}[resize]
    assert f"| images of another aspect | {said} |" in (folder / "README.md").read_text()
    config = json.loads((folder / "config.json").read_text())
    del config["fitted"]["preprocessing"]["resize"]  # of a version that only squeezed
    (folder / "config.json").write_text(json.dumps(config))
    assert load(folder).preprocessing_.resize == "squeeze"
    config["fitted"]["preprocessing"]["resize"] = "stretch"
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(FileError, match="resize must be"):
        load(folder)
