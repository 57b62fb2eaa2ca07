"""Tables and fields are aligned, and harmless to a terminal."""

from pathlib import Path

from supernetnas.cli.printing import fields, table


def test_tables_align_and_are_harmless():
    assert table(["name", "n"], [["a\x1b[2J", 5], ["bcdef", None]]) == (
        "name   n\na [2J  5\nbcdef  -"
    )
    assert (
        fields([("a", 0.123456), ("long", ["x", "y"]), ("no", None)]) == "a     0.1235\nlong  x, y"
    )


def test_points_stand_below_each_other():
    rows = [["a", 0.548, 12.3], ["b", 0.91836, 7.0], ["c", None, None]]
    assert table(["name", "share", "far"], rows).splitlines() == [
        "name   share    far",
        "a     0.5480  12.30",
        "b     0.9184   7.00",
        "c          -      -",
    ]
    assert table(["n"], [[12345.6], [20.0]]).splitlines() == ["    n", "12346", "   20"]
    assert table(["n"], [[0.5], [0.00021566]]).splitlines() == [
        "        n",
        "      0.5",
        "0.0002157",
    ]
    assert table(["n"], [[float("inf")], [1.0]]).splitlines() == ["    n", "  inf", "1.000"]


def test_long_values_are_continued_under_their_column_on_a_terminal(monkeypatch):
    folder = Path("a folder", "b" * 40)
    pairs = [("genotype", "s1 " + "dil_conv_3x3(0) + " * 3 + "x"), ("model", folder)]
    assert fields(pairs).count("\n") == 1  # in a file, a line each
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "40")
    lines = fields(pairs).split("\n")
    assert lines[:2] == ["genotype  s1 dil_conv_3x3(0) +", "          dil_conv_3x3(0) +"]
    assert lines[-1] == f"model     {folder}"  # to be copied
