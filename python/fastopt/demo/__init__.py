"""Train on real data: ``python -m fastopt demo``.

python -m fastopt demo ...              every optimizer beside torch.optim's (optimizers.py)
python -m fastopt demo --precision ...  weights and states in fewer bits (precision.py)
"""

from __future__ import annotations

import sys

from .digits import BATCH_SIZE, Digits, build_network, load_digits

__all__ = ["BATCH_SIZE", "Digits", "build_network", "load_digits", "main"]


def main(argv: list[str] | None = None) -> int:
    """Run the demo; its exit status."""
    from . import optimizers, precision

    argv = sys.argv[1:] if argv is None else argv
    if "--precision" in argv:
        return precision.main([word for word in argv if word != "--precision"])
    return optimizers.main(argv)
