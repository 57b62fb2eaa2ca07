"""What tests of the Hub do with zoos and models on it."""

import os
import subprocess
import sys
from pathlib import Path

from hub_server import TOKEN

from supernetnas import SupernetTransferClassifier

ROOT = Path(__file__).resolve().parents[1]
BUNDLE = "_signatures/0000.bin"


def weights(zoo, name="bars"):
    return zoo[name].state_dict()


def load_model(repo_id, server, tmp_path, **options):
    options = {"endpoint": server.url, "cache_dir": tmp_path / "models", **options}
    return SupernetTransferClassifier.from_pretrained(repo_id, device="cpu", **options)


def commits(server, repo_id):
    return [c.title for c in server.repositories[repo_id].commits.values()]


def python(code, server, home, **environment):
    """Run code in a process that takes the server for the Hub."""
    variables = {
        **os.environ,
        "HF_ENDPOINT": server.url,
        "HF_HOME": str(home),
        "HF_TOKEN": TOKEN,
        "PYTHONPATH": str(ROOT),
        **environment,
    }
    command = [sys.executable, *(["-c", code] if isinstance(code, str) else code)]
    return subprocess.run(command, env=variables, capture_output=True, text=True, check=False)


def edit(*keys):
    """Return a function that sets the value at the keys of an index."""
    *keys, value = keys

    def change(index):
        part = index
        for key in keys[:-1]:
            part = part[key]
        part[keys[-1]] = value
        return index

    change.__name__ = f"{'.'.join(keys)}={value}"
    return change
