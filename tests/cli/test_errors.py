"""What goes wrong is said in one line, without a traceback unless it is asked for."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import QUICK, SMALL, refused

import supernetnas


def test_unexpected_errors_hide_their_traceback_until_it_is_asked_for(run, monkeypatch):
    def fail(_):
        raise RuntimeError("out of luck")

    monkeypatch.setattr("supernetnas.cli.zoos.list_", fail)
    result = run("zoo", "list")
    assert refused(result, "RuntimeError: out of luck (--debug", status=1)
    assert result[2].count("\n") == 1
    with pytest.raises(RuntimeError, match="out of luck"):
        run("zoo", "list", "--debug")


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (OSError(28, "No space left on device"), 1),
        (ImportError("Drawing needs matplotlib"), 1),
        (MemoryError(), 1),
        (PermissionError(13, "Permission denied", "x"), 2),
        (supernetnas.ZooError("damaged"), 2),
        (ValueError("one class only"), 2),
    ],
)
def test_statuses(run, monkeypatch, error, status):
    def fail(_):
        raise error

    monkeypatch.setattr("supernetnas.cli.zoos.list_", fail)
    assert refused(run("zoo", "list"), "supernetnas: error: ", status=status)


def test_warnings_are_one_line(run, monkeypatch):
    import warnings

    def warn(_):
        warnings.simplefilter("always")
        warnings.warn("mind the gap", UserWarning, stacklevel=1)

    monkeypatch.setattr("supernetnas.cli.zoos.list_", warn)
    assert run("zoo", "list") == (0, "", "supernetnas: warning: mind the gap\n")


def test_verbose_logs(run, folder, zoo, tmp_path):
    error = run("-v", "fit", folder, "--out", tmp_path / "m", "--zoo", zoo, *QUICK)[2]
    assert "supernetnas: search epoch 1" in error


def test_a_closed_pipe_is_no_error(zoo):
    code = (
        f"from supernetnas.cli import main; raise SystemExit(main(['zoo', 'list', {str(zoo)!r}]))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    process.stdout.close()
    error = process.stderr.read()
    process.stderr.close()
    assert process.wait() == 1
    assert error == b""


@pytest.mark.skipif(os.name != "posix", reason="names of files are bytes")
def test_names_that_are_not_utf8_are_found_early(run, folder, model, tmp_path, monkeypatch):
    data = Path(shutil.copytree(folder, tmp_path / "data"))
    os.rename(os.fsencode(data / "dark"), os.fsencode(data) + b"/caf\xe9")
    monkeypatch.setattr(supernetnas.SupernetTransferClassifier, "predict_proba", None)
    monkeypatch.setattr("supernetnas.classifier.search_best", None)
    monkeypatch.setattr("supernetnas.pretraining.whole_zoo.pretrain", None)
    assert refused(run("fit", data, "--out", tmp_path / "m"), "caf\\udce9", "valid Unicode")
    assert refused(run("predict", model, data, "--csv", tmp_path / "p"), "6 of 12", "caf\\xe9")
    result = run("zoo", "pretrain", data, "--out", tmp_path / "zoo", *SMALL)
    assert refused(result, "caf\\udce9", "Rename folders")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data"]
