"""The data sets: where they are looked for, that damaged files are never used, and what is in the published ones."""

from __future__ import annotations

import gzip
import hashlib
import http.server
import os
import threading
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from minidl import _cache
from minidl.data import available, cache_folder, datasets, digits, fashion_mnist, mnist
from minidl.data.download import DownloadError

# ---- the published files -----------------------------------------------------------------------------------------

MNIST_COUNTS = {
    True: [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949],
    False: [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009],
}


def test_digits_are_the_published_ones():
    images, labels = digits()
    assert (images.shape, images.dtype, labels.shape, labels.dtype) == ((1797, 8, 8), np.uint8, (1797,), np.int64)
    assert np.bincount(labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert (images.min(), images.max()) == (0, 16)
    assert images[0, 0].tolist() == [0, 0, 5, 13, 9, 1, 0, 0]
    assert images.flags.writeable
    assert images.flags.c_contiguous


def test_digits_come_with_their_attribution():
    text = (Path(datasets.__file__).parent / "digits.csv.gz.LICENSE.txt").read_text(encoding="utf-8")
    packed = (Path(datasets.__file__).parent / "digits.csv.gz").read_bytes()
    for expected in ("Alpaydin", "Kaynak", "CC BY 4.0", "BSD 3-Clause", hashlib.sha256(packed).hexdigest()):
        assert expected in text


@pytest.mark.parametrize("train", [True, False])
def test_mnist_is_the_published_one(data, train):
    images, labels = mnist(train)
    n = 60000 if train else 10000
    assert (images.shape, images.dtype, labels.shape, labels.dtype) == ((n, 28, 28), np.uint8, (n,), np.int64)
    assert np.bincount(labels).tolist() == MNIST_COUNTS[train]
    assert labels[:5].tolist() == ([5, 0, 4, 1, 9] if train else [7, 2, 1, 0, 4])
    if train:
        assert (images / 255).mean() == pytest.approx(0.1307, abs=5e-5)
        assert (images / 255).std() == pytest.approx(0.3081, abs=5e-5)


@pytest.mark.parametrize("train", [True, False])
def test_fashion_mnist_is_the_published_one(data, train):
    if not (data / "fashion_mnist").is_dir():
        pytest.skip(f"MINIDL_DATA={data} has no fashion_mnist")
    images, labels = fashion_mnist(train)
    n = 60000 if train else 10000
    assert (images.shape, images.dtype, labels.shape, labels.dtype) == ((n, 28, 28), np.uint8, (n,), np.int64)
    assert np.bincount(labels).tolist() == [n // 10] * 10


def test_available_reports_what_is_there(data):
    found = available()
    assert found["digits"].is_file()
    assert found["mnist"] == data / "mnist"


# ---- a small stand-in for the published files --------------------------------------------------------------------


def idx(array):
    head = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    return head + array.astype(np.uint8).tobytes()


def sha256(content):
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def small(monkeypatch, tmp_path):
    """Replace the published files by small ones, and the cache by an empty folder. Returns their content by name."""
    contents, table = {}, {}
    for k, name in enumerate(("mnist", "fashion_mnist")):
        for train in (True, False):
            n = 4 if train else 3
            pair = []
            for end, array in (
                ("images-idx3-ubyte", np.full((n, 2, 2), 100 * k + n)),
                ("labels-idx1-ubyte", np.arange(n) + k),
            ):
                file = f"{'train' if train else 't10k'}-{end}"
                raw = idx(array)
                packed = gzip.compress(raw, mtime=0)
                contents[name, file], contents[name, file + ".gz"] = raw, packed
                pair.append(datasets.File(file, len(packed), sha256(packed), len(raw), sha256(raw)))
            table[name, train] = tuple(pair)
    monkeypatch.setattr(datasets, "FILES", table)
    monkeypatch.setattr(datasets, "MIRRORS", {"mnist": (), "fashion_mnist": ()})
    monkeypatch.delenv("MINIDL_DATA", raising=False)
    for name in ("HOME", "XDG_CACHE_HOME", "LOCALAPPDATA", "USERPROFILE"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    return contents


def put(folder, contents, name, subfolder=None, packed=True):
    """Write the files of a data set into a folder."""
    folder = folder / name if subfolder is None else folder / subfolder
    folder.mkdir(parents=True, exist_ok=True)
    for (owner, file), content in contents.items():
        if owner == name and file.endswith(".gz") == packed:
            (folder / file).write_bytes(content)
    return folder


@pytest.fixture
def mirror(small, tmp_path, monkeypatch):
    """Serve the small files on this machine. Returns addresses, .mnist and .damaged, and .paths, what was asked for."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    put(tmp_path / "served", small, "mnist")
    damaged = put(tmp_path / "served", small, "mnist", subfolder="damaged")
    for path in damaged.iterdir():
        path.write_bytes(path.read_bytes()[:-1] + b"x")
    paths = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            paths.append(self.path)

    handler = partial(Handler, directory=str(tmp_path / "served"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.mnist = f"http://127.0.0.1:{server.server_port}/mnist/"
        server.damaged = f"http://127.0.0.1:{server.server_port}/damaged"
        server.paths = paths
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def load(name="mnist", train=True, **options):
    function = {"mnist": mnist, "fashion_mnist": fashion_mnist}[name]
    return function(train, **{"download": False} | options)


# ---- where they are looked for -----------------------------------------------------------------------------------


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("subfolder", [None, "."])
@pytest.mark.parametrize("place", ["root", "MINIDL_DATA", "cache"])
def test_files_are_found_packed_or_not_in_a_subfolder_or_not(small, tmp_path, monkeypatch, place, subfolder, packed):
    folder = cache_folder() if place == "cache" else tmp_path / "data"
    put(folder, small, "mnist", subfolder, packed)
    if place == "MINIDL_DATA":
        monkeypatch.setenv("MINIDL_DATA", str(folder))
    for train, n in ((True, 4), (False, 3)):
        images, labels = load(train=train, root=folder if place == "root" else None)
        assert images.shape == (n, 2, 2)
        assert images.dtype == np.uint8
        assert labels.tolist() == list(range(n))
        assert labels.dtype == np.int64


def test_root_comes_before_minidl_data_and_that_before_the_cache(small, tmp_path, monkeypatch):
    """A damaged file tells which one was read: the error names it."""
    for name in ("root", "env"):
        folder = put(tmp_path / name, small, "mnist")
        (folder / "train-images-idx3-ubyte.gz").write_bytes(b"damaged")
    put(cache_folder(), small, "mnist")
    assert load()[0].shape == (4, 2, 2)
    monkeypatch.setenv("MINIDL_DATA", str(tmp_path / "env"))
    with pytest.raises(ValueError, match=r"env.*\(MINIDL_DATA\) is damaged"):
        load()
    with pytest.raises(ValueError, match=r"root.*\(root\) is damaged"):
        load(root=tmp_path / "root")


def test_a_place_that_has_not_all_files_is_filled_up_from_the_next(small, tmp_path):
    folder = put(tmp_path / "root", small, "mnist")
    (folder / "train-labels-idx1-ubyte.gz").unlink()
    put(cache_folder(), small, "mnist")
    assert load(root=str(tmp_path / "root"))[1].tolist() == [0, 1, 2, 3]


def test_files_of_the_other_data_set_outside_its_subfolder_are_not_taken_for_this_one(small, tmp_path, monkeypatch):
    monkeypatch.setenv("MINIDL_DATA", str(tmp_path / "fashion"))
    put(tmp_path / "fashion", small, "fashion_mnist", subfolder=".")
    put(cache_folder(), small, "mnist")
    assert load("mnist")[1].tolist() == [0, 1, 2, 3]
    assert load("fashion_mnist")[1].tolist() == [1, 2, 3, 4]


def test_a_folder_that_does_not_exist_is_an_error_that_names_it(small, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="root: must name a folder that exists, got .*absent"):
        load(root=tmp_path / "absent")
    monkeypatch.setenv("MINIDL_DATA", str(tmp_path / "gone"))
    with pytest.raises(ValueError, match="MINIDL_DATA: must name a folder that exists, got .*gone"):
        load()
    assert available()["mnist"] is None


def test_an_empty_minidl_data_counts_as_not_set(small, monkeypatch):
    monkeypatch.setenv("MINIDL_DATA", "")
    put(cache_folder(), small, "mnist")
    assert load()[0].shape == (4, 2, 2)


def test_available_wants_all_four_files(small):
    assert available()["mnist"] is None
    folder = put(cache_folder(), small, "mnist")
    assert available()["mnist"] == folder
    assert available()["fashion_mnist"] is None
    (folder / "t10k-labels-idx1-ubyte.gz").unlink()
    assert available()["mnist"] is None


# ---- damaged files -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", [lambda x: x[:-1], lambda x: x + b"\0", lambda x: b"", lambda x: x[:-1] + b"\7"])
@pytest.mark.parametrize("packed", [True, False])
def test_a_damaged_file_of_the_user_is_named_and_kept(small, tmp_path, damage, packed):
    folder = put(tmp_path / "root", small, "mnist", packed=packed)
    path = folder / ("train-labels-idx1-ubyte" + (".gz" if packed else ""))
    path.write_bytes(damage(path.read_bytes()))
    kept = path.read_bytes()
    with pytest.raises(ValueError, match=r"expected \d+ bytes with SHA-256 [0-9a-f]{64}, found \d+ bytes") as info:
        load(root=tmp_path / "root", download=True)
    assert str(path) in str(info.value)
    assert path.read_bytes() == kept


def test_a_damaged_file_in_the_cache_is_fetched_again(small, mirror):
    folder = put(cache_folder(), small, "mnist")
    path = folder / "train-images-idx3-ubyte.gz"
    good = path.read_bytes()
    for damaged in (good[:-1], good[:-1] + b"\7", b""):
        path.write_bytes(damaged)
        assert load(download=True, mirrors=[mirror.mnist])[0].shape == (4, 2, 2)
        assert path.read_bytes() == good
    assert len(mirror.paths) == 3  # the labels were intact


def test_a_damaged_unpacked_file_in_the_cache_is_passed_over(small, mirror):
    folder = put(cache_folder(), small, "mnist", packed=False)
    (folder / "train-images-idx3-ubyte").write_bytes(b"damaged")
    for _ in range(2):
        assert load(download=True, mirrors=[mirror.mnist])[0].shape == (4, 2, 2)
    assert len(mirror.paths) == 1


# ---- downloads ---------------------------------------------------------------------------------------------------


def test_missing_files_are_downloaded_into_the_cache_once(small, mirror):
    for _ in range(2):
        images, labels = load(download=True, mirrors=[mirror.mnist])
        assert images.shape == (4, 2, 2)
        assert labels.tolist() == [0, 1, 2, 3]
    assert mirror.paths == ["/mnist/train-images-idx3-ubyte.gz", "/mnist/train-labels-idx1-ubyte.gz"]
    assert sorted(p.name for p in (cache_folder() / "mnist").iterdir()) == [Path(p).name for p in mirror.paths]


def test_a_mirror_with_wrong_files_is_passed_over(small, mirror):
    assert load(download=True, mirrors=[mirror.damaged, mirror.mnist])[0].shape == (4, 2, 2)


def test_a_failed_download_lists_the_mirrors_and_says_where_to_put_the_files(small, mirror):
    with pytest.raises(DownloadError) as info:
        load(download=True, mirrors=[mirror.damaged, mirror.mnist + "nowhere"])
    text = str(info.value)
    for expected in (
        "instead of",
        "answered 404",
        str(cache_folder() / "mnist"),
        "train-images-idx3-ubyte.gz",
        "MINIDL",
    ):
        assert expected in text


def test_without_download_the_network_is_not_touched(small, mirror):
    with pytest.raises(DownloadError, match=r"train-images-idx3-ubyte was not found; .*put it into .*mnist"):
        load(mirrors=[mirror.mnist])
    assert mirror.paths == []
    assert not cache_folder().exists()


# ---- the cache folder --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("platform", "system", "variables", "folder"),
    [
        ("linux", "posix", {"HOME": "/h"}, "/h/.cache/minidl"),
        ("linux", "posix", {"HOME": "/h", "XDG_CACHE_HOME": "/x"}, "/x/minidl"),
        ("linux", "posix", {"HOME": "/h", "XDG_CACHE_HOME": "relative"}, "/h/.cache/minidl"),
        ("linux", "posix", {"HOME": "/h", "XDG_CACHE_HOME": ""}, "/h/.cache/minidl"),
        ("darwin", "posix", {"HOME": "/h", "XDG_CACHE_HOME": "/x"}, "/h/Library/Caches/minidl"),
    ],
)
def test_the_cache_lies_where_the_system_wants_it(monkeypatch, platform, system, variables, folder):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(_cache.sys, "platform", platform)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert cache_folder() == Path(folder)


def test_without_home_the_user_database_is_asked(monkeypatch):
    pwd = pytest.importorskip("pwd", reason="Windows has no user database of this kind")
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(_cache.sys, "platform", "linux")
    assert cache_folder() == Path(pwd.getpwuid(os.getuid()).pw_dir, ".cache", "minidl")


def test_an_unknown_home_is_an_error_only_where_the_cache_is_needed(small, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(_cache.sys, "platform", "linux")
    with pytest.raises(RuntimeError, match="home folder is unknown; set HOME, or MINIDL_DATA"):
        load()
    assert available()["mnist"] is None
    put(tmp_path / "root", small, "mnist")
    assert load(root=tmp_path / "root")[0].shape == (4, 2, 2)
