"""The truths numbered T1 to T30 (tensors and operations) and A1 to A30 (the engine) are all tested, and where.

A test names its truth (`test_A5_...`), or the table here says which tests or functions of `battery` cover it.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

HERE = Path(__file__).parent

ELSEWHERE = {
    "T4": "errors of the table: broadcast_errors in entry.py",
    "T5": "matmul in cases_network.py: values, three orders, errors",
    "T8": "reshape, transpose, squeeze and expand_dims in cases_shapes.py; the layouts of the battery",
    "T9": "concatenate and stack in cases_shapes.py",
    "T10": "test_gradients_have_the_shapes_of_their_inputs_however_these_broadcast",
    "T12": "check_layouts and check_repeated of the battery",
    "T22": "test_conv.py and test_pool.py: what loops say, for random shapes; einsum in cases_linalg.py",
    "T28": "test_every_public_operation_has_an_entry",
    "T29": "check_device and check_launches_only of the battery",
    "T30": "check_inputs_unchanged of the battery",
    "A21": "test_engine_op.py; None and one operation used twice too",
    "A30": "test_check_grad.py",
}
NOT_TESTED: dict[str, str] = {}


@pytest.mark.parametrize("truth", [f"{part}{i}" for part in "TA" for i in range(1, 31)])
def test_every_truth_of_the_checklist_is_tested(truth):
    named = [p.name for p in HERE.glob("test_*.py") if re.search(rf"def test_{truth}_", p.read_text(encoding="utf-8"))]
    assert named or truth in ELSEWHERE or truth in NOT_TESTED


def test_what_the_table_names_exists():
    shared = HERE.parent / "minidl" / "testing"  # truths that users' operations are asked too
    text = "".join(p.read_text(encoding="utf-8") for p in (*HERE.glob("*.py"), *shared.glob("*.py")))
    for where in ELSEWHERE.values():
        for name in re.findall(r"\w+\.py|\btest_\w+|\bcheck_\w+", where):
            assert (HERE / name).exists() if name.endswith(".py") else f"def {name}" in text, name
