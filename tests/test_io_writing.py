"""Files of tensors: whatever happens while one is written, the old file or the new one is there, complete."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from minidl import io
from minidl.io import CheckpointError, load, save

ROOT = Path(__file__).resolve().parent.parent
POSIX = pytest.mark.skipif(os.name == "nt", reason="POSIX file modes and links")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "file.safetensors"


def small():
    return {"weight": np.arange(6, dtype=np.float32).reshape(2, 3), "bias": np.array([True, False]), "n": np.array(3)}


def names(folder):
    return sorted(p.name for p in folder.iterdir())


# ---- refusals ----------------------------------------------------------------------------------------------------


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
