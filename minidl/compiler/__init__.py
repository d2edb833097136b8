"""One text, run faster: formulas made into kernels that a learner can print."""

from .formula import segment_dot, segment_norm, total_dot
from .fuse import Program, fuse

__all__ = ["Program", "fuse", "segment_dot", "segment_norm", "total_dot"]
