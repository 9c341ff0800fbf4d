"""timm: the optimizers by name, for ``timm.optim.create_optimizer_v2`` and its training script.

fastopt.integrations.timm.register()
optimizer = timm.optim.create_optimizer_v2(model, opt="fastoptadamw", lr=1e-3, state_dtype="int8")
"""

from __future__ import annotations

import inspect
from dataclasses import replace

from torch.optim import Optimizer

from fastopt import optim
from fastopt.optim._fused import Fused
from fastopt.optim._report import torchs_class

PREFIX = "fastopt"  # with no underscore, at which timm splits a name


def register() -> list[str]:
    """Add every optimizer of fastopt's to timm's registry, as ``"fastopt"`` before a name of timm's.

    What timm makes of a class of torch.optim (``sgd``, ``momentum``, ``adamw``, ``radamw``, ...) is
    there with the same settings on fastopt's class; the others under their own names
    (``fastoptlion``). Calling it again changes nothing.

    Returns:
        The names.

    Raises:
        ImportError: without timm, or with one that is too old to have a registry (before 1.0.12).
    """
    from timm.optim import OptimInfo, list_optimizers
    from timm.optim._optim_factory import default_registry

    classes = [getattr(optim, name) for name in optim.__all__]
    ours = [it for it in classes if isinstance(it, type) and issubclass(it, Fused)]
    by_torchs: dict[type[Optimizer] | None, type[Fused]] = {torchs_class(it): it for it in ours}
    by_torchs.pop(None, None)
    found = {
        PREFIX + info.name: (info, by_torchs[info.opt_class])
        for info in map(default_registry.get_optimizer_info, list_optimizers())
        if info.opt_class in by_torchs
    }
    for it in ours:
        if torchs_class(it) is None:
            options = inspect.signature(it).parameters
            info = OptimInfo(
                name=it.__name__.lower(),
                opt_class=it,
                has_eps="eps" in options,
                has_momentum="momentum" in options,
                has_betas="betas" in options,
                num_betas=len(options["betas"].default) if "betas" in options else 2,
            )
            found[PREFIX + info.name] = (info, it)
    known = list_optimizers(PREFIX + "*")
    for name, (info, it) in found.items():
        if name not in known:  # of which timm would warn
            path = f"fastopt.optim.{it.__name__}"
            default_registry.register(
                replace(info, name=name, opt_class=path, description=f"{path}: fused, on any CPU")
            )
    return list(found)
