"""`supernetnas distance` ranks sources and datasets, and draws them."""

import numpy as np
import pytest
from command_line import refused

from supernetnas import get_embedder


def flat(batch):
    """Embed images as their pixels."""
    return batch.flatten(1).float()


def test_distance_ranks_the_sources_of_a_zoo(run, album, zoo):
    status, output, _ = run("distance", album / "sky.npz", "--zoo", zoo)
    assert status == 0
    rows = [line.split() for line in output.splitlines()[-2:]]
    assert [row[0] for row in rows] == ["sky", "grass"]
    assert float(rows[0][1]) < float(rows[1][1])
    assert float(rows[0][2]) > float(rows[1][2])


def test_distance_between_datasets_needs_no_zoo(run, folder, album):
    arguments = [folder, album / "sky.npz", album / "grass.npz", "--zoo", "nowhere"]
    status, output, error = run("distance", *arguments)
    assert status == 0, error
    assert output.splitlines()[-2].startswith(str(album / "sky.npz"))
    assert float(output.splitlines()[-2].split()[1]) == pytest.approx(0, abs=1e-3)


def test_distance_between_sources_reads_no_image(run, zoo, monkeypatch):
    monkeypatch.setattr("supernetnas.cli.distances.get_embedder", None)
    status, output, _ = run("distance", "sky", "grass", "--zoo", zoo)
    assert status == 0
    assert output.splitlines()[-1].startswith("grass")
    assert run("distance", "sky", "--zoo", zoo)[1] == output


def test_distance_draws(run, zoo, tmp_path):
    path = tmp_path / "ranking.svg"
    assert run("distance", "sky", "--zoo", zoo, "--plot", path)[0] == 0
    assert "<svg" in path.read_text()
    assert refused(run("distance", "sky", "--zoo", zoo, "--plot", "x.doc"), "x.doc", "png, ")


def test_distance_draws_pairs_and_classes(run, zoo, folder, tmp_path, monkeypatch):
    drawn = {}
    monkeypatch.setattr(
        "supernetnas.cli.distances.save_picture",
        lambda display, path: drawn.update({path: display}),
    )
    one, two = (str(tmp_path / name) for name in ("one.png", "two.png"))
    arguments = ["--zoo", zoo, "--heatmap", one, "--coupling", two, "--classes"]
    status, output, error = run("distance", folder, *arguments)
    assert status == 0, error
    assert "of sky  share" in output or "of grass  share" in output
    heatmap, coupling = drawn[one], drawn[two]
    assert sorted(heatmap.names) == sorted([folder.name, "sky", "grass"])
    matrix = np.asarray(heatmap.distances)
    off = ~np.eye(3, dtype=bool)
    assert np.isnan(matrix[~off]).all()
    np.testing.assert_array_equal(matrix[off], matrix.T[off])
    printed = {row.split()[0]: float(row.split()[1]) for row in output.splitlines()[4:6]}
    row = matrix[heatmap.names.index(folder.name)]
    for name, value in printed.items():
        assert row[heatmap.names.index(name)] == pytest.approx(value, rel=1e-3)
    assert coupling.names[0] == folder.name
    assert refused(run("distance", "sky", "sky", "--zoo", zoo, "--heatmap", one), "itself")
    assert refused(run("distance", "sky", "--zoo", zoo, "--coupling", "x.doc"), "--coupling x.doc")


def test_distance_errors(run, folder, zoo, tmp_path, monkeypatch):
    assert refused(run("distance", "skyy", "--zoo", zoo), "Did you mean 'sky'?")
    monkeypatch.setattr("supernetnas.cli.distances.get_embedder", lambda _: get_embedder(flat))
    assert refused(run("distance", folder, "--zoo", zoo), "flat", "efficientnet_lite0:", "compared")
    assert refused(run("distance", folder, tmp_path), "no class folders")


def test_folders_of_one_name_are_told_apart():
    from supernetnas.cli.distances import _short_names

    names = ["cats", "a/train", "b/train", "c/test"]
    assert _short_names(names) == ["cats", names[1], names[2], "test"]
