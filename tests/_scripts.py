"""The programs in scripts/, as modules."""

import importlib.util
import sys
from typing import Any

from _walk import ROOT


def script(name: str) -> Any:
    """``scripts/NAME.py``, which may import its neighbours."""
    folder = ROOT / "scripts"
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
    spec = importlib.util.spec_from_file_location(name, folder / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module
