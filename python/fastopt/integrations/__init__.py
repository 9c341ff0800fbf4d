"""fastopt's optimizers under the names by which other packages choose theirs.

What may live here: one module a package, which imports that package when it is called, never before.
Where a package takes a class or a dotted path (``fastopt.optim.AdamW``), nothing is needed here:
docs/offload.md lists who does.
"""

from fastopt.integrations import timm

__all__ = ["timm"]
