"""The table of cases: for each public operation the inputs, NumPy's answer, the limits and the errors it is tested with.

One `Entry` an operation, one file a family; `test_ops_battery` runs the whole battery over each, and fails for a name in
`minidl.ops.__all__` that has none. To test a new operation, add its entry to its family:

    elementwise("exp", np.exp, normal, numpy=np.exp, method="exp", finite=[at([-1e4, 0.0, 80.0])])
"""

from __future__ import annotations

import cases_elementwise
import cases_functions
import cases_network
import cases_reduce
import cases_shapes

FAMILIES = [cases_elementwise, cases_functions, cases_reduce, cases_shapes, cases_network]
ENTRIES = [entry for family in FAMILIES for entry in family.ENTRIES]
CASES = [case for entry in ENTRIES for case in entry.cases()]
# What returns no array, and the test that covers it instead.
ELSEWHERE = {"allclose": "test_allclose_is_a_python_bool"}
