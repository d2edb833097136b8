"""Downloads, against a server on this machine: what fails leads to the next mirror, and nothing unfinished stays."""

from __future__ import annotations

import errno
import hashlib
import http.server
import io
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from email.message import Message
from pathlib import Path

import pytest

from minidl.data import download
from minidl.data.download import DownloadError, fetch

CONTENT = bytes(range(256)) * 2000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    """A mirror whose behaviour is the first part of the path."""

    def do_GET(self):
        self.server.paths.append(self.path)
        getattr(self, self.path.split("/")[1])()

    def send(self, content, length=None, status=200, **headers):
        self.send_response(status)
        if length is not False:
            self.send_header("Content-Length", str(len(content) if length is None else length))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def good(self):
        self.send(CONTENT)

    def unsized(self):
        self.send(CONTENT, length=False)

    def missing(self):
        self.send_error(404)

    def broken(self):
        self.send_error(500)

    def short(self):  # announces all and sends half
        self.send(CONTENT[: len(CONTENT) // 2], length=len(CONTENT))

    def short_unsized(self):
        self.send(CONTENT[:-1], length=False)

    def wrong(self):
        self.send(CONTENT[:-1] + b"x")

    def other_size(self):
        self.send(b"<html>not here</html>")

    def endless(self):
        try:
            self.send(CONTENT, length=False)
            while not self.server.over.is_set():
                self.wfile.write(CONTENT)
        except OSError:  # the client has had enough
            pass

    def silent(self):  # sends a piece and then nothing
        self.send(CONTENT[:1000], length=len(CONTENT))
        self.wfile.flush()
        self.server.over.wait(30)

    def mute(self):  # not even an answer
        self.server.over.wait(30)

    def trickle(self):
        self.send(b"", length=len(CONTENT))
        try:
            for byte in CONTENT:
                if self.server.over.wait(0.01):
                    break
                self.wfile.write(bytes([byte]))
        except OSError:
            pass

    def away(self):  # a redirect to a good place
        self.send(b"", status=302, Location="/good/file")

    def nowhere(self):
        self.send(b"", status=302, Location=f"http://127.0.0.1:{closed_port()}/file")

    def loop(self):
        self.send(b"", status=302, Location="/loop/again")

    def local(self):
        self.send(b"", status=302, Location="file:///etc/hostname")

    def garbage(self):
        self.wfile.write(b"this is not http\r\n\r\n")

    def log_message(self, *args):
        """Keep quiet."""


def closed_port():
    """Return a port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def server(monkeypatch):
    """A server on this machine; `.at("good")` is the address of a file on it, `.paths` what was asked for."""
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.paths, server.over = [], threading.Event()
    server.at = lambda kind: f"http://127.0.0.1:{server.server_port}/{kind}/file"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.over.set()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def target(tmp_path):
    """Where the file is to go: a folder that does not exist yet."""
    return tmp_path / "cache" / "set" / "file.gz"


def get(urls, target, **options):
    fetch(urls, target, **{"size": len(CONTENT), "sha256": SHA256, "timeout": 5.0} | options)


def names(folder):
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


# ---- success -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["good", "unsized", "away"])
def test_a_file_arrives_complete_and_alone(server, target, kind):
    get([server.at(kind)], target)
    assert target.read_bytes() == CONTENT
    assert names(target.parent) == ["file.gz"]


def test_the_first_mirror_that_delivers_is_the_last_one_asked(server, target):
    get([server.at("missing"), server.at("good"), server.at("good")], target)
    assert server.paths == ["/missing/file", "/good/file"]


def test_an_existing_file_is_replaced_only_by_the_right_one(server, target):
    target.parent.mkdir(parents=True)
    target.write_bytes(b"old")
    with pytest.raises(DownloadError):
        get([server.at("wrong")], target)
    assert target.read_bytes() == b"old"
    get([server.at("good")], target)
    assert target.read_bytes() == CONTENT


def test_a_new_file_is_as_readable_as_the_umask_allows(server, target):
    before = os.umask(0o022)
    try:
        get([server.at("good")], target)
    finally:
        os.umask(before)
    assert os.name == "nt" or target.stat().st_mode & 0o777 == 0o644


# ---- failure of a mirror -----------------------------------------------------------------------------------------

FAILURES = {
    "missing": "answered 404 Not Found",
    "broken": "answered 500 Internal Server Error",
    "short": f"sent {len(CONTENT) // 2} bytes instead of {len(CONTENT)}",
    "short_unsized": f"sent {len(CONTENT) - 1} bytes instead of {len(CONTENT)}",
    "wrong": f"instead of {SHA256}",
    "other_size": f"offers 21 bytes instead of {len(CONTENT)}",
    "endless": f"sends more than the expected {len(CONTENT)} bytes",
    "nowhere": "cannot be reached",
    "loop": "answered 302 .*redirect",
    "local": r"redirects from http to file:///etc/hostname|answered 302 .*not allowed",
    "garbage": "broke off .BadStatusLine",
}


@pytest.mark.parametrize("kind", FAILURES)
def test_a_failing_mirror_is_named_with_its_reason_and_leaves_nothing(server, target, kind):
    with pytest.raises(DownloadError, match=rf"{server.at(kind)}: .*{FAILURES[kind]}"):
        get([server.at(kind)], target)
    assert names(target.parent) == []


@pytest.mark.parametrize("kind", FAILURES)
def test_after_a_failing_mirror_the_next_is_tried(server, target, kind):
    get([server.at(kind), server.at("good")], target)
    assert target.read_bytes() == CONTENT
    assert names(target.parent) == ["file.gz"]


@pytest.mark.parametrize(
    ("kind", "reason"), [("silent", "sent nothing for 0.2 s"), ("mute", "(sent nothing|timed out)")]
)
def test_a_mirror_that_says_nothing_is_given_up(server, target, kind, reason):
    with pytest.raises(DownloadError, match=reason):
        get([server.at(kind)], target, timeout=0.2)
    assert names(target.parent) == []


def test_a_mirror_that_sends_byte_by_byte_is_given_up(server, target):
    with pytest.raises(DownloadError, match="took more than 0.3 s"):
        get([server.at("trickle")], target, timeout=5.0, patience=0.3)


def test_one_error_lists_every_mirror_and_the_way_by_hand(server, target):
    offline = f"http://127.0.0.1:{closed_port()}/file"
    with pytest.raises(DownloadError) as info:
        get([server.at("missing"), offline, server.at("wrong"), "ftp://example.org/x", "file:///etc/passwd"], target)
    text = str(info.value)
    for expected in ("answered 404", "cannot be reached", "instead of " + SHA256, SHA256, str(len(CONTENT))):
        assert expected in text
    assert text.count("is neither an http nor an https address") == 2
    assert str(target.parent) in text
    assert "MINIDL_DATA" in text


def test_without_a_mirror_the_error_says_so(target):
    with pytest.raises(DownloadError, match="no mirror given"):
        get([], target)


def test_https_is_never_left_for_http():
    request = urllib.request.Request("https://example.org/file")
    follow = download._Redirects().redirect_request
    with pytest.raises(urllib.error.URLError, match="redirects from https to http://example.org/file"):
        follow(request, io.BytesIO(), 302, "Found", Message(), "http://example.org/file")
    assert follow(request, io.BytesIO(), 302, "Found", Message(), "https://other.org/file").full_url


def test_a_failed_download_closes_its_connections_and_files(server, target):
    for kind in FAILURES:
        with pytest.raises(DownloadError):
            get([server.at(kind)], target)
    if Path("/proc/self/fd").exists():
        before = len(os.listdir("/proc/self/fd"))
        with pytest.raises(DownloadError):
            get([server.at(kind) for kind in FAILURES], target)
        # The server in this process has sockets of its own that close when its threads get to it.
        deadline = time.monotonic() + 5
        while len(os.listdir("/proc/self/fd")) > before and time.monotonic() < deadline:
            time.sleep(0.01)
        assert len(os.listdir("/proc/self/fd")) <= before


# ---- failure on this side ----------------------------------------------------------------------------------------


def test_a_folder_that_cannot_be_made_is_named(server, tmp_path):
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(DownloadError, match=r"file.gz cannot be written.*MINIDL_DATA"):
        get([server.at("good")], tmp_path / "cache" / "file.gz")


@pytest.mark.parametrize("call", ["fsync", "replace", "open"])
def test_a_full_disk_is_one_clear_error_and_leaves_nothing(server, target, monkeypatch, call):
    def fail(*args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(download.os, call, fail)
    with pytest.raises(DownloadError, match="cannot be written .*No space left on device"):
        get([server.at("good"), server.at("good")], target)
    monkeypatch.undo()
    assert names(target.parent) == []
    assert len(server.paths) <= 1  # the next mirror would not help


def test_an_interrupted_download_leaves_nothing(server, target, monkeypatch):
    def interrupt(descriptor):
        raise KeyboardInterrupt

    monkeypatch.setattr(download.os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        get([server.at("good")], target)
    assert names(target.parent) == []


def test_what_a_killed_process_left_is_removed_a_day_later(server, target):
    target.parent.mkdir(parents=True)
    old, young = target.with_name("file.gz.1-aa.part"), target.with_name("file.gz.2-bb.part")
    for path in (old, young):
        path.write_bytes(b"half")
    os.utime(old, (time.time() - 2 * 24 * 3600,) * 2)
    get([server.at("good")], target)
    assert names(target.parent) == ["file.gz", "file.gz.2-bb.part"]


def test_two_processes_can_fetch_the_same_file_at_once(server, target):
    code = f"""
import sys
from pathlib import Path
from minidl.data.download import fetch
for _ in range(5):
    fetch([{server.at("good")!r}], Path({str(target)!r}), size={len(CONTENT)}, sha256={SHA256!r}, timeout=20.0)
    assert Path({str(target)!r}).stat().st_size == {len(CONTENT)}
"""
    root = Path(__file__).resolve().parent.parent
    both = [subprocess.Popen([sys.executable, "-W", "error", "-c", code], cwd=root) for _ in range(2)]
    assert [process.wait(60) for process in both] == [0, 0]
    assert len(server.paths) == 10
    assert target.read_bytes() == CONTENT
    assert names(target.parent) == ["file.gz"]


# ---- the progress bar --------------------------------------------------------------------------------------------


def test_a_bar_is_shown_on_stderr_only_if_that_is_a_terminal(server, target, monkeypatch, capsys):
    get([server.at("good")], target)
    assert capsys.readouterr() == ("", "")

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr(sys, "stderr", Terminal())
    get([server.at("good")], target)
    assert "file" in sys.stderr.getvalue()
    assert "512k" in sys.stderr.getvalue()
    assert capsys.readouterr().out == ""


def test_no_stderr_is_no_error(server, target, monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    get([server.at("good")], target)
    assert target.read_bytes() == CONTENT
