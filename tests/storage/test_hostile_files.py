"""What strangers write into models and zoos is refused, or shown as it is."""

import hashlib
import json
import re
import shutil
import socket
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from sklearn.base import clone
from tiny import CONFIG, patterns, state, tiny_classifier

from supernetnas import SupernetTransferClassifier, Zoo
from supernetnas.distance.signature import DatasetSignature, SignatureError
from supernetnas.families.cells.config import MAX_SIZES, NetworkConfig, SupernetConfig
from supernetnas.families.cells.network import Network
from supernetnas.families.cells.search.methods import SEARCHES
from supernetnas.families.cells.space import available_spaces
from supernetnas.families.cells.stored_states import network_specs, supernet_specs
from supernetnas.families.cells.supernet import CellSupernet
from supernetnas.saving import persistence
from supernetnas.saving.labels import decode_labels
from supernetnas.storage.files import FileError
from supernetnas.storage.formats import (
    MAX_DEPTH,
    MAX_HEADER,
    dump_json,
    dump_safetensors,
    parse_csv,
    parse_json,
    parse_safetensors,
    plain,
)
from supernetnas.zoo import ZooError, entries
from supernetnas.zoo.cards import cell, code

ESC = "\x1b[31m"


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    images, labels = patterns(n_per_class=4)
    clf = tiny_classifier(retraining__epochs=1).fit(images, labels)
    return clf.save_pretrained(tmp_path_factory.mktemp("models") / "model")


@pytest.fixture
def model(original, tmp_path):
    """Return a copy of a saved classifier, for a test to spoil."""
    return shutil.copytree(original, tmp_path / "model")


def load(folder):
    return SupernetTransferClassifier.from_pretrained(folder, device="cpu")


def set_at(folder, path, value):
    """Set a value deep in ``config.json``."""
    config = json.loads((folder / "config.json").read_text())
    *parents, last = path.split(".")
    inner = config
    for key in parents:
        inner = inner[key]
    inner[last] = value
    (folder / "config.json").write_text(json.dumps(config))


def set_tensors(folder, file, ending, values):
    """Replace the values of tensors, and the hash in ``config.json`` with them."""
    arrays, _ = parse_safetensors((folder / file).read_bytes(), name=file)
    arrays = {
        name: np.full_like(array, values) if name.endswith(ending) else array
        for name, array in arrays.items()
    }
    data = dump_safetensors(arrays)
    (folder / file).write_bytes(data)
    config = json.loads((folder / "config.json").read_text())
    set_at(folder, "sha256", {**config["sha256"], file: hashlib.sha256(data).hexdigest()})


# Classifiers


@pytest.mark.parametrize("file", ["model.safetensors", "supernet.safetensors"])
@pytest.mark.parametrize(
    ("ending", "values", "message"),
    [
        ("stem.0.weight", np.nan, "not finite"),
        ("stem.0.weight", -np.inf, "not finite"),
        ("running_mean", np.inf, "not finite"),
        ("running_var", -1, "negative"),
        ("num_batches_tracked", -1, "negative"),
    ],
)
def test_tensors_that_no_training_leaves(model, file, ending, values, message):
    set_tensors(model, file, ending, values)
    with pytest.raises(FileError, match=rf"{file} has .*{message}"):
        load(model)


def test_alphas_that_no_training_leaves(model):
    set_tensors(model, "supernet.safetensors", "alphas_normal", np.nan)
    with pytest.raises(FileError, match="'alphas_normal' that are not finite"):
        load(model)


def test_weights_that_are_finite_but_not_what_comes_of_them(model):
    set_tensors(model, "model.safetensors", "weight", 3e38)
    with pytest.raises(FloatingPointError, match="not finite"):
        load(model).predict(patterns()[0])


EDGES = [[["skip_connect", 0], ["skip_connect", 1]]] * 4
MANY = [f"{i:05}" for i in range(60_000)]
LABELS = {"dtype": "<i8", "values": [0, 1, 2, 3]}


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("fitted.network.n_cells", 1000, "n_cells"),
        ("fitted.network.n_cells", 4, "expected tensors"),
        ("fitted.supernet.n_cells", 1000, "n_cells"),
        ("fitted.supernet.n_cells", 100, "expected tensors"),
        ("fitted.network.init_channels", 4096, "expected tensors"),
        ("fitted.network.init_channels", 2.0, "init_channels"),
        ("fitted.network.dropout", 50, "dropout"),
        ("fitted.network.dropout", "0", "dropout"),
        ("fitted.network.n_classes", 5, "number of classes of the network"),
        ("fitted.network.input_channels", 3, "number of channels"),
        ("fitted.network.genotype.normal", [[["skip_connect", 0]] * 100_000] * 4, "same state"),
        ("fitted.network.genotype.normal", EDGES, "architecture"),
        ("fitted.architecture.normal", EDGES, "architecture"),
        ("fitted.architecture.normal", [[["skip_connect", "0"]] * 2] * 4, "does not describe"),
        ("fitted.architecture.space", "darts", "architecture"),
        ("fitted.supernet.space", "s2", "genotype is of space s1, not s2"),
        ("fitted.supernet.n_classes", 99, "the supernet is"),
        ("fitted.supernet.image_size", [10**9, 1], "image_size"),
        ("fitted.supernet.image_size", [8, 12], "the supernet is"),
        ("fitted.classes", {"dtype": "<U16384", "values": MANY}, "number of classes"),
        ("fitted.classes", {**LABELS, "values": [0, 1, 2]}, "number of classes"),
        ("fitted.classes", {**LABELS, "values": [0, 0, 0, 0]}, "not different"),
        ("fitted.classes", {**LABELS, "values": [3, 2, 1, 0]}, "not sorted"),
        ("fitted.classes", {**LABELS, "values": [0, 1, 2, 2.5]}, "not of dtype"),
        ("fitted.classes", {**LABELS, "values": [False, True, 2, 3]}, "not of dtype"),
        ("fitted.classes", {**LABELS, "values": [[0], [1], [2], [3]]}, "not of dtype"),
        ("fitted.classes", {"dtype": "|O", "values": [{}, {}, {}, {}]}, "text or numbers"),
        ("fitted.classes", {"dtype": "|O", "values": ["a", "b", "c", 3]}, "does not describe"),
        ("fitted.classes", {"dtype": "<U1", "values": ["aa", "bb", "cc", "dd"]}, "not of dtype"),
        ("fitted.classes", {"dtype": None, "values": [0.0, 1.0, 2.0, 3.0]}, "dtype"),
        ("fitted.classes", {"dtype": "<f8", "values": "abcd"}, "dtype"),
        ("fitted.preprocessing.image_size", [100_000, 100_000], "image_size"),
        ("fitted.preprocessing.image_size", [0, 8], "image_size"),
        ("fitted.preprocessing.image_size", [-8, 8], "image_size"),
        ("fitted.preprocessing.image_size", [8, 12], "the supernet is"),
        ("fitted.preprocessing.channels", 3, "3 channels"),
        ("fitted.preprocessing.channels", True, "channels"),
        ("format_version", True, "Upgrade"),
        ("fitted.preprocessing.eight_bit", "no", "eight_bit"),
        ("fitted.preprocessing.value_range", [5, -5], "value_range"),
        ("fitted.preprocessing.value_range", [0, 256], "value_range"),
        ("fitted.preprocessing.mean", [2.0], "mean"),
        ("fitted.preprocessing.mean", [0.5, 0.5, 0.5], "mean"),
        ("fitted.preprocessing.mean", ["0.5"], "mean"),
        ("fitted.preprocessing.std", [0.0], "std is 0"),
        ("fitted.preprocessing.std", [-0.1], "std"),
        ("fitted.preprocessing.std", [1e-300], "std"),
        ("fitted.preprocessing.std", [0.7], "std"),
        ("fitted.preprocessing.std", [], "std"),
        ("fitted.image_shape", [8, 8], "image_shape"),
        ("fitted.image_shape", [8, -8, 1], "image_shape"),
        ("fitted.n_features_in", 7, "n_features_in"),
        ("fitted.feature_names_in", ["a"], "feature_names_in"),
        ("fitted.source", ESC, "cannot name a source"),
        ("fitted.source", {}, "cannot name a source"),
        ("fitted.source_record", [], "source_record"),
        ("fitted.source_record", {"weights_sha256": "0", "trained_on": []}, "SHA-256"),
        ("fitted.source_record", {"weights_sha256": "0" * 64, "trained_on": "a"}, "trained_on"),
        ("fitted.source_record", {"weights_sha256": "0" * 64, "trained_on": [1]}, "trained_on"),
        ("fitted.source_record", {"weights_sha256": "0" * 64}, "trained_on"),
        ("fitted.distances", {"a": "b"}, "distances"),
        ("fitted.distances", {ESC: 1.0}, "cannot name a source"),
        ("fitted.distances", [["a", 1.0]], "distances"),
        ("fitted.history", {}, "history"),
        ("fitted.history", [[]], "history"),
        ("fitted.history", [{"stage": {}}], "history"),
        ("fitted.history", [{"stage": 1}], "stage"),
        ("fitted.history", [{"seconds": "1"}], "seconds"),
        ("fitted.inherited", 17, "inherited"),
        ("fitted.n_parameters", 1, "parameters"),
        ("fitted.n_macs", 1, "MACs"),
        ("fitted.n_macs", -3, "n_macs"),
        ("parameters.strategy", json.loads("[" * 600 + "]" * 600), "inside one another"),
        ("parameters.strategy", "\ud800", "half a character"),
    ],
)  # fmt: skip
def test_attributes_that_no_fit_leaves(model, path, value, message):
    set_at(model, path, value)
    start = time.monotonic()
    with pytest.raises(FileError, match=message) as caught:
        load(model)
    assert time.monotonic() - start < 10 and ESC not in str(caught.value)


@pytest.mark.parametrize(
    "names",
    [
        r'["a", "b", "c", "\ud800"]',
        "[" * 600 + "]" * 600,
        '["a"] 1',
        "[1e999]",
        '{"a": 1, "a": 2}',
        "[1, 2, 3, 4]",
    ],
)
def test_names_in_a_signature_that_could_not_be_written_again(fitted, names):
    signature = fitted.signature_
    metadata = {**signature.metadata(), "class_names": names}
    with pytest.raises(SignatureError, match="Malformed signature metadata"):
        DatasetSignature.from_tensors(signature.to_tensors(), metadata)


def test_labels_are_bounded_before_they_are_made():
    assert decode_labels("<U5", MANY).nbytes == 60_000 * 20
    with pytest.raises(ValueError, match="60000 labels of dtype <U16384"):
        decode_labels("<U16384", MANY)
    with pytest.raises(ValueError, match="60000 labels of dtype <U0"):
        decode_labels("<U0", ["a" * 16384, *MANY[1:]])


def test_a_signature_of_other_classes(fitted, tmp_path):
    with pytest.warns(UserWarning, match="embedder"):
        folder = fitted.save_pretrained(tmp_path / "model")
    load(folder)
    set_at(folder, "fitted.classes", {"dtype": "<i8", "values": [5, 6, 7, 8]})
    with pytest.raises(FileError, match="signature of other classes"):
        load(folder)


def test_a_zoo_and_a_folder_of_a_stranger_are_not_taken_over(model, tmp_path, monkeypatch):
    def connect(*_):
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket.socket, "connect", connect)
    monkeypatch.setattr(socket, "getaddrinfo", connect)
    evil = tmp_path / "evil"
    set_at(model, "parameters.checkpoint_dir", str(evil))
    for zoo in ("evil/zoo", {"zoo": ["evil/zoo", ["a"]]}, {"zoo": ["hf://evil/zoo", None]}):
        set_at(model, "parameters.zoo", zoo)
        loaded = load(model)
        assert loaded.zoo is None and loaded.checkpoint_dir is None
    clone(loaded).set_params(retraining__epochs=1).fit(*patterns(n_per_class=4))
    assert not evil.exists()
    with pytest.raises(TypeError, match=r"got None.*set_params\(zoo=...\)"):
        clone(loaded).set_params(strategy="multi").fit(*patterns(n_per_class=4))


def test_what_could_not_be_loaded_is_not_saved(model, tmp_path):
    for spoil in (
        lambda clf: clf.network_.classifier.bias.data.fill_(np.nan),
        lambda clf: setattr(clf, "inherited_", 2.0),
        lambda clf: setattr(clf, "classes_", np.array([1, 1, 2, 3])),
        lambda clf: clf.supernet_state_.pop("alphas_normal"),
    ):
        clf = load(model)
        spoil(clf)
        with pytest.raises(ValueError, match="could not be loaded"):
            clf.save_pretrained(tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("method", sorted(SEARCHES))
def test_what_any_search_leaves_is_accepted(method, tmp_path):
    images, labels = patterns(n_per_class=6, colour=True)
    images[..., 1] = 7  # a channel without deviation
    clf = tiny_classifier(
        search=method,
        family__init_channels=8,
        retraining__epochs=1,
        family__network_cells=2,
        family__network_channels=4,
        retraining__dropout=0.1,
        family__space="s3",
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        clf.fit(images, labels)
    loaded = load(clf.save_pretrained(tmp_path / "model"))
    assert loaded.genotype_ == clf.genotype_ and 0 in loaded.preprocessing_.std


@pytest.mark.parametrize("space", available_spaces())
@pytest.mark.parametrize("n_cells", [1, 2, 3, 5])
def test_tensors_are_known_without_building_the_network(space, n_cells):
    config = SupernetConfig(space, 4, n_cells, (8, 8), 3, 5)
    supernet = CellSupernet(config)
    network_config = NetworkConfig(supernet.genotype(), 6, n_cells + 1, 2, 7)
    for module, specs in (
        (supernet, supernet_specs(config)),
        (Network(network_config), network_specs(network_config)),
    ):
        found = {
            name: (tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))
            for name, tensor in module.state_dict().items()
            if module is not supernet or not name.startswith("classifier.")
        }
        assert found == {name: (spec.shape, *spec.dtypes) for name, spec in specs.items()}


def test_the_largest_supernet_can_be_written_and_is_told_quickly():
    start = time.monotonic()
    sizes = {key: MAX_SIZES[key] for key in ("init_channels", "n_cells")}
    specs = supernet_specs(SupernetConfig("darts", **sizes))
    assert time.monotonic() - start < 20
    header = {
        name: {"dtype": "F32", "shape": spec.shape, "data_offsets": [10**11, 10**11]}
        for name, spec in specs.items()
    }
    assert len(json.dumps(header, separators=(",", ":"))) < MAX_HEADER


# JSON and tables


@pytest.mark.parametrize(
    "text",
    [
        *("1e999", "-1e999", '{"a": [1e400]}', r'"\ud800"', r'{"\udfff": 1}', r'"\udc00\ud800"'),
        "[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1),
        '{"a":' * (MAX_DEPTH + 1) + "1" + "}" * (MAX_DEPTH + 1),
        "[" * 10**5,
    ],
)
def test_json_that_could_not_be_written_again(text):
    with pytest.raises(FileError, match="x is not valid JSON"):
        parse_json(text.encode(), name="x")


@pytest.mark.parametrize("text", [r'"\ud83d\ude00"', '"😀"', r'"\\ud800"', "1e308", "1e-999"])
def test_json_that_looks_like_it(text):
    value = parse_json(text.encode(), name="x")
    assert parse_json(dump_json(value), name="x") == value


def test_the_deepest_json_is_written_and_read():
    deep: list = []
    for _ in range(MAX_DEPTH - 1):
        deep = [deep]
    assert parse_json(dump_json(deep), name="x") == deep
    with pytest.raises(TypeError, match=f"At most {MAX_DEPTH} lists"):
        plain([deep])
    itself: list = []
    itself += [itself, itself]
    with pytest.raises(TypeError, match="inside one another"):
        plain(itself)


def test_words_in_a_table_are_no_numbers():
    words = ["nan", "inf", "-Infinity", "1e999", "1_000", "１２", " 1", "0x1", ".5", "+5"]
    data = "\n".join(["a", *words, "-1", "2.5", "0.5", "1e3"]).encode()
    found = [row["a"] for row in parse_csv(data, name="x")]
    assert found == [*words, -1, 2.5, 0.5, 1000.0]


# Zoos


@pytest.fixture
def zoo(tiny_zoo, tmp_path):
    """Return a copy of the zoo, for a test to spoil."""
    shutil.copytree(tiny_zoo.folder, tmp_path / "zoo")
    return Zoo.open(tmp_path / "zoo")


def edit_index(zoo, edit):
    path = zoo.folder / "index.json"
    index = json.loads(path.read_text())
    edit(index)
    path.write_text(json.dumps(index))
    return path


def test_an_index_is_bounded_in_both_directions(zoo, monkeypatch):
    path = zoo.folder / "index.json"
    monkeypatch.setitem(entries.LIMITS, "index.json", path.stat().st_size + 100)
    before = path.read_bytes()
    with pytest.raises(ZooError, match=r"at most .* are read"):
        zoo.add("new", config=CONFIG, state_dict=state(5), signature=zoo["bars"].signature())
    assert path.read_bytes() == before and zoo.verify() == []
    path.write_bytes(before + b" " * 200)
    with pytest.raises(ZooError, match="at most"):
        Zoo.open(zoo.folder)


def test_the_limits_are_those_of_the_security_page():
    page = Path(__file__).parents[2] / "SECURITY.md"
    text = " ".join(page.read_text().split())
    assert entries.LIMITS["index.json"] == 64 * 2**20
    assert "index of a zoo has at most 64 MiB" in text
    assert entries.LIMITS["supernet.safetensors"] == 2 * 2**30
    assert entries.MAX_BUNDLE == 2**30
    assert "a supernet of a zoo has at most 2 GiB, a bundle of signatures 1 GiB" in text
    assert persistence._MAX_TENSORS == 8 * 2**30
    assert "each of the two networks of a classifier 8 GiB" in text


@pytest.mark.parametrize(
    "value", ["1e999", r'"\ud800"', "[" * 600 + "]" * 600], ids=["number", "text", "depth"]
)
def test_an_index_that_could_never_be_written_again(zoo, value):
    path = zoo.folder / "index.json"
    text = path.read_text().replace('"provenance": {', f'"provenance": {{"x": {value},', 1)
    path.write_text(text)
    with pytest.raises(ZooError, match="not valid JSON"):
        Zoo.open(zoo.folder)


def test_a_source_of_a_stranger_keeps_no_other_from_use(zoo, capsys):
    from supernetnas.cli import main

    edit_index(zoo, lambda index: index["sources"]["spots"]["config"].update(n_cells=10**6))
    spoiled = Zoo.open(zoo.folder)
    start = time.monotonic()
    problems = spoiled.verify()
    assert any("n_cells must be an integer from 1 to 100" in problem for problem in problems)
    assert main(["zoo", "list", str(zoo.folder)]) == 0
    assert re.search(r"^spots +single +- +4 +- +- +- +- ", capsys.readouterr().out, re.M)
    clf = tiny_classifier(spoiled, "bars", retraining__epochs=1).fit(*patterns(n_per_class=4))
    assert clf.source_ == "bars" and time.monotonic() - start < 30


def test_escape_sequences_do_not_reach_the_terminal(zoo, capsys, tmp_path):
    from supernetnas.cli import main

    (zoo.folder / f"{ESC}\nnot{chr(0x9B)}ours").write_text("")
    (zoo.folder / "bars" / f"{ESC}x").write_text("")
    edit_index(zoo, lambda index: index["sources"]["spots"]["config"].update(space=ESC))
    edit_index(zoo, lambda index: index["sources"]["spots"].update(metrics={ESC: ESC}))
    assert main(["zoo", "verify", str(zoo.folder)]) == 1
    assert main(["zoo", "list", str(zoo.folder)]) == 0
    assert main(["zoo", "show", str(zoo.folder), "bars"]) == 0
    assert main(["zoo", "list", str(tmp_path / f"{ESC}none")]) == 2
    out, err = capsys.readouterr()
    assert "\x1b" not in out + err and "\x9b" not in out + err
    assert r"\x1b[31m\nnot\x9bours does not belong" in out
    opened = Zoo.open(zoo.folder)
    with pytest.raises(ZooError) as caught:
        opened["bars"].state_dict()
    assert "\x1b" not in str(caught.value) and "\\x1b" in str(caught.value)
    assert "\x1b" not in repr(opened["spots"])
    assert all("\x1b" not in problem and "\n" not in problem for problem in opened.verify())


def test_warnings_logs_and_predictions_cannot_steer_the_terminal(
    original, capsys, tmp_path, monkeypatch
):
    import logging

    from PIL import Image

    from supernetnas.cli import fitting, main

    shutil.copytree(original, tmp_path / "model")
    names = [f"a{ESC}", "b\x9b", "c\x7f", "d\u202e"]
    set_at(tmp_path / "model", "fitted.classes", {"dtype": "<U6", "values": names})
    Image.fromarray(patterns()[0][0]).save(tmp_path / f"{ESC}.png")
    arguments = ["predict", str(tmp_path / "model"), str(tmp_path / f"{ESC}.png"), "--proba"]
    assert main(arguments) == 0
    assert main([*arguments, "--json"]) == 0
    out, err = capsys.readouterr()
    assert not any(mark in out + err for mark in "\x1b\x9b\x7f\u202e")
    (row,) = json.loads(out[out.index("\n[") :])
    assert row["class"] in names and list(row["probabilities"]) == names
    assert row["path"] == str(tmp_path / f"{ESC}.png")

    def noisy(args):
        warnings.simplefilter("always")
        warnings.warn(ESC, UserWarning, stacklevel=1)
        logging.getLogger("supernetnas").warning(ESC)

    monkeypatch.setattr(fitting, "predict", noisy)
    assert main(arguments) == 0
    assert capsys.readouterr().err == "supernetnas: warning: \\x1b[31m\nsupernetnas: \\x1b[31m\n"


# Cards


def test_markdown_of_a_stranger_is_shown_as_it_is(zoo):
    nasty = "![i](http://evil/i.png) [l](http://evil) `c` *b* _e_ a_b |t| <b> &lt; $f$ ~~s~~ \\"
    provenance = {"dataset": nasty, "licence": nasty, nasty: nasty}
    zoo.add(
        "nasty",
        config=CONFIG,
        state_dict=state(5),
        signature=zoo["bars"].signature(),
        provenance=provenance,
        metrics={nasty: 1.0},
    )
    text = (zoo.folder / "README.md").read_text().split("\n---\n", 1)[1]
    escaped = (
        r"!\[i\](http://evil/i.png) \[l\](http://evil) \`c\` \*b\* \_e\_ a_b \|t\| &lt;b> "
        r"\&lt; \$f\$ \~\~s\~\~ \\"
    )
    assert text.count(escaped) == 2 and escaped.replace(r"\_e\_ a_b", "e  a b") not in text
    assert escaped.split(r" \_e")[0] in text.split("| classes |")[1].splitlines()[0]
    assert "](http" not in text.replace(r"\](http", "")
    assert cell("x" * 10**6) == "x" * 1000
    assert code("a`b\nc|") == "`a'b c/`" and code("") == "` `"


def test_classes_of_a_stranger_in_the_card_of_a_model(original, tmp_path):
    shutil.copytree(original, tmp_path / "model")
    names = ["![a](b)", "<script>", "`", "z" * 1000]
    set_at(tmp_path / "model", "fitted.classes", {"dtype": "<U1000", "values": sorted(names)})
    saved = load(tmp_path / "model").save_pretrained(tmp_path / "again")
    text = (saved / "README.md").read_text()
    assert r"!\[a\](b)" in text and "<script>" not in text and r"\`" in text


# Pictures


@pytest.mark.parametrize("name", [r"$\frac$", "$", "x" * 100_000, ESC, "a\nb", "$a$ $b"])
def test_names_in_pictures_are_no_formulas(name, tmp_path):
    plt = pytest.importorskip("matplotlib.pyplot")
    from supernetnas.plotting import (
        CellDisplay,
        ClassCouplingDisplay,
        DistanceDisplay,
        DistanceHeatmapDisplay,
        SearchCurveDisplay,
    )

    edges = [[("skip_connect", 0)]] * 4
    displays = [
        ClassCouplingDisplay([[0, 0.5], [0.5, 0]], [name, "a"], ["b", name], names=(name, name)),
        DistanceDisplay({name: 1.0, "b": 2.0}),
        DistanceHeatmapDisplay([[0, 1], [1, 0]], [name, "b"]),
        DistanceHeatmapDisplay([[0, 1], [1, 0]], [name, "b"], column_names=["b", name]),
        SearchCurveDisplay([{"stage": name, "train_loss": 1.0, name: 2.0}] * 2),
        CellDisplay(edges, title=name),
    ]
    start = time.monotonic()
    for display in displays:
        options = {"metric": "loss"} if isinstance(display, SearchCurveDisplay) else {}
        display.plot(**options).figure_.savefig(tmp_path / "picture.png")
    displays[4].plot(metric=name).figure_.savefig(tmp_path / "picture.png")
    shown = [text.get_text() for text in displays[1].ax_.get_yticklabels()]
    assert shown[0] == {"a\nb": r"a\nb", ESC: r"\x1b[31m"}.get(name, shown[0])
    assert len(shown[0]) <= 60 and (len(name) > 60 or name in (shown[0], ESC, "a\nb"))
    plt.close("all")
    assert time.monotonic() - start < 60
