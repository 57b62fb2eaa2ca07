"""The command, data for it, and what it made of them; not to be changed."""

import json

import pytest
from command_line import QUICK, SMALL, write_folder, write_npz

from supernetnas import cli


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """A folder of class folders."""
    return write_folder(tmp_path_factory.mktemp("data") / "walls", 0)


@pytest.fixture(scope="session")
def album(tmp_path_factory):
    """A folder of .npz files that an album.json describes."""
    path = tmp_path_factory.mktemp("data") / "album"
    path.mkdir()
    for shade, name in enumerate(("sky", "grass")):
        write_npz(path / f"{name}.npz", shade)
    origin = {"kind": "github", "repo": "a/b", "commit": "0123abc", "path": "images/"}
    entry = {"file": "sky.npz", "upstream": "Skies\x1b[31m", "licence": "CC0", "source": [origin]}
    (path / "album.json").write_text(json.dumps({"datasets": [entry]}))
    return path


@pytest.fixture(scope="session")
def zoo(album, tmp_path_factory):
    """A zoo that the command made."""
    path = tmp_path_factory.mktemp("zoos") / "zoo"
    assert cli.main(["zoo", "pretrain", str(album), "--out", str(path), *SMALL, "--compact"]) == 0
    return path


@pytest.fixture(scope="session")
def model(folder, zoo, tmp_path_factory):
    """A model that the command made."""
    path = tmp_path_factory.mktemp("models") / "model"
    arguments = ["fit", folder, "--out", path, "--zoo", zoo, *QUICK, "--test-fraction", "0"]
    assert cli.main(list(map(str, arguments))) == 0
    return path


@pytest.fixture
def run(capsys):
    """Run the command; returns its status, its output and its messages."""

    def run(*arguments):
        capsys.readouterr()
        try:
            status = cli.main([str(argument) for argument in arguments])
        except SystemExit as exit:
            status = exit.code
        return status, *capsys.readouterr()

    return run
