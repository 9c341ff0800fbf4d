"""PyTorch optimizers on fastopt's kernels: subclasses of torch.optim's, with the same signatures.

What may live here: one module per optimizer, holding its signature, its docstring and nothing that
a kernel does; ``_fused.py``, the one ``step`` that they share.
"""

from fastopt.optim.adagrad import Adagrad
from fastopt.optim.adam import Adam
from fastopt.optim.adamw import AdamW
from fastopt.optim.rmsprop import RMSprop
from fastopt.optim.sgd import SGD

__all__ = ["SGD", "Adagrad", "Adam", "AdamW", "RMSprop"]
