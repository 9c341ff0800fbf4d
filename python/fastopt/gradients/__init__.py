"""Gradient checking: is what ``backward()`` gives the derivative of what ``forward()`` computes?

    result = fastopt.gradcheck(model, images, loss=lambda output: cross_entropy(output, labels))
    print(result)  # a table with a verdict for each parameter, and the module that is wrong
    assert result

What may live here: ``check.py``, the function and what it returns; ``_differences.py``, central
differences; ``_trace.py``, which module they blame.
"""

from fastopt.gradients.check import GradientCheck, ParameterCheck

__all__ = ["GradientCheck", "ParameterCheck"]
