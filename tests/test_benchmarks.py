"""What every result of a benchmark says of how it was measured."""

import argparse
import importlib
import json
import platform
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"
SCRIPTS = sorted(path.name for path in BENCHMARKS.glob("*.py") if path.name != "common.py")

pytestmark = pytest.mark.skipif(not BENCHMARKS.exists(), reason="needs the benchmarks' sources")


@pytest.fixture
def common(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("common")


def test_results_say_what_they_were_measured_with(common, tmp_path):
    path = tmp_path / "new" / "x.json"
    common.write_results(path, rows=[{"seconds": 1.5}], device="CPU")
    found = json.loads(path.read_text())
    assert list(found) == [
        *("commit", "torch", "python", "processor", "threads", "date", "rows", "device")
    ]
    assert found["rows"] == [{"seconds": 1.5}]
    assert found["torch"] == torch.__version__
    assert found["python"] == platform.python_version()
    assert found["threads"] == torch.get_num_threads()
    assert found["processor"]
    assert found["date"] == datetime.now(UTC).date().isoformat()


def test_the_commit_and_whether_there_are_changes(common, tmp_path, monkeypatch):
    def git(*arguments):
        who = ["-c", "user.name=x", "-c", "user.email=x@y"]
        subprocess.run(["git", *who, *arguments], cwd=tmp_path, check=True, capture_output=True)

    monkeypatch.setattr(common, "RESULTS", tmp_path / "results")
    assert common.commit() is None
    git("init")
    (tmp_path / "file").write_text("a")
    git("add", "file")
    git("commit", "-m", "x")
    git("tag", "-a", "v1", "-m", "x")
    head = common.commit()
    assert re.fullmatch("[0-9a-f]{40}", head)
    (tmp_path / "file").write_text("b")
    assert common.commit() == head + "+"


def test_the_default_is_the_folder_of_results(common):
    parser = argparse.ArgumentParser()
    common.add_output(parser, "/elsewhere/speed.py")
    assert parser.parse_args([]).out == BENCHMARKS / "results" / "speed.json"
    assert parser.parse_args(["--out", "x"]).out == Path("x")


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_script_writes_by_that_helper(script):
    code = (BENCHMARKS / script).read_text(encoding="utf-8")
    assert "add_output(parser, __file__" in code
    assert re.search(r"\bwrite_results\(", code)
    assert "json.dump(" not in code


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS)
def test_every_script_starts(script):
    command = [sys.executable, script, "--help"]
    text = subprocess.run(command, cwd=BENCHMARKS, check=True, capture_output=True, text=True)
    assert "--out" in text.stdout


@pytest.mark.parametrize("path", sorted(BENCHMARKS.glob("results/*.json")), ids=lambda p: p.name)
def test_results_that_are_kept(path):
    found = json.loads(path.read_text(encoding="utf-8"))
    assert {"commit", "torch", "processor", "threads", "date"} <= found.keys()
    assert re.fullmatch("[0-9a-f]{40}", found["commit"])
    assert (BENCHMARKS / f"{path.stem}.py").exists()
