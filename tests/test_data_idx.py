"""The IDX reader: every malformed file is refused with its name, the byte, what was expected and what was found."""

from __future__ import annotations

import ast
import gzip
import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

import minidl.data
from minidl.data import read_idx, read_labelled

CODES = {"uint8": 0x08, "int8": 0x09, "int16": 0x0B, "int32": 0x0C, "float32": 0x0D, "float64": 0x0E}


def head(code, *shape):
    return bytes([0, 0, code, len(shape)]) + b"".join(n.to_bytes(4, "big") for n in shape)


def idx(array):
    """Return the file that holds an array."""
    return head(CODES[array.dtype.name], *array.shape) + array.astype(array.dtype.newbyteorder(">")).tobytes()


@pytest.fixture
def write(tmp_path):
    """Return a function that puts bytes into a file and returns its path."""

    def write(content, name="file.idx"):
        path = tmp_path / name
        path.write_bytes(content)
        return path

    return write


GOOD = idx(np.arange(24, dtype=np.uint8).reshape(4, 3, 2))


# ---- good files --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("dtype", CODES)
@pytest.mark.parametrize("shape", [(1,), (5,), (2, 3), (2, 1, 3, 2)])
def test_every_type_and_shape_comes_back_in_native_byte_order(write, dtype, shape, packed, rng):
    x = (rng.standard_normal(shape) * 100).astype(dtype)
    content = gzip.compress(idx(x)) if packed else idx(x)
    back = read_idx(write(content, "x.gz" if packed else "x"))
    assert back.dtype == x.dtype
    assert back.dtype.isnative
    assert back.flags.writeable
    assert back.flags.c_contiguous
    np.testing.assert_array_equal(back, x)


def test_a_gzip_file_is_known_by_its_content_and_not_by_its_name(write):
    np.testing.assert_array_equal(read_idx(write(gzip.compress(GOOD), "no-suffix")), read_idx(write(GOOD)))


def test_sixty_four_axes_are_read(write):
    assert read_idx(write(head(8, *[1] * 64) + b"\7")).shape == (1,) * 64


# ---- malformed files ---------------------------------------------------------------------------------------------

MALFORMED = {
    "empty": (b"", r"at byte 0: expected a head of 4 bytes, found 0"),
    "three bytes": (b"\0\0\x08", r"at byte 0: expected a head of 4 bytes, found 3"),
    "first byte": (b"\1" + GOOD[1:], r"at byte 0: expected 00 00.* found 01 00"),
    "second byte": (b"\0\1" + GOOD[2:], r"at byte 0: expected 00 00.* found 00 01"),
    "text": (b"<!DOCTYPE html>", r"at byte 0: expected 00 00.* found 3c 21"),
    "type 0x0A": (b"\0\0\x0a" + GOOD[3:], r"at byte 2: expected a type code among 08.* found 0a"),
    "type 0x00": (b"\0\0\0" + GOOD[3:], r"at byte 2: .* found 00"),
    "no axes": (head(8) + b"\1", r"at byte 3: expected 1 to 64 axes, found 0"),
    "65 axes": (head(8, *[1] * 65) + b"\1", r"at byte 3: expected 1 to 64 axes, found 65"),
    "255 axes": (b"\0\0\x08\xff" + bytes(4 * 255), r"at byte 3: expected 1 to 64 axes, found 255"),
    "half a head": (GOOD[:9], r"at byte 4: expected 12 bytes of axis lengths, found 5"),
    "payload short": (GOOD[:-1], r"at byte 16: expected 24 bytes.*, found 23"),
    "payload absent": (GOOD[:16], r"at byte 16: expected 24 bytes.*, found 0"),
    "overflow": (head(0x0E, *[0xFFFFFFFF] * 3) + b"\1", rf"at byte (4|16): .* {8 * 0xFFFFFFFF**3} bytes"),
    "zero length": (head(8, 2, 0, 2), r"at byte 8: expected a positive length of axis 1, found 0"),
}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("case", MALFORMED)
def test_a_malformed_file_is_refused_naming_file_byte_expected_and_found(write, case, packed):
    content, message = MALFORMED[case]
    path = write(gzip.compress(content) if packed else content, "bad.gz" if packed else "bad.idx")
    with pytest.raises(ValueError, match=message) as info:
        read_idx(path)
    assert str(path) in str(info.value)


@pytest.mark.parametrize("packed", [False, True])
def test_bytes_after_the_data_are_refused(write, packed):
    path = write(gzip.compress(GOOD + b"\0") if packed else GOOD + b"\0")
    with pytest.raises(ValueError, match=r"at byte (16|40): expected .*24 bytes.*, found (25|more)"):
        read_idx(path)


@pytest.mark.parametrize("cut", range(len(GOOD)))
def test_every_truncation_is_refused(write, cut):
    with pytest.raises(ValueError, match="file.idx"):
        read_idx(write(GOOD[:cut]))


def test_labels_where_images_are_wanted_are_refused(write):
    path = write(idx(np.zeros(3, np.uint8)))
    with pytest.raises(ValueError, match="at byte 3: expected 3 axes, found 1; is it a file of labels"):
        read_idx(path, ndim=3)


def test_a_folder_a_pipe_and_a_missing_file_are_errors_that_name_them(tmp_path):
    with pytest.raises(FileNotFoundError, match="absent"):
        read_idx(tmp_path / "absent")
    with pytest.raises(OSError, match=tmp_path.name):
        read_idx(tmp_path)
    with pytest.raises(ValueError, match="expected a regular file"):
        read_idx(os.devnull)


# ---- gzip --------------------------------------------------------------------------------------------------------

PACKED = gzip.compress(GOOD, mtime=0)
DAMAGED = {
    "truncated data": PACKED[: len(PACKED) // 2],
    "truncated before the CRC": PACKED[:-8],
    "truncated in the CRC": PACKED[:-3],
    "CRC": PACKED[:-8] + bytes([PACKED[-8] ^ 1]) + PACKED[-7:],
    "length": PACKED[:-1] + b"\1",
    "garbage after it": PACKED + b"junk",
    "deflate stream": PACKED[:12] + b"\xff\xff\xff\xff" + PACKED[16:],
    "head only": PACKED[:2],
    "method": PACKED[:2] + b"\7" + PACKED[3:],
}


@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_gzip_file_is_refused(write, case):
    with pytest.raises(
        ValueError, match=r"bad\.gz: at byte \d+ of \d+ of the gzip stream: expected an intact gzip file"
    ):
        read_idx(write(DAMAGED[case], "bad.gz"))


def test_a_file_called_gz_that_is_none_is_refused(write):
    with pytest.raises(ValueError, match=r"at byte 0: expected a gzip file \(1f 8b\), found 00 00"):
        read_idx(write(GOOD, "plain.gz"))


def test_no_file_is_left_open(write):
    before = os.listdir("/proc/self/fd") if Path("/proc/self/fd").exists() else None
    for content in (GOOD[:-1], PACKED[:-3], GOOD, PACKED):
        try:
            read_idx(write(content))
        except ValueError:
            continue
    assert before is None or len(os.listdir("/proc/self/fd")) == len(before)


# ---- memory is taken only for what is there ----------------------------------------------------------------------


def peak(function):
    tracemalloc.start()
    try:
        function()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("length", [1 << 30, 0xFFFFFFFF])
def test_a_declared_size_takes_no_memory(write, packed, length):
    content = head(8, length) + b"\0"
    path = write(gzip.compress(content) if packed else content)

    def read():
        with pytest.raises(ValueError, match=str(length)):
            read_idx(path)

    assert peak(read) < 4e6


def test_a_gzip_bomb_is_unpacked_no_further_than_it_declared(write):
    path = write(gzip.compress(head(8, 10) + bytes(100_000_000), 1), "bomb.gz")

    def read():
        with pytest.raises(ValueError, match="at byte 18: expected the end after 10 bytes"):
            read_idx(path)

    assert peak(read) < 4e6


def test_a_gzip_file_beyond_the_limit_is_refused_and_the_remedy_named(write):
    path = write(PACKED)
    with pytest.raises(ValueError, match="declares 24 bytes.*more than max_bytes=23; raise it"):
        read_idx(path, max_bytes=23)
    assert read_idx(path, max_bytes=24).size == 24


# ---- images with labels ------------------------------------------------------------------------------------------


def pair(write, images, labels):
    return write(idx(images), "images"), write(idx(labels), "labels")


def test_images_and_labels_are_read_together_and_labels_become_int64(write, rng):
    x, y = rng.integers(0, 256, (5, 2, 2)).astype(np.uint8), np.array([0, 9, 3, 3, 1], np.uint8)
    images, labels = read_labelled(*pair(write, x, y))
    assert (images.dtype, labels.dtype) == (np.uint8, np.int64)
    np.testing.assert_array_equal(images, x)
    np.testing.assert_array_equal(labels, y)


def test_different_counts_are_refused_with_both(write):
    with pytest.raises(ValueError, match=r"images holds 3 images and .*labels 2 labels"):
        read_labelled(*pair(write, np.zeros((3, 2, 2), np.uint8), np.zeros(2, np.uint8)))


@pytest.mark.parametrize(("labels", "found"), [([0, 10, 1], "10 at index 1"), ([0, 1, -1], "-1 at index 2")])
def test_a_label_out_of_range_is_refused_with_value_and_index(write, labels, found):
    with pytest.raises(ValueError, match=rf"labels must be in 0 ... 9, found {found}"):
        read_labelled(*pair(write, np.zeros((3, 2, 2), np.uint8), np.array(labels, np.int16)))


def test_labels_given_as_images_and_images_given_as_labels_are_refused(write):
    images, labels = pair(write, np.zeros((3, 2, 2), np.uint8), np.zeros(3, np.uint8))
    with pytest.raises(ValueError, match="expected images of at least 2 axes, found 1; is it a file of labels"):
        read_labelled(labels, labels)
    with pytest.raises(ValueError, match="expected 1 axes, found 3; is it a file of images"):
        read_labelled(images, images)


def test_labels_that_are_no_integers_are_refused(write):
    with pytest.raises(ValueError, match="expected integer labels, found float32"):
        read_labelled(*pair(write, np.zeros((3, 2, 2), np.uint8), np.zeros(3, np.float32)))


def test_no_check_is_an_assert_so_that_python_O_keeps_them_all():
    package = Path(minidl.data.__file__).parent
    for path in (*package.glob("*.py"), package.parent / "io.py"):
        nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        assert not any(isinstance(node, ast.Assert) for node in nodes), path
