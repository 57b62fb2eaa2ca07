"""A fit that is interrupted or killed goes on, and gives what it would have given."""

import errno
import itertools
import os
import shutil
import signal
import subprocess
import sys
import textwrap

import filelock
import pytest
import torch
from PIL import Image
from tiny import patterns, tiny_classifier

from supernetnas.families.cells.search.methods import SmoothDARTS
from supernetnas.fitting.checkpoints import StageCheckpoint, fingerprint
from supernetnas.images import stored_pixels
from supernetnas.images.augmentation import ImageTensors
from supernetnas.images.reading import as_image_set
from supernetnas.storage import files
from supernetnas.storage.files import FileError
from supernetnas.training.checkpoints import load_checkpoint
from supernetnas.zoo import Zoo

IMAGES, LABELS = patterns(n_per_class=6)
NEW, _ = patterns(seed=1)


def classifier(checkpoint_dir, zoo=None, strategy="scratch", **parameters):
    settings = {
        "search__epochs": 2,
        "retraining__epochs": 3,
        "retraining__dropout": 0.2,
        "batch_size": 8,
    }
    settings |= {"search__perturbation": "random", "checkpoint_dir": checkpoint_dir}
    return tiny_classifier(zoo, strategy, settings, **parameters)


def rows(clf):
    return [{k: v for k, v in row.items() if k != "seconds"} for row in clf.history_]


def assert_equal(one, other):
    assert one.genotype_ == other.genotype_
    assert one.source_ == other.source_
    assert rows(one) == rows(other)
    for name, value in one.supernet_state_.items():
        assert value.tobytes() == other.supernet_state_[name].tobytes(), name
    assert one.predict_proba(NEW).tobytes() == other.predict_proba(NEW).tobytes()


class Batches:
    """Counts training batches and interrupts at one of them."""

    def __init__(self, monkeypatch):
        self.count, self.stop_at = 0, None
        original = ImageTensors.augmented

        def augmented(images, index, generator):
            self.count += 1
            if self.count == self.stop_at:
                raise KeyboardInterrupt
            return original(images, index, generator)

        monkeypatch.setattr(ImageTensors, "augmented", augmented)

    def start(self, stop_at=None):
        self.count, self.stop_at = 0, stop_at


@pytest.fixture
def batches(monkeypatch):
    return Batches(monkeypatch)


def interrupt(batches, clf, at):
    batches.start(at)
    with pytest.raises(KeyboardInterrupt):
        clf.fit(IMAGES, LABELS)
    batches.start()
    return clf


@pytest.mark.parametrize(
    ("at", "words"),
    [(6, "the search goes on from epoch 2"), (12, "the retraining goes on from epoch 2")],
)
def test_a_fit_that_goes_on_says_from_where(batches, tmp_path, caplog, at, words):
    clf = interrupt(batches, classifier(tmp_path), at)
    assert not caplog.records
    clf.set_params(verbose=2).fit(IMAGES, LABELS)
    told = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert told == [words]  # warnings, which the command shows without -v


@pytest.mark.parametrize(
    ("space", "perturbation", "moments"),
    [
        ("s1", "random", (1, 6, 14)),
        ("s4", "none", (5, 12)),
        ("s1", "adversarial", (8,)),
        pytest.param("s1", "adversarial", (4, 5, 9, 12, 17), marks=pytest.mark.slow),
    ],
)
def test_an_interruption_anywhere_changes_nothing(batches, tmp_path, space, perturbation, moments):
    settings = {"family__space": space, "search__perturbation": perturbation}
    whole = classifier(None, **settings).fit(IMAGES, LABELS)
    total = batches.count
    assert total == 2 * 2 * 2 + 3 * 3  # two epochs of two pairs of steps, three of three steps
    for at in moments:
        clf = interrupt(batches, classifier(tmp_path, **settings), at)
        assert len(list(tmp_path.glob("*/fit.json"))) == 1
        clf.fit(IMAGES, LABELS)
        done = 4 * ((at - 1) // 4) if at <= 8 else 8 + 3 * ((at - 9) // 3)
        assert batches.count == total - done  # finished epochs are not done again
        assert_equal(clf, whole)
        assert not any(tmp_path.iterdir())


def test_many_interruptions_of_one_fit(batches, tmp_path):
    whole = classifier(None).fit(IMAGES, LABELS)
    for _ in range(4):
        interrupt(batches, classifier(tmp_path), 5)
    assert_equal(classifier(tmp_path).fit(IMAGES, LABELS), whole)
    assert batches.count == 3


def test_several_sources(batches, tmp_path, tiny_zoo):
    def fit():
        return classifier(tmp_path, tiny_zoo, "oracle")

    whole = classifier(None, tiny_zoo, "oracle").fit(IMAGES, LABELS)
    for at in (7, 10):
        assert_equal(interrupt(batches, fit(), at).fit(IMAGES, LABELS), whole)


def test_a_search_that_ended_early_stays_ended(batches, tmp_path):
    settings = {"search__epochs": 6, "search__patience": 1, "search__learning_rate": 1e-9}
    whole = classifier(None, **settings).fit(IMAGES, LABELS)
    n_epochs = sum(row["stage"] == "search" for row in whole.history_)
    assert n_epochs < 6
    clf = interrupt(batches, classifier(tmp_path, **settings), 4 * n_epochs + 1)
    assert_equal(clf.fit(IMAGES, LABELS), whole)


def test_a_fresh_seed_is_kept_until_the_fit_ends(batches, tmp_path, monkeypatch):
    clf = classifier(tmp_path, random_state=None)
    interrupt(batches, clf, 9)
    (record,) = tmp_path.glob("*/fit.json")
    seed = int(record.read_text().split('"seed": ')[1].split(",")[0])
    clf.fit(IMAGES, LABELS)
    other = classifier(None)
    monkeypatch.setattr("supernetnas.classifier.draw_seed", lambda _: seed)
    assert_equal(clf, other.fit(IMAGES, LABELS))


@pytest.mark.parametrize("change", [{"retraining__epochs": 2}, {"random_state": 1}])
def test_other_parameters_start_anew(batches, tmp_path, change):
    interrupt(batches, classifier(tmp_path), 9)
    (kept,) = tmp_path.glob("*/")
    clf = classifier(tmp_path, **change).fit(IMAGES, LABELS)
    assert_equal(clf, classifier(None, **change).fit(IMAGES, LABELS))
    assert list(tmp_path.glob("*/")) == [kept]  # of the other fit, which can still go on


def test_other_data_start_anew(batches, tmp_path):
    interrupt(batches, classifier(tmp_path), 9)
    images, labels = IMAGES.copy(), LABELS.copy()
    images[0, 0, 0] += 1
    assert_equal(classifier(tmp_path).fit(images, LABELS), classifier(None).fit(images, LABELS))
    labels[:2] = labels[1::-1]
    assert LABELS[0] != LABELS[1]
    assert_equal(classifier(tmp_path).fit(IMAGES, labels), classifier(None).fit(IMAGES, labels))


def test_verbosity_may_change(batches, tmp_path, capsys):
    whole = classifier(None).fit(IMAGES, LABELS)
    interrupt(batches, classifier(tmp_path), 16)
    assert_equal(classifier(tmp_path, verbose=2).fit(IMAGES, LABELS), whole)
    lines = [line for line in capsys.readouterr().err.splitlines() if ": epoch " in line]
    assert len(lines) == 5  # of all epochs, those before the interruption too


def test_a_zoo_that_has_changed_is_refused(batches, tmp_path, tiny_zoo):
    folder = tmp_path / "zoo"
    zoo = Zoo.create(folder, embedder_id=tiny_zoo.embedder_id)
    state = tiny_zoo["both"].state_dict()
    zoo.add("a", config=tiny_zoo["both"].config, state_dict=state, kind="multi")
    interrupt(batches, classifier(tmp_path / "work", zoo, "multi"), 4)
    state = {name: value + (value.is_floating_point()) for name, value in state.items()}
    zoo.remove("a")
    zoo.add("a", config=tiny_zoo["both"].config, state_dict=state, kind="multi")
    clf = classifier(tmp_path / "work", Zoo.open(folder), "multi")
    with pytest.raises(ValueError, match=r"zoo has changed since\. Delete .* to start anew"):
        clf.fit(IMAGES, LABELS)


def test_a_damaged_checkpoint_is_named(batches, tmp_path):
    clf = interrupt(batches, classifier(tmp_path), 9)
    (path,) = tmp_path.glob("*/search-0.safetensors")
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(FileError, match=r"search-0\.safetensors is damaged.*Delete its folder"):
        clf.fit(IMAGES, LABELS)


def test_the_same_fit_twice_at_once_is_refused(batches, tmp_path):
    interrupt(batches, classifier(tmp_path), 9)
    (folder,) = tmp_path.glob("*/")
    with (
        filelock.FileLock(f"{folder}.lock"),
        pytest.raises(FileError, match="Another process runs this very fit"),
    ):
        classifier(tmp_path).fit(IMAGES, LABELS)


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(FileError, match="Checkpoints cannot be written to"):
        classifier(tmp_path / "file").fit(IMAGES, LABELS)
    with pytest.raises(TypeError, match=r"'checkpoint_dir' parameter .* str, path or None\. Got 3"):
        classifier(3).fit(IMAGES, LABELS)


@pytest.fixture(scope="module")
def whole():
    return classifier(None).fit(IMAGES, LABELS)


class TestWithoutRoom:
    """A fit that trains is not ended by its checkpoints."""

    @staticmethod
    def refusing(monkeypatch, refused):
        """Refuse to write the files of these numbers."""
        write, numbers = files.write_new, itertools.count(1)

        def write_new(path, data):
            if next(numbers) in refused:
                raise OSError(errno.ENOSPC, "No space left on device", str(path))
            write(path, data)

        monkeypatch.setattr(files, "write_new", write_new)

    # The files of a fit: the seed, the start, two epochs of search, the derivation, retraining.
    @pytest.mark.parametrize("first", [2, 3, 5, 6])
    @pytest.mark.parametrize("last", [0, 1000])
    def test_writing(self, whole, tmp_path, monkeypatch, first, last):
        self.refusing(monkeypatch, range(first, max(first + 1, last)))
        with pytest.warns(UserWarning, match="cannot be written; the fit goes on: .*No space"):
            clf = classifier(tmp_path).fit(IMAGES, LABELS)
        assert_equal(clf, whole)
        assert not any(tmp_path.iterdir())

    def test_going_on_from_what_was_written(self, whole, batches, tmp_path, monkeypatch):
        """After a gap nothing later is: one network's retraining cannot go on in another."""
        with monkeypatch.context() as patch:
            self.refusing(patch, [5])
            with pytest.warns(UserWarning, match=r"derive\.safetensors cannot be written"):
                interrupt(batches, classifier(tmp_path), 17)
        assert {path.name for path in tmp_path.glob("*/*.safetensors")} == {"search-0.safetensors"}
        assert_equal(classifier(tmp_path).fit(IMAGES, LABELS), whole)

    def test_before_the_fit(self, tmp_path, monkeypatch):
        self.refusing(monkeypatch, [1])
        with pytest.raises(FileError, match=r"cannot be written to .*The disk is full"):
            classifier(tmp_path).fit(IMAGES, LABELS)

    @pytest.mark.parametrize("what", ["rmtree", "unlink"])
    def test_deleting(self, whole, batches, tmp_path, monkeypatch, what):
        def busy(path, *_, **__):
            raise OSError(errno.ENOTEMPTY, "Directory not empty", str(path))

        with monkeypatch.context() as patch:
            patch.setattr(*((shutil, "rmtree") if what == "rmtree" else (os, "unlink")), busy)
            with pytest.warns(UserWarning, match="of no more use, but cannot be deleted"):
                clf = classifier(tmp_path).fit(IMAGES, LABELS)
        assert_equal(clf, whole)
        if what == "rmtree":  # what is left is not taken for an interrupted fit
            assert len(list(tmp_path.glob("*/*.safetensors"))) == 3
            batches.start()
            assert_equal(classifier(tmp_path).fit(IMAGES, LABELS), whole)
            assert batches.count == 17
            assert not any(tmp_path.iterdir())


def test_a_home_folder_that_nobody_knows(monkeypatch):
    def nowhere(_):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr("pathlib.Path.expanduser", nowhere)
    with pytest.raises(FileError, match=r"'~/work' begins with a home folder.*HOME"):
        classifier("~/work").fit(IMAGES, LABELS)


def test_the_clock_goes_on(tmp_path):
    from supernetnas.training.clock import Stopwatch

    before = Stopwatch()
    before.start -= 100
    StageCheckpoint(tmp_path / "x", before).save({}, {"epoch": 3})
    after = Stopwatch(50)
    assert StageCheckpoint(tmp_path / "x", after).load() == ({}, {"epoch": 3})
    assert after.expired() and after.seconds >= 100


def test_fingerprints():
    def named(parameters, images=IMAGES, labels=LABELS, device="cpu"):
        contents = as_image_set(images).contents()
        return fingerprint(parameters, contents, (labels,), device)

    one = named({"a": 1, "verbose": 0})
    assert one == named({"a": 1, "verbose": 2}, IMAGES.copy())
    others = [
        named({"a": 2}),
        named({"a": 1}, IMAGES.reshape(-1, 16, 4)),
        named({"a": 1}, 255 - IMAGES),
        named({"a": 1}, IMAGES.astype(float)),
        named({"a": 1}, device="cuda"),
        named({"a": 1}, labels=LABELS.astype(str)),
        named({"a": 1}, labels=LABELS.astype(str).astype(object)),
        named({"a": torch.float32}),
        named({"a": SmoothDARTS()}),
        named({"a": SmoothDARTS(epochs=2)}),
    ]
    assert len({one, *others}) == 11


def test_contents_are_those_of_the_files(tmp_path):
    """Not their names or dates; but pixels in another format are other contents."""
    paths = [tmp_path / f"{name}.png" for name in "ab"]
    for path, image in zip(paths, IMAGES, strict=False):
        Image.fromarray(image).save(path)
    first = list(as_image_set(paths).contents())
    moved = [path.rename(path.with_name(f"{path.stem}_.png")) for path in paths]
    assert list(as_image_set(moved).contents()) == first
    assert list(as_image_set([path.read_bytes() for path in moved]).contents()) == first
    Image.fromarray(IMAGES[5]).save(moved[0])
    assert list(as_image_set(moved).contents()) != first
    opened = [Image.open(path) for path in moved]
    turned = [image.rotate(90) for image in opened]
    assert list(as_image_set(opened).contents()) != list(as_image_set(turned).contents())


@pytest.mark.skipif(os.name != "posix", reason="there is no SIGKILL")
def test_a_killed_process(tmp_path):
    """Killed by the operating system in a write, in the search and in the retraining."""
    script = """
        import os, signal, sys
        from test_checkpoint import IMAGES, LABELS, NEW, classifier
        from supernetnas.storage import files
        replace, count = os.replace, 0

        def killing(source, target):
            global count
            count += 1
            if count == abs(moment):
                if moment < 0:  # after the file is in its place
                    replace(source, target)
                os.kill(os.getpid(), signal.SIGKILL)
            replace(source, target)

        for moment in map(int, sys.argv[1:]):
            child = os.fork()
            if not child:
                files.os.replace = killing
                classifier("work").fit(IMAGES, LABELS)
                os._exit(0)
            print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        clf = classifier("work").fit(IMAGES, LABELS)
        print(clf.genotype_, clf.predict_proba(NEW).tobytes().hex(), sep="\\n")
    """
    # Writes of the first run: the seed, the start, two epochs of search; then three of retraining.
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), "4", "-2", "1"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([*sys.path])},
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    whole = classifier(None).fit(IMAGES, LABELS)
    expected = 3 * [str(-signal.SIGKILL)]
    expected += [str(whole.genotype_), whole.predict_proba(NEW).tobytes().hex()]
    assert result.stdout.splitlines() == expected
    assert not any((tmp_path / "work").iterdir())


def test_images_in_a_file(batches, tmp_path, monkeypatch):
    """Sets that do not fit into memory are recognised by the same name."""
    whole = classifier(None).fit(IMAGES, LABELS)
    interrupt(batches, classifier(tmp_path), 9)
    monkeypatch.setattr(stored_pixels, "MEMORY", 0)
    clf = classifier(tmp_path).fit(IMAGES, LABELS)
    assert_equal(clf, whole)
    assert not any(tmp_path.iterdir())


class TestDerivation:
    """Once an architecture is derived, a fit that goes on neither searches nor derives again."""

    @pytest.mark.parametrize(
        "settings",
        [
            {"search__derivation": "perturbation", "search__derivation_epochs": 1},
            {"search": "random_search"},
            {"search": "drnas", "search__epochs": 3},
            {"max_parameters": 10**9},
            {"strategy": "oracle"},
        ],
        ids=str,
    )
    def test_it_is_kept(self, tmp_path, monkeypatch, tiny_zoo, settings):
        def fit(folder):
            zoo = tiny_zoo if settings.get("strategy") == "oracle" else None
            return classifier(folder, zoo, **settings).fit(IMAGES, LABELS)

        whole = fit(None)
        self.interrupt_retraining(monkeypatch, lambda: fit(tmp_path))
        for name in (
            "methods.AlphaSearch.derive",
            "methods.RandomSearch.derive",
            "weight_training.WeightTraining.run_epoch",
        ):
            monkeypatch.setattr(f"supernetnas.families.cells.search.{name}", self.never)
        assert_equal(fit(tmp_path), whole)

    def test_a_search_whose_time_was_up_is_over(self, tmp_path, monkeypatch):
        def fit():
            return classifier(tmp_path, search__epochs=500, time_limit=0.5).fit(IMAGES, LABELS)

        seen = self.interrupt_retraining(monkeypatch, fit)
        monkeypatch.setattr(
            "supernetnas.families.cells.search.weight_training.WeightTraining.run_epoch", self.never
        )
        (stage,) = tmp_path.glob("*/search-0.safetensors")
        _, state = load_checkpoint(stage)
        assert state["finished"]
        clf = fit()
        assert clf.genotype_ == seen[0].config.genotype
        assert sum(row["stage"] == "search" for row in clf.history_) == state["epoch"] < 500

    @staticmethod
    def never(*args, **kwargs):
        raise AssertionError("done again")

    @staticmethod
    def interrupt_retraining(monkeypatch, fit):
        seen = []

        def interrupted(network, *args, **kwargs):
            seen.append(network)
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr("supernetnas.fitting.finetuning.retrain", interrupted)
            with pytest.raises(KeyboardInterrupt):
                fit()
        return seen


@pytest.mark.parametrize("settings", [{"search": "random"}, {"search__epochs": 0}], ids=str)
def test_without_a_search_a_fit_goes_on_too(tmp_path, batches, settings):
    whole = classifier(None, **settings).fit(IMAGES, LABELS)
    clf = interrupt(batches, classifier(tmp_path, **settings), 5)  # in the retraining
    batches.start()
    assert_equal(clf.fit(IMAGES, LABELS), whole)
    assert not any(tmp_path.iterdir())


def test_a_damaged_record_is_named(tmp_path, batches):
    interrupt(batches, classifier(tmp_path), 10)
    (record,) = tmp_path.glob("*/fit.json")
    record.write_text("")
    batches.start()
    with pytest.raises(FileError, match=f"Delete the folder {record.parent} to start anew"):
        classifier(tmp_path).fit(IMAGES, LABELS)


def test_a_subclass_has_a_fingerprint_of_its_own():
    class Own(SmoothDARTS):
        pass

    names = {fingerprint({"search": search}, (), (), "cpu") for search in (SmoothDARTS(), Own())}
    assert len(names | {fingerprint({"search": Own(epochs=2)}, (), (), "cpu")}) == 3
