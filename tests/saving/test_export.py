"""What an exported file predicts is what the classifier predicts, from image files on."""

import io
import json
import logging
import re
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from elastic_zoo import coloured, elastic_classifier
from numpy.testing import assert_allclose
from paths_zoo import paths_classifier
from PIL import Image
from sklearn.exceptions import NotFittedError
from tiny import patterns, tiny_classifier

from supernetnas import SupernetTransferClassifier
from supernetnas.saving import export as export_module
from supernetnas.saving.export import Exported
from supernetnas.storage.files import FileError

onnxruntime = pytest.importorskip("onnxruntime")
onnx = pytest.importorskip("onnx")

PAGE = Path(__file__).resolve().parents[2] / "docs" / "export.rst"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Paths of photographs of several sizes, formats and orientations, and their classes."""
    folder, paths = tmp_path_factory.mktemp("photographs"), []
    images, labels = coloured(n_per_class=4)
    for position, image in enumerate(images):
        large = position % 3 == 0
        picture = Image.fromarray(image).resize((340, 300) if large else (45, 40))
        exif = Image.Exif()
        exif[0x0112] = 6 if position % 2 else 1
        ending, options = (".jpg", {"exif": exif}) if large else (".png", {})
        paths.append(str(folder / f"{position}{ending}"))
        picture.save(paths[-1], **options)
    return paths, np.array(["ä", "b", "c"])[labels]


def small(**parameters):
    return tiny_classifier(**{"retraining__epochs": 2, "image_size": 16, **parameters})


@pytest.fixture(scope="module")
def cells(files):
    return small().fit(*files)


@pytest.fixture(scope="module")
def elastic(published_zoo, files):
    # At fewer pixels it tells the classes apart by less than what is rounded in integers.
    return elastic_classifier(published_zoo, search="front", image_size=64).fit(*files)


@pytest.fixture(scope="module")
def paths(files):
    return paths_classifier(image_size=16).fit(*files)


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("elastic", "smaller member")]


@pytest.fixture(scope="module", params=["cells", "paths", *SLOW])
def classifier(request):
    """One of each family, and an elastic network that resizes what it is given."""
    clf = request.getfixturevalue(request.param.replace("smaller member", "elastic"))
    if request.param == "smaller member":
        clf = clf.at(max_macs=min(row["n_macs"] for row in clf.front_))
        assert clf.architecture_.size != clf.image_size_[0]
    return clf


@pytest.fixture(scope="module")
def exported(classifier, files, tmp_path_factory):
    """With a file in integers of 8 bits."""
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    root = logging.getLogger()
    told, handler = [], logging.Handler()
    handler.emit = told.append
    root.addHandler(handler)
    try:
        return classifier.export(path, calibration=files[0], labels=files[1])
    finally:
        root.removeHandler(handler)
        assert not told


def session(path):
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def as_pixels(path, about):
    """Pixels of an image file as the description says, by Pillow and NumPy."""
    image = about["image"]
    height, width = image["size"]
    picture = Image.open(path)
    picture.draft(None, image["draft"])
    turn = {6: Image.Transpose.ROTATE_270}.get(picture.getexif().get(0x0112))
    picture = picture.convert(image["mode"])
    picture = picture if turn is None else picture.transpose(turn)
    picture = picture.resize((width, height), Image.Resampling.BILINEAR, reducing_gap=2.0)
    return np.asarray(picture).reshape(height, width, -1)


def test_from_image_files_to_probabilities(classifier, exported, files):
    about = json.loads(exported.description.read_text(encoding="utf-8"))
    pixels = np.stack([as_pixels(path, about) for path in files[0]])
    expected = classifier.predict_proba(files[0])
    model = session(exported.path)
    for n in (1, 5, len(pixels)):
        (found,) = model.run(["probabilities"], {"pixels": pixels[:n]})
        assert_allclose(found, expected[:n], atol=1e-5)
    assert expected.std(axis=0).min() > 1e-4  # a file that ignored its input would not pass


def test_the_description_is_beside_the_file_and_in_it(classifier, exported):
    about = json.loads(exported.description.read_text(encoding="utf-8"))
    inside = session(exported.path).get_modelmeta().custom_metadata_map
    inside = {key: json.loads(text) for key, text in inside.items()}
    assert inside == {key: about[key] for key in inside}
    assert set(about) - set(inside) == {"agreement", "accuracy", "int8_accuracy"}
    assert about["classes"] == ["b", "c", "ä"]
    assert about["input"]["shape"] == ["n", *classifier.image_size_, 3]
    assert (about["input"]["dtype"], about["image"]["resize"]) == ("uint8", "squeeze")
    assert about["n_macs"] == classifier.n_macs_


def test_batch_norms_are_folded_and_no_path_is_told(exported):
    model = onnx.load(exported.path)
    assert not any("BatchNorm" in node.op_type for node in model.graph.node)
    assert b".py" not in exported.path.read_bytes()


def test_for_torch(classifier, tmp_path, files):
    exported = classifier.export(tmp_path / "model.pt2", "torch")
    texts = {"about.json": ""}
    module = torch.export.load(exported.path, extra_files=texts).module()
    about = json.loads(texts["about.json"])
    assert about == json.loads(exported.description.read_text(encoding="utf-8"))
    pixels = torch.from_numpy(np.stack([as_pixels(path, about) for path in files[0]]))
    for n in (1, 4):
        found = module(pixels[:n]).numpy()
        assert_allclose(found, classifier.predict_proba(files[0][:n]), atol=1e-5)
    assert b".py" not in exported.path.read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("resize", ["squeeze", "crop", "pad"])
def test_the_page_has_a_script_that_needs_no_more(files, resize, tmp_path, monkeypatch, capsys):
    if not PAGE.exists():
        pytest.skip("needs the sources of the documentation")
    text = PAGE.read_text(encoding="utf-8")
    blocks = re.findall(r"^\.\. code-block:: python\n((?:(?: .*)?\n)+)", text, re.MULTILINE)
    (script,) = [textwrap.dedent(block) for block in blocks if "onnxruntime" in block]
    assert {m.split(".")[0] for m in re.findall(r"(?:import|from) (\w+)", script)} <= (
        {"json", "numpy", "onnxruntime", "PIL", "Image"}
    )
    clf = small(resize=resize).fit(*files)
    clf.export(tmp_path / "flowers.onnx")
    monkeypatch.chdir(tmp_path)
    if resize != "squeeze":  # as the page says below
        call = re.search(r"image\.resize\(.*\)", script).group()
        other = {"crop": "fit", "pad": "pad"}[resize]
        arguments = "image, (width, height), Image.Resampling.BILINEAR"
        script = script.replace(call, f"ImageOps.{other}({arguments})")
    for path in files[0][:4]:
        Path("unknown.jpg").write_bytes(Path(path).read_bytes())
        names = {}
        exec(script, names)
        assert_allclose(names["probabilities"], clf.predict_proba([path])[0], atol=1e-5)
        assert capsys.readouterr().out.startswith(clf.predict([path])[0])


@pytest.mark.slow
def test_floats_and_grey_rows(tmp_path):
    images, labels = patterns()
    rows = images.reshape(len(images), -1) / 7 - 3.0
    clf = small(image_size=8).fit(rows, labels)
    exported = clf.export(tmp_path / "model.onnx")
    about = json.loads(exported.description.read_text(encoding="utf-8"))
    assert about["input"]["dtype"] == "float32" and about["classes"] == [0, 1, 2, 3]
    pixels = rows.reshape(-1, 8, 8, 1).astype(np.float32)
    (found,) = session(exported.path).run(None, {"pixels": pixels})
    assert_allclose(found, clf.predict_proba(rows), atol=1e-5)


def test_in_integers(classifier, exported, files):
    paths, labels = files
    about = json.loads(exported.description.read_text(encoding="utf-8"))
    pixels = np.stack([as_pixels(path, about) for path in paths])
    found, small = (
        session(path).run(None, {"pixels": pixels})[0].argmax(1)
        for path in (exported.path, exported.int8_path)
    )
    answers = np.searchsorted(classifier.classes_, labels)
    assert exported.agreement == (found == small).mean() >= 0.5
    assert exported.accuracy == (found == answers).mean() == about["accuracy"]
    assert exported.int8_accuracy == (small == answers).mean() == about["int8_accuracy"]
    model = onnx.load(exported.int8_path)
    stored = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    wheres = {node.output[0]: node for node in model.graph.node}
    for conv in convolutions:
        for given in conv.input[:2]:
            assert wheres[given].op_type == "DequantizeLinear"
        assert stored[wheres[conv.input[1]].input[0]] == onnx.TensorProto.INT8
    inside = session(exported.int8_path).get_modelmeta().custom_metadata_map
    assert json.loads(inside["precision"]) == "int8"
    assert json.loads(inside["classes"]) == about["classes"]


@pytest.mark.slow
def test_calibration_without_labels(cells, tmp_path, files):
    exported = cells.export(tmp_path / "model.onnx", calibration=files[0])
    assert exported.accuracy is None and exported.int8_accuracy is None
    assert 0 <= exported.agreement <= 1


def test_the_network_stays_as_it_was(files, tmp_path):
    clf = small().fit(*files)
    clf.network_.train()
    state = {name: tensor.clone() for name, tensor in clf.network_.state_dict().items()}
    clf.export(tmp_path / "model.pt2", "torch")
    assert clf.network_.training
    assert all(p.requires_grad for p in clf.network_.parameters())
    for name, tensor in clf.network_.state_dict().items():
        assert torch.equal(tensor, state[name]), name


# What can be wrong


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("model.onnx", {"format": "tflite"}, r'must be \{"onnx", "torch"\}. Got \'tflite\''),
        ("model.pt", {"format": "torch"}, "ends in .pt2; got '.*model.pt'"),
        ("model", {}, "ends in .onnx"),
        ("model.onnx", {"labels": ["b"]}, "pass these, too"),
        ("model.pt2", {"format": "torch", "calibration": True}, "use format='onnx'"),
        ("model.onnx", {"calibration": True, "labels": ["b"]}, "labels must be 12"),
        ("model.onnx", {"calibration": True, "labels": ["x"] * 12}, "had not: x"),
    ],
)
def test_bad_arguments(cells, files, tmp_path, name, arguments, words):
    if arguments.get("calibration"):
        arguments = {**arguments, "calibration": files[0]}
    with pytest.raises(ValueError, match=words):
        cells.export(tmp_path / name, **arguments)
    assert not list(tmp_path.iterdir())


def test_before_a_fit(tmp_path):
    with pytest.raises(NotFittedError):
        SupernetTransferClassifier().export(tmp_path / "model.onnx")


def test_a_folder_that_is_not_there(cells, tmp_path):
    with pytest.raises(FileError, match="there is no such folder"):
        cells.export(tmp_path / "nowhere" / "model.onnx")
    (tmp_path / "model.json").mkdir()
    with pytest.raises(FileError, match="that is a folder"):
        cells.export(tmp_path / "model.onnx")


def test_a_json_file_of_somebody_else_stays(cells, tmp_path):
    for content in ('{"name": "my package"}', "no JSON", "[1]"):
        (tmp_path / "package.json").write_text(content)
        with pytest.raises(FileError, match="does not describe an exported classifier"):
            cells.export(tmp_path / "package.pt2", "torch")
        assert (tmp_path / "package.json").read_text() == content


@pytest.mark.parametrize("missing", ["onnx", "onnxruntime", "onnxscript"])
def test_a_missing_library_names_the_extra(cells, tmp_path, monkeypatch, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ImportError, match=r'pip install "supernetnas\[onnx\]"'):
        cells.export(tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_a_file_that_predicts_something_else_is_not_written(cells, tmp_path, monkeypatch):
    class Other(export_module.Deployed):
        def forward(self, pixels):
            if torch.compiler.is_exporting():
                pixels = pixels // 2
            return super().forward(pixels)

    monkeypatch.setattr(export_module, "Deployed", Other)
    with pytest.raises(RuntimeError, match="does not predict what the network predicts"):
        cells.export(tmp_path / "model.pt2", "torch")
    assert not list(tmp_path.iterdir())


def test_what_is_returned_is_plain(cells, tmp_path):
    exported = cells.export(tmp_path / "model.pt2", "torch")
    assert exported == Exported(tmp_path / "model.pt2", tmp_path / "model.json")
    torch.export.load(io.BytesIO(exported.path.read_bytes()))
