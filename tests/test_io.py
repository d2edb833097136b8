"""Files of tensors: what is saved comes back bitwise, here and in other programs."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest

from minidl import io
from minidl.engine import backend
from minidl.engine.tensor import Parameter, Tensor
from minidl.io import CheckpointError, load, load_metadata, load_with_metadata, save

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def path(tmp_path):
    return tmp_path / "file.safetensors"


def container(header, payload=b""):
    """Return a safetensors file with a header (bytes, or what JSON is made of)."""
    if not isinstance(header, bytes):
        header = json.dumps(header).encode()
    return struct.pack("<Q", len(header)) + header + payload


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


# ---- nested dictionaries: checkpoints -----------------------------------------------------------------------------


def same(a, b):
    """Tell whether two states are equal, but for tuples that have become lists."""
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return isinstance(b, list) and len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, (Tensor, np.ndarray)):
        a = a.array if isinstance(a, Tensor) else a
        return isinstance(b, Tensor) and (b.dtype, b.shape) == (a.dtype, a.shape) and b.array.tobytes() == a.tobytes()
    return type(a) is type(b) and (a == b or a != a)


def test_a_nested_state_comes_back_with_its_numbers_and_texts(path):
    state = {
        "model": {"weight": Parameter([[1.0, 2.0]]), "empty": {}}, "epoch": 3, "lr": 0.1, "betas": (0.9, 0.999),
        "best": float("inf"), "none": None, "flag": True, "name": "größe", "huge": 2**200, "nan": float("nan"),
        "list": [np.arange(3), [{"x": np.zeros((0, 2), np.int8)}], -0.0], "a.b": np.array(1.0),
        "a": {"b": np.array(2.0), "b'": np.array(3.0)}, "empty": [], "numpy": 1e-3,
    }  # fmt: skip
    save({**state, "numpy": np.float64(1e-3)}, path, {"user": "text"})
    back, texts = load_with_metadata(path)
    assert same(state, back)
    assert texts == {"user": "text"}
    safetensors = pytest.importorskip("safetensors.numpy")
    assert sorted(safetensors.load_file(path)) == ["a.b", "a.b'", "a.b''", "list.0", "list.1.0.x", "model.weight"]


def test_a_state_without_tensors_is_a_checkpoint_too(path):
    save({"epoch": 3}, path)
    assert load(path) == {"epoch": 3}


@pytest.mark.parametrize("text", ["{", "3", '{"x": {"__tensor__": "gone"}}', '{"x": {"__tensor__": []}}', "[" * 10**5])
def test_a_nested_state_that_cannot_be_read_is_refused(path, text, monkeypatch):
    monkeypatch.setattr(io, "_taken_apart", lambda *given: None)
    monkeypatch.setattr(io.json, "dumps", lambda x, dumps=json.dumps, **more: dumps(x, **more) if x else text)
    save({"x": 3}, path)
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match="is malformed: its minidl.state cannot be read"):
        load(path)


# ---- what cannot be saved ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tensors", "metadata", "message"),
    [
        ([np.zeros(2)], None, "needs a dictionary from names to tensors, got list"),
        ({3: np.zeros(2)}, None, "name must be a text .* got 3"),
        ({"__metadata__": np.zeros(2)}, None, "name must be a text other than '__metadata__'"),
        ({"\ud800": np.zeros(2)}, None, "name must be a text"),
        ({"x": 3j}, None, "'x' must be a tensor, an array, a number, .* or a list or dictionary of them, got complex"),
        ({"x": {"y": [np.zeros(2), {1}]}}, None, r"'x\.y\.1' must be a tensor, .* got set"),
        ({"x": {"y": {3: np.zeros(2)}}}, None, r"a name must be a text other than '__tensor__', got 3 in 'x\.y'"),
        ({"x": {"__tensor__": "y"}}, None, "a name must be a text other than '__tensor__', got '__tensor__' in 'x'"),
        ({"x": b"bytes"}, None, "'x' must be .* got bytes"),
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
