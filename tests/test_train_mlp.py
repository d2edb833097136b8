"""train_mlp.py can be stopped at any moment and resumed to the bit, and meets the world outside without a traceback."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time

import pytest

import minidl as md
from example_runs import LIMIT, TRAIN, environment, load_train_mlp, posix, rows_of, run, start
from minidl.io import load_with_metadata

train_mlp = load_train_mlp()


@pytest.fixture
def place(tmp_path):
    """A folder whose name has spaces, umlauts and letters of other scripts."""
    folder = tmp_path / "my digits, später цифры 数字"
    folder.mkdir()
    return folder


# ---- stopping and going on ---------------------------------------------------------------------------------------

STEPS = 45  # of one epoch
RUN = ["--epochs", "2", "--dropout", "0.3", "--no-plot"]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """The checkpoints of runs that were never stopped, by optimizer, and what they printed."""
    folder = tmp_path_factory.mktemp("whole")
    done = {}

    def get(optimizer):
        if optimizer not in done:
            file = folder / f"{optimizer}.safetensors"
            log = run(folder, *RUN, "--optimizer", optimizer, "--save", file)
            assert log.returncode == 0, log.stderr
            done[optimizer] = file, rows_of(log.stdout)
        return done[optimizer]

    return get


def content_of(file):
    """Return all that a checkpoint says, to the bit; the order of the words in its header is no part of that."""
    tensors, texts = load_with_metadata(file)
    return {name: (x.dtype, x.shape, x.numpy().tobytes()) for name, x in tensors.items()}, texts


@contextlib.contextmanager
def interruption(monkeypatch, step):
    """Let Ctrl-C arrive while a step, the first being 1, is being computed."""
    whole, calls = md.nn.functional.cross_entropy, []

    def counting(logits, target):
        calls.append(1)
        if len(calls) == step:
            signal.raise_signal(signal.SIGINT)
        return whole(logits, target)

    with monkeypatch.context() as patch:
        patch.setattr(md.nn.functional, "cross_entropy", counting)
        yield


@pytest.mark.parametrize(
    ("step", "optimizer"),
    [(0, "adamw"), (1, "adamw"), (20, "sgd"), (STEPS, "adam"), (STEPS + 13, "adamw"), (2 * STEPS, "adamw")],
)
def test_a_resumed_run_ends_in_the_same_bits(
    step, optimizer, uninterrupted, monkeypatch, place, capsys
):
    file = place / "a b.safetensors"
    flags = [*RUN, "--optimizer", optimizer, "--save", str(file)]
    if step == 0:
        train_mlp.prepare(flags)
    else:
        with interruption(monkeypatch, step):
            assert train_mlp.main(flags) == 130
        assert f"stopped   after step {step} of 90" in capsys.readouterr().out
    before, texts = content_of(file)
    assert len(json.loads(texts["train_mlp"])["history"]) == step // STEPS

    done = run(place, "--resume", file.name, "--no-plot")  # in another process, with no other flag
    whole, rows = uninterrupted(optimizer)
    assert done.returncode == 0, done.stderr
    assert rows_of(done.stdout) == rows[step // STEPS :]
    assert content_of(file) == content_of(whole)
    assert (content_of(file)[0] == before) is (step == 2 * STEPS)


def test_a_checkpoint_holds_everything_by_name(uninterrupted):
    tensors, texts = load_with_metadata(uninterrupted("adamw")[0])
    rest = json.loads(texts["train_mlp"])
    parameters = [f"{i}.{name}" for i in (1, 4, 7) for name in ("weight", "bias")]
    slots = {f"optimizer.{name}.{slot}" for name in parameters for slot in "mv"}
    assert tensors.keys() == slots | {f"model.{name}" for name in parameters}
    assert rest["epoch"] == 2
    assert rest["optimizer"]["steps"] == 2 * STEPS
    assert rest["best_accuracy"] == max(row[3] for row in rest["history"])
    assert rest["random"]["draws"] > 4 * STEPS  # two masks of dropout a step
    assert rest["loader"]["epoch"] == 2
    model = train_mlp.make_network(64, [128, 64], 0.3)
    model.load_state_dict({name.removeprefix("model."): x for name, x in tensors.items() if name.startswith("model.")})


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--hidden", "5"], "shape"),
        (["--batch-size", "31"], "batch_size 32"),
        (["--optimizer", "sgd"], "missing"),
        (["--seed", "3"], "--seed 3"),
    ],
    ids=" ".join,
)
def test_a_flag_against_the_checkpoint_is_refused(flags, named, uninterrupted, tmp_path, capsys):
    file = tmp_path / "a.safetensors"
    file.write_bytes(uninterrupted("adamw")[0].read_bytes())
    with pytest.raises(SystemExit) as end:
        train_mlp.main(["--resume", str(file), "--no-plot", *flags])
    assert end.value.code == 2
    assert named in capsys.readouterr().err
    assert file.read_bytes() == uninterrupted("adamw")[0].read_bytes()


def test_more_epochs_go_on_with_a_finished_run(uninterrupted, tmp_path, capsys):
    file, new = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    file.write_bytes(uninterrupted("adamw")[0].read_bytes())
    assert train_mlp.main(["--resume", str(file), "--epochs", "4", "--save", str(new), "--no-plot"]) == 0
    assert [row.split()[0] for row in rows_of(capsys.readouterr().out)] == ["3", "4"]
    assert json.loads(load_with_metadata(new)[1]["train_mlp"])["epoch"] == 4
    assert file.read_bytes() == uninterrupted("adamw")[0].read_bytes()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 a zip", b"not a checkpoint at all", None])
def test_a_file_that_is_no_checkpoint_of_the_program_is_refused(content, tmp_path, capsys):
    file = tmp_path / "a.safetensors"
    if content is None:
        md.save({"w": md.ones(2)}, file)
    else:
        file.write_bytes(content)
    with pytest.raises(SystemExit) as end:
        train_mlp.main(["--resume", str(file)])
    assert end.value.code == 2
    assert "a.safetensors" in capsys.readouterr().err


def test_a_gpu_computes_the_same_and_shares_the_checkpoints(fake_cuda, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flags = ["--dropout", "0.3", "--no-plot"]
    assert train_mlp.main([*flags, "--epochs", "2", "--save", "cpu"]) == 0
    with interruption(monkeypatch, STEPS + 13):
        assert train_mlp.main([*flags, "--epochs", "2", "--save", "a", "--device", "cuda"]) == 130
    assert train_mlp.main(["--resume", "a", "--save", "b", "--no-plot"]) == 0
    assert train_mlp.main(["--resume", "a", "--save", "c", "--no-plot", "--device", "cuda:0"]) == 0
    assert content_of("b") == content_of("c") == content_of("cpu")


# ---- the outside world -------------------------------------------------------------------------------------------


@posix
def test_ctrl_c_leaves_a_valid_checkpoint_and_exit_code_130(place):
    flags = ["--epochs", "100000", "--save", "a.safetensors", "--plot", "a.png"]
    with start(place, *flags) as process:
        for line in process.stdout:
            if line.split()[:1] == [b"3"]:
                break
        process.send_signal(signal.SIGINT)
        out, error = process.communicate(timeout=LIMIT)
    assert process.returncode == 130
    assert error == b""
    assert b"stopped   after step" in out
    rest = json.loads(load_with_metadata(place / "a.safetensors")[1]["train_mlp"])
    assert rest["epoch"] >= 3
    assert sorted(path.name for path in place.iterdir()) == ["a.png", "a.safetensors"]


@posix
def test_a_process_that_is_killed_leaves_a_valid_checkpoint(place):
    with start(place, "--epochs", "100000", "--save", "a.safetensors", "--no-plot") as process:
        for line in process.stdout:
            if line.split()[:1] == [b"3"]:
                break
        process.kill()
    assert json.loads(load_with_metadata(place / "a.safetensors")[1]["train_mlp"])["epoch"] >= 2


@posix
def test_a_reader_that_leaves_ends_the_program_without_a_traceback(place):
    with start(place, "--epochs", "100000", "--no-plot") as process:
        process.stdout.readline()
        process.stdout.close()
        error = process.stderr.read()
    assert process.returncode == 1
    assert error == b""


@posix
@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_closed_outputs_do_no_harm(closed, place):
    command = f'"{sys.executable}" "{TRAIN}" --epochs 1 --no-plot --save a.safetensors {closed}'
    done = subprocess.run(["sh", "-c", command], cwd=place, env=environment(), timeout=LIMIT, check=False)
    assert done.returncode == 0
    assert (place / "a.safetensors").is_file()


@posix
def test_a_terminal_sees_a_progress_bar(place):
    import fcntl
    import struct
    import termios

    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 25, 80, 0, 0))
    with start(place, "--epochs", "2", "--no-plot", stdout=subprocess.DEVNULL, stderr=theirs):
        os.close(theirs)
        seen = b""
        deadline = time.monotonic() + LIMIT
        while b"steps/s]" not in seen and time.monotonic() < deadline:
            try:
                seen += os.read(ours, 4096)
            except OSError:  # the other end is closed
                break
        os.close(ours)
    assert b"/90 [" in seen
