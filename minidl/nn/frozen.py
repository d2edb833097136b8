"""`frozen_statistics`, which stands below the layers because optimizers that evaluate a network twice need it too."""

from .._frozen import frozen_statistics, is_frozen

__all__ = ["frozen_statistics", "is_frozen"]
