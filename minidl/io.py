"""Save tensors to a file and load them: the safetensors format, written so that no crash leaves a broken file.

A safetensors file is a header in JSON (names, dtypes, shapes, places) and the bare bytes, so loading one can run no
code, unlike a pickle; PyTorch, JAX and others read and write it too. Files written here carry a SHA-256 of all that is
in them, so that one flipped bit is an error and not a slightly wrong model. It protects against accidents, not against
an attacker, who can write a new hash. Format: https://github.com/huggingface/safetensors.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import os
import secrets
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .engine.backend import is_array, to_device, to_numpy
from .engine.tensor import Tensor, wrap

DTYPES = {
    "BOOL": np.dtype(np.bool_), "U8": np.dtype(np.uint8), "I8": np.dtype(np.int8), "U16": np.dtype(np.uint16),
    "I16": np.dtype(np.int16), "F16": np.dtype(np.float16), "U32": np.dtype(np.uint32), "I32": np.dtype(np.int32),
    "F32": np.dtype(np.float32), "U64": np.dtype(np.uint64), "I64": np.dtype(np.int64), "F64": np.dtype(np.float64),
}  # fmt: skip
MAX_HEADER = 100_000_000  # bytes: the limit of the format
MAX_NDIM = 64  # axes: the limit of NumPy
FORMAT = 1  # raised when older versions could no longer read what this one writes
OWN_PREFIX = "minidl."  # of the metadata keys that are ours
FORMAT_KEY = "minidl.format"
HASH_KEY = "minidl.sha256"
STATE_KEY = "minidl.state"  # of what is no tensor in a nested dictionary
TENSOR = "__tensor__"  # stands there for a tensor, with its name in the file
METADATA = "__metadata__"  # the header's key that is no tensor


class CheckpointError(ValueError):
    """A file of tensors cannot be written, or is missing, damaged, or not what it claims to be. Names the file."""


# ---- the three functions -----------------------------------------------------------------------------------------


def save(tensors: Mapping[str, Any], path: str | os.PathLike[str], metadata: Mapping[str, str] | None = None) -> None:
    """Save a dictionary of tensors (or arrays) to a safetensors file, for instance `model.state_dict()`.

    It may hold numbers, texts, None, lists and dictionaries of all these too, so that one file is a whole checkpoint:

        md.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 3}, path)
        state = md.load(path)                   # the same; tuples have become lists
        optimizer.load_state_dict(state["optimizer"])

    Tensors within get dotted names (model.0.weight), under which other programs find them; the rest is JSON.

    The file is written beside its place, forced to the disk, read back and compared, and only then moved into place: at
    every moment `path` is the old file or the new one, complete. An existing file keeps its mode; a symbolic link stays
    and the file it points to is replaced. Parameters: `metadata`, texts to keep with the tensors (see `load_metadata`).

    CheckpointError, and the old file is untouched, for names that are not text, other kinds of values, dtypes that the
    format lacks, and whatever the disk refuses.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save({"w": np.arange(3.0)}, Path(folder, "a.safetensors"), metadata={"epoch": "3"})
    ...     load(Path(folder, "a.safetensors"))["w"], load_metadata(Path(folder, "a.safetensors"))
    (tensor([0., 1., 2.], dtype=float64), {'epoch': '3'})
    """
    texts = _checked_metadata(metadata or {}, path)
    if isinstance(tensors, Mapping) and not all(map(_is_tensor, tensors.values())):
        found: dict[str, Any] = {}
        texts[STATE_KEY] = json.dumps(_taken_apart(tensors, "", found, path))
        tensors = found
    arrays = _checked_tensors(tensors, path)
    texts[FORMAT_KEY] = str(FORMAT)
    texts[HASH_KEY] = _hash(arrays, texts)
    from safetensors.numpy import save as serialise

    _write(Path(path), serialise(arrays, texts))


def load(path: str | os.PathLike[str], device: str | None = None) -> dict[str, Any]:
    """Load the tensors of a safetensors file, whoever wrote it, as constants on a device (None: the CPU).

    What `save` was given comes back, nested dictionaries with their numbers and texts too.

    CheckpointError if the file is missing, truncated, malformed in any way, or differs from the hash it carries (files
    of other programs carry none); and for tensors of a dtype that NumPy lacks, such as bfloat16.
    """
    return load_with_metadata(path, device)[0]


def load_metadata(path: str | os.PathLike[str]) -> dict[str, str]:
    """Return the texts that were saved with the tensors. Reads and checks the whole file, as `load` does."""
    return load_with_metadata(path)[1]


def load_with_metadata(
    path: str | os.PathLike[str], device: str | None = None
) -> tuple[dict[str, Any], dict[str, str]]:
    """Return both what `load` and what `load_metadata` return, reading the file once."""
    arrays, metadata = _read(Path(path))
    tensors: dict[str, Any] = {name: wrap(to_device(array, device or "cpu")) for name, array in arrays.items()}
    if STATE_KEY in metadata:
        try:
            whole = json.loads(metadata[STATE_KEY], object_hook=lambda x: tensors[x[TENSOR]] if TENSOR in x else x)
            tensors = dict(whole)
        except (KeyError, RecursionError, TypeError, ValueError) as error:
            raise CheckpointError(f"{path}: is malformed: its {STATE_KEY} cannot be read ({error})") from None
    return tensors, {key: text for key, text in metadata.items() if not key.startswith(OWN_PREFIX)}


# ---- what is saved -----------------------------------------------------------------------------------------------


def _checked_tensors(tensors: Any, path: Any) -> dict[str, np.ndarray]:
    """Return the values as little-endian C-ordered host arrays; CheckpointError names the first that cannot be."""
    if not isinstance(tensors, Mapping):
        raise CheckpointError(f"{path}: save needs a dictionary from names to tensors, got {type(tensors).__name__}")
    arrays = {}
    for name, value in tensors.items():
        if not isinstance(name, str) or name == METADATA or not _is_utf8(name):
            raise CheckpointError(f"{path}: a tensor's name must be a text other than {METADATA!r}, got {name!r}")
        array = value.array if isinstance(value, Tensor) else value
        if not is_array(array):
            raise CheckpointError(f"{path}: {name!r} must be a tensor or an array, got {type(value).__name__}")
        array = to_numpy(array)
        if array.dtype.newbyteorder("=") not in DTYPES.values():
            known = ", ".join(dtype.name for dtype in DTYPES.values())
            raise CheckpointError(f"{path}: {name!r} must have one of the dtypes {known}, got {array.dtype}")
        # Not ascontiguousarray, which makes one axis of none.
        arrays[name] = np.asarray(array, array.dtype.newbyteorder("<"), order="C")
    return arrays


def _is_tensor(value: Any) -> bool:
    return isinstance(value, Tensor) or is_array(value)


def _taken_apart(value: Any, name: str, tensors: dict[str, Any], path: Any) -> Any:
    """Return a value as JSON has it; its tensors go to `tensors`."""
    if _is_tensor(value):
        while name in tensors:  # {"a.b": x, "a": {"b": y}}
            name += "'"
        tensors[name] = value
        return {TENSOR: name}
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str) or key == TENSOR or not _is_utf8(key):
                raise CheckpointError(f"{path}: a name must be a text other than {TENSOR!r}, got {key!r} in {name!r}")
        dot = f"{name}." if name else ""
        return {key: _taken_apart(x, dot + key, tensors, path) for key, x in value.items()}
    if isinstance(value, (list, tuple)):
        return [_taken_apart(x, f"{name}.{i}", tensors, path) for i, x in enumerate(value)]
    value = value.item() if isinstance(value, np.generic) else value
    if value is not None and not isinstance(value, (bool, int, float, str)):
        kinds = "a tensor, an array, a number, a text, None, or a list or dictionary of them"
        raise CheckpointError(f"{path}: {name!r} must be {kinds}, got {type(value).__name__}")
    return value


def _checked_metadata(metadata: Mapping[str, str], path: Any) -> dict[str, str]:
    if not isinstance(metadata, Mapping):
        raise CheckpointError(f"{path}: metadata must be a dictionary of texts, got {type(metadata).__name__}")
    for key, text in metadata.items():
        if not (isinstance(key, str) and isinstance(text, str) and _is_utf8(key + text)):
            raise CheckpointError(f"{path}: metadata must map texts to texts, got {key!r}: {text!r}; use json.dumps")
        if key.startswith(OWN_PREFIX):
            raise CheckpointError(f"{path}: metadata keys that begin with {OWN_PREFIX!r} are reserved, got {key!r}")
    return dict(metadata)


def _is_utf8(text: str) -> bool:
    """Tell whether a text can be written down: half of a surrogate pair cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _hash(arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> str:
    """Return the SHA-256 of all that a file says, whatever the order it says it in."""
    digest = hashlib.sha256()
    texts = {key: text for key, text in metadata.items() if key != HASH_KEY}
    digest.update(json.dumps(texts, sort_keys=True).encode())
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(json.dumps([name, array.dtype.name, list(array.shape)]).encode())
        digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


# ---- writing -----------------------------------------------------------------------------------------------------


def _write(path: Path, content: bytes) -> None:
    """Put content into a file at once: after this returns it is on the disk, and before, nothing has changed."""
    target = Path(os.path.realpath(path))  # through a symbolic link, which stays
    part = target.with_name(f".{target.name[:200]}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        mode = stat.S_IMODE(target.stat().st_mode) if target.exists() else None
        if mode is not None and not target.is_file():
            raise CheckpointError(f"{path}: cannot be written: it is not a regular file")
        if mode is not None and not os.access(target, os.W_OK):
            raise CheckpointError(f"{path}: cannot be written: it is read-only")
        try:
            _write_through(part, content)
            if _differs(part, content):
                raise CheckpointError(f"{path}: cannot be written: the disk gave back something else")
            if mode is not None:
                os.chmod(part, mode)
            os.replace(part, target)
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(part)
        _sync_folder(target.parent)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be written: {error.strerror or error}") from error


def _write_through(path: Path, content: bytes) -> None:
    """Write a new file and wait until it is on the disk."""
    # os.open and not tempfile, whose files are readable by this user alone; the umask applies as to any new file.
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())  # without it the rename may reach the disk first, and a crash leaves a file of zeros


def _differs(path: Path, content: bytes) -> bool:
    view, step = memoryview(content), 1 << 20
    with open(path, "rb") as file:
        same = all(file.read(step) == view[i : i + step] for i in range(0, len(view), step))
        return not same or file.read(1) != b""


def _sync_folder(folder: Path) -> None:
    """Make the renaming itself durable, where the system lets a folder be synchronised."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise
    finally:
        os.close(descriptor)


# ---- reading -----------------------------------------------------------------------------------------------------


def _read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Return the arrays, in the order of the file, and all metadata, ours included."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # opening a pipe would wait for ever
            raise CheckpointError(f"{path}: cannot be loaded: it is not a regular file")
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            header = _read_header(file, size, path)
            entries, metadata = _checked_header(header, size - 8 - len(header), path)
            file.seek(0)
            content = file.read()
            if content[8 : 8 + len(header)] != header:
                raise CheckpointError(f"{path}: cannot be loaded: it changed while it was read")
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be loaded: {error.strerror or error}") from error
    from safetensors import SafetensorError
    from safetensors.numpy import load as deserialise

    try:
        found = deserialise(content)
    except (SafetensorError, ValueError) as error:
        raise CheckpointError(f"{path}: is no valid safetensors file: {error}") from None
    arrays = {name: found[name] for name in entries}
    for name, array in arrays.items():
        if array.dtype == np.bool_ and array.size and array.reshape(-1).view(np.uint8).max() > 1:
            raise CheckpointError(f"{path}: {name!r} is damaged: a bool must be stored as 0 or 1")
    _check_hash(arrays, metadata, path)
    return arrays, metadata


def _check_hash(arrays: dict[str, np.ndarray], metadata: dict[str, str], path: Path) -> None:
    """Compare the content with the hash that it carries, if it is one of our files."""
    version = metadata.get(FORMAT_KEY)
    if version is not None and version != str(FORMAT):
        raise CheckpointError(
            f"{path}: was written in format {version!r} and this version of minidl reads {FORMAT}; update minidl"
        )
    expected = metadata.get(HASH_KEY)
    if expected is None and version is None:
        return  # another program's file
    if expected != _hash(arrays, metadata):
        raise CheckpointError(f"{path}: is damaged: its content does not match the SHA-256 it carries")


def _read_header(file: Any, size: int, path: Path) -> bytes:
    """Return the bytes of the JSON header, having checked that they are there."""
    head = file.read(8)
    if len(head) < 8:
        raise CheckpointError(
            f"{path}: is no safetensors file: it has {size} bytes, and the length of a header takes 8"
        )
    length = int.from_bytes(head, "little")
    if length > MAX_HEADER or length > size - 8:
        hint = next((text for magic, text in MAGIC.items() if head.startswith(magic)), "or it is truncated")
        raise CheckpointError(
            f"{path}: is no safetensors file, {hint}: it declares a header of {length} bytes, and has {size - 8} more"
        )
    header: bytes = file.read(length)
    if len(header) < length:
        raise CheckpointError(f"{path}: is truncated: its header has {len(header)} of {length} bytes")
    return header


MAGIC = {
    b"PK\x03\x04": "it is a zip archive (from torch.save or numpy.savez?)",
    b"\x80": "it is a pickle",
    b"\x93NUMPY": "it is an .npy file",
    b"\x89HDF": "it is an HDF5 file",
}


def _checked_header(header: bytes, payload: int, path: Path) -> tuple[list[str], dict[str, str]]:
    """Return the names of the tensors, in the order of their bytes, and the metadata, all checked."""
    try:
        if not header.startswith(b"{"):
            raise ValueError("it does not begin with {")
        parsed = json.loads(header.decode(), object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: is no safetensors file: its header is not JSON ({error})") from None
    metadata = parsed.pop(METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
        raise CheckpointError(f"{path}: is malformed: {METADATA} must map texts to texts")
    places = sorted((*_checked_entry(name, entry, path), name) for name, entry in parsed.items())
    end = 0
    for begin, stop, name in places:
        if begin != end:
            raise CheckpointError(f"{path}: is malformed: {name!r} begins at byte {begin} of the data instead of {end}")
        end = stop
    if end != payload:
        raise CheckpointError(f"{path}: is truncated or too long: its tensors take {end} bytes, and it has {payload}")
    return [name for _, _, name in places], metadata


def _checked_entry(name: str, entry: Any, path: Path) -> tuple[int, int]:
    """Return where the bytes of a tensor begin and end; CheckpointError unless they fit its dtype and shape."""
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise CheckpointError(
            f"{path}: is malformed: {name!r} must have a dtype, a shape and data_offsets, and no more"
        )
    kind, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    dtype = DTYPES.get(kind) if isinstance(kind, str) else None
    if dtype is None:
        narrow = kind in ("BF16", "F8_E4M3", "F8_E5M2")
        remedy = "convert it to float32 where it was made" if narrow else "none is known"
        raise CheckpointError(f"{path}: {name!r} has dtype {kind!r}, which NumPy lacks; {remedy}")
    if not _are_sizes(shape) or len(shape) > MAX_NDIM or math.prod(d for d in shape if d) * dtype.itemsize >= 2**63:
        raise CheckpointError(f"{path}: is malformed: the shape of {name!r} is {_short(shape)}")
    if not _are_sizes(offsets) or len(offsets) != 2:
        raise CheckpointError(f"{path}: is malformed: the data_offsets of {name!r} are {_short(offsets)}")
    begin, end = offsets
    needed = math.prod(shape) * dtype.itemsize
    if end - begin != needed:
        what = f"{name!r} of shape {tuple(shape)}, {dtype},"
        raise CheckpointError(f"{path}: is malformed: {what} takes {needed} bytes, and has {end - begin}")
    return begin, end


def _are_sizes(values: Any) -> bool:
    """Tell whether this is a list of integers that are at least 0 (True is an int, and no size)."""
    return isinstance(values, list) and all(type(v) is int and v >= 0 for v in values)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make a dict of the pairs of a JSON object, in which a name may come once."""
    made = dict(pairs)
    if len(made) < len(pairs):
        raise ValueError("a name occurs twice")
    return made


def _no_constant(text: str) -> Any:
    raise ValueError(f"{text} is not JSON")
