"""Files are written whole and read with suspicion, and what is in them is parsed strictly."""

import json
import os
import pickle
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from supernetnas.storage import formats
from supernetnas.storage.files import FileError, read_bytes, safe_join, sha256, write_atomic
from supernetnas.storage.formats import (
    TensorSpec,
    dump_csv,
    dump_json,
    dump_safetensors,
    parse_csv,
    parse_json,
    parse_safetensors,
    plain,
    read_json,
)

TENSORS = {
    "weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "half": np.array([0.5, -1.25], np.float16),
    "count": np.array(7),
    "nothing": np.zeros((0, 4), np.float32),
}
SPECS = {
    "weight": TensorSpec((2, 3), ("float32",)),
    "half": TensorSpec((2,), ("float32", "float16")),
    "count": TensorSpec((), ("int64",)),
    "nothing": TensorSpec((0, 4), ("float32",)),
}


def container(header, body=b""):
    """Assemble a safetensors file of any header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


# Writing


def test_write_atomic_replaces_the_old_content(tmp_path):
    path = tmp_path / "file.txt"
    write_atomic(path, "grüße")
    write_atomic(path, b"new")
    assert path.read_bytes() == b"new"
    assert [p.name for p in tmp_path.iterdir()] == ["file.txt"]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_an_interrupted_write_leaves_the_old_content(tmp_path, monkeypatch, error):
    path = tmp_path / "file.txt"
    write_atomic(path, "old")

    def interrupt(*args):
        raise error

    monkeypatch.setattr(os, "replace", interrupt)
    with pytest.raises(error):
        write_atomic(path, "new")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["file.txt"]


@pytest.mark.skipif(os.name != "posix", reason="permission bits")
def test_written_files_have_the_usual_permissions(tmp_path):
    (tmp_path / "usual").write_text("")
    write_atomic(tmp_path / "atomic", "")
    assert (tmp_path / "atomic").stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_sha256(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")
    # FIPS 180-2, appendix B.1
    assert sha256(tmp_path / "abc") == (
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )


# Paths


@pytest.mark.parametrize(
    "relative",
    ["", "/etc/passwd", "..", "../x", "a/../../x", "./a", "a//b", "a/", "C:/x", "a\\..\\x", "a\0b"],
)
def test_safe_join_refuses_what_is_no_plain_path(tmp_path, relative):
    with pytest.raises(FileError, match="not a plain path"):
        safe_join(tmp_path, relative)


def test_safe_join_follows_links_that_stay_inside(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    assert safe_join(tmp_path, "link/x") == tmp_path.resolve() / "real/x"


@pytest.mark.parametrize("target", ["..", "../outside", "/etc"])
def test_safe_join_refuses_links_that_lead_out(tmp_path, target):
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "link").symlink_to(target)
    with pytest.raises(FileError, match="leads out"):
        safe_join(folder, "link/x")


def test_safe_join_refuses_a_loop_of_links(tmp_path):
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    if sys.version_info >= (3, 13):
        assert not safe_join(tmp_path, "a").exists()
    else:
        with pytest.raises(FileError, match="cannot be followed"):
            safe_join(tmp_path, "a")


def test_safe_join_accepts_a_folder_behind_a_link(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    assert safe_join(tmp_path / "link", "x") == tmp_path.resolve() / "real/x"


# Reading


def test_read_bytes_is_bounded(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"12345")
    assert read_bytes(path, limit=5) == b"12345"
    with pytest.raises(FileError, match="5 bytes; at most 4"):
        read_bytes(path, limit=4)


def test_read_bytes_does_not_read_a_huge_file(tmp_path):
    path = tmp_path / "file"
    with open(path, "wb") as file:
        file.truncate(2**40)  # sparse: it takes no space
    with pytest.raises(FileError, match="at most 1000"):
        read_bytes(path, limit=1000)


def test_read_bytes_refuses_what_is_no_file(tmp_path):
    with pytest.raises(FileError, match="is missing"):
        read_bytes(tmp_path / "absent", limit=1)
    with pytest.raises(FileError, match="not a regular file"):
        read_bytes(tmp_path, limit=1)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes")
def test_read_bytes_does_not_wait_for_a_pipe(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FileError, match="not a regular file"):
        read_bytes(tmp_path / "pipe", limit=1)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"\xff",
        b'{"a": NaN}',
        b'{"a": -Infinity}',
        b'{"a": 1, "a": 2}',
        b"[" * 1_000_000,
        b"1" * 10_000,
        pickle.dumps({"a": 1}),
    ],
    ids=lambda data: repr(data[:12]),
)
def test_parse_json_refuses_what_is_not_strict_json(data):
    with pytest.raises(FileError, match=r"x\.json is not valid JSON"):
        parse_json(data, name="x.json")


def test_json_round_trip(tmp_path):
    value = {"pi": np.float32(0.5), "n": np.int64(3), "ok": np.bool_(True), "size": (2, 3)}
    value |= {"nan": float("nan"), "inf": np.inf, "path": Path("a"), "text": "grüße", "none": None}
    write_atomic(tmp_path / "x.json", dump_json(value))
    assert read_json(tmp_path / "x.json", limit=1000) == {
        "pi": 0.5,
        "n": 3,
        "ok": True,
        "size": [2, 3],
        "nan": None,
        "inf": None,
        "path": "a",
        "text": "grüße",
        "none": None,
    }


@pytest.mark.parametrize("value", [np.zeros(2), {1}, object(), {"a": [b"bytes"]}])
def test_plain_refuses_what_json_lacks(value):
    with pytest.raises(TypeError, match="Only plain values"):
        plain(value)


def test_csv_round_trip():
    rows = [
        {"stage": "heads, first", "epoch": 0, "loss": 0.1 + 0.2},
        {"stage": 'the "rest"', "epoch": np.int64(1), "accuracy": np.float32(0.5), "loss": np.nan},
    ]
    assert parse_csv(dump_csv(rows), name="x.csv") == [
        {"stage": "heads, first", "epoch": 0, "loss": 0.1 + 0.2, "accuracy": None},
        {"stage": 'the "rest"', "epoch": 1, "loss": None, "accuracy": 0.5},
    ]
    assert parse_csv(dump_csv([]), name="x.csv") == []


def test_csv_numbers_are_what_json_writes_as_numbers():
    texts = [
        "nan",
        "inf",
        "-Infinity",
        "007",
        "1_000",
        " 1",
        "+1",
        ".5",
        "1.",
        "0x10",
        "1e999",
        "٣",
    ]
    values = [0, -7, 12345678901234567890, 0.1, -0.0, 1e-05, 1e16, 5e-324]
    rows = [{"value": value} for value in [*texts, *values]]
    result = [row["value"] for row in parse_csv(dump_csv(rows), name="x.csv")]
    assert result == [*texts, *values]
    assert [type(value) for value in result[len(texts) :]] == [type(value) for value in values]
    kept = parse_csv(b"stage,epoch\n7,7\n,\n", name="x.csv", text=["stage"])
    assert kept == [{"stage": "7", "epoch": 7}, {"stage": None, "epoch": None}]


@pytest.mark.parametrize("data", [b"a,b\n1\n", b"a,b\n1,2,3\n", b"\xff", b'a\n"open', b'a\n"b"c\n'])
def test_parse_csv_refuses_ragged_rows(data):
    with pytest.raises(FileError, match=r"x\.csv is not a valid table"):
        parse_csv(data, name="x.csv")


# Tensors


def test_safetensors_round_trip(tmp_path):
    write_atomic(tmp_path / "x", dump_safetensors(TENSORS, {"b": "1", "a": "grüße"}))
    data = read_bytes(tmp_path / "x", limit=10_000)
    tensors, metadata = parse_safetensors(data, name="x", expected=SPECS)
    assert metadata == {"b": "1", "a": "grüße"}
    assert tensors.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert tensors[name].dtype == tensor.dtype
        np.testing.assert_array_equal(tensors[name], tensor, strict=True)


def test_safetensors_keep_values_of_any_memory_layout():
    base = np.arange(24.0).reshape(2, 3, 4)
    views = {"t": base.T, "strided": base[:, ::2], "fortran": np.asfortranarray(base)}
    tensors, _ = parse_safetensors(dump_safetensors(views), name="x")
    for name, view in views.items():
        np.testing.assert_array_equal(tensors[name], view, strict=True)


def test_equal_tensors_give_equal_bytes_in_every_process():
    code = (
        "import hashlib, numpy as np;"
        "from supernetnas.storage.formats import dump_safetensors as dump;"
        "data = dump({'a': np.ones(3)}, {c: c for c in 'qwertyuiop'});"
        "print(hashlib.sha256(data).hexdigest())"
    )
    command = [sys.executable, "-c", code]
    hashes = {subprocess.run(command, capture_output=True, check=True).stdout for _ in range(3)}
    assert len(hashes) == 1


ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "ends before"),
        (b"\0" * 7, "ends before"),
        (struct.pack("<Q", 2**63) + b"{}", "declares a header of"),
        (struct.pack("<Q", 3) + b"{}", "declares a header of"),
        (container(b"{"), "not valid JSON"),
        (container(b"[]"), "no mapping"),
        (container(b"[" * 100_000), "not valid JSON"),
        (container(b'{"a": 1, "a": 2}'), "occurs twice"),
        (container({"a": ENTRY, "__metadata__": {"x": 1}}, bytes(8)), "other than strings"),
        (container({"a": ENTRY, "__metadata__": []}, bytes(8)), "other than strings"),
        (container({"a": 3}), "without shape or known dtype"),
        (container({"a": ENTRY | {"dtype": "F8_E4M3"}}, bytes(8)), "known dtype"),
        (container({"a": ENTRY | {"dtype": ["F32"]}}, bytes(8)), "known dtype"),
        (container({"a": ENTRY}, bytes(7)), "not a safetensors file"),
        (container({"a": ENTRY}, bytes(9)), "not a safetensors file"),
        (container({"a": ENTRY, "b": ENTRY}, bytes(8)), "not a safetensors file"),
        (container({"a": ENTRY | {"data_offsets": [8, 16]}}, bytes(16)), "not a safetensors file"),
        (container({"a": ENTRY | {"shape": [2**62]}}, bytes(8)), "not a safetensors file"),
        (container({"a": ENTRY | {"shape": [-2]}}, bytes(8)), "not a safetensors file"),
        (container({"a": ENTRY | {"shape": "2"}}, bytes(8)), "not a safetensors file"),
        (pickle.dumps(TENSORS), "declares a header of"),
    ],
)
def test_malformed_safetensors_are_refused(data, message):
    with pytest.raises(FileError, match=message):
        parse_safetensors(data, name="x")


def test_a_header_is_bounded(monkeypatch):
    data = dump_safetensors({"a" * 100: np.zeros(1)})
    monkeypatch.setattr(formats, "MAX_HEADER", 100)
    with pytest.raises(FileError, match="declares a header of"):
        parse_safetensors(data, name="x")
    with pytest.raises(ValueError, match="at most 100 are read again"):
        dump_safetensors({"a" * 100: np.zeros(1)})


@pytest.mark.parametrize(
    ("expected", "message"),
    [
        (SPECS | {"bias": TensorSpec((2,), ("float32",))}, "lacks bias"),
        ({"half": SPECS["half"]}, "no use for count, nothing, weight"),
        ({}, "no use for count, half, nothing and 1 more"),
        (SPECS | {"weight": TensorSpec((3, 2), ("float32",))}, r"float32 \[2, 3\], not float32"),
        (SPECS | {"weight": TensorSpec((2, 3), ("int64", "int32"))}, "not int64 or int32"),
    ],
)
def test_tensors_other_than_expected_are_refused(expected, message):
    with pytest.raises(FileError, match=f"x does not hold the expected tensors.*{message}"):
        parse_safetensors(dump_safetensors(TENSORS), name="x", expected=expected)
