"""Fetch a file of known size and SHA-256 from the first mirror that delivers it.

What arrives is written to a temporary file beside the target and moved into place only once its hash is right, so the
target is absent, the old file, or the right one, whatever happens on the way and however many processes fetch at once.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Generator, Sequence
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

CHUNK = 1 << 16
STALE = 24 * 3600.0  # seconds after which the temporary file of a killed process is removed


class DownloadError(RuntimeError):
    """No mirror delivered the file, or it could not be written. The text lists every reason and the way by hand."""


class _MirrorError(Exception):
    """Why one mirror failed: the next one may do better."""


def fetch(
    urls: Sequence[str],
    target: Path,
    *,
    size: int,
    sha256: str,
    timeout: float = 20.0,
    patience: float = 1800.0,
    progress: bool | None = None,
) -> None:
    """Download a file to `target` from the first of `urls` that delivers `size` bytes with the hash `sha256`.

    Parameters: `timeout`, seconds a mirror may send nothing; `patience`, seconds it may take in all; `progress`,
    whether to show a bar on stderr (None: if that is a terminal). DownloadError if every mirror fails or the disk does.
    """
    reasons = []
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale(target)
        for url in urls:
            part = target.with_name(f"{target.name}.{os.getpid()}-{secrets.token_hex(4)}.part")
            try:
                _download(url, part, size, sha256, timeout, patience, progress)
                os.replace(part, target)
                return
            except _MirrorError as error:
                reasons.append(f"\n  {url}: {error}")
            finally:
                part.unlink(missing_ok=True)
    except OSError as error:
        raise DownloadError(f"{target} cannot be written ({error}); {by_hand(target, size, sha256)}") from error
    tried = "".join(reasons) or "\n  (no mirror given)"
    raise DownloadError(f"{target.name} could not be downloaded:{tried}\n{by_hand(target, size, sha256)}")


def by_hand(target: Path, size: int, sha256: str) -> str:
    """Return the sentence that says where a file must be put by hand."""
    return (
        f"to do without the network, get {target.name} ({size} bytes, SHA-256 {sha256}) elsewhere and put it into"
        f" {target.parent}, or into the folder {target.parent.name} of a folder that MINIDL_DATA names"
    )


def _download(
    url: str, part: Path, size: int, sha256: str, timeout: float, patience: float, progress: bool | None
) -> None:
    """Write what the url delivers to `part`; _MirrorError unless it is the right file."""
    digest = hashlib.sha256()
    received = 0
    # Created by hand and not by tempfile: that would make it readable by this user alone, and caches are shared.
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
    with (
        os.fdopen(descriptor, "wb") as file,
        _bar(part.name.partition(".gz")[0], size, progress) as bar,
        contextlib.closing(_chunks(url, size, timeout, patience)) as chunks,
    ):
        for chunk in chunks:
            received += len(chunk)
            if received > size:
                raise _MirrorError(f"sends more than the expected {size} bytes")
            digest.update(chunk)
            file.write(chunk)
            bar.update(len(chunk))
        if received < size:
            raise _MirrorError(f"sent {received} bytes instead of {size}")
        if digest.hexdigest() != sha256:
            raise _MirrorError(f"sent a file with SHA-256 {digest.hexdigest()} instead of {sha256}")
        file.flush()
        os.fsync(file.fileno())


def _chunks(url: str, size: int, timeout: float, patience: float) -> Generator[bytes, None, None]:
    """Yield the body of a response piece by piece; every failure of the network becomes a _MirrorError."""
    deadline = time.monotonic() + patience
    try:
        if urlsplit(url).scheme not in ("http", "https"):
            raise _MirrorError("is neither an http nor an https address")
        request = urllib.request.Request(url, headers={"User-Agent": "minidl", "Accept-Encoding": "identity"})
        with urllib.request.build_opener(_Redirects()).open(request, timeout=timeout) as response:
            offered = response.headers.get("Content-Length", "")
            if offered.isdecimal() and int(offered) != size:
                raise _MirrorError(f"offers {offered} bytes instead of {size}")
            while chunk := response.read1(CHUNK):  # read1, not read: one wait, so that `timeout` bounds it
                yield chunk
                if time.monotonic() > deadline:
                    raise _MirrorError(f"took more than {patience:g} s")
    except urllib.error.HTTPError as error:
        error.close()
        raise _MirrorError(f"answered {error.code} {error.reason}") from None
    except urllib.error.URLError as error:
        raise _MirrorError(f"cannot be reached ({error.reason})") from None
    except TimeoutError:
        raise _MirrorError(f"sent nothing for {timeout:g} s") from None
    except (OSError, HTTPException, ValueError) as error:
        raise _MirrorError(f"broke off ({type(error).__name__}: {error})") from None


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follow at most five redirects, none of them from https to anything else."""

    max_redirections = 5

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        scheme = urlsplit(newurl).scheme
        if scheme not in ("http", "https") or (req.type == "https" and scheme != "https"):
            fp.close()
            raise urllib.error.URLError(f"it redirects from {req.type} to {newurl}, which is not followed")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


class _NoBar:
    """Stands for a progress bar where none is wanted."""

    def __enter__(self) -> _NoBar:
        return self

    def __exit__(self, *exc: object) -> None: ...

    def update(self, n: int) -> None: ...


def _bar(name: str, size: int, progress: bool | None) -> Any:
    """Return a progress bar on stderr, or its stand-in where stderr is no terminal."""
    if progress is None:
        progress = sys.stderr is not None and sys.stderr.isatty()
    if not progress:
        return _NoBar()
    from tqdm import tqdm

    return tqdm(total=size, desc=name, unit="B", unit_scale=True, file=sys.stderr)


def _remove_stale(target: Path) -> None:
    """Remove what killed processes left behind long ago; younger files may belong to one that is still running."""
    for part in target.parent.glob(f"{target.name}.*.part"):
        try:
            if time.time() - part.stat().st_mtime > STALE:
                part.unlink()
        except OSError:  # another process was faster
            continue
