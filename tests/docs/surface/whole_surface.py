"""Everything that fastopt offers around a torch module, once each, for a type checker to accept.

    python tests/docs/surface/whole_surface.py

It fits a small network to a sine with every optimizer and every option; then come dropout's modules
and what surrounds a training run. more_optimizers.py has the other optimizers and
on_arrays.py what works on plain arrays. Takes seconds, on the CPU.
`mypy --strict` finds nothing to say about it; tests/docs/test_typing.py sees to that.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

import fastopt
from fastopt import averages, gradients, integrations, nn, optim, schedules

if TYPE_CHECKING:  # all of them
    from more_optimizers import Optimizer

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
        rounding_seed=0,
        copy_to=None,
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
        state_dtype=torch.float32,
        master_weights=False,
        stochastic_rounding=True,
        rounding_seed=0,
        copy_to=None,
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
        cautious_decay=False,
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
        cautious_decay=True,
        max_grad_norm=1.0,
        error_if_nonfinite=False,
        ema_decay=0.9,
        ema_bias_correction=True,
        state_dtype=torch.float32,
        master_weights=False,
        stochastic_rounding=True,
        rounding_seed=0,
        copy_to=None,
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
    norm: Tensor | None = optimizer.grad_norm
    assert norm is not None
    assert optimizer.grad_norm_group is None  # no other process has a part
    for param in task.model.parameters():  # one more step, in parts, which know no norm
        optimizer.step_parameters([param], grad_norm=norm, grad_scale=1.0, copy_to=[None])
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
    assert found == optim.fused_report(optimizer)
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


def second_order() -> None:
    """L-BFGS, whose closure is called several times a step."""
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


# ---- dropout --------------------------------------------------------------------------------------


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
    nn.revert_dropout(model[-1:])  # torch's again; those with a generator of their own have no torch
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


def by_name() -> None:
    """Where a package chooses its optimizers by a string."""
    if find_spec("timm"):
        print("timm knows " + ", ".join(integrations.timm.register()))


def main() -> None:
    facts = fastopt.info()
    print(f"fastopt {fastopt.__version__} on {facts['cpu_target']}, {facts['threads']} threads")
    makers: list[Callable[[torch.nn.Module], Optimizer]] = [sgd, adagrad, rmsprop, adam, adamw]
    for make in makers:
        train(make)
    low_precision()
    report()
    convert()
    in_backward()
    second_order()
    dropout_modules()
    averaged()
    check_gradients()
    by_name()


if __name__ == "__main__":
    main()
