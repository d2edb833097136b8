"""The data sets: digits (in the package), MNIST and Fashion-MNIST (found on disk, else downloaded).

Each returns `(images uint8 (n, h, w), labels int64 (n,))` as the published files have them. Whatever lies on disk is
checked against size and SHA-256 each time it is read, so a damaged file is never trained on.
"""

from __future__ import annotations

import hashlib
import importlib.resources
import io
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .._cache import cache_folder
from .idx import check_labelled, parse_idx


class File(NamedTuple):
    """A published file: its name, and size and SHA-256 as published (.gz) and unpacked."""

    name: str
    size: int
    sha256: str
    raw_size: int
    raw_sha256: str


FILES: dict[tuple[str, bool], tuple[File, File]] = {  # (data set, train) -> images, labels
    ("mnist", True): (
        File(
            "train-images-idx3-ubyte",
            9912422,
            "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
            47040016,
            "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        ),
        File(
            "train-labels-idx1-ubyte",
            28881,
            "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
            60008,
            "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        ),
    ),
    ("mnist", False): (
        File(
            "t10k-images-idx3-ubyte",
            1648877,
            "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
            7840016,
            "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        ),
        File(
            "t10k-labels-idx1-ubyte",
            4542,
            "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
            10008,
            "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        ),
    ),
    ("fashion_mnist", True): (
        File(
            "train-images-idx3-ubyte",
            26421880,
            "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
            47040016,
            "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        ),
        File(
            "train-labels-idx1-ubyte",
            29515,
            "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
            60008,
            "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        ),
    ),
    ("fashion_mnist", False): (
        File(
            "t10k-images-idx3-ubyte",
            4422102,
            "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
            7840016,
            "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        ),
        File(
            "t10k-labels-idx1-ubyte",
            5148,
            "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
            10008,
            "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        ),
    ),
}

MIRRORS: dict[str, tuple[str, ...]] = {  # tried in this order; what they deliver is checked, so plain http does no harm
    "mnist": (
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
    ),
    "fashion_mnist": (
        "https://storage.googleapis.com/tensorflow/tf-keras-datasets/",
        "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/",
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    ),
}


# ---- the data sets -----------------------------------------------------------------------------------------------


def digits() -> tuple[np.ndarray, np.ndarray]:
    """Return the 1,797 handwritten digits that ship with the package: images uint8 (1797, 8, 8), labels int64 (1797,).

    Pixels count the ink in a 4 x 4 block, 0 to 16, so `DataLoader` needs `transform=ToFloat(16)` to bring them to
    [0, 1]: its default divides by 255. There is no official split; see `random_split`.
    Source: E. Alpaydin, C. Kaynak, UCI Machine Learning Repository (1998), doi:10.24432/C50P49, CC BY 4.0.

    >>> images, labels = digits()
    >>> images.shape, images.dtype, int(images.max()), labels[:5]
    ((1797, 8, 8), dtype('uint8'), 16, array([0, 1, 2, 3, 4]))
    """
    import gzip

    packed = importlib.resources.files(__package__).joinpath("digits.csv.gz").read_bytes()
    table = np.loadtxt(io.BytesIO(gzip.decompress(packed)), delimiter=",", dtype=np.uint8)
    return np.ascontiguousarray(table[:, :64]).reshape(-1, 8, 8), table[:, 64].astype(np.int64)


def mnist(
    train: bool = True,
    root: str | os.PathLike[str] | None = None,
    *,
    download: bool = True,
    mirrors: Sequence[str] | None = None,
    timeout: float = 20.0,
) -> tuple[np.ndarray, np.ndarray]:
    """Return MNIST: images uint8 (60000, 28, 28) and labels int64 (60000,), or 10,000 of each for `train=False`.

    Looks in `root`, then in the folder that MINIDL_DATA names, then in the cache folder (`cache_folder()`); in each for
    the four published files, .gz or unpacked, in a subfolder `mnist` or directly. Else downloads them into the cache.
    Parameters: `download=False` never touches the network; `mirrors`, base addresses to try instead of `MIRRORS`;
    `timeout`, seconds a mirror may be silent. ValueError names a damaged file in `root` or MINIDL_DATA (one in the
    cache is fetched again); DownloadError lists every mirror with its reason and where to put the files by hand.
    Source: Y. LeCun, C. Cortes, C. Burges (1998), CC BY-SA 3.0.
    """
    return _load("mnist", train, root, download, mirrors, timeout)


def fashion_mnist(
    train: bool = True,
    root: str | os.PathLike[str] | None = None,
    *,
    download: bool = True,
    mirrors: Sequence[str] | None = None,
    timeout: float = 20.0,
) -> tuple[np.ndarray, np.ndarray]:
    """Return Fashion-MNIST, shaped and found as `mnist` (subfolder `fashion_mnist`).

    Classes: T-shirt, trouser, pullover, dress, coat, sandal, shirt, sneaker, bag, ankle boot.
    Source: H. Xiao, K. Rasul, R. Vollgraf (2017), arXiv:1708.07747, MIT licence, (c) Zalando SE.
    """
    return _load("fashion_mnist", train, root, download, mirrors, timeout)


def available() -> dict[str, Path | None]:
    """Return where each data set lies, or None if using it would need a download. Looks at names and sizes only.

    >>> available()["digits"].name
    'digits.csv.gz'
    """
    here = Path(str(importlib.resources.files(__package__)))
    found: dict[str, Path | None] = {"digits": here / "digits.csv.gz"}
    for name in MIRRORS:
        try:
            found[name] = _place(name)
        except (RuntimeError, ValueError):  # no home, or MINIDL_DATA names no folder: nothing can be found there
            found[name] = None
    return found


def _place(name: str) -> Path | None:
    """Return the folder in which the files of a data set seem to lie, None if one is missing."""
    first = None
    for file in (file for (owner, _), pair in FILES.items() if owner == name for file in pair):
        candidates = (c for _, folder in _folders(None) for c in _candidates(folder, name, file))
        path = next((path for path, size, _ in candidates if _size(path) == size), None)
        if path is None:
            return None
        first = first or path.parent
    return first


# ---- finding and checking files ----------------------------------------------------------------------------------


def _load(
    name: str,
    train: bool,
    root: str | os.PathLike[str] | None,
    download: bool,
    mirrors: Sequence[str] | None,
    timeout: float,
) -> tuple[np.ndarray, np.ndarray]:
    arrays, places = [], []
    for file in FILES[name, bool(train)]:
        found = _find(name, file, root)
        if found is None:
            _fetch(name, file, download, MIRRORS[name] if mirrors is None else mirrors, timeout)
            found = _find(name, file, None)
        if found is None:
            raise RuntimeError(
                f"{name}: {file.name} was downloaded and changed at once; is another program writing it?"
            )
        content, place = found
        arrays.append(parse_idx(io.BytesIO(content), len(content), str(place)))
        places.append(str(place))
    return check_labelled(arrays[0], arrays[1], places[0], places[1], classes=10)


def _find(name: str, file: File, root: str | os.PathLike[str] | None) -> tuple[bytes, Path] | None:
    """Return content and path of the first intact copy of a file; None if it must be fetched.

    A damaged copy raises ValueError, unless it lies in the cache: that one is ours to replace.
    """
    for owner, folder in _folders(root):
        for path, size, sha256 in _candidates(folder, name, file):
            if not path.is_file():
                continue
            content = _read(path, size)
            digest = hashlib.sha256(content).hexdigest()
            if digest == sha256:
                return content, path
            if owner == "cache" or (path.parent == folder and _belongs_to_another(name, file, digest)):
                continue
            hash_found = f" with {digest}" if content else ""
            raise ValueError(
                f"{name}: {path} ({owner}) is damaged: expected {size} bytes with SHA-256 {sha256},"
                f" found {path.stat().st_size} bytes{hash_found}; replace or remove it"
            )
    return None


def _folders(root: str | os.PathLike[str] | None) -> Iterator[tuple[str, Path]]:
    """Yield the folders to look in, each with what named it."""
    for owner, given in (("root", root), ("MINIDL_DATA", os.environ.get("MINIDL_DATA"))):
        if given is None or given == "":
            continue
        folder = Path(given).expanduser()
        if not folder.is_dir():
            raise ValueError(f"{owner}: must name a folder that exists, got {os.fspath(given)!r}")
        yield owner, folder
    yield "cache", cache_folder()


def _candidates(folder: Path, name: str, file: File) -> Iterator[tuple[Path, int, str]]:
    """Yield the paths a file may have in a folder, with the size and SHA-256 it must have there."""
    for place in (folder / name, folder):
        yield place / f"{file.name}.gz", file.size, file.sha256
        yield place / file.name, file.raw_size, file.raw_sha256


def _read(path: Path, size: int) -> bytes:
    """Return the content of a file, or nothing (so that its hash is wrong) if its size is wrong."""
    if path.stat().st_size != size:
        return b""
    with open(path, "rb") as file:
        return file.read(size + 1)


def _belongs_to_another(name: str, file: File, digest: str) -> bool:
    """Tell whether a file outside the subfolders is intact but of another data set: they share their file names."""
    others = (other for (owner, _), pair in FILES.items() if owner != name for other in pair if other.name == file.name)
    return any(digest in (other.sha256, other.raw_sha256) for other in others)


def _size(path: Path) -> int:
    """Return the size of a file, -1 if there is none."""
    try:
        return path.stat().st_size if path.is_file() else -1
    except OSError:
        return -1


def _fetch(name: str, file: File, download: bool, mirrors: Sequence[str], timeout: float) -> None:
    """Download a file into the cache."""
    from .download import DownloadError, by_hand, fetch  # urllib.request takes 25 ms to import

    target = cache_folder() / name / f"{file.name}.gz"
    if not download:
        raise DownloadError(f"{name}: {file.name} was not found; {by_hand(target, file.size, file.sha256)}")
    urls = [f"{mirror.rstrip('/')}/{target.name}" for mirror in mirrors]
    fetch(urls, target, size=file.size, sha256=file.sha256, timeout=timeout)
