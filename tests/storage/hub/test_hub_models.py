"""Fitted classifiers on the Hub, and what other libraries see there."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time

import pytest
from tiny import patterns, tiny_classifier

pytest.importorskip("huggingface_hub")

from hub_server import TOKEN
from hub_zoo import ROOT, edit, load_model

from supernetnas import Zoo
from supernetnas.storage.files import FileError

pytestmark = [
    pytest.mark.hub,
    # What the library says to a size that is a lie, before we refuse it.
    pytest.mark.filterwarnings("ignore:Not enough free disk space"),
]


# Models


CARD = {
    "title": "Bars",
    "dataset": "Four kinds of bars",
    "licence": "CC BY 4.0",
    "metrics": {"accuracy": 0.875},
}


@pytest.fixture(scope="module")
def model(server, files, tiny_zoo):
    """A fitted classifier, and where it was pushed to."""
    clf = tiny_classifier(tiny_zoo, "ot").fit(*patterns())
    clf.checkpoint_dir = "/tmp/of/somebody"
    with pytest.warns(UserWarning, match="embedder"):
        clf.push_to_hub("org/model", card=CARD, endpoint=server.url, token=TOKEN)
    return clf


def test_a_model_comes_back_from_the_hub(model, server, tmp_path):
    X = patterns(seed=5)[0]
    loaded = load_model("org/model", server, tmp_path)
    assert loaded.predict_proba(X).tobytes() == model.predict_proba(X).tobytes()
    assert loaded.signature_ is None  # it was not published
    assert loaded.distances_ == model.distances_
    assert "config.json" in server.downloads()  # by which the Hub counts downloads
    commit = server.head("org/model")
    server.reset()
    load_model("org/model", server, tmp_path, revision=commit)
    load_model(f"org/model@{commit}", server, tmp_path, local_files_only=True)
    assert server.requests == []


def test_what_a_model_tells_the_hub(model, server):
    from huggingface_hub import ModelCard

    text = server.get("org/model", "README.md").decode()
    card = ModelCard(text)
    assert card.data.library_name == "supernetnas"
    assert card.data.license == "cc-by-4.0"
    assert card.data.datasets == ["Four kinds of bars"]
    assert card.data.metrics == ["accuracy"]
    (result,) = card.data.eval_results
    assert (result.metric_type, result.metric_value) == ("accuracy", 0.875)
    assert result.task_type == "image-classification"
    assert 'from_pretrained("org/model")' in text and "| search space | s1 |" in text
    assert "| accuracy | 0.875 | given by the authors |" in text
    config = server.get("org/model", "config.json").decode()
    assert "tmp" not in config
    parameters = json.loads(config)["parameters"]
    assert parameters["zoo"] is None and parameters["checkpoint_dir"] is None


def test_a_signature_is_published_if_asked_for(model, server, tmp_path):
    with pytest.warns(UserWarning, match="embedder"):
        model.push_to_hub("org/signed", signature=True, endpoint=server.url, token=TOKEN)
    loaded = load_model("org/signed", server, tmp_path)
    assert loaded.signature_.metadata() == model.signature_.metadata()
    with pytest.warns(UserWarning, match="embedder"):
        model.push_to_hub("org/signed", endpoint=server.url, token=TOKEN)
    assert "signature.safetensors" not in server.paths("org/signed")


def test_models_do_not_replace_what_is_none(model, server):
    for path in ("pytorch_model.bin", "config.json"):
        server.repositories.pop("org/theirs", None)
        server.put("org/theirs", {path: b"{}"})
        with (
            pytest.raises(FileError, match=f"holds '{path}', which is not of a saved classifier"),
            pytest.warns(UserWarning, match="embedder"),
        ):
            model.push_to_hub("org/theirs", endpoint=server.url, token=TOKEN)


@pytest.mark.parametrize(
    "keys",
    [
        ("fitted", "network", "n_cells", 10**9),
        ("fitted", "supernet", "n_cells", 10**9),
        ("fitted", "network", "init_channels", 10**30),
        ("fitted", "network", "n_classes", 10**9),
        ("fitted", "network", None),
        ("format_version", 3),
        ("class", "Pipeline"),
        ("sha256", []),
    ],
    ids=str,
)
def test_a_model_of_a_stranger_is_refused(model, server, tmp_path, keys):
    config = edit(*keys)(json.loads(server.get("org/model", "config.json")))
    changed = {p: server.get("org/model", p) for p in server.paths("org/model")}
    server.repositories.pop("org/strange", None)
    server.put("org/strange", changed | {"config.json": json.dumps(config).encode()})
    with pytest.raises(FileError, match=r"config.json"):
        load_model("org/strange", server, tmp_path)


def test_damaged_models(model, server, tmp_path):
    server.fail("GET .*model.safetensors", corrupt=True)
    load_model("org/model", server, tmp_path)
    server.fail("GET /cdn.*model/resolve.*model.safetensors", corrupt=True, times=99)
    with pytest.raises(FileError, match="is not the file that was saved"):
        load_model("org/model", server, tmp_path / "again")
    server.reset()
    server.fail("HEAD .*model.safetensors", size=10**12, times=99)
    with pytest.raises(FileError, match=r"said to have 1000000000000 bytes|too large to be"):
        load_model("org/model", server, tmp_path / "third")
    with pytest.raises(ValueError, match="needs a repository"):
        load_model(tmp_path, server, tmp_path, revision="v1")


# What others see


@pytest.mark.slow
@pytest.mark.parametrize("where", ["hub", "folder"])
def test_the_example_of_sharing(server, tmp_path, where):
    environment = {"MPLBACKEND": "Agg", "HF_HOME": str(tmp_path), "HF_TOKEN": TOKEN}
    environment = {**os.environ, **environment, "PYTHONPATH": str(ROOT)}
    del environment["HF_ENDPOINT"]
    if where == "hub":
        environment["HF_ENDPOINT"] = server.url
    command = [sys.executable, str(ROOT / "examples" / "plot_share_a_zoo.py")]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    if where == "hub":
        assert "digits/supernet.safetensors" in server.paths("org/digits-zoo")
        pulled = [path for path in server.downloads() if path.endswith("supernet.safetensors")]
        assert pulled == ["digits/supernet.safetensors"]
        assert "hf://org/digits-zoo@" in result.stdout
    else:
        assert not server.requests


@pytest.mark.slow
def test_through_a_mirror_of_a_third_party(server, tmp_path, files):
    """Pull through ``olah``, a caching mirror of the Hub from PyPI, in front of the server."""
    command = olah(tmp_path)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    netloc = server.url.removeprefix("http://")
    (tmp_path / "olah.toml").write_text(
        f"""[basic]
host = "127.0.0.1"
port = {port}
repos-path = "{tmp_path / "repos"}"
hf-scheme = "http"
hf-netloc = "{netloc}"
hf-lfs-netloc = "{netloc}"
mirror-scheme = "http"
mirror-netloc = "127.0.0.1:{port}"
mirror-lfs-netloc = "127.0.0.1:{port}"
mirrors-path = []

[accessibility]
offline = false

[[accessibility.proxy]]
repo = "*"
allow = true
"""
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
    with open(tmp_path / "log", "wb") as log:
        process = subprocess.Popen(
            [command, "-c", str(tmp_path / "olah.toml")],
            cwd=tmp_path,
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        wait_for(port, process)
        zoo = Zoo.from_pretrained(
            "org/zoo", endpoint=f"http://127.0.0.1:{port}", cache_dir=tmp_path / "cache"
        )
        assert zoo.where == f"hf://org/zoo@{server.head('org/zoo')}"
        clf = tiny_classifier(None, "ot").set_params(zoo=zoo).fit(*patterns())
        assert clf.source_ == "bars"
        assert zoo.save(tmp_path / "saved").verify() == []
        assert {r.path for r in server.requests if "index.json" in r.path}  # it asked for us
    finally:
        process.terminate()
        process.wait()


def olah(folder):
    """Path of the mirror's command, which is installed if it is not there."""
    if (command := shutil.which("olah-cli")) is not None:
        return command
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
    install = [folder / "venv" / "bin" / "python", "-m", "pip", "install", "--quiet", "olah"]
    if subprocess.run(install, capture_output=True, check=False).returncode:
        pytest.skip("olah cannot be installed here")
    return folder / "venv" / "bin" / "olah-cli"


def wait_for(port, process, seconds=120):
    for _ in range(seconds * 10):
        if process.poll() is not None:
            pytest.fail("the mirror ended")
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.1)
    pytest.fail("the mirror does not answer")
