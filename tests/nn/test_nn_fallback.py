"""What fastopt.nn refuses as torch does, what it leaves to torch, and torch's modes around it."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import fastopt
from _nn_cases import FORMS, MODULES, bits, normal
from conftest import RunPython
from fastopt import nn
from fastopt.nn import _dispatch, functional


@pytest.fixture(autouse=True)
def nothing_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_dispatch, "told", set())


# ---- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("p", [-0.1, 1.5, math.nan])
def test_wrong_probabilities(p: float) -> None:
    message = f"dropout probability has to be between 0 and 1, but got {p}"
    for cls in (*(it[0] for it in MODULES), nn.BiasDropoutAdd):
        with pytest.raises(ValueError, match=message):
            cls(p)
    for function in (functional.dropout, functional.alpha_dropout, functional.dropout1d):
        with pytest.raises(ValueError, match=message):
            function(normal(2, 3), p)


@pytest.mark.parametrize(
    ("numbers", "error", "match"),
    [
        ({"seed": 2**64}, ValueError, "seed: expected a whole number"),
        ({"seed": 1.5}, TypeError, "seed: expected a whole number"),
        ({"seed": 1, "offset": -1}, ValueError, "offset: expected"),
        ({"seed": 1, "offset": 2**56}, ValueError, "offset: expected"),
        ({"seed": 1, "index": -1}, ValueError, "index: expected"),
        ({"seed": 1, "index": 2**63 - 1}, ValueError, "index: expected"),
    ],
)
@pytest.mark.parametrize("name", FORMS)
def test_wrong_numbers(name: str, numbers: dict[str, Any], error: type[Exception], match: str) -> None:
    x = normal(3, 4, 5, 5)
    for layout in (x, x.transpose(1, 3)):
        with pytest.raises(error, match=match):
            FORMS[name].ours(layout, 0.5, True, **numbers)


def test_torchs_errors() -> None:
    for function in (functional.dropout, F.dropout):
        with pytest.raises(TypeError, match="must be Tensor, not int"):
            function(3)  # type: ignore[arg-type]
        with pytest.raises(RuntimeError, match="can't be cast"):
            function(torch.ones(3, dtype=torch.int64))
        with pytest.raises(TypeError):
            function(normal(2), "half")  # type: ignore[arg-type]
    for one in (functional.dropout1d, F.dropout1d):
        with pytest.raises(RuntimeError, match="Expected 2D or 3D input, but received a 4D input"):
            one(normal(1, 2, 3, 4))
    for two in (functional.dropout2d, F.dropout2d):
        with pytest.warns(UserWarning, match="deprecated"), pytest.raises(RuntimeError, match="2 dim"):
            two(normal(3))
        with pytest.warns(UserWarning, match="Received a 5-D input to dropout2d"):
            assert two(normal(1, 2, 3, 4, 5)).shape == (1, 2, 3, 4, 5)
    freed = normal(10)
    freed.untyped_storage().resize_(0)
    with pytest.raises((RuntimeError, TypeError)):
        functional.dropout(freed)


# ---- what goes to torch ---------------------------------------------------------------------------


class Subclass(torch.Tensor):
    """As plain as a subclass can be."""


def misaligned() -> Tensor:
    """Eight numbers that begin one byte after a multiple of their size."""
    return torch.from_numpy(np.ndarray((8,), np.float32, np.ones(33, np.uint8), offset=1))


OTHER_TENSORS = [
    (misaligned, "at an address between elements"),
    (lambda: normal(8, 8).as_subclass(Subclass), "of type Subclass"),
    (lambda: torch.nested.nested_tensor([normal(3), normal(4)]), "that is nested"),
]


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize(("make", "reason"), OTHER_TENSORS)
def test_others_go_to_torch_and_it_is_said_once(make: Callable[[], Tensor], reason: str) -> None:
    x = make()
    with pytest.warns(UserWarning, match=f"a tensor {reason} goes to torch's dropout"):
        y = functional.dropout(x)
    assert type(y) is type(x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        functional.dropout(x)
        assert functional.dropout(x, training=False) is x
    for name, given in (("seed", 1), ("generator", torch.Generator())):
        with pytest.raises(ValueError, match=f"{name}=.*expected None, since a tensor {reason}"):
            functional.dropout(x, **{name: given})


def test_others_draw_torchs_mask() -> None:
    x = normal(8, 8).as_subclass(Subclass)
    for ours, torchs in ((functional.dropout, F.dropout), (functional.relu_dropout, None)):
        torch.manual_seed(1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            y = ours(x, 0.5)
        torch.manual_seed(1)
        wanted = torchs(x, 0.5) if torchs else F.dropout(F.relu(x), 0.5)
        assert torch.equal(y, wanted)
    torch.manual_seed(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        y = functional.stochastic_depth(torch.ones(50, 3).as_subclass(Subclass), 0.5)
    assert set(y.flatten().tolist()) == {0.0, 2.0}


def test_what_has_no_numbers() -> None:
    """Meta and fake tensors, symbolic traces: silently torch's, whatever the seed."""
    from torch._subclasses import FakeTensorMode

    assert functional.dropout(torch.ones(3, device="meta"), seed=1).is_meta
    assert functional.stochastic_depth(torch.ones(3, 2, device="meta"), 0.5, seed=1).is_meta
    with FakeTensorMode() as mode:
        fake = mode.from_tensor(normal(3))
        assert functional.dropout(fake, seed=1).shape == (3,)
        assert type(functional.dropout(torch.ones(3), seed=1)) is type(fake)
    traced = torch.jit.trace(nn.Dropout(0.3), normal(10), check_trace=False)
    assert "dropout" in str(traced.graph)


def test_modes_of_torch_do_not_mislead() -> None:
    with torch.device("meta"):
        y = functional.dropout(torch.ones(100, device="cpu"), 0.5)
    assert y.is_cpu
    assert set(y.tolist()) == {0.0, 2.0}
    with torch.inference_mode():
        x = torch.ones(100)
        y = functional.dropout(x, inplace=True)
        assert y is x
        assert functional.dropout(x).is_inference()
    assert functional.dropout(x, 0.5).shape == (100,)
    with pytest.raises(RuntimeError, match="Inplace update to inference tensor outside InferenceMode"):
        functional.dropout(x, inplace=True)
    with torch.autocast("cpu", torch.bfloat16):
        assert functional.dropout(torch.ones(3)).dtype is torch.float32
        half = torch.nn.Linear(3, 3)(torch.ones(2, 3))
        assert functional.dropout(half).dtype is torch.bfloat16


def test_the_first_draw_may_be_in_inference_mode(run_python: RunPython) -> None:
    script = (
        "import sys, torch, fastopt\n"
        "f = fastopt.nn.functional.dropout\n"
        "with torch.inference_mode(): f(torch.ones(3))\n"
        "f(torch.ones(3))\n"
        "assert not {'torch._dynamo', 'torchvision'} & sys.modules.keys()\n"
    )
    result = run_python("-c", script)
    assert result.returncode == 0, result.stderr


def test_the_package_offers_it() -> None:
    assert fastopt.nn is nn
    assert np.array_equal(
        bits(functional.dropout(normal(9), seed=0)),
        bits(fastopt.kernels.dropout(normal(9), 0.5, seed=0)),
    )
