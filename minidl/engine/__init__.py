"""What makes derivatives: arrays, tensors, operations, the walk back. Knows nothing of layers, optimizers or files."""

from . import anomaly, autograd, backend, hooks, modes, node, op, tensor

__all__ = ["anomaly", "autograd", "backend", "hooks", "modes", "node", "op", "tensor"]
