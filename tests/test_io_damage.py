"""Files of tensors: every damage is an error that names the file, costs no memory and runs no code."""

from __future__ import annotations

import json
import os
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from minidl import io
from minidl.engine.tensor import Tensor
from minidl.io import CheckpointError, load, load_metadata, save

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def path(tmp_path):
    return tmp_path / "file.safetensors"


def container(header, payload=b""):
    """Return a safetensors file with a header (bytes, or what JSON is made of)."""
    if not isinstance(header, bytes):
        header = json.dumps(header).encode()
    return struct.pack("<Q", len(header)) + header + payload


def entry(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def small():
    return {"weight": np.arange(6, dtype=np.float32).reshape(2, 3), "bias": np.array([True, False]), "n": np.array(3)}


# ---- damaged files -----------------------------------------------------------------------------------------------


def test_a_file_cut_anywhere_is_refused(path):
    save(small(), path, {"epoch": "3"})
    content = path.read_bytes()
    for cut in range(len(content)):
        path.write_bytes(content[:cut])
        with pytest.raises(CheckpointError, match="file.safetensors"):
            load(path)


@pytest.mark.parametrize("mask", [0x01, 0x10, 0x20, 0xFF])
def test_a_flipped_bit_anywhere_is_refused(path, mask):
    save(small(), path, {"epoch": "3"})
    content = bytearray(path.read_bytes())
    for i in range(len(content)):
        content[i] ^= mask
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match="file.safetensors"):
            load(path)
        content[i] ^= mask
    path.write_bytes(content)
    assert load_metadata(path) == {"epoch": "3"}
    content[-1] ^= mask
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="does not match the SHA-256|bool"):
        load_metadata(path)


def test_bytes_after_the_end_are_refused(path):
    save(small(), path)
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(CheckpointError, match="truncated or too long"):
        load(path)


def test_swapped_tensors_and_metadata_are_refused(path):
    """Every byte is one that the file could have, only not there."""
    save({"a": np.zeros(2, np.int8), "b": np.ones(2, np.int8)}, path, {"k": "1"})
    content = path.read_bytes()
    for old, new in ((b'"a":', b'"c":'), (b"I8", b"U8"), (b'"k":"1"', b'"k":"2"'), (b"\0\0\1\1", b"\1\1\0\0")):
        assert content.count(old) >= 1
        path.write_bytes(content.replace(old, new))
        with pytest.raises(CheckpointError, match="does not match the SHA-256|is no valid|is malformed"):
            load(path)


@pytest.mark.parametrize("length", [2**63, 2**64 - 1, 10**8 + 1, 10**6])
def test_a_huge_header_length_takes_no_memory(path, length):
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", length) + b"{}")
        file.truncate(20_000 if length < 2**60 else 500)
    tracemalloc.start()
    with pytest.raises(CheckpointError, match=f"declares a header of {length} bytes"):
        load(path)
    assert tracemalloc.get_traced_memory()[1] < 1e6
    tracemalloc.stop()


def test_a_header_beyond_the_limit_is_refused_even_if_it_is_there(path):
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", 10**8 + 1) + b"{")
        file.truncate(10**8 + 100)  # a hole: it takes no room on the disk
    with pytest.raises(CheckpointError, match="declares a header of 100000001 bytes"):
        load(path)


PAYLOAD = np.array([1, 2], "<f4").tobytes()
MALFORMED = {
    "overlap": {"a": entry(), "b": entry(offsets=(4, 12))},
    "the same place": {"a": entry(), "b": entry()},
    "gap at the start": {"a": entry(offsets=(4, 12))},
    "gap": {"a": entry(shape=(1,), offsets=(0, 4)), "b": entry(shape=(0,), offsets=(8, 8))},
    "reversed": {"a": entry(offsets=(8, 0))},
    "beyond the file": {"a": entry(shape=(3,), offsets=(0, 12))},
    "not to the end": {"a": entry(shape=(1,), offsets=(0, 4))},
    "shape and bytes": {"a": entry(shape=(3,))},
    "item size": {"a": entry(dtype="F64")},
    "negative length": {"a": entry(shape=(-2,))},
    "two negative lengths": {"a": entry(shape=(-1, -2))},
    "float length": {"a": entry(shape=(2.0,))},
    "bool length": {"a": entry(shape=(True, 2))},
    "text length": {"a": entry(shape=("2",))},
    "overflow": {"a": entry(shape=(2**32, 2**32))},
    "overflow to the right number": {"a": entry(shape=(2**62 + 2, 4, 1))},
    "huge and empty": {"a": entry(shape=(2**62, 0, 2**62), offsets=(0, 0))},
    "65 axes": {"a": entry(shape=(1,) * 64 + (2,))},
    "huge integer": b'{"a":{"dtype":"F32","shape":[' + b"9" * 5000 + b'],"data_offsets":[0,8]}}',
    "negative offset": {"a": entry(offsets=(-8, 0))},
    "float offset": {"a": entry(offsets=(0, 8.0))},
    "three offsets": {"a": entry(offsets=(0, 4, 8))},
    "unknown dtype": {"a": entry(dtype="F31")},
    "dtype no text": {"a": entry(dtype=3)},
    "dtype a list": {"a": entry(dtype=["F32"])},
    "complex": {"a": entry(dtype="C64", shape=(1,))},
    "no dtype": {"a": {"shape": [2], "data_offsets": [0, 8]}},
    "no shape": {"a": {"dtype": "F32", "data_offsets": [0, 8]}},
    "no offsets": {"a": {"dtype": "F32", "shape": [2]}},
    "shape no list": {"a": {"dtype": "F32", "shape": 2, "data_offsets": [0, 8]}},
    "shape null": {"a": {"dtype": "F32", "shape": None, "data_offsets": [0, 8]}},
    "something else too": {"a": entry() | {"requires_grad": True}},
    "entry null": {"a": None},
    "entry a list": {"a": [1, 2]},
    "metadata null": {"__metadata__": None, "a": entry()},
    "metadata a number": {"__metadata__": {"epoch": 3}, "a": entry()},
    "metadata nested": {"__metadata__": {"a": {"b": "c"}}, "a": entry()},
    "a list": b"[]",
    "a number": b"3",
    "nothing": b"",
    "spaces before": b"  {}",
    "two objects": b"{}{}",
    "a name twice": b'{"a":%s,"a":%s}' % (2 * (json.dumps(entry()).encode(),)),
    "a key twice": b'{"a":{"dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8]}}',
    "deep": b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "NaN": b'{"a":{"dtype":"F32","shape":[NaN],"data_offsets":[0,8]}}',
    "Infinity": b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,Infinity]}}',
    "not UTF-8": b'{"\xff":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}',
    "UTF-16": '{"a":1}'.encode("utf-16"),
    "zero bytes after": b"{}\0\0",
}


@pytest.mark.parametrize("case", MALFORMED)
def test_a_malformed_header_is_refused(path, case):
    path.write_bytes(container(MALFORMED[case], PAYLOAD))
    with pytest.raises(CheckpointError, match="file.safetensors"):
        load(path)


def test_the_file_that_the_malformed_ones_derive_from_is_good(path):
    path.write_bytes(container({"a": entry()}, PAYLOAD))
    assert load(path)["a"].tolist() == [1, 2]


def test_a_bool_that_is_neither_0_nor_1_is_refused(path):
    path.write_bytes(container({"a": entry("BOOL", (2,), (0, 2))}, b"\1\2"))
    with pytest.raises(CheckpointError, match="'a' is damaged: a bool must be stored as 0 or 1"):
        load(path)


def test_a_file_of_a_newer_format_says_so(path, monkeypatch):
    monkeypatch.setattr(io, "FORMAT", 2)
    save(small(), path)
    monkeypatch.undo()
    with pytest.raises(
        CheckpointError, match="was written in format '2' and this version of minidl reads 1; update minidl"
    ):
        load(path)


def test_random_damage_raises_nothing_but_checkpoint_errors(path, rng):
    save(small(), path, {"epoch": "3"})
    good = path.read_bytes()
    foreign = container(
        {"a": entry(), "b": entry("BOOL", (2, 1), (8, 10)), "__metadata__": {"k": "v"}}, PAYLOAD + b"\0\1"
    )
    refused = loaded = 0
    for trial in range(2000):
        content = bytearray(foreign if trial % 2 else good)
        for _ in range(rng.integers(1, 4)):
            i, j = sorted(rng.integers(0, len(content) + 1, 2))
            kind = rng.integers(5)
            if kind == 0 and i < len(content):
                content[i] = rng.integers(256)
            elif kind == 1:
                del content[i : i + rng.integers(1, 9)]
            elif kind == 2:
                content[i:i] = rng.bytes(rng.integers(1, 9))
            elif kind == 3:
                content[i:i] = content[i:j]
            elif i < len(content):
                content[i] = rng.choice(list(b'{}[]":,0123456789 -eE.\\'))
        path.write_bytes(content)
        try:
            tensors = load(path)
        except CheckpointError as error:
            refused += str(path) in str(error)
        else:  # a file without a hash may have been changed into another good one
            assert trial % 2 or bytes(content) == good
            assert all(isinstance(t, Tensor) for t in tensors.values())
            loaded += 1
    assert refused + loaded == 2000
    assert refused > 1500


# ---- files that are something else -------------------------------------------------------------------------------


class Evil:
    """Unpickling this would run code."""

    def __reduce__(self):
        return os.system, ("exit 1",)


def test_a_pickle_is_refused_and_never_run(path, monkeypatch):
    import pickle

    contents = [pickle.dumps(Evil(), protocol=p) for p in range(5)]
    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, None)
    monkeypatch.setattr(os, "system", None)
    for content in contents:
        for padded in (content, content + bytes(1000)):
            path.write_bytes(padded)
            with pytest.raises(CheckpointError, match="file.safetensors: is no safetensors file"):
                load(path)


def test_loading_imports_no_pickle_of_ours():
    text = Path(io.__file__).read_text(encoding="utf-8")
    assert "import pickle" not in text
    assert "allow_pickle" not in text


def test_other_kinds_of_files_are_named(path, tmp_path):
    np.savez(tmp_path / "a.npz", x=np.zeros(3))
    np.save(tmp_path / "a.npy", np.zeros(3))
    with pytest.raises(CheckpointError, match="it is a zip archive"):
        load(tmp_path / "a.npz")
    with pytest.raises(CheckpointError, match=r"it is an .npy file"):
        load(tmp_path / "a.npy")
    path.write_text("a text file, long enough to have a header")
    with pytest.raises(CheckpointError, match="is no safetensors file"):
        load(path)
    path.write_bytes(b"")
    with pytest.raises(CheckpointError, match="is no safetensors file: it has 0 bytes"):
        load(path)


def test_what_is_no_file_is_an_error_that_names_it(tmp_path):
    with pytest.raises(CheckpointError, match="absent: cannot be loaded: No such file"):
        load(tmp_path / "absent")
    with pytest.raises(CheckpointError, match="cannot be loaded: it is not a regular file"):
        load(tmp_path)
    with pytest.raises(CheckpointError, match="cannot be loaded: it is not a regular file"):
        load(os.devnull)
    with pytest.raises(CheckpointError, match="cannot be written: it is not a regular file"):
        save(small(), tmp_path)
    with pytest.raises(CheckpointError, match="cannot be written: No such file"):
        save(small(), tmp_path / "absent" / "file")
    with pytest.raises(CheckpointError, match="cannot be written"):
        save(small(), os.devnull)
