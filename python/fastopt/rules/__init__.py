"""Update rules in Python: one plain function is the reference, the kernel and the optimizer.

    @rule
    def adopt(p, g, exp_avg, exp_avg_sq, *, t, lr=1e-3, betas=(0.9, 0.9999), eps=1e-6):
        b1, b2 = betas
        if t == 1:
            return p, exp_avg, g * g
        u = g / maximum(sqrt(exp_avg_sq), eps)
        exp_avg = b1 * exp_avg + (1 - b1) * u
        return p - lr * exp_avg, exp_avg, b2 * exp_avg_sq + (1 - b2) * (g * g)

    ADOPT = adopt.optimizer("ADOPT")

A function reads as it does on NumPy arrays. It is called with those (``adopt.reference``), with
symbols, to be traced to a program that csrc/cpu/program_loop.h interprets, and with torch tensors
where there are no kernels. docs/your_own_rule.md is the introduction.

What may live here: the functions that a rule may call (``_functions.py``), Numbers (``_numbers.py``,
``_doubles.py``), symbols and tracing (``_symbols.py``, ``_trace.py``), instructions (``_program.py``),
the decorator (``_rule.py``), the class maker (``_optimizer.py``), and rules (``library``).
"""

from ._errors import RuleError
from ._functions import (
    abs,
    count,
    exp,
    log,
    maximum,
    mean,
    minimum,
    norm,
    power,
    sign,
    size,
    sqrt,
    square,
    total,
    where,
)
from ._optimizer import RuleOptimizer
from ._rule import Rule, rule

__all__ = [
    "Rule",
    "RuleError",
    "RuleOptimizer",
    "abs",
    "count",
    "exp",
    "log",
    "maximum",
    "mean",
    "minimum",
    "norm",
    "power",
    "rule",
    "sign",
    "size",
    "sqrt",
    "square",
    "total",
    "where",
]
