"""A disk that is full in the middle, and no network: nothing half-written is left."""

import errno
import os
import stat

import pytest
from PIL import Image
from tiny import patterns, tiny_classifier

from supernetnas import cli
from supernetnas.saving import export as export_module
from supernetnas.storage import files, hub


@pytest.fixture(scope="module")
def classifier():
    return tiny_classifier(search="none", retraining__epochs=1).fit(*patterns())


@pytest.fixture(scope="module")
def model(classifier, tmp_path_factory):
    return str(classifier.save_pretrained(tmp_path_factory.mktemp("models") / "model"))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder of class folders with the names of the fit's classes."""
    folder = tmp_path_factory.mktemp("data") / "data"
    for position, (image, label) in enumerate(zip(*patterns(n_per_class=2), strict=True)):
        (folder / str(label)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / str(label) / f"{position}.png")
    return str(folder)


@pytest.fixture
def fills_up(monkeypatch):
    """Let the disk become full while the n-th file of some length is written."""

    def at(n):
        left = [n]

        def sync(descriptor):
            about = os.fstat(descriptor)
            if stat.S_ISREG(about.st_mode) and about.st_size > len(b"probe"):
                left[0] -= 1
                if left[0] <= 0:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(files, "_sync", sync)

    return at


def run(capsys, *arguments):
    capsys.readouterr()
    status = cli.main([str(argument) for argument in arguments])
    return status, *capsys.readouterr()


@pytest.mark.parametrize(
    ("command", "name"),
    [
        ("report {model} {data} --out {name}", "page.html"),
        ("report {model} --out {name}", "page.html"),
        ("export {model} {name}", "model.pt2"),
        ("evaluate {model} {data} --csv {name}", "found.csv"),
        ("evaluate {model} {data} --json {name}", "found.json"),
        ("evaluate {model} {data} --confusion {name}", "found.png"),
        ("evaluate {model} {data} --errors {name}", "found.svg"),
    ],
)
@pytest.mark.parametrize("before", [None, b"what was there"])
def test_a_full_disk(model, data, tmp_path, fills_up, capsys, command, name, before):
    if "export" not in command:
        pytest.importorskip("matplotlib")
    path = tmp_path / name
    if before is not None:
        path.write_bytes(before)
    fills_up(1)
    words = command.format(model=model, data=data, name=path).split()
    status, out, error = run(capsys, *words)
    assert status == 1
    assert f"{path} cannot be written: No space left on device. The disk is full: free" in error
    assert ".tmp-" not in error and "Traceback" not in error
    assert [file.name for file in tmp_path.iterdir()] == ([] if before is None else [name])
    assert before is None or path.read_bytes() == before
    if "evaluate" in command:  # what was found is not lost
        assert "accuracy" in out


@pytest.mark.parametrize("n", [1, 2, 3])
def test_an_export_is_all_of_its_files_or_none(classifier, tmp_path, fills_up, monkeypatch, n):
    def quantised(data, *_):
        return data + b"in 8 bits"

    monkeypatch.setattr(export_module, "_onnx_bytes", lambda *_: b"a file of numbers")
    monkeypatch.setattr(export_module, "_compare", lambda *_: None)
    monkeypatch.setattr(export_module, "quantised", quantised)
    monkeypatch.setattr(export_module, "_judged", lambda *_: {})
    monkeypatch.setattr(export_module, "_runner", lambda *_: None)
    images = patterns()[0]
    path = tmp_path / "model.onnx"
    classifier.export(path, calibration=images)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    assert len(before) == 3
    monkeypatch.setattr(export_module, "_onnx_bytes", lambda *_: b"a file of other numbers")
    fills_up(n)
    with pytest.raises(files.FileError, match="The disk is full") as caught:
        classifier.export(path, calibration=images)
    assert caught.value.errno == errno.ENOSPC
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    "command",
    [
        "report nobody/model --out {folder}/page.html",
        "report nobody/model {data} --out {folder}/page.html",
        "export nobody/model {folder}/model.onnx",
        "evaluate nobody/model {data} --csv {folder}/found.csv",
        "predict nobody/model {data} --csv {folder}/found.csv",
        "benchmark nobody/model",
    ],
)
def test_no_network(data, tmp_path, monkeypatch, capsys, command):
    pytest.importorskip("huggingface_hub")
    monkeypatch.setattr(hub, "_PAUSE", 0)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    (tmp_path / "out").mkdir()
    words = command.format(data=data, folder=tmp_path / "out").split()
    status, out, error = run(capsys, *words)
    assert (status, out) == (2, "")
    assert "could not be reached" in error and "Check your connection" in error
    assert "There is no folder 'nobody/model' here." in error and "Traceback" not in error
    assert not any((tmp_path / "out").iterdir())


def test_a_place_that_is_not_there_is_refused_before_anything_is_fetched(tmp_path, capsys):
    status, _, error = run(capsys, "export", "nobody/model", tmp_path / "none" / "model.onnx")
    assert status == 2 and "there is no such folder" in error
