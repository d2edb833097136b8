"""A loop over a DataLoader can be left, and continued in another process with the same batches."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from minidl.data import DataLoader, Subset
from minidl.engine import backend


def rows(loader):
    """Return the first column of an epoch, one list a batch."""
    return [backend.to_numpy(batch[0].array).tolist() for batch in loader]


def flat(batches):
    return list(itertools.chain.from_iterable(batches))


# ---- leaving early, resuming -------------------------------------------------------------------------------------


def test_a_loop_left_early_is_followed_by_the_next_epoch():
    loader, twin = (DataLoader(np.arange(10), 3, shuffle=True, seed=0) for _ in range(2))
    epochs = [rows(twin) for _ in range(3)]
    for batch in loader:
        assert batch[0].tolist() == epochs[0][0]
        break
    assert loader.state_dict()["epoch"] == 0
    assert rows(loader) == epochs[1]
    assert rows(loader) == epochs[2]


def test_iterators_run_side_by_side_each_in_its_epoch():
    loader, twin = (DataLoader(np.arange(10), 3, shuffle=True, seed=0) for _ in range(2))
    epochs = [rows(twin) for _ in range(3)]
    first, second = iter(loader), iter(loader)
    assert [(a[0].tolist(), b[0].tolist()) for a, b in zip(first, second, strict=True)] == list(
        zip(*epochs[:2], strict=True)
    )
    older = iter(loader)
    next(older)
    newest = iter(loader)
    next(newest)
    list(older)
    assert (loader.state_dict()["epoch"], loader.state_dict()["position"]) == (3, 1)


@pytest.mark.parametrize("kind", ["arrays", "transform", "samples", "subset"])
@pytest.mark.parametrize("shuffle", [True, False])
def test_a_resumed_loader_yields_the_same_remaining_batches_bitwise(kind, shuffle, rng):
    x = rng.standard_normal((11, 2))

    def make():
        data = {"samples": list(x), "subset": Subset(x, np.arange(10, -1, -1))}.get(kind, x)
        transform = (lambda a: a * 3) if kind == "transform" else None
        return DataLoader(data, 3, shuffle=shuffle, seed=5 if shuffle else None, transform=transform)

    def through_json(state):
        return json.loads(json.dumps(state))

    straight = make()
    batches = [b[0].array.tobytes() for _ in range(3) for b in straight]
    for done in range(len(batches)):
        first = make()
        endless = itertools.chain.from_iterable(itertools.repeat(first))
        for _ in range(done):
            next(endless)
        second = make()
        rows(second)  # whatever it did before
        second.load_state_dict(through_json(first.state_dict()))
        assert through_json(second.state_dict()) == through_json(first.state_dict())
        assert len(second) == len(straight)
        rest = [
            b[0].array.tobytes()
            for b in itertools.islice(itertools.chain.from_iterable(itertools.repeat(second)), len(batches) - done)
        ]
        assert rest == batches[done:]


def test_a_seed_drawn_from_the_library_is_part_of_the_state():
    first, second = DataLoader(np.arange(30), 4, shuffle=True), DataLoader(np.arange(30), 4, shuffle=True)
    next(iter(first))
    second.load_state_dict(first.state_dict())
    twin = DataLoader(np.arange(30), 4, shuffle=True, seed=first.seed)
    assert rows(second) == rows(twin)[1:]


def test_another_process_resumes_with_the_same_batches():
    loader = DataLoader(np.arange(40), 6, shuffle=True, seed=11)
    rows(loader)
    iterator = iter(loader)
    next(iterator), next(iterator)
    code = f"""
import numpy as np
from minidl.data import DataLoader
loader = DataLoader(np.arange(40), 6, shuffle=True)
loader.load_state_dict({loader.state_dict()})
print([b.tolist() for (b,) in loader])
"""
    root = Path(__file__).resolve().parent.parent
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == str([b.tolist() for (b,) in iterator])


def test_the_end_of_an_epoch_is_the_start_of_the_next():
    loader = DataLoader(np.arange(6), 3, shuffle=True, seed=0)
    assert loader.state_dict()["epoch"] == 0
    iterator = iter(loader)
    next(iterator), next(iterator)
    last = loader.state_dict()
    assert next(iterator, None) is None
    assert last == loader.state_dict()
    assert (last["epoch"], last["position"]) == (1, 0)


def test_loading_a_state_while_a_loop_runs_wins_over_it():
    loader = DataLoader(np.arange(10), 2, shuffle=True, seed=0)
    running = iter(loader)
    next(running)
    state = loader.state_dict()
    next(running), next(running)
    loader.load_state_dict(state)
    next(running)
    assert loader.state_dict() == state
    assert len(rows(loader)) == 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 3, "samples": 9}, r"samples 9 \(this loader has 10\), batch_size 3 \(this loader has 2\)"),
        ({"shuffle": False}, r"shuffle False \(this loader has True\)"),
        ({"drop_last": True}, r"drop_last True"),
        ({"position": 5}, r"position in 0 ... 4, got 0 and 5"),
        ({"position": -1}, "got 0 and -1"),
        ({"epoch": -1}, "got -1 and 0"),
        ({"epoch": 1.0}, "got 1.0 and 0"),
        ({"epoch": None}, "got None and 0"),
        ({"seed": "x"}, "seed must be an integer"),
        ({"extra": 1}, "needs the keys epoch, position, seed"),
    ],
)
def test_a_state_that_does_not_fit_is_refused_and_changes_nothing(change, message):
    loader = DataLoader(np.arange(10), 2, shuffle=True, seed=0)
    before = loader.state_dict()
    with pytest.raises(ValueError, match=message):
        loader.load_state_dict(before | change)
    assert loader.state_dict() == before
    for bad in (None, [], {"epoch": 0}):
        with pytest.raises(ValueError, match="needs the keys"):
            loader.load_state_dict(bad)
