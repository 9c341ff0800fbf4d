"""fastopt.nn in forward mode and under torch.func."""

from __future__ import annotations

import pytest
import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor
from torch.func import grad, jacfwd, jacrev, jvp, vmap

from _nn_cases import FORMS, SHAPE, fixed, normal
from fastopt import nn
from fastopt.nn import functional

IN_PLACE = [name for name, form in FORMS.items() if form.inplace]


# ---- forward mode, torch.func ---------------------------------------------------------------------


@pytest.mark.parametrize("name", FORMS)
def test_forward_mode(name: str) -> None:
    x, t = normal(*SHAPE, dtype=torch.float64), torch.randn(*SHAPE, dtype=torch.float64)
    with forward_ad.dual_level():
        y, dy = forward_ad.unpack_dual(fixed(name)(forward_ad.make_dual(x, t)))
    assert torch.equal(y, fixed(name)(x))
    x.requires_grad_()
    (through_zero,) = torch.autograd.grad(fixed(name)(x), x, torch.ones_like(x))
    torch.testing.assert_close(dy, through_zero * t)
    assert torch.equal(jvp(fixed(name), (x.detach(),), (t,))[1], dy)
    if name in IN_PLACE:
        with forward_ad.dual_level():
            dual = forward_ad.make_dual(x.detach().clone(), t)
            result = forward_ad.unpack_dual(fixed(name, inplace=True)(dual))
        assert torch.equal(result.tangent, dy)


@pytest.mark.parametrize("name", FORMS)
def test_transforms_of_a_pure_function(name: str) -> None:
    """An explicit seed means the same mask for every sample, whatever vmap's randomness is."""
    x = normal(5, *SHAPE, dtype=torch.float64)
    wanted = torch.stack([fixed(name)(it) for it in x])
    for randomness in ("error", "same", "different"):
        assert torch.equal(vmap(fixed(name), randomness=randomness)(x), wanted)
    moved = vmap(fixed(name), in_dims=2, out_dims=1)(x.movedim(0, 2))
    assert torch.equal(moved, wanted.movedim(0, 1))
    assert torch.equal(vmap(fixed(name))(x[:0]), wanted[:0])

    def loss(x: Tensor) -> Tensor:
        return (fixed(name)(x) ** 2).sum()

    per_sample = vmap(grad(loss))(x)
    leaf = x.clone().requires_grad_()
    (plain,) = torch.autograd.grad(sum(loss(it) for it in leaf), leaf)
    torch.testing.assert_close(per_sample, plain)
    small = x[0, :1, :2]
    torch.testing.assert_close(jacrev(fixed(name))(small), jacfwd(fixed(name))(small))
    torch.testing.assert_close(jacrev(jacrev(loss))(small), jacfwd(jacrev(loss))(small))


@pytest.mark.parametrize("name", FORMS)
def test_randomness_of_vmap(name: str) -> None:
    x = torch.ones(20, 40, 30, 1, 1).double()

    def draw(x: Tensor) -> Tensor:
        return FORMS[name].ours(x, 0.5, True)

    with pytest.raises(RuntimeError, match="called random operation while in randomness error mode"):
        vmap(draw)(x)
    same = vmap(draw, randomness="same")(x)
    assert all(torch.equal(it, same[0]) for it in same)
    different = vmap(draw, randomness="different")(x)
    assert len({tuple(it.flatten().tolist()) for it in different}) == (2 if name == "batch" else 20)
    torch.manual_seed(1)
    first = vmap(draw, randomness="different")(x)
    torch.manual_seed(1)
    assert torch.equal(vmap(draw, randomness="different")(x), first)


def test_what_is_not_batched_is_drawn_anew_too() -> None:
    x = torch.ones(100)
    y = vmap(lambda _: functional.dropout(x), randomness="different")(torch.zeros(5))
    assert y.shape == (5, 100)
    assert len({tuple(it.tolist()) for it in y}) == 5
    y = vmap(lambda _: functional.dropout(x), randomness="same")(torch.zeros(5))
    assert y.shape == (5, 100)
    assert len({tuple(it.tolist()) for it in y}) == 1
    nested = vmap(vmap(functional.dropout, randomness="different"), randomness="different")
    y = nested(torch.ones(3, 4, 100))
    assert len({tuple(it.tolist()) for it in y.flatten(0, 1)}) == 12
    outer = vmap(vmap(functional.dropout, randomness="same"), randomness="different")
    y = outer(torch.ones(3, 4, 100))
    assert len({tuple(it.tolist()) for it in y.flatten(0, 1)}) == 3


def test_gradients_of_drawn_masks_under_vmap() -> None:
    def loss(x: Tensor) -> Tensor:
        return functional.dropout(x, 0.5).sum()

    for randomness, distinct in (("same", 1), ("different", 6)):
        slopes = vmap(grad(loss), randomness=randomness)(torch.ones(6, 100))
        assert set(slopes.flatten().tolist()) == {0.0, 2.0}
        assert len({tuple(it.tolist()) for it in slopes}) == distinct
    x = torch.ones(100)
    value, vjp = torch.func.vjp(functional.dropout, x)
    assert torch.equal(vjp(torch.ones(100))[0], value)


def test_bias_dropout_add_under_transforms() -> None:
    x, bias, residual = normal(4, 5, 6), normal(6), normal(4, 5, 6)

    def function(x: Tensor, residual: Tensor) -> Tensor:
        return functional.bias_dropout_add(x, bias, residual, 0.4, seed=8)

    wanted = torch.stack([function(*pair) for pair in zip(x, residual, strict=True)])
    assert torch.equal(vmap(function)(x, residual), wanted)
    slopes = grad(lambda x: function(x, residual[0]).sum())(x[0])
    assert torch.equal(slopes, functional.dropout(torch.ones(5, 6), 0.4, seed=8))


def test_modules_under_functional_call() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(6, 8), nn.Dropout(0.5), torch.nn.Linear(8, 1))
    parameters = dict(model.named_parameters())

    def loss(parameters: dict[str, Tensor], x: Tensor) -> Tensor:
        return torch.func.functional_call(model, parameters, (x,)).sum()

    x = normal(7, 6)
    per_sample = vmap(grad(loss), in_dims=(None, 0), randomness="different")(parameters, x)
    assert per_sample["0.weight"].shape == (7, 8, 6)
