"""Dropout under autograd, forward-mode differentiation and torch.func.

Once its mask is given, dropout is linear in x: y = D x, with D diagonal. So its derivative, forwards
and backwards, is D again, and as D is a function of a few numbers, those are all that is kept.

torch.func needs a Function in the form that is slow in ordinary use, so there are two of D x.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor
from torch.autograd import Function

from fastopt._threads import fit_for_forks
from fastopt.nn._kernels import (
    Diagonal,
    Form,
    alpha_terms,
    bias_add_product,
    is_batched_gradient,
    new_bits,
    product,
    product_,
    product_by_bits,
)


def needs_backward(*tensors: Tensor | None) -> bool:
    return torch.is_grad_enabled() and any(it is not None and it.requires_grad for it in tensors)


def is_transformed() -> bool:
    """Whether a transform of torch.func is at work."""
    return torch._C._are_functorch_transforms_active()


def is_functionalized() -> bool:
    """Whether functionalize is among the transforms; it takes no Function of ours."""
    if not is_transformed():
        return False
    functionalize = torch._C._functorch.TransformType.Functionalize
    stack = torch._C._functorch.get_interpreter_stack() or ()
    return any(interpreter.key() == functionalize for interpreter in stack)


def is_composed() -> bool:
    """Whether a form is put together from D x, because of torch.func or a forward derivative."""
    return is_transformed() or forward_ad._current_level >= 0


def linear(x: Tensor, d: Diagonal) -> Tensor:
    """D x."""
    if is_transformed():
        return cast(Tensor, _Transformed.apply(x, d.seed, d._replace(seed=None)))  # type: ignore[no-untyped-call]
    if needs_backward(x) or forward_ad._current_level >= 0:
        return cast(Tensor, _Linear.apply(x, d, False))  # type: ignore[no-untyped-call]
    return product(x, d)


def dropout(x: Tensor, d: Diagonal, inplace: bool) -> Tensor:
    """D x, perhaps written to x."""
    if not inplace:
        return linear(x, d)
    if is_composed():
        return x.copy_(linear(x, d))
    return apply_(_Linear, x, d, "plain")


def packed_dropout(x: Tensor, d: Diagonal, inplace: bool) -> Tensor:
    """The same; if autograd will need D again, its bits are kept."""
    if is_composed() or not needs_backward(x):
        return dropout(x, d, inplace)
    if inplace:
        refuse_in_place(x)
    return cast(Tensor, _Packed.apply(x, d, inplace))  # type: ignore[no-untyped-call]


def relu_dropout(x: Tensor, d: Diagonal, inplace: bool) -> Tensor:
    """D max(x, 0)."""
    if is_composed():
        y = linear(torch.where(x <= 0, 0.0, x), d)
        return x.copy_(y) if inplace else y
    if inplace:
        return apply_(_Relu, x, d, "relu")
    if needs_backward(x):
        return cast(Tensor, _Relu.apply(x, d, False))  # type: ignore[no-untyped-call]
    return product(x, d, "relu")


def alpha_dropout(x: Tensor, d: Diagonal, inplace: bool) -> Tensor:
    """a x + b where D keeps, c elsewhere."""
    if is_composed():
        a, b, c = alpha_terms(d.p)
        kept = linear(torch.ones_like(x), d._replace(scale=1.0)) != 0
        y = torch.where(kept, linear(x, d._replace(scale=a or None)) + b, c)  # None: nothing is kept
        return x.copy_(y) if inplace else y
    if inplace:
        return apply_(_Alpha, x, d, "alpha")
    if needs_backward(x):
        return cast(Tensor, _Alpha.apply(x, d, False))  # type: ignore[no-untyped-call]
    return product(x, d, "alpha")


def bias_dropout_add(x: Tensor, bias: Tensor | None, residual: Tensor | None, d: Diagonal) -> Tensor:
    """residual + D (x + bias), of tensors that one kernel takes."""
    if needs_backward(x, bias, residual):
        return cast(Tensor, _BiasDropoutAdd.apply(x, bias, residual, d))  # type: ignore[no-untyped-call]
    return bias_add_product(x, bias, residual, d)


def apply_(function: Any, x: Tensor, d: Diagonal, form: Form) -> Tensor:
    """One of the forms, written to x."""
    refuse_in_place(x)
    if needs_backward(x):
        return cast(Tensor, function.apply(x, d, True))
    product_(x, d, form)
    torch.autograd.graph.increment_version(x)
    return x


def is_view_in_a_graph(x: Tensor) -> bool:
    """Whether only torch can tell if x may be written to: what chunk, split and unbind give may not."""
    return x._is_view() and needs_backward(x)


def refuse_in_place(x: Tensor) -> None:
    """Raise torch's own error, before anything is written, where x must not be written to."""
    forbidden = x.is_inference() and not torch.is_inference_mode_enabled()
    if needs_backward(x):
        base = x._base
        forbidden |= x.is_leaf or (base is not None and base.is_leaf and base.requires_grad)
    if forbidden:
        x.mul_(1)


# ---- in ordinary use ------------------------------------------------------------------------------


class _Form(Function):
    """What the forms with the arguments x, d and inplace share."""

    @staticmethod
    def result(ctx: Any, x: Tensor, d: Diagonal, inplace: bool, *rest: Any) -> Tensor:
        if not inplace:
            return product(x, d, *rest)
        ctx.mark_dirty(x)
        product_(x, d, *rest)
        return x


class _Linear(_Form):
    @staticmethod
    def forward(ctx: Any, x: Tensor, d: Diagonal, inplace: bool) -> Tensor:
        ctx.d = d
        return _Form.result(ctx, x, d, inplace)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return linear(grad, ctx.d), None, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: None) -> Tensor:
        return linear(tangent, ctx.d)


class _Packed(_Form):
    @staticmethod
    def forward(ctx: Any, x: Tensor, d: Diagonal, inplace: bool) -> Tensor:
        bits = new_bits(x)
        ctx.d = d
        ctx.save_for_backward(bits)
        return _Form.result(ctx, x, d, inplace, "plain", bits)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (bits,) = ctx.saved_tensors
        if is_composed() or needs_backward(grad) or is_batched_gradient(grad):
            return linear(grad, ctx.d), None, None  # the same D, drawn again
        return product_by_bits(grad, ctx.d, bits), None, None


class _Relu(_Form):
    @staticmethod
    def forward(ctx: Any, x: Tensor, d: Diagonal, inplace: bool) -> Tensor:
        y = _Form.result(ctx, x, d, inplace, "relu")
        ctx.scale = d.kept_scale
        ctx.save_for_backward(y)  # which the next layer keeps anyway
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (y,) = ctx.saved_tensors
        with fit_for_forks():
            return (grad * ctx.scale).masked_fill(y.detach() <= 0, 0), None, None


class _Alpha(_Form):
    @staticmethod
    def forward(ctx: Any, x: Tensor, d: Diagonal, inplace: bool) -> Tensor:
        ctx.d = d._replace(scale=alpha_terms(d.p)[0] or None)
        return _Form.result(ctx, x, d, inplace, "alpha")

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return linear(grad, ctx.d), None, None


class _BiasDropoutAdd(Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, bias: Tensor | None, residual: Tensor | None, d: Diagonal
    ) -> Tensor:
        ctx.d = d
        ctx.bias_shape = None if bias is None else bias.shape
        return bias_add_product(x, bias, residual, d)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        for_x, for_bias, for_residual, _ = ctx.needs_input_grad
        inner = linear(grad, ctx.d) if for_x or for_bias else None
        with fit_for_forks():
            bias = inner.sum_to_size(ctx.bias_shape) if inner is not None and for_bias else None
        return (
            inner if for_x else None,
            bias,
            grad if for_residual else None,
            None,
        )


# ---- under torch.func -----------------------------------------------------------------------------


class _Transformed(Function):
    """D x, for every composition of torch.func's transforms.

    A seed that was drawn is a tensor. Under vmap torch has then settled by its ``randomness``
    whether all samples have one seed ("same") or each its own ("different").
    """

    @staticmethod
    def forward(x: Tensor, seed: Any, d: Diagonal) -> Tensor:
        return product(x, d._replace(seed=seed))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        _, seed, ctx.d = inputs
        ctx.seed = None
        if isinstance(seed, Tensor):
            ctx.save_for_backward(seed)
            ctx.save_for_forward(seed)
        else:
            ctx.seed = seed

    @staticmethod
    def again(ctx: Any, x: Tensor) -> Tensor:
        seed = ctx.saved_tensors[0] if ctx.seed is None else ctx.seed
        return linear(x, ctx.d._replace(seed=seed))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return _Transformed.again(ctx, grad), None, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: None) -> Tensor:
        return _Transformed.again(ctx, tangent)

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[Any, ...], x: Tensor, seed: Any, d: Diagonal
    ) -> tuple[Tensor, int]:
        x_dim, seed_dim, _ = in_dims
        x = x.expand(info.batch_size, *x.shape) if x_dim is None else x.movedim(x_dim, 0)
        if seed_dim is not None:  # the samples are drawn as one array, by the first one's seed
            return linear(x, d._replace(seed=seed.select(seed_dim, 0))), 0
        d = d._replace(seed=seed)
        samples = [linear(sample, d) for sample in x]
        return torch.stack(samples) if samples else x.clone(), 0
