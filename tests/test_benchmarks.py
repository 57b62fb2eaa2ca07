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

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

import supernetnas

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


# The least that each script does all its work with. Words in capitals are paths.
SMALLEST = {
    "cells_teacher.py": "builtin COLOURED --seeds 0 --most 40",
    "digits.py": "--seeds 1 --strategies scratch",
    "distance.py": "--repeats 1 --rows 60 --pairs 3 --cases 16:3 --complete --real FEATURES "
    "--halves TARGET --sources ZOO",
    "elastic_pretraining.py": "TARGET DATASET --probe target --work WORK --epochs 1 --side 32",
    "elastic_ways.py": "TARGET DATASET --probe target --work WAYS --minutes 0.01 --side 32",
    "export.py": "TARGET --most 60 --image-size 8 --families cells --preset quick --repeats 1",
    "evolution.py": "--width 0.125 --side 8 --images 40 --held-out 20 --few 20 --population 4 "
    "--generations 1 --epochs 1 --shifted 2 --shift-images 64 --networks 3",
    "fine_tuning.py": "COLOURED --recipes 3-frozen",
    "hub.py": "--sources 3",
    "interruptions.py": "--kills 1",
    "memory.py": "--images 40",
    "order_preserving.py": "--width 0.125 --images 200 --architectures 3 --good 2 "
    "--alone-epochs 1 --alone-seeds 2 --epochs 4 --generations 2 --population 2 --shift-images 32 "
    "--seeds 1",
    "paths_transfer.py": "builtin COLOURED --seeds 0 --most 40 --image-size 32 --epochs 1",
    "peers.py": "ZOO TARGET --peers plain --seeds 0 --most 80",
    "parallel.py": "--jobs 1 2 --datasets 2 --steps 1",
    "peers_members.py": "ELASTIC COLOURED --seeds 0 --most 40",
    "ranking.py": "--width 0.125 --images 200 --architectures 3 --alone-epochs 1 --alone-seeds 1 "
    "--epochs 2 --batches 1 --seeds 1",
    "search_speed.py": "--networks small-8 --perturbations random --repeats 1 --batch-size 4",
    "selection.py": "ZOO TARGET --search-epochs 1 --retrain-epochs 1 --train-images 60",
    "transfer_table.py": "TARGET DATASET --work WORK --seeds 1 --steps 1 --multi-epochs 1 "
    "--search-epochs 1 --retrain-epochs 1 --most 60",
    "transfer.py": "ZOO TARGET --seeds 1 --search-epochs 1 --retrain-epochs 1",
}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """Paths of a zoo, of a dataset, and of features of several, by what stands for them."""
    folder = tmp_path_factory.mktemp("inputs")
    names = ("flowers5", "mnist5k", "omniglot", "multi")
    zoo = supernetnas.Zoo.open("builtin").save(folder / "zoo", names)
    X, y = load_digits(return_X_y=True)
    X = X.reshape(-1, 8, 8).astype(np.uint8)
    np.savez(folder / "target.npz", X=X[:120], y=y[:120])
    np.savez(folder / "more.npz", X=X[120:160], y=y[120:160])
    np.savez(folder / "coloured.npz", X=np.stack([15 * X[:120]] * 3, axis=-1), y=y[:120])
    elastic = supernetnas.Zoo.open("builtin").save(folder / "elastic", ("multi-elastic",))
    random = np.random.default_rng(0)
    features = {}
    for number in range(6):
        features[f"{number}/X"] = np.abs(random.normal(number / 10, 1, (80, 80)))
        features[f"{number}/y"] = np.arange(80) % 4
    np.savez(folder / "features.npz", **features)
    return {
        "ZOO": str(zoo.folder),
        "TARGET": str(folder / "target.npz"),
        "ELASTIC": str(elastic.folder),
        "DATASET": str(folder / "more.npz"),
        "COLOURED": str(folder / "coloured.npz"),
        "WORK": str(folder / "work"),
        "WAYS": str(folder / "ways"),
        "FEATURES": str(folder / "features.npz"),
    }


@pytest.mark.parametrize("path", ["reference", "fused"])
def test_each_step_of_an_attack_runs_one_backward_pass(path, common, monkeypatch):
    monkeypatch.setattr(sys, "path", sys.path[:])  # which the script adds to
    script = importlib.import_module("search_speed")
    passes = {}
    for perturbation in ("none", "adversarial"):
        search = script.searches("small-8", perturbation, torch.device("cpu"), 2, "float32")[path]
        seen = []
        classifier = search.supernet.classifier
        classifier.register_full_backward_hook(lambda *_, seen=seen: seen.append(1))
        script.step(search, 2)
        passes[perturbation] = len(seen)
        assert search.supernet.training
    assert passes == {"none": 2, "adversarial": 2 + 7}  # of alphas and weights, and the attack


def test_a_target_that_a_source_has_seen_is_refused(common, monkeypatch):
    monkeypatch.setattr(sys, "path", sys.path[:])
    script = importlib.import_module("transfer_table")
    zoo = supernetnas.Zoo.open("builtin")
    assert "flowers5" not in zoo.multi().provenance["datasets"]
    for target in ("butterflies", "omniglot"):  # which "multi" has seen
        with pytest.raises(SystemExit, match=rf"has seen '{target}'"):
            script.unseen(zoo, target, False)
    some = zoo.subset(["flowers5", "sports", "multi-elastic"])
    with pytest.raises(SystemExit, match="'flowers5' of the zoo has seen 'sports'"):
        script.unseen(some, "sports", True)
    assert script.unseen(some, "sports", False).names == []
    singles = script.unseen(some, "gtsrb_signs", True)
    assert singles.names == ["flowers5", "sports"]


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS)
def test_every_script_runs(script, inputs, tmp_path):
    options = [inputs.get(word, word) for word in SMALLEST[script].split()]
    out = tmp_path / "found.json"
    command = [sys.executable, script, *options, "--out", str(out)]
    subprocess.run(command, cwd=BENCHMARKS, check=True, capture_output=True)
    found = json.loads(out.read_text())
    measured = [name for name in ("rows", "steps", "accuracies", "probes") if name in found]
    assert measured
    assert all(found[name] for name in measured)


@pytest.mark.parametrize("path", sorted(BENCHMARKS.glob("results/*.json")), ids=lambda p: p.name)
def test_results_that_are_kept(path):
    found = json.loads(path.read_text(encoding="utf-8"))
    assert {"commit", "torch", "processor", "threads", "date"} <= found.keys()
    assert re.fullmatch("[0-9a-f]{40}", found["commit"])
    assert (BENCHMARKS / f"{path.stem}.py").exists()
