"""A Hub on loopback, and a zoo on it."""

import json

import pytest
from hub_server import TOKEN, HubServer

from supernetnas import Zoo
from supernetnas.storage import hub


@pytest.fixture(scope="module")
def server():
    with HubServer() as server:
        yield server


@pytest.fixture(scope="module")
def files(server, tiny_zoo):
    """What `Zoo.push_to_hub` made of the tiny zoo."""
    tiny_zoo.push_to_hub("org/zoo", endpoint=server.url, token=TOKEN)
    return {path: server.get("org/zoo", path) for path in server.paths("org/zoo")}


@pytest.fixture(autouse=True)
def fresh(server, files, monkeypatch):
    """Forget what earlier tests have asked for; wait for nothing."""
    monkeypatch.setattr(hub, "_PAUSE", 0.0)
    server.reset()
    yield
    server.reset()


@pytest.fixture
def pull(server, tmp_path):
    """Return a function that opens a zoo with a cache of this test alone."""

    def pull(repo_id="org/zoo", **options):
        options = {"endpoint": server.url, "cache_dir": tmp_path / "cache", **options}
        return Zoo.from_pretrained(repo_id, **options)

    return pull


@pytest.fixture
def publish(server, files):
    """Return a function that publishes the zoo with some files changed, and its name."""

    def publish(changes=None, index=None, repo_id="org/changed"):
        server.repositories.pop(repo_id, None)
        content = files | (changes or {})
        if index is not None:
            content["index.json"] = json.dumps(index(json.loads(files["index.json"]))).encode()
        server.put(repo_id, content)
        return repo_id

    return publish


@pytest.fixture
def push(server):
    def push(zoo, repo_id, **options):
        return zoo.push_to_hub(repo_id, **{"endpoint": server.url, "token": TOKEN, **options})

    return push


@pytest.fixture
def local(tiny_zoo, tmp_path):
    """Return a copy of the zoo, to be written to."""
    return tiny_zoo.save(tmp_path / "local")
