"""Data: data sets, batches of them, parts of them, and what is done to a batch."""

from .._cache import cache_folder
from . import transforms
from .dataset import Subset, TensorDataset
from .datasets import available, digits, fashion_mnist, mnist
from .idx import read_idx, read_labelled
from .loader import DataLoader
from .splits import KFold, random_split

__all__ = [
    "DataLoader",
    "KFold",
    "Subset",
    "TensorDataset",
    "available",
    "cache_folder",
    "digits",
    "fashion_mnist",
    "mnist",
    "random_split",
    "read_idx",
    "read_labelled",
    "transforms",
]
