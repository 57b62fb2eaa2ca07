"""What every result of a benchmark says of how it was measured."""

import argparse
import importlib
import json
import platform
import re
import shlex
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


def test_an_interval_is_that_of_student(common):
    # Three values: 4.3027 standard errors of the mean, here 1 / sqrt(3).
    assert common.mean_and_interval([1.0, 2.0, 3.0]) == "2.0000 ± 2.4841"
    assert common.mean_and_interval([0.5]) == "0.5000"


def rows(peer, accuracies, **more):
    """Rows of a peer by target and seed."""
    return [
        {"peer": peer, "target": target, "seed": seed, "accuracy": accuracy, "seconds": 2.0, **more}
        for target, of_seeds in accuracies.items()
        for seed, accuracy in enumerate(of_seeds)
    ]


def test_the_table_of_peers_has_dashes_for_what_older_rows_do_not_know(common):
    new = {"macs": 31_300_000, "parameters": 1_500_000, "images_per_second": 120.4}
    found = rows("new", {"a": [0.5, 0.7], "b": [0.6, 0.8]}, **new) + rows("old", {"a": [0.25]})
    _, _, first, second = common.table(found).splitlines()
    # Means of the seeds are .55 and .75: 12.706 times a standard error of .1.
    assert first == (
        "| new | 0.6000 ± 0.1414 | 0.7000 ± 0.1414 | 0.6500 ± 1.2706 | 31.3 | 1.50 | 120 | 2 |"
    )
    assert second == "| old | 0.2500 | - | 0.2500 | - | - | - | 2 |"


def test_the_default_is_compared_with_the_best_peer_of_each_set_where_both_are_known(common):
    found = [
        *rows("default", {"a": [0.8, 0.6], "b": [0.9]}),
        *rows("probe", {"a": [0.5, 0.5, 1.0], "b": [0.7]}),
        *rows("lite0", {"a": [0.6, 0.7], "c": [1.0]}),
        *rows("half", {"a": [1.0, 1.0]}),  # of the package
    ]
    assert common.best_of_each(found, ["probe", "lite0"]) == (
        "Best peer of each set (a: lite0, b: probe): 0.6750. "
        "The default minus it: +0.1000 ± 0.1000 (standard error of 3 pairs)."
    )
    assert "No target has both" in common.best_of_each(found, ["plain"])


def test_differences_are_those_of_pairs_of_one_split_and_machine(common):
    found = [
        *rows("cells", {"a": [0.5, 0.6], "b": [0.7]}, commit="1"),
        *rows("soft", {"a": [0.6, 0.6], "b": [0.7, 0.9]}, commit="1"),
        *rows("race", {"a": [0.0, 0.9]}, processor="another"),
        *rows("race", {"b": [0.5]}, options="--most 9"),
        *rows("random", {"b": [0.68]}, options=" --peers random"),
    ]
    found[3] |= {"seconds": 5.0, "commit": "2"}
    lines = common.differences(found, "cells", ["soft", "race", "random", "cells"]).splitlines()
    head = "| minus 'cells' | a | b | mean | pairs (of one version) | times the seconds |"
    assert lines[0] == head
    # Of 10, 0 and 0 points: a standard deviation of 5.77, over the root of 3.
    assert lines[2] == "| soft | +5.0 | +0.0 | +3.3 ± 3.3 | 3 (2) | 1.50 |"
    assert lines[3:] == [
        "| race | - | - | - | 0 (0) | - |",
        "| random | - | -2.0 | -2.0 | 1 (0) | 1.00 |",
    ]


@pytest.fixture
def peers(common):
    return importlib.import_module("peers")


@pytest.fixture
def coloured():
    """Six images of two classes, dark and bright, to train on and four to test on."""
    y = np.arange(10) % 2
    X = np.broadcast_to((40 + 150 * y)[:, None, None, None], (10, 8, 8, 3)).astype(np.uint8)
    return X[:6], X[6:], y[:6], y[6:]


def test_predictions_are_judged_and_timed_with_one_thread(peers, coloured):
    seen = []

    def predict(X):
        seen.append(torch.get_num_threads())
        return np.zeros(len(X), int)

    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        row = peers.judged({"predict": predict, "macs": 1}, coloured)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert seen == [1]
    assert row.pop("images_per_second") > 0
    assert row == {"accuracy": 0.5, "macs": 1}
    assert peers.judged({"accuracy": 0.25}, coloured) == {"accuracy": 0.25}


def test_what_is_known_needs_no_images(peers, monkeypatch, tmp_path, capsys):
    out = tmp_path / "rows.json"
    known = rows("plain", {"gone": [0.5]}, fit="plain") + rows(
        "probe", {"gone": [0.7]}, fit="probe"
    )
    out.write_text(json.dumps({"rows": known}))
    command = "peers.py none gone.npz --seeds 0 --peers plain probe --against plain --out"
    monkeypatch.setattr(sys, "argv", [*command.split(), str(out)])
    peers.main()
    assert "| probe | +20.0 | +20.0 | 1 (1) | 1.00 |" in capsys.readouterr().out


def test_a_peer_that_lacks_its_libraries_is_refused_before_any_fit(peers, monkeypatch):
    monkeypatch.setitem(sys.modules, "skorch", None)
    monkeypatch.setattr(sys, "argv", ["peers.py", "builtin", "missing.npz", "--peers", "skorch"])
    with pytest.raises(
        SystemExit, match=r"needs skorch and torchvision.*supernetnas\[benchmarks\]"
    ):
        peers.main()


def test_a_torchvision_of_another_torch_is_told_from_a_missing_one(peers, monkeypatch, tmp_path):
    fails = 'raise RuntimeError("operator torchvision::nms does not exist")\n'
    (tmp_path / "skorch").mkdir()
    for name in ("skorch/__init__.py", "skorch/callbacks.py"):
        (tmp_path / name).write_text("NeuralNetClassifier = LRScheduler = None\n")
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text(fails)
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.split(".")[0] in ("skorch", "torchvision")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "argv", ["peers.py", "builtin", "missing.npz", "--peers", "skorch"])
    with pytest.raises(SystemExit, match=r"built for the installed torch.*nms.*--peers"):
        peers.main()
    for name in [name for name in sys.modules if name.split(".")[0] in ("skorch", "torchvision")]:
        monkeypatch.delitem(sys.modules, name)


def test_a_network_trained_by_skorch(peers, coloured):
    pytest.importorskip("skorch", reason="needs the extra 'benchmarks'")
    pytest.importorskip("torchvision", reason="needs the extra 'benchmarks'")
    before = torch.get_rng_state()
    one, other = (peers.skorch(coloured, 0, "builtin", epochs=20)[0] for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert peers.judged(one, coloured)["accuracy"] == 1
    np.testing.assert_array_equal(*(row["predict"](coloured[1]) for row in (one, other)))
    assert one["parameters"] == 11_169_858  # ResNet-18's at 2 classes, with a stem of 3x3


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
    "finetuning_speed.py": "--batch-size 2 --size 32 --repeats 1",
    "hub.py": "--sources 3",
    "interruptions.py": "--kills 1",
    "memory.py": "--images 40",
    "order_preserving.py": "--width 0.125 --images 200 --architectures 3 --good 2 "
    "--alone-epochs 1 --alone-seeds 2 --epochs 4 --generations 2 --population 2 --shift-images 32 "
    "--seeds 1",
    "paths_transfer.py": "builtin COLOURED --seeds 0 --most 40 --image-size 32 --epochs 1",
    "peers.py": "ELASTIC COLOURED --peers plain probe scratch 'random member' --seeds 0 --most 40",
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
    monkeypatch.setitem(script.NETWORKS, "tiny", ("s1", 2, 3, 8))
    passes = {}
    for perturbation in ("none", "adversarial"):
        search = script.searches("tiny", perturbation, torch.device("cpu"), 2, "float32")[path]
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
    with pytest.raises(SystemExit, match="'flowers5' of the zoo has seen 'omniglot'"):
        script.unseen(some, "omniglot", True)
    assert script.unseen(some, "sports", False).names == []
    assert script.unseen(some, "sports", True).names == ["flowers5"]
    singles = script.unseen(some, "gtsrb_signs", True)
    assert singles.names == ["flowers5", "sports"]


def test_accuracies_of_sources_are_read_from_lines_of_fits(common, monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "path", sys.path[:])
    script = importlib.import_module("selection")
    asked = argparse.Namespace(zoo="builtin", most=400)
    settings = {"zoo": "builtin", "most": 400, "search_epochs": 8}
    fits = [("a", 0, 0.5), ("a", 1, 0.7), ("b", 0, 0.2), ("b", 1, 0.4), ("b", 2, 0.9)]

    def written(fits, **other):
        rows = [
            {"target": "t", "start": start, "seed": seed, "accuracy": accuracy}
            for start, seed, accuracy in fits
        ]
        rows = [{**row, "settings": settings} for row in rows]
        rows[-1]["settings"] = settings | other
        path = tmp_path / "fits.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    found = script.read(written(fits), asked)  # over the two seeds that both have
    assert found == {"t": {"a": pytest.approx(0.6), "b": pytest.approx(0.3)}}
    for refused in (written(fits, search_epochs=9), written(fits[:1], zoo="other")):
        with pytest.raises(SystemExit, match="other settings"):
            script.read(refused, asked)
    with pytest.raises(SystemExit, match="no seed that all sources"):
        script.read(written([("a", 0, 0.5), ("b", 1, 0.5)]), asked)


def test_sources_are_ranked_by_the_images_of_the_fits(common, monkeypatch, inputs):
    monkeypatch.setattr(sys, "path", sys.path[:])
    ranking, fitting = (importlib.import_module(name) for name in ("selection", "transfer_table"))
    path = Path(inputs["TARGET"])
    (dataset,) = supernetnas.images.datasets.load_datasets([path])
    for one, other in zip(
        ranking.split(path, None, 60), fitting.split(dataset, 0, 60), strict=True
    ):
        np.testing.assert_array_equal(one, other)


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS)
def test_every_script_runs(script, inputs, tmp_path):
    options = [inputs.get(word, word) for word in shlex.split(SMALLEST[script])]
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
