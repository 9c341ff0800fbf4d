"""Everything that fastopt offers on plain arrays, once each, in a script that a type checker accepts.

    python tests/docs/surface/on_arrays.py

It steps the rules on NumPy arrays and torch tensors and compares them with their references, bit for
bit; so it does with dropout. more_optimizers.py does it for the other rules. Takes seconds,
on the CPU. `mypy --strict` finds nothing to say about it; tests/docs/test_typing.py sees to that.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from fastopt import kernels, nn, reference

Array: TypeAlias = npt.NDArray[np.float32]

SIZE = 1000


def zeros() -> Array:
    return np.zeros(SIZE, np.float32)


def normal(seed: int) -> Array:
    return np.random.default_rng(seed).standard_normal(SIZE, np.float32)


def on_numpy() -> None:
    """One call of each kernel, in place, against the reference's new arrays; the bits are equal."""
    before, grad = normal(0), normal(1)

    param, buffer = before.copy(), zeros()
    kernels.sgd_(
        param, grad, buffer,
        step=1, lr=0.1, momentum=0.9, dampening=0.0, weight_decay=0.01, nesterov=False, maximize=False,
        exponential_average=True, bias_correction=True, cautious_decay=True,
        grad_scale=1.0, copy_to=param.copy(),
    )  # fmt: skip
    expected = reference.sgd(
        before, grad, zeros(),
        step=1, lr=0.1, momentum=0.9, dampening=0.0, weight_decay=0.01, nesterov=False, maximize=False,
        exponential_average=True, bias_correction=True, cautious_decay=True,
    )  # fmt: skip
    check("sgd_", (param, buffer), expected)

    param, total = before.copy(), zeros()
    kernels.adagrad_(
        param, grad, total,
        step=1, lr=0.1, lr_decay=0.1, weight_decay=0.01, eps=1e-10, maximize=False,
        grad_scale=1.0, copy_to=param.copy(),
    )  # fmt: skip
    expected = reference.adagrad(
        before, grad, zeros(),
        step=1, lr=0.1, lr_decay=0.1, weight_decay=0.01, eps=1e-10, maximize=False,
    )  # fmt: skip
    check("adagrad_", (param, total), expected)

    param, square, mean, buffer = before.copy(), zeros(), zeros(), zeros()
    kernels.rmsprop_(
        param, grad, square, mean, buffer,
        step=1, lr=0.1, alpha=0.99, eps=1e-8, weight_decay=0.01, momentum=0.9, centered=True,
        eps_inside_sqrt=True, maximize=False,
        grad_scale=1.0, copy_to=param.copy(),
    )  # fmt: skip
    expected = reference.rmsprop(
        before, grad, zeros(), zeros(), zeros(),
        step=1, lr=0.1, alpha=0.99, eps=1e-8, weight_decay=0.01, momentum=0.9, centered=True,
        eps_inside_sqrt=True, maximize=False,
    )  # fmt: skip
    check("rmsprop_", (param, square, mean, buffer), expected)

    param, first, second, largest = before.copy(), zeros(), zeros(), zeros()
    kernels.adam_(
        param, grad, first, second, largest,
        step=1, lr=0.1, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01, amsgrad=True,
        decoupled_weight_decay=False, bias_correction=True, eps_inside_sqrt=False, maximize=False,
        cautious_decay=False,
        grad_scale=1.0, copy_to=param.copy(),
    )  # fmt: skip
    expected = reference.adam(
        before, grad, zeros(), zeros(), zeros(),
        step=1, lr=0.1, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01, amsgrad=True,
        decoupled_weight_decay=False, bias_correction=True, eps_inside_sqrt=False, maximize=False,
        cautious_decay=False,
    )  # fmt: skip
    check("adam_", (param, first, second, largest), expected)

    param, first, second, largest = before.copy(), zeros(), zeros(), zeros()
    kernels.adamw_(
        param, grad, first, second, largest,
        step=1, lr=0.1, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01, amsgrad=True,
        bias_correction=False, eps_inside_sqrt=True, maximize=False, cautious_decay=True,
        grad_scale=1.0, copy_to=param.copy(),
    )  # fmt: skip
    expected = reference.adamw(
        before, grad, zeros(), zeros(), zeros(),
        step=1, lr=0.1, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01, amsgrad=True,
        bias_correction=False, eps_inside_sqrt=True, maximize=False, cautious_decay=True,
    )  # fmt: skip
    check("adamw_", (param, first, second, largest), expected)


def check(name: str, got: tuple[npt.NDArray[Any], ...], expected: tuple[npt.NDArray[Any], ...]) -> None:
    if [array.tobytes() for array in got] != [array.tobytes() for array in expected]:
        raise SystemExit(f"{name} differs from its reference")
    print(f"kernels.{name:12} equals its reference, bit for bit")


def dropouts() -> None:
    """Dropout, its forms and its masks: which elements are dropped is a function of the key alone."""
    x, residual = normal(6).reshape(10, 100), normal(7).reshape(10, 100)
    bias = normal(8)[:100]
    out = np.empty_like(x)

    packed = kernels.dropout_mask(x.shape, 0.1, seed=1, offset=2, index=3, packed=True, out=None)
    got = [
        kernels.dropout(x, 0.1, seed=1, offset=2, index=3, out=out, mask=None),
        kernels.dropout(x, 0.1, seed=1, offset=2, index=3, mask=packed),
        kernels.relu_dropout(x, 0.1, seed=1, offset=2, index=3, out=None),
        kernels.bias_dropout_add(x, bias, residual, 0.1, seed=1, offset=2, index=3, out=None),
        kernels.dropout_rows(x, 100, 0.1, seed=1, offset=2, index=3, out=None),
        kernels.alpha_dropout(x, 0.1, seed=1, offset=2, index=3, out=None),
    ]
    expected = [
        reference.dropout(x, 0.1, seed=1, offset=2, index=3),
        reference.dropout(x, 0.1, seed=1, offset=2, index=3),
        reference.relu_dropout(x, 0.1, seed=1, offset=2, index=3),
        reference.bias_dropout_add(x, bias, residual, 0.1, seed=1, offset=2, index=3),
        reference.dropout_rows(x, 100, 0.1, seed=1, offset=2, index=3),
        reference.alpha_dropout(x, 0.1, seed=1, offset=2, index=3),
    ]
    check("dropout", tuple(got), tuple(expected))
    mask = reference.dropout_mask(x.shape, 0.1, seed=1, offset=2, index=3)
    check("dropout_mask", (packed,), (np.packbits(mask, bitorder="little"),))

    words = reference.philox4x32((0, 0, 0, 0), (0, 0), rounds=10)
    rounded = reference.from_bfloat16(reference.to_bfloat16(x))
    print(f"Philox of nothing: {words[0]:08x}; bfloat16 is off by up to {abs(rounded - x).max():.4f}")


def on_torch() -> None:
    """The same functions on torch tensors, several in one call, each at a step of its own."""
    params = [torch.ones(3), torch.ones(2, 2)]
    grads = [torch.full_like(param, 0.5) for param in params]
    first, second = ([torch.zeros_like(param) for param in params] for _ in range(2))
    kernels.adam_(params, grads, first, second, step=[1, 2], lr=0.1, grad_scale=2.0)
    print("kernels.adam_ on two tensors:", [round(param.mean().item(), 4) for param in params])
    low = torch.ones(3, dtype=torch.bfloat16)  # any mix with float32 and float16
    kernels.sgd_(low, torch.ones(3), torch.zeros(3, dtype=torch.float16), lr=0.1, momentum=0.9)
    print("kernels.sgd_ on bfloat16:", low.tolist())


def around_the_step() -> None:
    """What the optimizers do besides their rule, in NumPy."""
    grads = [normal(2), normal(3)]
    norm = reference.grad_norm([reference.unscaled(grad, 2.0) for grad in grads])
    factor = reference.clip_factor(norm, 1.0)
    average = reference.ema(normal(4), normal(5), decay=0.99)
    weight = 1 - reference.power(0.99, 10)
    print(f"norm {norm:.3f}, clipped by {factor:.5f}; average of {average.size}, weight {weight:.4f}")


def weighted_averages() -> None:
    """An average that began at 0, and its correction."""
    average, corrected, value = zeros(), zeros(), normal(7)
    expected = reference.corrected_ema(average, value, decay=0.9, step=1)
    kernels.ema_(average, value, corrected, decay=0.9, step=1)
    check("ema_", (average, corrected), expected)


def dropout_functions() -> None:
    """With a seed each is a pure function; its mask is the reference's."""
    x, image = torch.from_numpy(normal(6)), torch.ones(2, 3, 4, 4)
    table, line = x.view(10, 100), image.flatten(2)
    outputs = [
        nn.functional.dropout(x, 0.5, seed=1, offset=2, index=3, generator=None, packed_mask=True),
        nn.functional.relu_dropout(x, 0.5, seed=1, offset=2, index=3, generator=None),
        nn.functional.alpha_dropout(x, 0.5, True, seed=1, offset=2, index=3, generator=None),
        nn.functional.dropout1d(line, 0.5, seed=1, offset=2, index=3, generator=None),
        nn.functional.dropout2d(image, 0.5, seed=1, offset=2, index=3, generator=None),
        nn.functional.dropout3d(image, 0.5, seed=1, offset=2, index=3, generator=None),
        nn.functional.stochastic_depth(table, 0.5, seed=1, offset=2, index=3, generator=None),
        nn.functional.bias_dropout_add(
            table, x[:100], table, 0.5, seed=1, offset=2, index=3, generator=None
        ),
    ]
    first = reference.dropout(x.numpy(), 0.5, seed=1, offset=2, index=3)
    if outputs[0].numpy().tobytes() != first.tobytes():
        raise SystemExit("nn.functional.dropout differs from its reference")
    print(
        "nn.functional equals the reference; dropped:",
        [round((it == 0).float().mean().item(), 2) for it in outputs],
    )


def second_order() -> None:
    """L-BFGS on a quadratic, a direction of it again, and Newton's step."""
    hessian, start = np.diag([1.0, 10.0]), np.ones(2)
    memory = reference.LBFGSMemory()
    x = reference.lbfgs(
        lambda x: (float(x @ hessian @ x) / 2, hessian @ x),
        start,
        memory,
        lr=1.0,
        max_iter=5,
        max_eval=10,
        tolerance_grad=1e-7,
        tolerance_change=1e-9,
        history_size=10,
        line_search_fn="strong_wolfe",
    )
    assert memory.grad is not None
    d = reference.lbfgs_direction(memory.grad, memory.steps, memory.changes)
    same = memory.direction is not None and (d == memory.direction).all()
    newton = start + reference.newton_step(hessian @ start, hessian)
    print(
        f"quadratic: {memory.iterations} iterations, {memory.evaluations} evaluations to {x}, the last "
        f"of length {memory.t:.3f}, its direction again: {same}; Newton's step to {newton}"
    )


def main() -> None:
    on_numpy()
    dropouts()
    on_torch()
    around_the_step()
    weighted_averages()
    dropout_functions()
    second_order()


if __name__ == "__main__":
    main()
