"""Training under torch.autocast: the forward pass in bfloat16, float32 parameters and gradients, and
the reference's bits at each step; the same with parameters and gradients that are bfloat16, too.
"""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from _optim_cases import CASES, FULL, Mirror, assert_same_bits, option_id, step_and_check

each_optimizer = pytest.mark.parametrize("name", CASES)


@pytest.fixture(autouse=True)
def one_thread(set_threads: Callable[[int], None]) -> None:
    """Waking threads for each small tensor is slow on a busy machine."""
    set_threads(1)


def network() -> torch.nn.Sequential:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(5, 9), torch.nn.GELU(), torch.nn.Linear(9, 2))


def loss_of(model: torch.nn.Module, step: int) -> Tensor:
    inputs = torch.randn(16, 5, generator=torch.Generator().manual_seed(step))
    with torch.autocast("cpu", torch.bfloat16):
        outputs = model(inputs)
        assert outputs.dtype == torch.bfloat16
        loss: Tensor = torch.nn.functional.mse_loss(outputs, inputs[:, :2])
    return loss


@each_optimizer
@pytest.mark.parametrize("step_within", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=option_id)
def test_each_step_equals_the_reference(name: str, step_within: bool, dtype: torch.dtype) -> None:
    """Also where the step is, against torch's advice, itself within the context."""
    model = network().to(dtype)
    mirror = Mirror(name, CASES[name].ours(model.parameters(), **FULL[name]))
    for step in range(6):
        mirror.optimizer.zero_grad()
        loss_of(model, step).backward()
        assert all(param.grad.dtype == dtype for param in model.parameters())
        with torch.autocast("cpu", torch.bfloat16, enabled=step_within):
            step_and_check(mirror)


@each_optimizer
def test_a_run_with_a_scaler_is_the_run_without(name: str) -> None:
    """A scale of a power of two rounds nothing, within bfloat16's range."""
    trained = []
    for enabled in (False, True):
        model = network()
        optimizer = CASES[name].ours(model.parameters(), **FULL[name])
        scaler = torch.amp.GradScaler("cpu", init_scale=256.0, enabled=enabled)
        for step in range(6):
            optimizer.zero_grad()
            scaler.scale(loss_of(model, step)).backward()
            scaler.step(optimizer)
            scaler.update()
        trained.append(list(model.parameters()))
    for index, (plain, scaled) in enumerate(zip(*trained, strict=True)):
        assert_same_bits(scaled, plain, f"parameter {index}")
