"""The examples run as they are, in a fresh process, offline, anywhere; train_mlp.py does what its flags say."""

from __future__ import annotations

import os
import re
import sys

import pytest

import minidl as md
from conftest import GPU_USABLE
from example_runs import ROOT, TRAIN, load_train_mlp, losses_of, rows_of, run

EXAMPLES = sorted((ROOT / "examples").glob("*.py"))

train_mlp = load_train_mlp()


@pytest.fixture
def place(tmp_path):
    """A folder whose name has spaces, umlauts and letters of other scripts."""
    folder = tmp_path / "my digits, später цифры 数字"
    folder.mkdir()
    return folder


# ---- every example -----------------------------------------------------------------------------------------------

LOSSES = {  # example -> what it prints -> losses, the first of them at the beginning
    "one_page_autograd.py": lambda log: [float(x) for x in re.findall(r"[\d.e-]+(?= before training| after)", log)],
    "train_mlp.py": losses_of,
}


@pytest.mark.parametrize("program", EXAMPLES, ids=lambda path: path.name)
def test_the_example_learns_in_a_fresh_process_anywhere_and_offline(program, place):
    flags = ["--epochs", "3"] if program == TRAIN else []
    done = run(place, *flags, program=program)
    assert done.returncode == 0, done.stderr
    losses = LOSSES[program.name](done.stdout)
    assert losses[-1] < 0.8 * losses[0]


def test_the_offline_machine_is_offline(place):
    done = run(place, "--data", "mnist", "--no-plot")
    assert done.returncode == 2
    assert "the test has no network" in done.stderr
    assert "MINIDL_DATA" in done.stderr  # where to put the files by hand


def test_the_readme_shows_what_the_first_command_prints_and_draws(place):
    done = run(place)
    assert done.returncode == 0, done.stderr
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = re.search(r"^```\n(data .*?)^```$", text, re.MULTILINE | re.DOTALL).group(1).splitlines()
    printed = done.stdout.splitlines()
    assert shown[:4] == printed[:4]
    assert shown[-1] == printed[-1].replace(os.sep, "/")
    assert losses_of("\n".join(shown))[0] == pytest.approx(losses_of(done.stdout)[0], rel=0.02)
    accuracies = [float(log[-2].split()[4].rstrip("%")) for log in (shown, printed)]
    assert accuracies[0] == pytest.approx(accuracies[1], abs=1.0)
    figure = place / "runs" / "train_mlp_digits.png"
    assert figure.read_bytes().startswith(b"\x89PNG")
    assert figure.stat().st_size > 20_000


# ---- what cannot be obeyed ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--lr", "-0.1"], "-0.1"),
        (["--lr", "0"], "--lr must be positive"),
        (["--lr", "nan"], "nan"),
        (["--lr", "fast"], "fast"),
        (["--epochs", "0"], "got 0"),
        (["--epochs", "-1"], "got -1"),
        (["--epochs", "1.5"], "1.5"),
        (["--batch-size", "0"], "batch_size"),
        (["--hidden", "128;64"], "128;64"),
        (["--hidden", "0"], "at least 1, got 0"),
        (["--dropout", "1.5"], "1.5"),
        (["--seed", "-1"], "-1"),
        (["--optimizer", "adamm"], "adamw"),
        (["--data", "cifar"], "fashion_mnist"),
        (["--device", "tpu"], "tpu"),
        (["--resume", "none.safetensors"], "none.safetensors: cannot be loaded"),
        (["--resume", "."], "not a regular file"),
        (["--save", "missing/a.safetensors"], "missing/a.safetensors: cannot be written"),
        (["--save", "."], "cannot be written"),
        (["--plot", "missing/a.png"], "missing/a.png"),
        (["--epoch", "3"], "--epoch"),
        (["digits"], "digits"),
    ],
    ids=" ".join,
)
def test_a_flag_that_cannot_be_obeyed_is_one_line_and_changes_nothing(
    flags, named, capsys, monkeypatch, tmp_path
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        train_mlp.main(flags)
    out, error = capsys.readouterr()
    assert end.value.code == 2
    assert out == ""
    assert error.startswith("train_mlp.py: ")
    assert error.count("\n") == 1
    assert named in error
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_flag_shows_no_traceback_and_is_exit_code_2(place):
    done = run(place, "--lr", "-1")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(GPU_USABLE, reason="there is a GPU")
def test_cuda_without_a_gpu_says_why_and_what_is_missing(capsys):
    with pytest.raises(SystemExit) as end:
        train_mlp.main(["--device", "cuda"])
    assert end.value.code == 2
    assert re.search(r"device cuda: CuPy .*(pip install cupy-cuda|no usable GPU)", capsys.readouterr().err)


def test_a_data_folder_that_does_not_exist_is_named(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("MINIDL_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(SystemExit) as end:
        train_mlp.main(["--data", "mnist"])
    assert end.value.code == 2
    assert "nowhere" in capsys.readouterr().err


def test_a_picture_of_an_unknown_format_is_exit_code_2(capsys, tmp_path):
    with pytest.raises(SystemExit) as end:
        train_mlp.main(["--epochs", "1", "--plot", str(tmp_path / "a.xyz")])
    assert end.value.code == 2
    assert "a.xyz" in capsys.readouterr().err


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs a folder that nobody can write to: /proc")
def test_a_folder_that_cannot_be_written_to_costs_the_figure_only():
    done = run("/proc", "--epochs", "1")
    assert done.returncode == 0
    assert "figure    none" in done.stdout
    asked = run("/proc", "--epochs", "1", "--save", "a.safetensors")
    assert asked.returncode == 2
    assert "a.safetensors" in asked.stderr


def test_help_shows_the_default_of_every_flag(capsys):
    with pytest.raises(SystemExit) as end:
        train_mlp.main(["--help"])
    assert end.value.code == 0
    flags = re.split(r"\n  (?=-)", capsys.readouterr().out)[1:]
    told = {text.split()[0].rstrip(",") for text in flags if "default:" in text}
    assert {text.split()[0].rstrip(",") for text in flags} - told == {"-h", "--resume", "--no-plot"}


def test_the_defaults_in_help_are_the_defaults(capsys):
    with pytest.raises(SystemExit):
        train_mlp.main(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    flags = train_mlp.prepare(["--no-plot"]).flags
    sgd = train_mlp.prepare(["--no-plot", "--optimizer", "sgd"]).flags
    assert f"default: {flags.data}" in text
    assert f"default: {','.join(map(str, flags.hidden))}" in text
    assert f"default: {flags.epochs} for digits" in text
    assert f"default: {flags.batch_size} for digits" in text
    assert f"default: {flags.optimizer}" in text
    assert f"default: {sgd.lr:g} for sgd, else {flags.lr:g}" in text


# ---- what a run is made of ---------------------------------------------------------------------------------------


def test_flags_shape_the_run():
    flags = ["--hidden", "20,10", "--dropout", "0.25", "--optimizer", "sgd", "--lr", "0.5", "--batch-size", "100"]
    made = train_mlp.prepare([*flags, "--epochs", "3", "--no-plot"])
    assert [p.shape for p in made.model.parameters()] == [(20, 64), (20,), (10, 20), (10,), (10, 10), (10,)]
    assert isinstance(made.optimizer, md.optim.SGD)
    assert (made.steps, made.loader.batch_size, made.model[3].p) == (45, 100, 0.25)


def test_the_learning_rate_rises_to_its_peak_and_falls_to_zero():
    made = train_mlp.prepare(["--lr", "0.5", "--no-plot"])
    rates = [made.learning_rate(step) for step in range(made.steps + 1)]
    top = rates.index(max(rates))
    assert rates[:top] == sorted(rates[:top])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    assert 0.48 < max(rates) <= 0.5
    assert 0.05 < top / made.steps < 0.11
    assert rates[-1] == 0.0


def test_training_and_test_digits_are_all_digits_each_once():
    (images, labels), (more, others) = train_mlp.load_data("digits")
    assert (len(images), len(more)) == (1438, 359)
    everything = sorted(image.tobytes() for image in [*images, *more])
    assert everything == sorted(image.tobytes() for image in md.data.digits()[0])
    assert sorted([*labels, *others]) == sorted(md.data.digits()[1])


def test_inputs_have_mean_0_and_variance_1():
    made = train_mlp.prepare(["--no-plot", "--batch-size", "1438"])
    ((images, _),) = made.loader
    assert images.mean().item() == pytest.approx(0.0, abs=0.01)
    assert images.var().item() == pytest.approx(1.0, abs=0.02)


def test_a_seed_decides_all_that_is_printed(place):
    flags = ["--epochs", "2", "--dropout", "0.2", "--no-plot"]
    logs = [run(place, *flags, "--seed", seed) for seed in (7, 7, 8)]
    assert all(log.stderr == "" for log in logs)  # no progress bar where nobody watches
    first, second, other = (rows_of(log.stdout) for log in logs)
    assert len(first) == 2
    assert first == second
    assert first != other
