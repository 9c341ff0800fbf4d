"""Lion, LAMB, Adadelta, RAdam, Adamax and NAdam with every option; see whole_surface.py.

    python tests/docs/surface/more_optimizers.py

tests/docs/test_typing.py sees to it that nothing public is missing, runs this and has mypy check it.
"""

from typing import TypeAlias

import torch
from on_arrays import check, normal, zeros
from whole_surface import train

from fastopt import kernels, optim, reference, rules

Optimizer: TypeAlias = (
    rules.RuleOptimizer
    | optim.SGD
    | optim.Adagrad
    | optim.RMSprop
    | optim.Adam
    | optim.AdamW
    | optim.Lion
    | optim.LAMB
    | optim.Adadelta
    | optim.RAdam
    | optim.Adamax
    | optim.NAdam
)


def on_numpy() -> None:
    """One call of each kernel, in place, against the reference's new arrays; the bits are equal."""
    before, grad = normal(0), normal(1)

    param, m = before.copy(), zeros()
    kernels.lion_(
        param, grad, m,
        step=1, lr=1e-3, betas=(0.9, 0.99), weight_decay=0.01, maximize=False,
        cautious_decay=True,
        grad_scale=1.0, copy_to=param.copy(),
    )  # fmt: skip
    expected = reference.lion(
        before, grad, zeros(),
        step=1, lr=1e-3, betas=(0.9, 0.99), weight_decay=0.01, maximize=False,
        cautious_decay=True,
    )  # fmt: skip
    check("lion_", (param, m), expected)

    param, first, second = before.copy(), zeros(), zeros()
    kernels.lamb_(
        param, grad, first, second,
        step=1, lr=0.1, betas=(0.9, 0.999), eps=1e-6, weight_decay=0.01,
        bias_correction=True, maximize=False, always_adapt=False,
        grad_scale=1.0, copy_to=param.copy(),
    )  # fmt: skip
    expected = reference.lamb(
        before, grad, zeros(), zeros(),
        step=1, lr=0.1, betas=(0.9, 0.999), eps=1e-6, weight_decay=0.01,
        bias_correction=True, maximize=False, always_adapt=False, as_stored=lambda name, x: x,
    )  # fmt: skip
    check("lamb_", (param, first, second), expected)

    param, square, delta = before.copy(), zeros(), zeros()
    kernels.adadelta_(
        param, grad, square, delta,
        step=1, lr=1.0, rho=0.9, eps=1e-6, weight_decay=0.01, maximize=False,
        grad_scale=1.0, copy_to=param.copy(),
    )  # fmt: skip
    expected = reference.adadelta(
        before, grad, zeros(), zeros(),
        step=1, lr=1.0, rho=0.9, eps=1e-6, weight_decay=0.01, maximize=False,
    )  # fmt: skip
    check("adadelta_", (param, square, delta), expected)

    param, first, second = before.copy(), zeros(), zeros()
    kernels.radam_(
        param, grad, first, second,
        step=1, lr=0.1, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01,
        decoupled_weight_decay=True, maximize=False,
        grad_scale=1.0, copy_to=param.copy(),
    )  # fmt: skip
    expected = reference.radam(
        before, grad, zeros(), zeros(),
        step=1, lr=0.1, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01,
        decoupled_weight_decay=True, maximize=False,
    )  # fmt: skip
    check("radam_", (param, first, second), expected)

    param, first, largest = before.copy(), zeros(), zeros()
    kernels.adamax_(
        param, grad, first, largest,
        step=1, lr=0.1, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01, maximize=False,
        grad_scale=1.0, copy_to=param.copy(),
    )  # fmt: skip
    expected = reference.adamax(
        before, grad, zeros(), zeros(),
        step=1, lr=0.1, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01, maximize=False,
    )  # fmt: skip
    check("adamax_", (param, first, largest), expected)

    product = reference.nadam_mu(1, 0.9, 4e-3)
    param, first, second = before.copy(), zeros(), zeros()
    kernels.nadam_(
        param, grad, first, second,
        step=1, mu_product=product, lr=0.1, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01,
        momentum_decay=4e-3, decoupled_weight_decay=True, maximize=False,
        grad_scale=1.0, copy_to=param.copy(),
    )  # fmt: skip
    expected = reference.nadam(
        before, grad, zeros(), zeros(),
        step=1, mu_product=product, lr=0.1, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01,
        momentum_decay=4e-3, decoupled_weight_decay=True, maximize=False,
    )  # fmt: skip
    check("nadam_", (param, first, second), expected)


def lion(model: torch.nn.Module) -> optim.Lion:
    return optim.Lion(
        model.parameters(),
        lr=3e-3,
        betas=(0.9, 0.99),
        weight_decay=0.01,
        maximize=False,
        cautious_decay=True,
        max_grad_norm=1.0,
        error_if_nonfinite=True,
        ema_decay=0.9,
        ema_bias_correction=True,
        state_dtype=torch.bfloat16,
        master_weights=False,
        stochastic_rounding=False,
        rounding_seed=0,
        copy_to=None,
    )


def lamb(model: torch.nn.Module) -> optim.LAMB:
    return optim.LAMB(
        model.parameters(),
        lr=0.02,
        betas=(0.9, 0.999),
        eps=1e-6,
        weight_decay=0.01,
        bias_correction=True,
        maximize=False,
        always_adapt=False,
        max_grad_norm=1.0,
        error_if_nonfinite=True,
        ema_decay=0.9,
        ema_bias_correction=True,
        state_dtype=torch.bfloat16,
        copy_to=None,
    )


def adadelta(model: torch.nn.Module) -> optim.Adadelta:
    return optim.Adadelta(
        model.parameters(),
        lr=5.0,
        rho=0.9,
        eps=1e-6,
        weight_decay=1e-4,
        foreach=None,
        capturable=False,
        maximize=False,
        differentiable=False,
        max_grad_norm=1.0,
        error_if_nonfinite=True,
        ema_decay=0.9,
        ema_bias_correction=True,
        state_dtype="int8",
        master_weights=False,
        stochastic_rounding=True,
        rounding_seed=0,
        copy_to=None,
    )


def radam(model: torch.nn.Module) -> optim.RAdam:
    return optim.RAdam(
        model.parameters(),
        lr=0.02,
        betas=(0.9, 0.99),
        eps=1e-8,
        weight_decay=1e-4,
        decoupled_weight_decay=True,
        foreach=None,
        maximize=False,
        capturable=False,
        differentiable=False,
        max_grad_norm=1.0,
        error_if_nonfinite=True,
        ema_decay=0.9,
        ema_bias_correction=True,
        state_dtype=None,
        master_weights=True,
        stochastic_rounding=False,
        rounding_seed=0,
        copy_to=None,
    )


def adamax(model: torch.nn.Module) -> optim.Adamax:
    return optim.Adamax(
        model.parameters(),
        lr=0.02,
        betas=(0.9, 0.999),
        eps=1e-8,
        weight_decay=1e-4,
        foreach=None,
        maximize=False,
        differentiable=False,
        capturable=False,
        max_grad_norm=1.0,
        error_if_nonfinite=True,
        ema_decay=0.9,
        ema_bias_correction=True,
        state_dtype="int8",
        master_weights=True,
        stochastic_rounding=False,
        rounding_seed=0,
        copy_to=None,
    )


def nadam(model: torch.nn.Module) -> optim.NAdam:
    return optim.NAdam(
        model.parameters(),
        lr=0.02,
        betas=(0.9, 0.999),
        eps=1e-8,
        weight_decay=1e-4,
        momentum_decay=4e-3,
        decoupled_weight_decay=True,
        foreach=None,
        maximize=False,
        capturable=False,
        differentiable=False,
        max_grad_norm=1.0,
        error_if_nonfinite=True,
        ema_decay=0.9,
        ema_bias_correction=True,
        state_dtype=torch.float32,
        master_weights=False,
        stochastic_rounding=True,
        rounding_seed=0,
        copy_to=None,
    )


def main() -> None:
    on_numpy()
    for make in (lion, lamb, adadelta, radam, adamax, nadam):
        train(make)


if __name__ == "__main__":
    main()
