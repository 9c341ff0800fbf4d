"""Everything that fastopt offers, once each, in a script that a type checker accepts.

    python examples/whole_surface.py

It fits a small network to a sine with every optimizer and every option, steps the same rules on
NumPy arrays and torch tensors, and compares them with their references; then come dropout's functions
and modules, and what surrounds a training run. Takes seconds, on the CPU.
`mypy --strict` finds nothing to say about it; tests/test_typing.py sees to that.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

import fastopt
from fastopt import averages, gradients, kernels, nn, optim, reference, schedules

Array: TypeAlias = npt.NDArray[np.float32]
Optimizer: TypeAlias = (
    optim.SGD
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

SIZE = 1000


def zeros() -> Array:
    return np.zeros(SIZE, np.float32)


def normal(seed: int) -> Array:
    return np.random.default_rng(seed).standard_normal(SIZE, np.float32)


# ---- the rules on arrays --------------------------------------------------------------------------


def on_numpy() -> None:
    """One call of each kernel, in place, against the reference's new arrays; the bits are equal."""
    before, grad = normal(0), normal(1)

    param, buffer = before.copy(), zeros()
    kernels.sgd_(
        param, grad, buffer,
        step=1, lr=0.1, momentum=0.9, dampening=0.0, weight_decay=0.01, nesterov=False, maximize=False,
        exponential_average=True, bias_correction=True,
    )  # fmt: skip
    expected = reference.sgd(
        before, grad, zeros(),
        step=1, lr=0.1, momentum=0.9, dampening=0.0, weight_decay=0.01, nesterov=False, maximize=False,
        exponential_average=True, bias_correction=True,
    )  # fmt: skip
    check("sgd_", (param, buffer), expected)

    param, total = before.copy(), zeros()
    kernels.adagrad_(
        param, grad, total,
        step=1, lr=0.1, lr_decay=0.1, weight_decay=0.01, eps=1e-10, maximize=False,
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
    )  # fmt: skip
    expected = reference.adam(
        before, grad, zeros(), zeros(), zeros(),
        step=1, lr=0.1, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01, amsgrad=True,
        decoupled_weight_decay=False, bias_correction=True, eps_inside_sqrt=False, maximize=False,
    )  # fmt: skip
    check("adam_", (param, first, second, largest), expected)

    param, first, second, largest = before.copy(), zeros(), zeros(), zeros()
    kernels.adamw_(
        param, grad, first, second, largest,
        step=1, lr=0.1, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01, amsgrad=True,
        bias_correction=False, eps_inside_sqrt=True, maximize=False,
    )  # fmt: skip
    expected = reference.adamw(
        before, grad, zeros(), zeros(), zeros(),
        step=1, lr=0.1, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01, amsgrad=True,
        bias_correction=False, eps_inside_sqrt=True, maximize=False,
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
    kernels.adam_(params, grads, first, second, step=[1, 2], lr=0.1)
    print("kernels.adam_ on two tensors:", [round(param.mean().item(), 4) for param in params])
    low = torch.ones(3, dtype=torch.bfloat16)  # any mix with float32 and float16
    kernels.sgd_(low, torch.ones(3), torch.zeros(3, dtype=torch.float16), lr=0.1, momentum=0.9)
    print("kernels.sgd_ on bfloat16:", low.tolist())


def around_the_step() -> None:
    """What the optimizers do besides their rule, in NumPy."""
    grads = [normal(2), normal(3)]
    norm = reference.grad_norm(grads)
    factor = reference.clip_factor(norm, 1.0)
    average = reference.ema(normal(4), normal(5), decay=0.99)
    weight = 1 - reference.power(0.99, 10)
    print(f"norm {norm:.3f}, clipped by {factor:.5f}; average of {average.size}, weight {weight:.4f}")


# ---- the optimizers -------------------------------------------------------------------------------


def sgd(model: torch.nn.Module) -> optim.SGD:
    return optim.SGD(
        model.parameters(),
        lr=0.02,
        momentum=0.9,
        dampening=0,
        weight_decay=1e-4,
        nesterov=False,
        maximize=False,
        foreach=None,
        differentiable=False,
        fused=None,
        exponential_average=True,
        bias_correction=True,
        max_grad_norm=1.0,
        error_if_nonfinite=True,
        ema_decay=0.9,
        ema_bias_correction=True,
        state_dtype=torch.bfloat16,
        master_weights=False,
        stochastic_rounding=False,
    )


def adagrad(model: torch.nn.Module) -> optim.Adagrad:
    return optim.Adagrad(
        model.named_parameters(),  # the names then stand in the groups
        lr=0.1,
        lr_decay=0.001,
        weight_decay=1e-4,
        initial_accumulator_value=0.1,
        eps=1e-10,
        foreach=None,
        maximize=False,
        differentiable=False,
        fused=None,
        max_grad_norm=1.0,
        error_if_nonfinite=True,
        ema_decay=0.9,
        ema_bias_correction=False,
        state_dtype=None,
        master_weights=True,
        stochastic_rounding=False,
    )


def rmsprop(model: torch.nn.Module) -> optim.RMSprop:
    return optim.RMSprop(
        model.parameters(),
        lr=0.01,
        alpha=0.99,
        eps=1e-8,
        weight_decay=1e-4,
        momentum=0.5,
        centered=True,
        capturable=False,
        foreach=None,
        maximize=False,
        differentiable=False,
        eps_inside_sqrt=True,
        max_grad_norm=1.0,
        error_if_nonfinite=True,
        ema_decay=0.9,
        ema_bias_correction=False,
        state_dtype="int8",
        master_weights=False,
        stochastic_rounding=True,
    )


def adam(model: torch.nn.Module) -> optim.Adam:
    return optim.Adam(
        model.parameters(),
        lr=torch.tensor(0.02),  # a tensor, too, may be the rate
        betas=(0.9, 0.999),
        eps=1e-8,
        weight_decay=1e-4,
        amsgrad=True,
        foreach=None,
        maximize=False,
        capturable=False,
        differentiable=False,
        fused=None,
        decoupled_weight_decay=False,
        bias_correction=True,
        eps_inside_sqrt=True,
        max_grad_norm=1.0,
        error_if_nonfinite=True,
        ema_decay=0.9,
        ema_bias_correction=True,
        state_dtype="int8",
        master_weights=True,
        stochastic_rounding=False,
    )


def adamw(model: torch.nn.Module) -> optim.AdamW:
    *others, bias = model.parameters()
    groups: list[dict[str, Any]] = [{"params": others}, {"params": [bias], "weight_decay": 0.0}]
    return optim.AdamW(
        groups,
        lr=0.02,
        betas=(0.9, 0.999),
        eps=1e-8,
        weight_decay=1e-2,
        amsgrad=False,
        maximize=False,
        foreach=None,
        capturable=False,
        differentiable=False,
        fused=None,
        bias_correction=True,
        eps_inside_sqrt=False,
        max_grad_norm=1.0,
        error_if_nonfinite=False,
        ema_decay=0.9,
        ema_bias_correction=True,
        state_dtype=torch.float32,
        master_weights=False,
        stochastic_rounding=True,
    )


class Task:
    """A sine to fit, and the network that fits it."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.model = torch.nn.Sequential(
            torch.nn.Linear(1, 32), torch.nn.Tanh(), torch.nn.Linear(32, 1)
        )
        self.inputs = torch.linspace(-math.pi, math.pi, 256).unsqueeze(1)

    def loss(self) -> Tensor:
        return torch.nn.functional.mse_loss(self.model(self.inputs), self.inputs.sin())


def train(make: Callable[[torch.nn.Module], Optimizer], steps: int = 60) -> None:
    """An ordinary loop, then the averaged parameters in the trained ones' place."""
    task = Task()
    optimizer = make(task.model)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps)
    start = task.loss().item()
    for _ in range(steps):
        optimizer.zero_grad()
        task.loss().backward()  # type: ignore[no-untyped-call]  # torch annotates it in part
        optimizer.step()
        scheduler.step()
    trained = task.loss().item()
    with optimizer.swap_ema():
        averaged = task.loss().item()
    weights = sum(average.numel() for average in optimizer.ema_parameters())
    norm: Tensor = optimizer.grad_norm
    print(
        f"{type(optimizer).__name__:8} loss {start:.3f} -> {trained:.4f}, averaged {averaged:.4f}; "
        f"last gradient norm {norm.item():.4f} over {weights} weights"
    )
    resume(make, optimizer)


def resume(make: Callable[[torch.nn.Module], Optimizer], optimizer: Optimizer) -> None:
    """A state dict from one optimizer drives another on, its loss given by a closure."""
    task = Task()
    another = make(task.model)
    another.load_state_dict(optimizer.state_dict())

    def closure() -> float:
        another.zero_grad()
        loss = task.loss()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.item()

    another.step(closure)


def low_precision() -> None:
    """A bfloat16 network with 8-bit states and 16 bits more of each weight."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Linear(64, 128), torch.nn.Tanh(), torch.nn.Linear(128, 64)
    ).bfloat16()
    inputs = torch.randn(32, 64, dtype=torch.bfloat16)
    weights = [param for param in model.parameters() if param.ndim == 2]
    biases = [param for param in model.parameters() if param.ndim == 1]
    optimizer = optim.AdamW(weights, lr=0.01, state_dtype="int8", master_weights=True)
    optimizer.add_param_group({"params": biases, "state_dtype": None})
    for _ in range(10):
        optimizer.zero_grad()
        loss = torch.nn.functional.mse_loss(model(inputs), inputs)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    kept = [f"{key} {value.dtype}" for key, value in optimizer.state[weights[0]].items()]
    print(f"bfloat16: loss {loss.item():.3f}, kept {', '.join(kept)}")
    saved: dict[str, Any] = optimizer.state_dict(as_torch=True)  # what torch.optim.AdamW would save
    torch.optim.AdamW([{"params": weights}, {"params": biases}]).load_state_dict(saved)


# ---- around an optimizer --------------------------------------------------------------------------


def report() -> None:
    """Which parameters take fastopt's kernels, and why the others do not."""
    model = torch.nn.ModuleList([torch.nn.Linear(1, 8), torch.nn.Linear(8, 1, dtype=torch.complex64)])
    optimizer = optim.AdamW(model.named_parameters())
    found: optim.FusedReport = optimizer.fused_report()
    print(found)
    first: optim.ParameterPath = found[0]
    print(f"the first: {first.name}, {first.shape}, {first.dtype}: {first.path} {first.reason}")
    print(f"its place: group {first.group}, parameter {first.index}")


def convert() -> None:
    """A torch optimizer that a scheduler drives already becomes fastopt's and torch's again."""
    task = Task()
    optimizer = torch.optim.AdamW(task.model.parameters(), lr=0.02)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.99)
    for turn in (fastopt.from_torch, fastopt.to_torch):
        converted = turn(optimizer)
        optimizer.zero_grad()
        task.loss().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        scheduler.step()
        module = type(converted).__module__
        print(f"{turn.__name__:10} {module}, the same object: {converted is optimizer}")


def in_backward() -> None:
    """Steps inside backward(), where no two gradients live at once."""
    task = Task()
    handle: optim.StepInBackward = optim.step_in_backward(task.model, optim.AdamW, lr=0.02)
    scheduler = torch.optim.lr_scheduler.LinearLR(handle.optimizer)
    for _ in range(10):
        task.loss().backward()  # type: ignore[no-untyped-call]
        scheduler.step()
    handle.load_state_dict(handle.state_dict())
    rate = handle.param_groups[0]["lr"]
    handle.remove()
    print(f"step_in_backward: loss {task.loss().item():.3f}, rate {rate:.4f}")


# ---- averages, second order -----------------------------------------------------------------------


def weighted_averages() -> None:
    """An average that began at 0, and its correction."""
    average, corrected, value = zeros(), zeros(), normal(7)
    expected = reference.corrected_ema(average, value, decay=0.9, step=1)
    kernels.ema_(average, value, corrected, decay=0.9, step=1)
    check("ema_", (average, corrected), expected)


def second_order() -> None:
    """L-BFGS on the network; its reference, a direction of it and Newton's step on a quadratic."""
    task = Task()
    optimizer = optim.LBFGS(
        task.model.parameters(),
        lr=1,
        max_iter=5,
        max_eval=10,
        tolerance_grad=1e-7,
        tolerance_change=1e-9,
        history_size=10,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = task.loss()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    before = optimizer.step(closure)
    print(f"LBFGS: loss {before.item():.3f} to {task.loss().item():.3f}")

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


# ---- dropout --------------------------------------------------------------------------------------


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


def dropout_modules() -> None:
    """A network with every kind, in training, and in predictions that tell their spread."""
    own = torch.Generator().manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Linear(8, 12),
        nn.Dropout(0.1, generator=own, packed_mask=True),
        nn.AlphaDropout(0.1, generator=own),
        torch.nn.Unflatten(1, (3, 4)),
        nn.Dropout1d(0.1, generator=own),
        torch.nn.Unflatten(2, (2, 2)),
        nn.Dropout2d(0.1, generator=own),
        nn.Dropout3d(0.1, generator=own),
        nn.StochasticDepth(0.1, mode="batch", generator=own),
        nn.DropPath(0.1, generator=own),
        torch.nn.Dropout(0.1),
    )
    nn.convert_dropout(model)
    with nn.mc_dropout(model), torch.no_grad():
        samples = torch.stack([model(torch.ones(1, 8)) for _ in range(20)])
    added: Tensor = nn.BiasDropoutAdd(0.1, generator=own)(samples, samples[0, 0, 0, 0], samples)
    print(f"{type(model[-1]).__module__}: spread {samples.std(0).mean():.3f}, {added.numel()} elements")


# ---- around a training run ------------------------------------------------------------------------


def averaged() -> None:
    """A rate that falls as 1/t; the weights' average as a model; an ensemble of snapshots."""
    task = Task()
    optimizer = optim.SGD(task.model.parameters(), lr=0.1, momentum=0.9, ema_decay=0.9)
    schedule = schedules.InverseTimeLR(optimizer, decay=0.05, last_epoch=-1)
    model = averages.AveragedModel(task.model, optimizer)
    ensemble = averages.SnapshotEnsemble(task.model, probabilities=Tensor.clone)
    for step in range(60):
        optimizer.zero_grad()
        task.loss().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        if step % 20 == 19:
            ensemble.take(task.model)
    model.update_parameters(task.model)
    loaded = averages.SnapshotEnsemble(task.model, probabilities=Tensor.clone)
    loaded.load_state_dict(ensemble.state_dict())
    apart = (loaded(task.inputs) - model(task.inputs)).abs().max().item()
    print(f"averages: rate {schedule.get_last_lr()[0]:.4f}, {len(loaded)} snapshots, {apart:.3f} apart")


def check_gradients() -> None:
    """Is backward() the derivative of forward()?"""
    task = Task()
    found: gradients.GradientCheck = fastopt.gradcheck(
        task.model, task.inputs, loss=lambda y: y.square().mean(),
        elements=8, step=1e-5, tolerance=1e-7, seed=0,
    )  # fmt: skip
    worst: gradients.ParameterCheck = max(found.parameters, key=lambda it: it.ratio)
    print(f"gradients: {found.summary()}, {found.passed}, {found.wrong}, {found.suspects}")
    print(f"the worst: {worst.name}, {worst.shape}, {worst.checked} checked, {worst.kinks} at kinks,")
    print(f"  {worst.ratio:.0e} with rounding {worst.rounding:.0e}, norm {worst.gradient:.2f}")
    print(f"  {worst.verdict}; over all {found.ratio < found.tolerance}")


def main() -> None:
    facts = fastopt.info()
    print(f"fastopt {fastopt.__version__} on {facts['cpu_target']}, {facts['threads']} threads")
    on_numpy()
    dropouts()
    on_torch()
    around_the_step()
    makers: list[Callable[[torch.nn.Module], Optimizer]] = [sgd, adagrad, rmsprop, adam, adamw]
    for make in makers:
        train(make)
    low_precision()
    report()
    convert()
    in_backward()
    weighted_averages()
    second_order()
    dropout_functions()
    dropout_modules()
    averaged()
    check_gradients()


if __name__ == "__main__":
    main()
