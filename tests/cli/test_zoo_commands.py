"""`supernetnas zoo` lists, shows, verifies and pretrains."""

import re
import shutil

from command_line import refused

from supernetnas.zoo import Zoo


def test_zoo_list(run, zoo):
    status, output, _ = run("zoo", "list", zoo)
    assert status == 0
    lines = output.splitlines()[1:]
    assert [line.split()[:2] for line in lines] == [
        ["grass", "single"],
        ["multi", "multi"],
        ["sky", "single"],
    ]
    assert lines[0].endswith("not stated") and lines[2].endswith("CC0")


def test_a_list_cuts_licences_that_show_prints_whole(run, zoo, tmp_path):
    copy = Zoo.open(zoo).save(tmp_path / "zoo")
    source = copy["sky"]
    licence = "free for research, " * 20 + "not for sale"
    copy.add(
        "sky",
        config=source.config,
        state_dict=source.state_dict(),
        signature=source.signature(),
        provenance={**source.provenance, "licence": licence, "warm_start": "multi"},
        overwrite=True,
    )
    listed = run("zoo", "list", tmp_path / "zoo")[1]
    assert "free for research, " in listed and "not for sale" not in listed
    assert max(map(len, listed.splitlines())) < 160
    shown = run("zoo", "show", tmp_path / "zoo", "sky")[1]
    assert licence in shown
    assert re.search(r"^started from +multi$", shown, re.MULTILINE)
    assert re.search(r"^trained on +12 images of 2 classes$", shown, re.MULTILINE)
    assert "warm_start" not in shown


def test_zoo_show_prints_the_card_of_a_source(run, zoo):
    status, output, _ = run("zoo", "show", zoo, "sky")
    assert status == 0
    for part in ("CC0", "github a/b @ 0123abc: images/", "dark, light", "4 channels, 3 cells"):
        assert part in output
    for metric in ("validation accuracy", "chance accuracy      0.5", "epochs "):
        assert metric in output
    assert "\x1b" not in output


def test_zoo_show_prints_a_zoo(run, zoo):
    status, output, _ = run("zoo", "show", zoo)
    assert status == 0
    assert re.search(r"^signatures +compact$", output, re.MULTILINE)
    assert re.search(r"^embedder +efficientnet_lite0:", output, re.MULTILINE)


def test_zoo_show_takes_a_name_alone_for_a_source_of_the_builtin_zoo(run, zoo, monkeypatch):
    opened = []

    def open_(where):
        opened.append(str(where))
        return Zoo(zoo)

    monkeypatch.setattr(Zoo, "open", open_)
    assert "CC0" in run("zoo", "show", "sky")[1]
    assert refused(run("zoo", "show", "skyy"), "'skyy'", "Did you mean 'sky'?")
    assert run("zoo", "show", "builtin")[0] == run("zoo", "show", zoo)[0] == 0
    assert opened == ["builtin", "builtin", "builtin", str(zoo)]


def test_zoo_verify(run, zoo, tmp_path):
    import shutil

    status, output, _ = run("zoo", "verify", zoo)
    assert (status, output.count("\n")) == (0, 1)
    assert "3 sources" in output
    copy = shutil.copytree(zoo, tmp_path / "zoo")
    with (copy / "sky" / "supernet.safetensors").open("ab") as file:
        file.write(b"!")
    status, output, _ = run("zoo", "verify", copy)
    assert status == 1
    assert "supernet.safetensors" in output and output.count("\n") == 1


def test_zoo_errors(run, zoo, tmp_path):
    assert refused(run("zoo", "list", tmp_path), "no zoo in")
    assert refused(run("zoo", "show", zoo, "skyy"), "Did you mean 'sky'?")


def test_zoo_vectors(run, zoo, tmp_path):
    shutil.copytree(zoo, tmp_path / "zoo")
    status, output, error = run("zoo", "vectors", tmp_path / "zoo")
    assert status == 0, error
    assert output.startswith("2 sources have vectors of ")
    assert run("zoo", "verify", tmp_path / "zoo")[0] == 0
    assert refused(run("zoo", "vectors", "builtin"), "part of the installation")


def test_pretrain_refuses_before_any_work(run, folder, zoo, tmp_path):
    (tmp_path / "diary.txt").write_text("dear diary")
    assert refused(run("zoo", "pretrain", folder, "--out", tmp_path), "'diary.txt'")
    assert refused(run("zoo", "pretrain", folder, folder, "--out", tmp_path / "z"), "name 'walls'")
    assert refused(run("zoo", "pretrain", folder, "--out", zoo), "go on with --compact.")
    assert refused(run("zoo", "pretrain", folder, "--out", zoo, "--compact"), "--no-multi")
    assert refused(run("zoo", "pretrain", tmp_path / "diary.txt", "--out", "z"), "not a dataset")
    assert list(tmp_path.iterdir()) == [tmp_path / "diary.txt"]


def test_pretrain_says_how_to_go_on_when_it_is_interrupted(run, folder, tmp_path, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("supernetnas.pretraining.whole_zoo.pretrain_zoo", interrupt)
    result = run("zoo", "pretrain", folder, "--out", tmp_path / "zoo")
    assert refused(result, "interrupted; run the same command again", status=130)
    assert result[2].count("\n") == 2  # the first ends the line with the terminal's ^C
