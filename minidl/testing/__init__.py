"""Tests for your own operations and layers: the batteries that those of the library pass.

    from minidl.testing import assert_close, check_module, check_op

    def test_my_operation():
        check_op(my_operation, np.array([0.5, 2.0]))

Not loaded by `import minidl`. Every check raises AssertionError with what does not hold, or returns None.
"""

from .modules import check_module
from .operations import check_op
from .optimizers import check_optimizer
from .values import assert_close

__all__ = ["assert_close", "check_module", "check_op", "check_optimizer"]
