"""Files of tensors: bitwise round trips, an error for every damage, and no crash that leaves a broken file."""

from __future__ import annotations

import errno
import json
import os
import stat
import struct
import subprocess
import sys
import threading
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from minidl import io
from minidl.engine import backend
from minidl.engine.tensor import Parameter, Tensor
from minidl.io import CheckpointError, load, load_metadata, load_with_metadata, save

ROOT = Path(__file__).resolve().parent.parent
POSIX = pytest.mark.skipif(os.name == "nt", reason="POSIX file modes and links")


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


def names(folder):
    return sorted(p.name for p in folder.iterdir())


# ---- round trips -------------------------------------------------------------------------------------------------

CASES = {
    "0-d": lambda dtype: np.array(1, dtype),
    "1-d": lambda dtype: np.array([0, 1, 1, 0, 1], dtype),
    "empty": lambda dtype: np.zeros((0, 3), dtype),
    "F-order": lambda dtype: np.asfortranarray(np.arange(6).reshape(2, 3).astype(dtype)),
    "transposed": lambda dtype: np.arange(24).reshape(2, 3, 4).astype(dtype).transpose(2, 0, 1),
    "every other": lambda dtype: np.arange(10).astype(dtype)[::2],
    "backwards": lambda dtype: np.arange(10).astype(dtype)[::-1],
    "broadcast": lambda dtype: np.broadcast_to(np.array(1, dtype), (3, 2)),
    "big-endian": lambda dtype: np.arange(5).astype(np.dtype(dtype).newbyteorder(">")),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype", [dtype.name for dtype in io.DTYPES.values()])
def test_every_dtype_and_layout_comes_back_bitwise(path, dtype, case):
    x = CASES[case](dtype)
    save({"x": x}, path)
    back = load(path)["x"]
    assert type(back) is Tensor
    assert back.dtype == np.dtype(dtype)
    assert back.shape == x.shape
    assert back.numpy().tobytes() == x.astype(dtype).tobytes()


def test_every_dtype_of_tensors_can_be_saved():
    """What the engine accepts and the format has are the same dtypes."""
    kinds = {np.dtype(kind).name for kind in "?bhilqBHILQefd"}
    assert kinds == {dtype.name for dtype in io.DTYPES.values()}


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_special_values_come_back_bitwise(path, dtype):
    info = np.finfo(dtype)
    x = np.array([np.nan, -np.nan, np.inf, -np.inf, 0.0, -0.0, info.tiny, info.smallest_subnormal, info.max], dtype)
    payload_nan = np.array([x.view(f"u{x.itemsize}")[0] | 1], f"u{x.itemsize}").view(dtype)
    save({"x": x, "nan": payload_nan}, path)
    assert load(path)["x"].numpy().tobytes() == x.tobytes()
    assert load(path)["nan"].numpy().tobytes() == payload_nan.tobytes()


def test_names_of_any_text_come_back(path):
    keys = [
        "",
        "a.b.0",
        "größe",
        "重み",
        "\U0001f600",
        "with space",
        '"quoted"',
        "back\\slash",
        "new\nline",
        "\0",
        "x" * 5000,
    ]
    save({key: np.array(i) for i, key in enumerate(keys)}, path)
    assert {key: t.item() for key, t in load(path).items()} == {key: i for i, key in enumerate(keys)}


def test_no_tensor_is_a_file_too(path):
    save({}, path)
    assert load(path) == {}
    assert load_metadata(path) == {}


def test_metadata_comes_back_and_only_the_users(path):
    metadata = {"epoch": "3", "": "empty key", "größe": "ü\n\0", "json": json.dumps({"lr": [0.1, None]})}
    save(small(), path, metadata)
    assert load_metadata(path) == metadata
    tensors, texts = load_with_metadata(path)
    assert texts == metadata
    assert set(tensors) == set(small())


def test_what_is_loaded_is_constant_writable_and_its_own(path):
    weight = Parameter([[1.0, 2.0]])
    save({"weight": weight, "again": weight}, path)
    tensors = load(path)
    assert not any(t.requires_grad for t in tensors.values())
    tensors["weight"].array[...] = 7
    assert tensors["again"].tolist() == [[1, 2]]
    assert weight.tolist() == [[1, 2]]
    assert load(path)["weight"].tolist() == [[1, 2]]


def test_saving_changes_nothing_that_is_saved(path):
    x = np.asfortranarray(np.arange(6.0).reshape(2, 3))
    tensors, metadata = {"x": x}, {"a": "b"}
    save(tensors, path, metadata)
    assert tensors["x"] is x
    assert x.flags.f_contiguous
    assert metadata == {"a": "b"}


def test_saving_twice_gives_the_same_bytes(path, tmp_path):
    save(small(), path, {"a": "1", "b": "2"})
    save(dict(reversed(small().items())), tmp_path / "other", {"b": "2", "a": "1"})
    first, second = load(path), load(tmp_path / "other")
    assert all(first[k].numpy().tobytes() == second[k].numpy().tobytes() for k in first)
    assert io._hash(small(), {}) == io._hash(dict(reversed(small().items())), {})


def test_tensors_of_a_device_are_saved_and_loaded(path, device):
    tensors = {"x": Tensor(np.arange(6.0).reshape(2, 3), device=device)}
    save(tensors, path)
    assert load(path)["x"].device == "cpu"  # a file does not say where its tensors lived
    back = load(path, device=device)["x"]
    assert back.device == device
    assert backend.to_numpy(back.array).tolist() == [[0, 1, 2], [3, 4, 5]]


# ---- together with other programs --------------------------------------------------------------------------------


def test_the_safetensors_package_reads_our_files_and_we_read_its(path):
    safetensors = pytest.importorskip("safetensors.numpy")
    save(small(), path, {"epoch": "3"})
    theirs = safetensors.load_file(path)
    assert all(theirs[k].tobytes() == x.tobytes() and theirs[k].shape == x.shape for k, x in small().items())
    safetensors.save_file(small(), path, {"who": "they"})
    assert load(path)["weight"].tolist() == small()["weight"].tolist()
    assert load_metadata(path) == {"who": "they"}


def test_pytorch_reads_our_files_and_we_read_its(path):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    from safetensors.torch import load_file, save_file

    layer = torch.nn.Linear(3, 2)
    save_file(layer.state_dict(), path)
    ours = load(path)
    assert ours["weight"].numpy().tobytes() == layer.weight.detach().numpy().tobytes()
    save({"weight": ours["weight"] * 2, "bias": ours["bias"]}, path)
    layer.load_state_dict(load_file(path))
    assert torch.equal(layer.weight, torch.tensor(ours["weight"].numpy() * 2))
    save_file({"x": torch.zeros(2, dtype=torch.bfloat16)}, path)
    with pytest.raises(CheckpointError, match="'x' has dtype 'BF16', which NumPy lacks; convert it to float32"):
        load(path)


def test_a_header_with_spaces_and_padding_is_read(path):
    header = b'{ "x" : {"shape":[2], "dtype":"F32",\n"data_offsets":[0,8]} , "__metadata__": {} }   '
    path.write_bytes(container(header, np.array([1, 2], "<f4").tobytes()))
    assert load(path)["x"].tolist() == [1, 2]


# ---- what cannot be saved ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tensors", "metadata", "message"),
    [
        ([np.zeros(2)], None, "needs a dictionary from names to tensors, got list"),
        ({3: np.zeros(2)}, None, "name must be a text .* got 3"),
        ({"__metadata__": np.zeros(2)}, None, "name must be a text other than '__metadata__'"),
        ({"\ud800": np.zeros(2)}, None, "name must be a text"),
        ({"x": 3.0}, None, "'x' must be a tensor or an array, got float"),
        ({"x": {"y": np.zeros(2)}}, None, "'x' must be a tensor or an array, got dict"),
        ({"x": None}, None, "got NoneType"),
        ({"x": np.zeros(2, complex)}, None, "'x' must have one of the dtypes bool, .*float64, got complex128"),
        ({"x": np.array([None])}, None, "got object"),
        ({"x": np.array(["a"])}, None, "got <U1"),
        ({"x": np.zeros(2, "datetime64[s]")}, None, "got datetime64"),
        ({"x": np.zeros(2, np.longdouble)}, None, "got (float128|float96)"),
        ({"x": np.zeros(2, [("a", "f4")])}, None, "must have one of the dtypes"),
        (small(), {"epoch": 3}, "metadata must map texts to texts, got 'epoch': 3; use json.dumps"),
        (small(), {3: "epoch"}, "metadata must map texts to texts"),
        (small(), {"a": "\udfff"}, "metadata must map texts to texts"),
        (small(), {"minidl.x": "1"}, "keys that begin with 'minidl.' are reserved"),
        (small(), ["a"], "metadata must be a dictionary of texts, got list"),
    ],
)
def test_what_cannot_be_saved_is_named_and_the_old_file_stays(path, tensors, metadata, message):
    if isinstance(tensors, dict) and getattr(tensors.get("x"), "dtype", None) == np.float64 and "got f" in message:
        pytest.skip("long double is double on this machine")
    save(small(), path)
    before = path.read_bytes()
    with pytest.raises(CheckpointError, match=message) as info:
        save(tensors, path, metadata)
    assert str(path) in str(info.value)
    assert path.read_bytes() == before
    assert names(path.parent) == [path.name]


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
    "a name twice": b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}',
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
    refused = 0
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
            assert str(path) in str(error)
            refused += 1
        else:  # the foreign file has no hash: some changes are not damage, but values others than saved are possible
            assert trial % 2 or bytes(content) == good
            assert all(isinstance(t, Tensor) for t in tensors.values())
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


# ---- writing -----------------------------------------------------------------------------------------------------


def failing(code=errno.ENOSPC):
    def fail(*args, **kwargs):
        raise OSError(code, os.strerror(code))

    return fail


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("call", ["open", "fdopen", "fsync", "replace", "chmod"])
@pytest.mark.parametrize("exists", [True, False])
def test_a_refusal_of_the_disk_leaves_the_old_file_and_no_other(path, monkeypatch, call, code, exists):
    if exists:
        save({"x": np.zeros(2)}, path)
    elif call == "chmod":
        pytest.skip("a new file keeps no mode")
    monkeypatch.setattr(io.os, call, failing(code))
    with pytest.raises(CheckpointError, match=f"file.safetensors: cannot be written: {os.strerror(code)}"):
        save(small(), path)
    monkeypatch.undo()
    assert names(path.parent) == ([path.name] if exists else [])
    assert not exists or load(path)["x"].tolist() == [0, 0]


def test_a_disk_that_gives_back_something_else_is_found_out(path, monkeypatch):
    save({"x": np.zeros(2)}, path)
    write_through = io._write_through

    def forgetful(part, content):
        write_through(part, content[:-1] + b"\x99")

    monkeypatch.setattr(io, "_write_through", forgetful)
    with pytest.raises(CheckpointError, match="the disk gave back something else"):
        save(small(), path)
    monkeypatch.undo()
    assert names(path.parent) == [path.name]
    assert load(path)["x"].tolist() == [0, 0]


@POSIX
def test_a_file_that_grows_beyond_the_limit_leaves_the_old_one(path):
    """A real refusal by the system, in another process: files of at most 1,000 bytes."""
    code = f"""
import numpy as np, resource, signal
from minidl.io import CheckpointError, save
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
save({{"x": np.zeros(2)}}, {str(path)!r})
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    save({{"x": np.ones(100_000)}}, {str(path)!r})
except CheckpointError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "cannot be written: File too large" in done.stdout
    assert load(path)["x"].tolist() == [0, 0]
    assert names(path.parent) == [path.name]


def test_an_interrupt_leaves_the_old_file_and_no_other(path, monkeypatch):
    save({"x": np.zeros(2)}, path)

    def interrupt(descriptor):
        raise KeyboardInterrupt

    monkeypatch.setattr(io.os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save(small(), path)
    monkeypatch.undo()
    assert names(path.parent) == [path.name]
    assert load(path)["x"].tolist() == [0, 0]


@POSIX
def test_file_and_folder_are_forced_to_the_disk_in_the_right_order(path, monkeypatch):
    done = []
    fsync, replace = os.fsync, os.replace

    def note_fsync(descriptor):
        done.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        fsync(descriptor)

    def note_replace(old, new):
        assert Path(old).parent == Path(new).parent
        done.append("replace")
        replace(old, new)

    monkeypatch.setattr(io.os, "fsync", note_fsync)
    monkeypatch.setattr(io.os, "replace", note_replace)
    save(small(), path)
    assert done == ["file", "replace", "folder"]


@POSIX
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_kill_at_any_moment_leaves_the_old_file_or_the_new_one(tmp_path):
    """A child saves again and again and is killed, 100 times; each time the file must be one of the two."""
    code = """
import os, random, signal, sys, time
import numpy as np
from minidl.io import load, save
path, states = sys.argv[1], [{"x": np.full(20_000, k, np.float32)} for k in (1, 2)]
random.seed(0)
for trial in range(100):
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        while True:
            for state in states:
                save(state, path)
                os.write(writing, b".")
    os.read(reading, 1)  # it has begun
    time.sleep(random.random() * 0.005)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(reading), os.close(writing)
    values = np.unique(load(path)["x"].numpy())
    assert len(values) == 1 and values[0] in (1, 2), values
print("done")
"""
    arguments = [sys.executable, "-W", "error", "-c", code, str(tmp_path / "file")]
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "done"


def test_a_reader_beside_a_writer_sees_the_old_file_or_the_new_one(path):
    states = [{"x": np.full(5000, k, np.float32)} for k in (1, 2)]
    save(states[0], path)
    over = threading.Event()

    def write():
        while not over.is_set():
            for state in states:
                save(state, path)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(50):
            assert len(np.unique(load(path)["x"].numpy())) == 1
    finally:
        over.set()
        writer.join()
    assert names(path.parent) == [path.name]


def test_saving_over_a_file_that_was_loaded_or_is_mapped_changes_nothing_in_memory(path):
    save({"x": np.arange(1000.0)}, path)
    loaded = load(path)["x"]
    mapped = np.memmap(path, np.uint8, "r")
    before = mapped.tobytes()
    if os.name != "nt":  # Windows does not let a mapped file be replaced
        save({"x": np.zeros(1000)}, path)
        assert mapped.tobytes() == before
    del mapped
    save({"x": np.zeros(10)}, path)
    np.testing.assert_array_equal(loaded.numpy(), np.arange(1000.0))


@POSIX
@pytest.mark.parametrize("mode", [0o600, 0o640, 0o664])
def test_an_existing_file_keeps_its_mode_and_a_new_one_follows_the_umask(path, mode):
    before = os.umask(0o027)
    try:
        save(small(), path)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    path.chmod(mode)
    save(small(), path)
    assert stat.S_IMODE(path.stat().st_mode) == mode


@POSIX
def test_a_read_only_file_is_not_replaced(path, monkeypatch):
    save({"x": np.zeros(2)}, path)
    path.chmod(0o444)
    if os.access(path, os.W_OK):  # the administrator may write anything
        monkeypatch.setattr(io.os, "access", lambda *args: False)
    with pytest.raises(CheckpointError, match="cannot be written: it is read-only"):
        save(small(), path)
    assert load(path)["x"].tolist() == [0, 0]


@POSIX
def test_a_symbolic_link_stays_and_the_file_it_points_to_is_replaced(path, tmp_path):
    target = tmp_path / "elsewhere" / "real"
    target.parent.mkdir()
    path.symlink_to(target)
    for tensors in ({"x": np.zeros(2)}, {"x": np.ones(2)}):
        save(tensors, path)
        assert path.is_symlink()
        assert load(target)["x"].tolist() == load(path)["x"].tolist() == tensors["x"].tolist()
    assert names(target.parent) == ["real"]


def test_long_names_and_unusual_folders_work(tmp_path):
    folder = tmp_path / "with space ü"
    folder.mkdir()
    path = folder / ("n" * 240)
    save(small(), path)
    assert set(load(str(path))) == set(small())


def test_the_safetensors_package_is_imported_when_used():
    code = "import sys, minidl.io; print('safetensors' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
