"""The IDX format of MNIST and its relatives: a four-byte head, the lengths of the axes, then the elements, big-endian.

Files come from the network, so nothing they say is believed before it has been checked against what is there: the sizes
are compared with the file before memory is taken, and a gzip stream is unpacked no further than it declared.
Format: Y. LeCun, C. Cortes, C. Burges, "The MNIST database of handwritten digits", section "file formats".
"""

from __future__ import annotations

import gzip
import math
import os
import stat
import zlib
from pathlib import Path
from typing import Any

import numpy as np

TYPES: dict[int, np.dtype] = {
    0x08: np.dtype(np.uint8),
    0x09: np.dtype(np.int8),
    0x0B: np.dtype(">i2"),
    0x0C: np.dtype(">i4"),
    0x0D: np.dtype(">f4"),
    0x0E: np.dtype(">f8"),
}
GZIP_MAGIC = b"\x1f\x8b"
MAX_NDIM = 64  # NumPy's own limit
CHUNK = 1 << 20  # bytes unpacked at a time


def read_idx(path: str | os.PathLike[str], ndim: int | None = None, max_bytes: int = 1 << 31) -> np.ndarray:
    """Read an IDX file, plain or gzip, into an array of its type in native byte order.

    Parameters: `ndim`, the number of axes the file must have (3 for images, 1 for labels), or None for any;
    `max_bytes`, the most that a gzip file may unpack to.

    ValueError for every malformed file, naming the file, the byte (of the unpacked data), what was expected and what
    was found: wrong head, unknown type, no axes, an axis of length zero, too little or too much data, a damaged or
    truncated gzip stream.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "pair.idx")
    ...     _ = path.write_bytes(bytes([0, 0, 0x0B, 1, 0, 0, 0, 2, 0x01, 0x00, 0xFF, 0xFE]))  # two int16
    ...     read_idx(path)
    array([256,  -2], dtype=int16)
    """
    with open(path, "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise ValueError(f"{path}: expected a regular file, found a device or pipe")
        return parse_idx(file, status.st_size, str(path), ndim, max_bytes)


def parse_idx(file: Any, size: int, name: str, ndim: int | None = None, max_bytes: int = 1 << 31) -> np.ndarray:
    """Read an IDX array from an open binary file of `size` bytes; `name` is what errors call it. See `read_idx`."""
    magic = file.read(2)
    file.seek(0)
    if magic != GZIP_MAGIC:
        if Path(name).suffix == ".gz":
            raise ValueError(f"{name}: at byte 0: expected a gzip file (1f 8b), found {_hex(magic)}")
        return _parse(file, size, name, ndim, size)
    try:
        with gzip.GzipFile(fileobj=file, mode="rb") as unpacked:
            return _parse(unpacked, None, name, ndim, max_bytes)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        place = f"at byte {file.tell()} of {size} of the gzip stream"
        raise ValueError(f"{name}: {place}: expected an intact gzip file, found damage ({error})") from None


def read_labelled(
    images: str | os.PathLike[str], labels: str | os.PathLike[str], classes: int = 10
) -> tuple[np.ndarray, np.ndarray]:
    """Read a file of images (n, ...) and its file of labels (n,), both IDX; labels become int64.

    ValueError if the counts differ, or a label is not in 0 ... classes - 1 (naming its value and index).
    """
    return check_labelled(read_idx(images), read_idx(labels, ndim=1), str(images), str(labels), classes)


def check_labelled(
    images: np.ndarray, labels: np.ndarray, images_name: str, labels_name: str, classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return (images, labels as int64) if they fit each other, else ValueError; the names are for its text."""
    if images.ndim < 2:
        raise ValueError(
            f"{images_name}: expected images of at least 2 axes, found {images.ndim}; is it a file of labels?"
        )
    if labels.dtype.kind not in "iu":
        raise ValueError(f"{labels_name}: expected integer labels, found {labels.dtype}")
    if len(images) != len(labels):
        raise ValueError(
            f"{images_name} holds {len(images)} images and {labels_name} {len(labels)} labels; they must be as many"
        )
    wrong = np.flatnonzero((labels < 0) | (labels >= classes))
    if wrong.size:
        first = int(wrong[0])
        raise ValueError(
            f"{labels_name}: labels must be in 0 ... {classes - 1}, found {labels[first]} at index {first}"
            f" ({wrong.size} such labels)"
        )
    return images, labels.astype(np.int64)


# ---- one stream of unpacked bytes --------------------------------------------------------------------------------


def _parse(stream: Any, size: int | None, name: str, ndim: int | None, max_bytes: int) -> np.ndarray:
    """Read an IDX array from unpacked bytes, of which there are `size`, or, unknown beforehand, at most `max_bytes`."""
    dtype, shape = _read_head(stream, name, ndim)
    start = 4 + 4 * len(shape)
    count = math.prod(shape) * dtype.itemsize  # Python integers: no overflow
    what = f"{count} bytes of data (shape {shape}, {dtype.name})"
    if size is not None and size != start + count:
        raise ValueError(f"{name}: at byte {start}: expected {what}, found {size - start}")
    if count > max_bytes:
        raise ValueError(
            f"{name}: at byte 4: declares {what}, more than max_bytes={max_bytes}; raise it if that is right"
        )
    data = bytearray()
    while len(data) < count:  # grows with what is there, not with what was declared
        chunk = stream.read(min(CHUNK, count - len(data)))
        if not chunk:
            raise ValueError(f"{name}: at byte {start}: expected {what}, found {len(data)}")
        data += chunk
    if stream.read(1):  # also makes gzip check its CRC
        raise ValueError(f"{name}: at byte {start + count}: expected the end after {what}, found more")
    array = np.frombuffer(data, dtype).reshape(shape)
    return array.astype(dtype.newbyteorder("="), copy=False)


def _read_head(stream: Any, name: str, ndim: int | None) -> tuple[np.dtype, tuple[int, ...]]:
    """Return the element type and the shape that the head declares."""
    head = stream.read(4)
    if len(head) < 4:
        raise ValueError(f"{name}: at byte 0: expected a head of 4 bytes, found {len(head)}")
    if head[:2] != b"\0\0":
        raise ValueError(f"{name}: at byte 0: expected 00 00, with which IDX files begin, found {_hex(head[:2])}")
    dtype = TYPES.get(head[2])
    if dtype is None:
        known = ", ".join(f"{code:02x}" for code in TYPES)
        raise ValueError(f"{name}: at byte 2: expected a type code among {known}, found {head[2]:02x}")
    if not 1 <= head[3] <= MAX_NDIM:
        raise ValueError(f"{name}: at byte 3: expected 1 to {MAX_NDIM} axes, found {head[3]}")
    if ndim is not None and head[3] != ndim:
        kinds = {1: "labels", 3: "images"}
        hint = f"; is it a file of {kinds[head[3]]}?" if head[3] in kinds else ""
        raise ValueError(f"{name}: at byte 3: expected {ndim} axes, found {head[3]}{hint}")
    lengths = stream.read(4 * head[3])
    if len(lengths) < 4 * head[3]:
        raise ValueError(f"{name}: at byte 4: expected {4 * head[3]} bytes of axis lengths, found {len(lengths)}")
    shape = tuple(int.from_bytes(lengths[i : i + 4], "big") for i in range(0, len(lengths), 4))
    if 0 in shape:
        axis = shape.index(0)
        raise ValueError(f"{name}: at byte {4 + 4 * axis}: expected a positive length of axis {axis}, found 0")
    return dtype, shape


def _hex(data: bytes) -> str:
    return data.hex(" ") or "nothing"
