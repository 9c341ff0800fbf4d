"""PyTorch optimizers on fastopt's kernels: subclasses of torch.optim's, with the same signatures.

Besides torch's options, every optimizer takes ``max_grad_norm``, ``error_if_nonfinite``, ``ema_decay``
and ``ema_bias_correction``, which clip the gradients by their norm and average the parameters in the
step's own pass over memory (:mod:`fastopt.optim._tail` describes them), ``state_dtype``, what the
states are stored in (:mod:`fastopt.optim._storage`), and ``copy_to``, tensors that the parameters are
also written to, rounded (:mod:`fastopt.optim._copies`).

What else :mod:`torch.optim` has is here, too, so that ``import fastopt.optim as optim`` does for
``import torch.optim as optim``: ``Optimizer``, ``lr_scheduler``, ``swa_utils``, and torch's own classes
of the rules without a kernel (Adafactor, ASGD, Muon, Rprop, SparseAdam), of which
:func:`fused_report` says that they are.

:class:`LBFGS` is apart: it evaluates the loss itself, works on all parameters as one vector, and has
none of these options.

What may live here: one module per optimizer, holding its signature, its docstring and nothing that
a kernel does; ``_fused.py``, the one ``step`` that they share; ``_stepped.py``, what C++ asks of them
in it; ``_hooks.py``, what surrounds that; ``_tail.py``, what it does besides the rule; ``_storage.py``,
what its states are stored in; ``_copies.py``, where else its parameters are written to; ``_parts.py``,
steps of some of them; ``_loading.py``, how they are loaded; ``_checks.py``, of the options of
classes that torch lacks; ``_report.py``, what it tells of the ways that its steps take;
``in_backward.py``, steps inside ``backward()``; ``ruled.py``, the classes of rules in Python.
"""

from typing import Any

import torch
from torch.optim import ASGD, Adafactor, Muon, Optimizer, Rprop, SparseAdam

from fastopt.optim import lr_scheduler, swa_utils
from fastopt.optim._report import FusedReport, ParameterPath, fused_report
from fastopt.optim.adadelta import Adadelta
from fastopt.optim.adagrad import Adagrad
from fastopt.optim.adam import Adam
from fastopt.optim.adamax import Adamax
from fastopt.optim.adamw import AdamW
from fastopt.optim.in_backward import StepInBackward, step_in_backward
from fastopt.optim.lamb import LAMB
from fastopt.optim.lbfgs import LBFGS
from fastopt.optim.lion import Lion
from fastopt.optim.nadam import NAdam
from fastopt.optim.radam import RAdam
from fastopt.optim.rmsprop import RMSprop
from fastopt.optim.ruled import (
    ADOPT,
    MARS,
    AdaBelief,
    Adan,
    AdEMAMix,
    CautiousAdamW,
    CautiousLion,
    LaProp,
    ScheduleFreeAdamW,
    ScheduleFreeSGD,
    Signum,
    StableAdamW,
    Yogi,
)
from fastopt.optim.sgd import SGD

__all__ = [
    "ADOPT",
    "ASGD",
    "LAMB",
    "LBFGS",
    "MARS",
    "SGD",
    "AdEMAMix",
    "AdaBelief",
    "Adadelta",
    "Adafactor",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "Adan",
    "CautiousAdamW",
    "CautiousLion",
    "FusedReport",
    "LaProp",
    "Lion",
    "Muon",
    "NAdam",
    "Optimizer",
    "ParameterPath",
    "RAdam",
    "RMSprop",
    "Rprop",
    "ScheduleFreeAdamW",
    "ScheduleFreeSGD",
    "Signum",
    "SparseAdam",
    "StableAdamW",
    "StepInBackward",
    "Yogi",
    "fused_report",
    "lr_scheduler",
    "step_in_backward",
    "swa_utils",
]


def __getattr__(name: str) -> Any:
    """What a newer torch.optim has besides."""
    if not name.startswith("_") and hasattr(torch.optim, name):
        return getattr(torch.optim, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
