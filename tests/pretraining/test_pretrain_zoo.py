"""A zoo is pretrained from datasets on the disk, and goes on where it was interrupted."""

import hashlib
import json
import os
import subprocess
import sys
import textwrap
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_pretraining import DATASETS, TINY, assert_same_zoo, make, pretrain

from supernetnas.families.cells.family import Cells
from supernetnas.families.paths.family import Paths
from supernetnas.images.datasets import load_dataset, load_datasets, load_npz_dataset
from supernetnas.pretraining.checks import check_kept
from supernetnas.pretraining.data import PretrainingData
from supernetnas.storage.files import FileError
from supernetnas.zoo import Zoo, ZooError


def interrupted_after(epochs):
    """Return a callback that interrupts when it has been called so often."""
    left = iter(range(epochs - 1))

    def on_epoch(_):
        if next(left, None) is None:
            raise KeyboardInterrupt

    return on_epoch


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A zoo that was pretrained without an interruption."""
    return pretrain(tmp_path_factory.mktemp("zoos") / "zoo")


def test_zoo_holds_what_was_pretrained(whole):
    assert whole.names == ["a", "b", "multi"]
    assert whole.verify() == []
    source = whole["a"]
    assert source.provenance == {"dataset": "a", "licence": "CC0", "n_images": 12, "n_classes": 2}
    assert source.classes == ["a 0", "a 1"]
    assert len(source.history()) == source.metrics["epochs"] == 2
    assert source.metrics.keys() == {
        *("validation_accuracy", "train_accuracy", "chance_accuracy", "epochs", "seconds"),
    }
    assert source.metrics["chance_accuracy"] == 0.5
    assert source.metrics["validation_accuracy"] == source.history()[-1]["validation_accuracy"]
    multi = whole.multi()
    assert (multi.n_images, multi.n_classes) == (30, 5)
    assert multi.provenance["datasets"] == ["b", "a"]
    assert multi.metrics["chance_accuracy"] == pytest.approx((6 + 6) / 30)
    assert not (whole.folder / ".pretraining").exists()


@pytest.mark.parametrize("epochs", [1, 3, 5])
def test_interrupted_pretraining_goes_on_and_ends_the_same(whole, tmp_path, epochs):
    with pytest.raises(KeyboardInterrupt):
        pretrain(tmp_path / "zoo", on_epoch=interrupted_after(epochs))
    assert len(Zoo.open(tmp_path / "zoo")) == (epochs - 1) // 2
    rows = []
    zoo = pretrain(tmp_path / "zoo", on_epoch=lambda search: rows.append(search.epoch))
    assert len(rows) == 6 - epochs
    assert_same_zoo(whole, zoo)


def test_finished_zoo_is_left_as_it_is(whole):
    def never(_):
        raise AssertionError("trained again")

    before = {p: p.read_bytes() for p in whole.folder.rglob("*") if p.is_file()}
    pretrain(whole.folder, on_epoch=never)
    assert {p: p.read_bytes() for p in whole.folder.rglob("*") if p.is_file()} == before


def test_datasets_are_added_to_a_zoo(tmp_path):
    pretrain(tmp_path / "zoo", DATASETS[:1], multi=False, compact=True)
    basis = Zoo.open(tmp_path / "zoo").basis().id
    zoo = pretrain(tmp_path / "zoo", multi=False, compact=True)
    assert zoo.names == ["a", "b"]
    assert {source.signature().basis.id for source in zoo.values()} == {basis}


def test_multi_alone_and_single_sources_that_start_from_it(tmp_path):
    first = pretrain(tmp_path / "first", singles=False, compact=True)
    assert first.names == ["multi"]
    assert pretrain(tmp_path / "first", singles=False, compact=True).names == ["multi"]
    zoo = pretrain(tmp_path / "zoo", multi=False, compact=True, warm_start=first["multi"])
    assert zoo.names == ["a", "b"]
    assert {source.provenance["warm_start"] for source in zoo.values()} == {"multi"}
    assert pretrain(tmp_path / "zoo", singles=False).names == ["a", "b", "multi"]
    with pytest.raises(ValueError, match="nothing to pretrain"):
        pretrain(tmp_path / "none", singles=False, multi=False)


def test_a_source_of_another_supernet_or_of_changed_data_is_not_passed_over_in_silence(tmp_path):
    zoo = pretrain(tmp_path / "zoo", DATASETS[:1], multi=False)
    with pytest.raises(ZooError, match="Choose another folder"):
        pretrain(
            zoo.folder,
            multi=False,
            pretraining=replace(TINY, family=Cells(init_channels=6, n_cells=3)),
        )
    (name,) = zoo.names
    with pytest.warns(UserWarning, match=f"{name!r} is kept as it is, .* now has"):
        pretrain(zoo.folder, [make(name, 3, n_classes=4)], multi=False)


def test_a_second_family_takes_over_the_signatures(tmp_path, monkeypatch):
    """Made again they could differ in the last digit, and all training would be for nothing."""
    zoo = pretrain(tmp_path / "zoo", DATASETS[:1], multi=False)
    before = zoo["b"].signature().to_tensors()
    monkeypatch.setattr("supernetnas.pretraining.data.embed_labelled", None)
    paths = replace(TINY, family=Paths(width=0.125, depth=(1, 1, 1, 1)), image_side=32)
    changed = [make("b", 3, n_classes=4)]
    with pytest.raises(ZooError, match=r"dataset of 'b' .* had 18 images .* now has 24"):
        pretrain(zoo.folder, changed, multi=False, pretraining=paths)
    check_kept(zoo, [PretrainingData.read(dataset) for dataset in changed], paths, singles=False)
    grown = pretrain(zoo.folder, DATASETS[:1], multi=False, pretraining=paths)
    assert grown.names == ["b", "b-paths"] and grown.verify() == []
    for source in grown.singles():
        np.testing.assert_equal(source.signature().to_tensors(), before)
    with pytest.raises(ZooError, match="'b-paths' is the name of a source"):
        pretrain(zoo.folder, [make("b-paths", 3)], multi=False)
    with pytest.warns(UserWarning, match="'b' is kept as it is"):  # and so is that of paths
        pretrain(zoo.folder, [make("b", 3, n_classes=4)], multi=False)
    state, signature = grown["b"].state_dict(), grown["b"].signature()
    grown.add("multi-paths", config=grown["b"].config, state_dict=state, signature=signature)
    with pytest.raises(ZooError, match="'multi-paths' is the name of another source"):
        pretrain(zoo.folder, DATASETS[:1], pretraining=paths)


def test_a_multi_source_alone_has_the_licences_of_its_datasets(tmp_path):
    zoo = pretrain(tmp_path / "zoo", singles=False)
    assert zoo["multi"].provenance["licence"] == "CC0"


def test_a_part_of_an_interrupted_pretraining_goes_on(tmp_path, whole):
    arguments = {"multi": False, "warm_start": whole, "work": tmp_path / "work"}
    pretrain(tmp_path / "first", **arguments)
    assert pretrain(tmp_path / "second", DATASETS[:1], **arguments).names == ["b"]


def test_zoo_that_was_killed_while_it_was_made(whole, tmp_path):
    """The basis is written before the index; what writers of checkpoints left is cleared away."""
    (tmp_path / "zoo" / ".pretraining").mkdir(parents=True)
    (tmp_path / "zoo" / "basis.safetensors").write_bytes(b"half")
    (tmp_path / "work").mkdir()
    for name in (".tmp-0123-b.ckpt", ".tmp-4567-pretraining.json"):
        (tmp_path / "work" / name).write_bytes(b"half")
    with pytest.raises(ZooError, match=r"basis\.safetensors"):
        pretrain(tmp_path / "zoo", DATASETS[:1], multi=False, work=tmp_path / "work")
    zoo = pretrain(
        tmp_path / "zoo", DATASETS[:1], multi=False, compact=True, work=tmp_path / "work"
    )
    assert zoo.verify() == []
    assert {p.name for p in (tmp_path / "work").iterdir()} == {"b.ckpt", "pretraining.json"}


@pytest.mark.parametrize("what", ["writing", "deleting"])
def test_checkpoints_do_not_end_a_pretraining(whole, tmp_path, monkeypatch, what):
    def refuse(*_, **__):
        raise OSError(39, "Directory not empty")

    if what == "writing":
        monkeypatch.setattr("supernetnas.training.checkpoints.save_checkpoint", refuse)
    else:
        monkeypatch.setattr("supernetnas.pretraining.whole_zoo.shutil.rmtree", refuse)
    with pytest.warns(UserWarning, match=r"cannot be (written|deleted).*not empty"):
        zoo = pretrain(tmp_path / "zoo")
    assert zoo.verify() == []
    for name in whole:
        assert zoo[name].weights_sha256 == whole[name].weights_sha256


def test_a_place_that_refuses_checkpoints(tmp_path):
    (tmp_path / "work").touch()
    with pytest.raises(ZooError, match=r"Checkpoints cannot be written to .*work.*another folder"):
        pretrain(tmp_path / "zoo", work=tmp_path / "work")


def test_compact_zoo_with_float16_weights(whole, tmp_path):
    zoo = pretrain(tmp_path / "zoo", compact=True, dtype="float16", multi=False)
    assert zoo.verify() == []
    assert all(source.signature().form == "compact" for source in zoo.values())
    for name in zoo:
        assert zoo[name].n_bytes < whole[name].n_bytes
        state = whole[name].state_dict()
        for key, value in zoo[name].state_dict().items():
            torch.testing.assert_close(value, state[key], rtol=1e-3, atol=1e-3)


def test_work_folder_of_ones_own_is_kept_and_adopted(whole, tmp_path):
    pretrain(tmp_path / "zoo", work=tmp_path / "work")
    names = ["a.ckpt", "b.ckpt", "multi.ckpt", "pretraining.json"]
    assert sorted(path.name for path in (tmp_path / "work").iterdir()) == names
    (tmp_path / "work" / "pretraining.json").unlink()  # as `pretrain_single` alone leaves it
    trained = []
    zoo = pretrain(tmp_path / "other", work=tmp_path / "work", on_epoch=trained.append)
    assert trained == []
    assert_same_zoo(whole, zoo)


def test_checkpoints_of_something_else_are_refused(tmp_path):
    work = tmp_path / "work"
    pretrain(tmp_path / "zoo", work=work)
    for changed, what in (
        ({"warm_start": Zoo.open(tmp_path / "zoo")}, "the supernets to start from"),
        ({"pretraining": replace(TINY, random_state=1)}, "settings"),
        ({"datasets": [make("b", 1, n_classes=4), DATASETS[1]]}, "the datasets changed"),
        ({"datasets": DATASETS[::-1]}, "datasets of 'multi'"),
    ):
        with pytest.raises(ValueError, match=what):
            pretrain(tmp_path / "other", work=work, **changed)
    assert not (tmp_path / "other").exists()
    pretrain(tmp_path / "other", DATASETS[::-1], work=work, multi=False)


def test_zoo_is_pretrained_further(whole, tmp_path):
    standing = replace(
        TINY.search_settings, learning_rate=0, final_learning_rate=0, alpha_learning_rate=0
    )
    zoo = pretrain(
        tmp_path / "zoo",
        [*DATASETS, make("c", 3)],
        pretraining=replace(TINY, min_epochs=3, settings=standing),
        warm_start=whole,
    )
    for name in ("a", "b", "multi"):
        assert "warm_start_datasets" not in zoo[name].provenance
        source, state = whole[name], zoo[name].state_dict()
        for key, value in source.state_dict().items():
            if "running" not in key and "num_batches" not in key:
                assert torch.equal(state[key], value), key
        history = zoo[name].history()
        assert history[: len(source.history())] == source.history()
        assert [row["epoch"] for row in history] == list(range(1, len(history) + 1))
        assert len(history) == zoo[name].metrics["epochs"] == 2 + (2 if name == "multi" else 3)
    assert zoo["c"].metrics["epochs"] == 3


def test_every_supernet_starts_from_one_source(whole, tmp_path):
    standing = replace(
        TINY.search_settings, learning_rate=0, final_learning_rate=0, alpha_learning_rate=0
    )
    zoo = pretrain(
        tmp_path / "zoo",
        [DATASETS[0], make("c", 3)],
        pretraining=replace(TINY, settings=standing),
        warm_start=whole["multi"],
    )
    alphas = whole["multi"].state_dict()["alphas_normal"]
    for source in zoo.values():
        assert torch.equal(source.state_dict()["alphas_normal"], alphas)
    assert zoo["c"].provenance["warm_start"] == "multi"
    for source in zoo.values():  # none is of the datasets of the start alone, or more
        assert source.provenance["warm_start_datasets"] == ["a", "b"]
    again = pretrain(tmp_path / "again", [make("c", 3)], multi=False, warm_start=zoo["c"])
    assert again["c"].provenance["warm_start_datasets"] == ["a", "b", "c"]
    assert zoo["c"].metrics["epochs"] == len(zoo["c"].history()) == 2
    assert zoo["multi"].metrics["epochs"] == 4


def test_start_from_other_supernets_is_refused(whole, tmp_path):
    other = replace(TINY, family=Cells(init_channels=8, n_cells=3))
    with pytest.raises(
        ValueError, match="its supernet is 4 channels, 3 cells, not 8 channels, 3 cells"
    ):
        pretrain(tmp_path / "zoo", pretraining=other, warm_start=whole)
    with pytest.raises(ZooError, match="none of the datasets"):
        pretrain(tmp_path / "zoo", [make("c", 3)], multi=False, warm_start=whole)
    assert not (tmp_path / "zoo").exists()


@pytest.mark.parametrize(
    ("datasets", "message"),
    [
        ([], "no dataset"),
        ([make("my flowers", 0)], "cannot name a source"),
        ([make("multi", 0)], "'multi' is the source on all"),
        ([make("a", 0), make("a", 1)], "Two datasets have the name 'a'"),
        ([make("a", 0), make("A", 1)], "one folder on some systems"),
        ([make("a", 0, n_classes=1)], "at least two classes"),
        ([make("a", 0, class_names=["x"])], "1 class names for 3 classes"),
    ],
)
def test_unfit_datasets_are_refused(tmp_path, datasets, message):
    with pytest.raises(ValueError, match=message):
        pretrain(tmp_path / "zoo", datasets)
    assert not (tmp_path / "zoo").exists()


def test_unfit_zoos_are_refused(whole, tmp_path):
    (tmp_path / "diary.txt").write_text("dear diary")
    with pytest.raises(ZooError, match=r"diary\.txt"):
        pretrain(tmp_path)
    with pytest.raises(ZooError, match="is a file"):
        pretrain(tmp_path / "diary.txt")
    with pytest.raises(ZooError, match="was embedded with"):
        pretrain(whole.folder, embedder="efficientnet_lite0")
    with pytest.raises(ZooError, match="go on with compact=False"):
        pretrain(whole.folder, compact=True)
    with pytest.raises(ZooError, match="pretrained on other datasets"):
        pretrain(whole.folder, [*DATASETS, make("c", 3)])
    with pytest.raises(ValueError, match="float8"):
        pretrain(tmp_path / "zoo", dtype="float8")


# --------------------------------------------------------------------------------------- datasets


def save(path, **changes):
    arrays = {
        "X": np.zeros((4, 5, 5, 3), np.uint8),
        "y": np.array([0, 2, 0, 2]),
        "classes": np.array(["x", "y", "z"]),
        **changes,
    }
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    return path


def test_npz(tmp_path):
    dataset = load_npz_dataset(save(tmp_path / "some.npz"))
    assert (dataset.name, dataset.class_names) == ("some", ["x", "z"])
    assert dataset.labels.tolist() == [0, 2, 0, 2]
    assert dataset.provenance == {"dataset": "some"}
    assert load_npz_dataset(save(tmp_path / "n.npz", classes=None)).class_names == ["0", "2"]
    assert (
        load_npz_dataset(save(tmp_path / "n.npz", X=np.ones((4, 5, 5), np.uint8))).images.ndim == 3
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"X": None}, "must hold the arrays X, y and classes; it holds y, classes"),
        ({"X": np.zeros((4, 5, 5, 3))}, "X .* must be uint8 .* it is float64"),
        ({"X": np.zeros((4, 5), np.uint8)}, "X .* must be uint8"),
        ({"X": np.zeros((4, 3, 5, 5), np.uint8)}, "1 or 3 channels, last"),
        ({"y": np.zeros(3, int)}, "one integer for each of the 4 images"),
        ({"y": np.zeros(4)}, "one integer for each"),
        ({"y": np.array([0, 1, 2, 3])}, "must index its 3 classes"),
        ({"y": np.array([0, 1, 2, -1])}, "must index its 3 classes"),
        ({"classes": np.arange(3)}, "list of names"),
        ({"y": np.array([0, 1, {}, 2], dtype=object)}, "allow_pickle=False"),
    ],
)
def test_bad_npz(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        load_npz_dataset(save(tmp_path / "bad.npz", **changes))


def test_files_that_are_no_datasets(tmp_path):
    (tmp_path / "text.npz").write_text("no zip")
    with pytest.raises(ValueError, match=r"not an \.npz file"):
        load_npz_dataset(tmp_path / "text.npz")
    data = save(tmp_path / "cut.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(data.replace(b"NUMPY", b"NIMPY"))
    with pytest.raises(ValueError, match="cannot be read"):
        load_npz_dataset(tmp_path / "cut.npz")
    with pytest.raises(FileNotFoundError, match="missing"):
        load_dataset(tmp_path / "missing")
    (tmp_path / "a.txt").write_text("text")
    with pytest.raises(ValueError, match="not a dataset"):
        load_dataset(tmp_path / "a.txt")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_is_no_dataset(tmp_path):
    os.mkfifo(tmp_path / "pipe.npz")
    code = """
        import sys
        from supernetnas.images.datasets import load_datasets
        for path in sys.argv[1:]:
            try:
                load_datasets([path])
            except ValueError as error:
                print(error)
    """
    command = [sys.executable, "-c", textwrap.dedent(code), tmp_path, tmp_path / "pipe.npz"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.stdout.count("is not a regular file") == len(done.stdout.splitlines()) == 2


def test_class_folders(tmp_path):
    for name in ("tulip", "rose"):
        (tmp_path / "flowers" / name).mkdir(parents=True)
        Image.new("RGB", (4, 4)).save(tmp_path / "flowers" / name / "1.png")
    (dataset,) = load_datasets([tmp_path / "flowers" / "."])
    assert (dataset.name, dataset.class_names) == ("flowers", ["rose", "tulip"])
    assert dataset.labels.tolist() == ["rose", "tulip"]


def test_album(tmp_path):
    for name in ("c", "b", "a"):
        save(tmp_path / f"{name}.npz")
    (tmp_path / "reserved.bin").write_bytes(b"something else")
    entry = {
        "slug": "b",
        "file": "b.npz",
        "title": "The Bees",
        "upstream": "Bees of the World",
        "licence": "not stated",
        "sha256": hashlib.sha256((tmp_path / "b.npz").read_bytes()).hexdigest(),
        "source": [
            {"kind": "github", "repo": "x/y", "commit": "0123abc", "path": "bees/"},
            {"kind": "pypi", "package": "bees", "version": "1.0"},
        ],
        "n_images": 4,
    }
    album = {"datasets": [entry, {"file": "a.npz", "source": "https://example.org"}]}
    (tmp_path / "album.json").write_text(json.dumps(album))
    datasets = load_datasets([tmp_path])
    assert [dataset.name for dataset in datasets] == ["b", "a", "c"]
    assert datasets[0].provenance == {
        "dataset": "The Bees",
        "upstream": "Bees of the World",
        "licence": "not stated",
        "source": "github x/y @ 0123abc: bees/; pypi bees @ 1.0",
    }
    assert datasets[1].provenance == {"dataset": "a", "source": "https://example.org"}
    assert datasets[2].provenance == {"dataset": "c"}
    save(tmp_path / "b.npz", y=np.array([0, 1, 0, 1]))
    with pytest.raises(ValueError, match=r"not the file that .*album\.json describes"):
        load_datasets([tmp_path])


@pytest.mark.parametrize("text", ["[]", '{"datasets": [{}]}', "{"])
def test_bad_album(tmp_path, text):
    save(tmp_path / "a.npz")
    (tmp_path / "album.json").write_text(text)
    with pytest.raises((ValueError, FileError), match=r"album\.json"):
        load_datasets([tmp_path])
