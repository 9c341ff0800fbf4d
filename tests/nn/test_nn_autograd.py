"""Derivatives of fastopt.nn: all drop the same elements, and keep nothing for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.utils.checkpoint import checkpoint

from _nn_cases import DTYPES, FORMS, SHAPE, assert_same, expected, fixed, normal
from conftest import RunPython
from fastopt import nn, reference
from fastopt.nn import functional

IN_PLACE = [name for name, form in FORMS.items() if form.inplace]
LINEAR = [name for name in FORMS if name not in ("alpha", "relu")]


# ---- backward -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LINEAR)
@pytest.mark.parametrize("dtype", DTYPES)
def test_backward_is_the_same_dropout(name: str, dtype: torch.dtype) -> None:
    """Bit for bit that of the reference on the gradient, in layouts of its own, too."""
    x = normal(*SHAPE, dtype=dtype, grad=True)
    y = fixed(name)(x)
    assert_same(y, expected(name, x, 0.4, seed=11, offset=2, index=3))
    for incoming in (torch.randn_like(y), torch.randn(()).to(dtype).expand(y.shape)):
        (got,) = torch.autograd.grad(y, x, incoming, retain_graph=True)
        assert_same(got, expected(name, incoming, 0.4, seed=11, offset=2, index=3))


@pytest.mark.parametrize("dtype", DTYPES)
def test_backward_of_relu_and_alpha(dtype: torch.dtype) -> None:
    x = normal(*SHAPE, dtype=dtype, grad=True)
    incoming = normal(*SHAPE, dtype=dtype)
    (got,) = torch.autograd.grad(fixed("relu")(x), x, incoming)
    masked = torch.where(x <= 0, 0, incoming)
    wanted = expected("dropout", masked, 0.4, seed=11, offset=2, index=3)
    assert_same(got + 0.0, wanted + 0.0)
    (got,) = torch.autograd.grad(fixed("alpha")(x), x, incoming)
    kept = torch.from_numpy(reference.dropout_mask(SHAPE, 0.4, seed=11, offset=2, index=3))
    a = reference.dropout_mask.__globals__["alpha_scalars"](round(0.6 * 65536))[0]
    wide = incoming.to(torch.promote_types(dtype, torch.float32))
    assert_same(got, torch.where(kept, wide * a, 0).to(dtype))


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("p", [0.4, 1.0])
def test_gradients(name: str, p: float) -> None:
    x = normal(*SHAPE, dtype=torch.float64, grad=True)

    def function(x: Tensor) -> Tensor:
        return FORMS[name].ours(x, p, True, seed=11)

    gradcheck(function, (x,), check_forward_ad=True, check_batched_grad=True)
    gradgradcheck(function, (x,), check_fwd_over_rev=True, check_batched_grad=True)


@pytest.mark.parametrize("channels_last", [True, False])
def test_gradients_in_other_layouts(channels_last: bool) -> None:
    x = normal(*SHAPE, dtype=torch.float64)
    x = x.to(memory_format=torch.channels_last) if channels_last else x.transpose(0, 3)
    for name in FORMS:
        gradcheck(fixed(name), (x.requires_grad_(),))


@pytest.mark.parametrize("inputs", [(1, 1, 1), (1, 0, 1), (1, 1, 0), (0, 1, 1), (0, 1, 0), (0, 0, 1)])
def test_gradients_of_bias_dropout_add(inputs: tuple[int, int, int]) -> None:
    tensors = [normal(4, 6), normal(6), normal(4, 6)]
    tensors = [it.double().requires_grad_(bool(g)) for it, g in zip(tensors, inputs, strict=True)]

    def function(x: Tensor, bias: Tensor, residual: Tensor) -> Tensor:
        return functional.bias_dropout_add(x, bias, residual, 0.4, seed=3)

    gradcheck(function, tensors, check_forward_ad=True, check_batched_grad=True)
    gradgradcheck(function, tensors)
    one = [it[0].detach().requires_grad_() if it.dim() == 2 else it for it in tensors]
    gradcheck(function, one)
    x = tensors[0].detach().requires_grad_()
    gradcheck(lambda x: functional.bias_dropout_add(x, None, None, 0.4, seed=3), (x,))


@pytest.mark.parametrize("name", FORMS)
def test_a_drawn_mask_is_the_backward_mask(name: str) -> None:
    x = normal(50, 20, 3, 3, grad=True)
    y = FORMS[name].ours(x, 0.5, True)
    (got,) = torch.autograd.grad(y, x, torch.ones_like(y))
    dropped = y == (y.flatten().mode().values if name == "alpha" else 0)
    assert torch.equal(got == 0, dropped)


# ---- what is kept ---------------------------------------------------------------------------------


def kept_bytes(function: Callable[[Tensor], Tensor], x: Tensor) -> int:
    """Bytes that autograd keeps for backward, the input's own aside."""
    storages: dict[int, int] = {}

    def pack(it: Tensor) -> Tensor:
        storages[it.untyped_storage().data_ptr()] = it.untyped_storage().nbytes()
        return it

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda it: it):
        y = function(x)
    y.sum().backward()
    storages.pop(x.untyped_storage().data_ptr(), None)
    return sum(storages.values())


@pytest.mark.parametrize(
    ("name", "wanted"),
    [("dropout", 0), ("packed", 1 / 32), ("alpha", 0), ("2d", 0), ("row", 0), ("relu", 1)],
)
def test_what_backward_keeps(name: str, wanted: float) -> None:
    x = normal(8, 16, 32, 32, grad=True)
    bytes_of_x = x.numel() * x.element_size()
    assert kept_bytes(fixed(name), x) == wanted * bytes_of_x
    assert kept_bytes(lambda x: F.dropout(x, 0.4), x) >= bytes_of_x / 4


def test_bias_dropout_add_keeps_nothing() -> None:
    x = normal(64, 32, grad=True)
    assert kept_bytes(lambda x: functional.bias_dropout_add(x, x[0], x, 0.4, seed=1), x) == 0


def test_a_layer_after_relu_dropout_shares_what_is_kept() -> None:
    layer, x = torch.nn.Linear(32, 8), normal(64, 32, grad=True)
    kept = kept_bytes(lambda x: layer(functional.relu_dropout(x, 0.4)), x)
    assert kept == 64 * 32 * 4 + layer.weight.untyped_storage().nbytes()


# ---- in place -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", IN_PLACE)
@pytest.mark.parametrize("layout", ["dense", "channels_last", "view"])
def test_in_place(name: str, layout: str) -> None:
    leaf = normal(*SHAPE, dtype=torch.float64, grad=True)

    def function(x: Tensor, inplace: bool) -> Tensor:
        y = x * 2
        if layout == "channels_last":
            y = y.to(memory_format=torch.channels_last)
        if layout == "view":
            y = y[:, 1:3]
        version = y._version
        z = FORMS[name].ours(y, 0.4, True, seed=5, **({"inplace": True} if inplace else {}))
        assert not inplace or (z is y and y._version > version)
        return z * 3

    inplace, outofplace = function(leaf, True), function(leaf, False)
    assert torch.equal(inplace, outofplace)
    weights = torch.randn_like(inplace)
    a, b = (torch.autograd.grad(it, leaf, weights)[0] for it in (inplace, outofplace))
    assert torch.equal(a, b)
    gradcheck(lambda x: function(x, True), (leaf,), check_forward_ad=True)


@pytest.mark.parametrize("name", IN_PLACE)
def test_what_must_not_be_written_is_not(name: str) -> None:
    x = normal(*SHAPE, grad=True)
    before = x.detach().clone()
    with pytest.raises(RuntimeError, match="a leaf Variable that requires grad"):
        fixed(name, inplace=True)(x)
    with pytest.raises(RuntimeError, match="a view of a leaf Variable that requires grad"):
        fixed(name, inplace=True)(x[:, :, :1])
    assert torch.equal(x, before)
    with torch.no_grad():
        assert fixed(name, inplace=True)(x) is x
    assert not torch.equal(x, before)


class Itself(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad


VIEWS: dict[str, Callable[[Tensor], Tensor]] = {
    "chunk": lambda y: y.chunk(2)[0],
    "split": lambda y: y.split(1)[1],
    "split with sizes": lambda y: y.split([1, 2])[1],
    "unbind": lambda y: y.unsqueeze(0).unbind(0)[0],
    "a view of one": lambda y: y.chunk(2)[0].transpose(0, 1),
    "of a Function": Itself.apply,
}


@pytest.mark.parametrize("how", VIEWS)
@pytest.mark.parametrize("name", IN_PLACE)
def test_views_that_autograd_cannot_follow_are_refused_untouched(name: str, how: str) -> None:
    y = normal(*SHAPE, grad=True) * 2
    view, before, version = VIEWS[how](y), y.detach().clone(), y._version
    with pytest.raises(RuntimeError, match="is a view and is being modified inplace"):
        fixed(name, inplace=True)(view)
    assert torch.equal(y.detach(), before)
    assert y._version == version
    with torch.no_grad():  # where nothing is to be followed
        assert fixed(name, inplace=True)(view) is view
    assert not torch.equal(y.detach(), before)


def test_a_saved_tensor_that_was_dropped_in_place_is_noticed() -> None:
    x = normal(10, grad=True)
    y = x.exp()
    functional.dropout(y, inplace=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


# ---- checkpoints, compilers, modes ----------------------------------------------------------------


@pytest.mark.parametrize("use_reentrant", [True, False])
@pytest.mark.parametrize("packed_mask", [True, False])
def test_checkpoint_recomputes_the_mask(use_reentrant: bool, packed_mask: bool) -> None:
    torch.manual_seed(0)
    drop = nn.Dropout(0.5, packed_mask=packed_mask)
    block = torch.nn.Sequential(torch.nn.Linear(8, 32), drop, torch.nn.Linear(32, 8), drop)
    x = normal(16, 8, grad=True)
    grads = []
    for wrapped in (True, False):
        torch.manual_seed(1)
        y = checkpoint(block, x, use_reentrant=use_reentrant) if wrapped else block(x)
        functional.dropout(normal(5))  # draws between forward and backward
        grads.append(torch.autograd.grad if not wrapped else None)
        block.zero_grad()
        x.grad = None
        (y**2).sum().backward()
        grads[-1] = [x.grad, *(it.grad.clone() for it in block.parameters())]
    assert all(torch.equal(*pair) for pair in zip(*grads, strict=True))


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_checkpoint_without_random_state(use_reentrant: bool) -> None:
    """An explicit seed needs no random state to be kept and restored."""
    x = normal(64, 8, grad=True)

    def block(x: Tensor) -> Tensor:
        return functional.dropout(x.exp(), 0.5, seed=6) ** 2

    y = checkpoint(block, x, use_reentrant=use_reentrant, preserve_rng_state=False)
    functional.dropout(x)
    y.sum().backward()
    (wanted,) = torch.autograd.grad(block(x).sum(), x)
    assert torch.equal(x.grad, wanted)


def test_compiled(run_python: RunPython) -> None:
    """Graph breaks, no crash; an explicit seed gives the eager mask. Evaluation breaks no graph."""
    script = """
import torch, fastopt
from fastopt import nn
model = torch.nn.Sequential(torch.nn.Linear(4, 8), nn.Dropout(0.5), torch.nn.ReLU(), nn.Dropout2d(.5),
                            nn.AlphaDropout(.3), nn.StochasticDepth(.2))
model[3].p = 0.0
compiled = torch.compile(model, backend="aot_eager")
x = torch.randn(3, 4, requires_grad=True)
torch.manual_seed(1)
a = compiled(x)
torch.manual_seed(1)
b = model(x)
assert torch.equal(a, b)
a.sum().backward()
got, x.grad = x.grad, None
b.sum().backward()
assert torch.equal(got, x.grad)

f = nn.functional
@torch.compile(backend="aot_eager")
def pure(x, bias):
    y = f.relu_dropout(x.sin(), 0.5, seed=3)
    return f.bias_dropout_add(y, bias, y, 0.5, seed=4).cos()
x = torch.randn(6, 8)
y = f.relu_dropout(x.sin(), 0.5, seed=3)
assert torch.equal(pure(x, x[0]), f.bias_dropout_add(y, x[0], y, 0.5, seed=4).cos())

evaluating = torch.nn.Sequential(nn.Dropout(0.5), nn.AlphaDropout(), nn.StochasticDepth(.2)).eval()
assert torch.equal(torch.compile(evaluating, backend="aot_eager", fullgraph=True)(x), x)

exported = torch.export.export(torch.nn.Sequential(nn.Dropout(0.5)), (x,), strict=True)
assert "dropout" in str(exported.graph)
exported = torch.export.export(torch.nn.Sequential(nn.Dropout(0.5)), (x,), strict=False)
assert "dropout" in str(exported.graph)
"""
    result = run_python("-c", script)
    assert result.returncode == 0, result.stderr


def test_no_grad_and_hooks() -> None:
    x = normal(10, grad=True)
    with torch.no_grad():
        assert not functional.dropout(x).requires_grad
    assert functional.dropout(x).requires_grad
    assert not functional.dropout(x.detach()).requires_grad
    with torch.inference_mode():
        assert not functional.dropout(x).requires_grad
    with torch.autocast("cpu", torch.bfloat16):
        y = torch.nn.Linear(10, 10)(x)
        z = functional.bias_dropout_add(y, x, x, 0.5, seed=1)
    assert y.dtype is torch.bfloat16
    assert z.dtype is torch.float32
    z.sum().backward()


def test_training_a_network() -> None:
    """With dropout on, a network still learns; ours and torch's end alike."""
    losses = {}
    for library in (torch.nn, nn):
        torch.manual_seed(0)
        layers = [torch.nn.Linear(8, 64), torch.nn.ReLU(), library.Dropout(0.1), torch.nn.Linear(64, 1)]
        model = torch.nn.Sequential(*layers)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        x = normal(256, 8)
        wanted = x.square().sum(1, keepdim=True)
        for _ in range(150):
            optimizer.zero_grad()
            F.mse_loss(model(x), wanted).backward()
            optimizer.step()
        losses[library] = F.mse_loss(model.eval()(x), wanted).item()
    ours, torchs = losses[nn], losses[torch.nn]
    assert ours < 5
    assert abs(ours - torchs) < 3
