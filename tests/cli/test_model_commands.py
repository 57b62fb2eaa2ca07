"""Commands on a saved model: predict, evaluate, report, benchmark and export."""

import csv
import json
import re

import numpy as np
import pytest
import torch
from command_line import refused, write_folder
from PIL import Image

import supernetnas
from supernetnas.cli.evaluating import known_labels

# Predictions


def test_predict_prints_a_line_for_each_image(run, folder, model):
    image = sorted((folder / "dark").iterdir())[0]
    status, output, _ = run("predict", model, image, folder / "light")
    assert status == 0
    head, *lines = (line.split() for line in output.splitlines())
    assert head == ["path", "class", "probability"]
    assert [line[0] for line in lines] == [
        str(image),
        *map(str, sorted((folder / "light").iterdir())),
    ]
    assert all(line[1] in ("dark", "light") and 0.5 <= float(line[2]) <= 1 for line in lines)


def test_predict_writes_csv_and_json_that_agree(run, folder, model, tmp_path):
    path = tmp_path / "predictions.csv"
    assert run("predict", model, folder, "--proba", "--csv", path)[:2] == (0, "")
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    status, output, _ = run("predict", model, folder, "--proba", "--json")
    data = json.loads(output)
    assert status == 0 and len(rows) == len(data) == 12
    for row, item in zip(rows, data, strict=True):
        assert (row["path"], row["class"]) == (item["path"], item["class"])
        both = item["probabilities"]
        assert {n: float(row[f"p({n})"]) for n in ("dark", "light")} == both
        assert float(row["probability"]) == both[item["class"]] == max(both.values())
        assert sum(both.values()) == pytest.approx(1, abs=1e-5)


def test_predict_agrees_with_the_estimator(run, folder, model):
    files, _ = supernetnas.load_images(folder)
    expected = supernetnas.SupernetTransferClassifier.from_pretrained(model).predict(files)
    data = json.loads(run("predict", model, folder, "--json")[1])
    assert [item["class"] for item in data] == list(expected)


def test_predict_refuses_bad_input(run, folder, model, tmp_path):
    assert refused(run("predict", tmp_path, folder), "not a saved classifier")
    assert refused(run("predict", model, "nowhere.jpg"), "nowhere.jpg")
    assert refused(run("predict", model, tmp_path), "has no images")
    (tmp_path / "text.png").write_text("no picture")
    assert refused(run("predict", model, tmp_path / "text.png"), "text.png")
    assert refused(run("predict", model, folder, "--csv", "x", "--json"), "not allowed with")


def test_predict_finds_a_wrong_folder_first(run, tmp_path):
    result = run("predict", tmp_path / "no model", "a.jpg", "--csv", tmp_path / "none" / "p.csv")
    assert refused(result, "--csv", "none")


def test_predict_counts_the_images_that_cannot_be_read(run, folder, model, tmp_path):
    image, damaged = sorted((folder / "dark").iterdir())[0], tmp_path / "damaged.png"
    damaged.write_text("no picture")
    images = [image] * 300 + [damaged] + [image] * 300 + [damaged]
    assert refused(run("predict", model, *images), "2 of 602 images cannot be read", "damaged.png")


def test_predictions_are_printed_where_the_file_refuses(run, folder, model, tmp_path, monkeypatch):
    def full(path, data):
        raise OSError(28, "No space left on device", str(path))

    assert run("predict", model, folder, "--csv", tmp_path / "good.csv")[0] == 0
    monkeypatch.setattr("supernetnas.storage.destinations.write_new", full)
    monkeypatch.setattr("supernetnas.cli.fitting.check_file", lambda *_: None)
    result = run("predict", model, folder, "--csv", tmp_path / "p.csv")
    assert refused(result, "p.csv", "the rows were printed", "The disk is full", status=1)
    assert result[1] == (tmp_path / "good.csv").read_text()


# What a model is worth


def test_evaluate_prints_and_writes_what_a_model_is_worth(run, folder, model, tmp_path):
    files = {
        option: tmp_path / f"{option}.{ending}"
        for option, ending in (
            *(("csv", "csv"), ("json", "json")),
            *(("confusion", "png"), ("errors", "svg")),
        )
    }
    options = [part for option, path in files.items() for part in (f"--{option}", path)]
    status, output, error = run("evaluate", model, folder, *options)
    assert status == 0, error
    classifier = supernetnas.SupernetTransferClassifier.from_pretrained(model)
    X, y = supernetnas.load_images(folder)
    expected = classifier.evaluate(X, y)
    assert json.loads(files["json"].read_text()) == json.loads(expected.to_json())
    assert files["csv"].read_text() == expected.to_csv()
    assert all(path.stat().st_size > 500 for path in files.values())
    assert re.search(rf"accuracy +{expected.accuracy:.3f} ", output)
    assert all(row["image"] in output for row in expected.errors(12))
    assert re.search(r"^dark +6 ", output, re.MULTILINE)


def test_evaluate_reads_names_of_folders_as_the_numbers_of_a_fit(folder):
    clf = supernetnas.SupernetTransferClassifier()
    clf.classes_ = np.array([3, 7])
    names, labels = np.array(["3", "7"]), np.array([0, 1, 1])
    assert known_labels(clf, names, labels).tolist() == [3, 7, 7]
    assert known_labels(clf, np.array(["3", "x"]), labels).tolist() == [3, "x", "x"]


def test_evaluate_refuses_bad_input_first(run, folder, model, tmp_path, monkeypatch):
    (tmp_path / "data" / "grey").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "data" / "grey" / "1.png")
    assert refused(run("evaluate", model, tmp_path / "data"), "not seen: grey", "2: dark, light")
    monkeypatch.setattr(supernetnas.SupernetTransferClassifier, "evaluate", None)
    assert refused(run("evaluate", model, folder, "--errors", "x.mp3"), "--errors", "ending")
    assert refused(run("evaluate", model, folder, "--csv", tmp_path), "--csv", "folder")


def test_report_writes_one_page(run, folder, model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, output, error = run("report", model, folder, "--title", "Walls <b>")
    assert status == 0, error
    assert output.strip() == "model.html"
    page = (tmp_path / "model.html").read_text()
    assert "<h1>Walls &lt;b&gt;</h1>" in page
    assert "on 12 images that it was not trained on" in page
    assert run("report", model, "--out", "other.html")[0] == 0
    assert "not measured" in (tmp_path / "other.html").read_text()
    assert refused(run("report", model, "--out", tmp_path), "--out", "folder")


def test_benchmark_measures_a_model(run, model):
    status, output, _ = run("benchmark", model, "--repeats", 3, "--device", "cpu")
    assert status == 0
    classifier = supernetnas.SupernetTransferClassifier.from_pretrained(model)
    assert f"{classifier.n_macs_:,} per image" in output
    assert "ms for 1 image\n" in output and "ms for 32 images\n" in output
    assert "images per second, by 32" in output
    threads = torch.get_num_threads()
    assert f"on cpu, {threads} thread{'s' * (threads > 1)}; medians of 3 runs" in output
    found = json.loads(run("benchmark", model, "--repeats", 3, "--json")[1])
    assert found["macs"] == classifier.n_macs_
    assert found["parameters"] == classifier.n_parameters_
    assert 0 < found["latency_1"] < found["latency_32"]
    assert found["images_per_second"] == pytest.approx(32 / found["latency_32"])
    tensors = classifier.network_.state_dict().values()
    assert found["bytes"] == sum(t.numel() * t.element_size() for t in tensors)


def test_benchmark_refuses_bad_input(run, model, tmp_path):
    assert refused(run("benchmark", tmp_path), "not a saved classifier")
    assert refused(run("benchmark", model, "--repeats", 0), "not at least 1")
    assert refused(run("benchmark", model, "--device", "tpu"), "device must be")


# Other formats


def test_export(run, model, folder, tmp_path):
    pytest.importorskip("onnxruntime")
    path = tmp_path / "walls.onnx"
    status, out, _ = run("export", model, path, "--int8", folder)
    assert status == 0
    assert {"walls.onnx", "walls.json", "walls.int8.onnx"} == {p.name for p in tmp_path.iterdir()}
    assert "on 12 images of" in out and "same class" in out
    assert run("export", model, tmp_path / "walls.pt")[0] == 2
    status, _, error = run("export", model, tmp_path / "walls.pt2", "--int8", folder)
    assert status == 2 and "PATH must end in .onnx" in error
    other = write_folder(tmp_path / "other", 0)
    (other / "dark").rename(other / "dusk")
    status, _, error = run("export", model, path, "--int8", other)
    assert status == 2 and "does not know: dusk" in error


# All of them


@pytest.mark.parametrize(
    "arguments",
    [
        ["predict", "MODEL", "missing.jpg"],
        ["evaluate", "MODEL", "missing"],
        ["report", "MODEL", "missing"],
        ["export", "MODEL", "a.onnx", "--int8", "missing"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_images_that_are_not_there_are_missed_before_the_model_is_loaded(
    arguments, run, tmp_path, monkeypatch
):
    def loaded(*_, **__):
        raise AssertionError("the model was loaded")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(supernetnas.SupernetTransferClassifier, "from_pretrained", loaded)
    assert refused(run(*arguments), "missing")
