"""The table of cases: for each public operation inputs, NumPy's answer, limits and errors that it is tested with.

One `Entry` an operation, one file a family; `test_ops_battery` runs the whole battery over each, and fails for a name
in `minidl.ops.__all__` that has none. To test a new operation, add its entry to its family:

    elementwise("exp", np.exp, normal, numpy=np.exp, method="exp", finite=[at([-1e4, 0.0, 80.0])])
"""

from __future__ import annotations

import cases_activations
import cases_classes
import cases_conv
import cases_edges
import cases_elementwise
import cases_functions
import cases_linalg
import cases_losses
import cases_network
import cases_norms
import cases_pool
import cases_rearrange
import cases_reduce
import cases_shapes

FAMILIES = [cases_elementwise, cases_functions, cases_reduce, cases_shapes, cases_rearrange, cases_network, cases_edges,
            cases_activations, cases_conv, cases_pool, cases_losses, cases_classes, cases_norms]  # fmt: skip
ENTRIES = [entry for family in FAMILIES for entry in family.ENTRIES]
CASES = [case for entry in ENTRIES for case in entry.cases()]
# minidl.linalg and the products it shares with the array functions: `test_linalg` runs the battery over them.
LINALG = [*cases_linalg.ENTRIES, *cases_linalg.LINALG]
# What returns no array, and the test that covers it instead.
ELSEWHERE = {"allclose": "test_allclose_is_a_python_bool"}
