"""fastopt.gradcheck: right gradients pass, wrong ones do not, and the wrong layer is named."""

from __future__ import annotations

import copy
import io
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastopt
from _gradcheck_cases import (
    Attention,
    Glue,
    Routed,
    Wrong,
    WrongLinear,
    WrongTanh,
    convolutional,
    images,
    layers,
    loss,
    seeded,
)
from fastopt import gradcheck
from fastopt.gradients import GradientCheck, ParameterCheck


@pytest.fixture(autouse=True)
def one_thread(set_threads: Callable[[int], None]) -> None:
    """The networks are small."""
    set_threads(1)


def row(result: GradientCheck, name: str) -> ParameterCheck:
    return next(it for it in result.parameters if it.name == name)


# ---- what is right --------------------------------------------------------------------------------


RIGHT: dict[str, tuple[Callable[[], nn.Module], Tensor]] = {
    "tanh": (
        lambda: nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3)),
        images(6, 5),
    ),
    "convolutional": (convolutional, images(5, 1, 8, 8)),
    "attention": (Attention, torch.arange(12).view(3, 4)),
    "dropout": (
        lambda: nn.Sequential(nn.Linear(5, 9), nn.Dropout(0.4), nn.Tanh(), nn.Linear(9, 3)),
        images(6, 5),
    ),
    "fastopt's dropout": (
        lambda: nn.Sequential(
            *(nn.Linear(5, 9), fastopt.nn.Dropout(0.4), nn.Tanh()),
            fastopt.nn.Dropout(0.4, generator=torch.Generator().manual_seed(7)),
            fastopt.nn.AlphaDropout(0.1, generator=torch.Generator().manual_seed(8)),
            nn.Linear(9, 3),
        ),
        images(6, 5),
    ),
    "bfloat16": (
        lambda: nn.Sequential(nn.Linear(5, 7), nn.GELU(), nn.Linear(7, 3)).bfloat16(),
        images(6, 5).bfloat16(),
    ),
}


@pytest.mark.parametrize("name", RIGHT)
@pytest.mark.parametrize("scalar", [loss, None], ids=["loss", "weighted sum"])
def test_right_networks_pass(name: str, scalar: Any) -> None:
    make, inputs = RIGHT[name]
    result = gradcheck(seeded(make), inputs, loss=scalar)
    assert result, result
    assert result.passed
    assert result.ratio < 1e-7
    assert result.suspects == ()
    assert {it.name for it in result.parameters} == {key for key, _ in make().named_parameters()}


def test_the_model_and_torchs_generator_stay_as_they_are() -> None:
    model = seeded(convolutional)
    before, random_state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    gradcheck(model, images(5, 1, 8, 8), loss=loss)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert model.training
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key])
    assert all(param.grad is None for param in model.parameters())


def test_the_seed_decides_everything() -> None:
    model = seeded(RIGHT["dropout"][0])
    results = [gradcheck(model, images(6, 5), elements=5, seed=seed) for seed in (1, 1, 2)]
    assert results[0] == results[1]
    assert results[0] != results[2]


def test_functions_of_tensors() -> None:
    def function(x: Tensor, scale: float, y: Tensor) -> Tensor:
        return (x.sin() * y.exp()).sum() * scale

    x, y = images(3, 4), images(1, 4)
    result = gradcheck(function, x, 2.0, y)
    assert result
    assert [it.name for it in result.parameters] == ["x", "y"]
    assert row(result, "x").gradient == pytest.approx((2 * x.cos() * y.exp()).norm().item(), rel=1e-5)
    assert not x.requires_grad
    assert gradcheck(torch.logsumexp, images(5), 0).parameters[0].name == "argument 0"


def test_scalars_and_strange_shapes() -> None:
    def function(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
        return a * b.square().sum() + c.sum()

    shapes = (images(), images(4, 3).t(), images(0))
    result = gradcheck(function, *shapes)
    assert result
    assert [it.checked for it in result.parameters] == [1, 12, 0]


def test_a_subset_holds_the_largest_gradient() -> None:
    """Of a large embedding only some rows have one."""
    model = nn.Embedding(1000, 16)
    result = gradcheck(model, torch.tensor([3, 5]), elements=10)
    assert result
    (found,) = result.parameters
    assert found.checked == 10
    assert found.gradient > 0
    assert gradcheck(nn.Linear(30, 4), images(2, 30), elements=None).parameters[0].checked == 120


# ---- what is wrong --------------------------------------------------------------------------------


WRONG: dict[str, tuple[Callable[[], nn.Module], set[str], str]] = {
    "activation": (lambda: layers(WrongTanh()), {"0.weight", "0.bias"}, "2 (WrongTanh)"),
    "weight": (lambda: layers(WrongLinear()), {"2.weight"}, "2 (WrongLinear)"),
    "nested": (
        lambda: layers(nn.Sequential(nn.Linear(6, 6), WrongTanh())),
        {"0.weight", "0.bias", "2.0.weight", "2.0.bias"},
        "2.1 (WrongTanh)",
    ),
    "glue": (
        lambda: nn.Sequential(nn.Linear(5, 5), Glue()),
        {"0.weight", "0.bias", "1.first.weight", "1.first.bias"},
        "1 (Glue)",
    ),
    "routed": (Routed, {"first.weight", "first.bias"}, "wrong (WrongTanh)"),
    "model": (Glue, {"first.weight", "first.bias"}, "the model (Glue)"),
}


@pytest.mark.parametrize("name", WRONG)
def test_the_wrong_layer_is_named(name: str) -> None:
    make, wrong, suspect = WRONG[name]
    result = gradcheck(seeded(make), images(6, 5), loss=loss)
    assert not result
    assert set(result.wrong) == wrong
    assert result.suspects == (suspect,)
    assert result.ratio > 1e-3
    assert all(row(result, name).ratio > 1e-3 for name in wrong)
    assert f"look at {suspect}" in str(result)


def test_two_wrong_layers_are_both_named() -> None:
    result = gradcheck(seeded(lambda: layers(WrongTanh(), WrongLinear())), images(6, 5), loss=loss)
    assert result.suspects == ("2 (WrongTanh)", "3 (WrongLinear)")


def test_a_wrong_loss() -> None:
    model = seeded(lambda: layers())
    result = gradcheck(model, images(6, 5), loss=lambda output: Wrong.apply(loss(output)))
    assert len(result.wrong) == 4
    assert result.suspects == ()
    assert "the loss" in result.summary()


@pytest.mark.parametrize("error", [1e-2, 1e-4, 1e-6])
def test_a_slightly_wrong_gradient_is_wrong(error: float) -> None:
    class Slightly(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return 3 * x

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Tensor:
            return grad * 3 * (1 + error)

    result = gradcheck(Slightly.apply, images(10))
    assert not result
    assert result.ratio == pytest.approx(error / 2, rel=0.01)


def test_a_detached_part_is_wrong_and_an_unused_one_is_right() -> None:
    def detached(x: Tensor, y: Tensor, unused: Tensor) -> Tensor:
        return (x.detach() * y).sum()

    result = gradcheck(detached, images(4), images(4) + 3, images(4))
    assert result.wrong == ("x",)
    assert row(result, "x").ratio == 1
    assert (row(result, "unused").ratio, row(result, "unused").verdict) == (0, "right")
    assert gradcheck(lambda x: x.detach().sum(), images(4)).wrong == ("x",)


def test_a_gradient_that_is_not_a_number_is_wrong() -> None:
    def bad(x: Tensor) -> Tensor:
        return torch.where(x > 10, (x - 10).sqrt(), x).sum()  # the classic: 0 · NaN

    assert gradcheck(bad, images(4)).wrong == ("x",)


# ---- kinks and rounding ---------------------------------------------------------------------------


def test_kinks_at_the_point_are_left_out() -> None:
    x = images(10)
    x[:3] = 0
    result = gradcheck(lambda x: x.relu().sum(), x)
    assert result
    assert (result.parameters[0].kinks, result.parameters[0].checked) == (3, 7)
    assert "7 of 10, 3 at kinks" in str(result)
    only = gradcheck(lambda x: x.relu().sum(), torch.zeros(3))
    assert (only.parameters[0].verdict, only.parameters[0].checked) == ("unknown", 0)


def test_kinks_beside_the_point_are_stepped_over() -> None:
    for distance in (3e-6, -3e-6, 9e-6):
        result = gradcheck(lambda x: (x.relu() * 2 + x).sum(), torch.tensor([distance, 1.0]))
        assert result
        assert result.parameters[0].checked == 2


def test_a_wrong_gradient_does_not_hide_behind_kinks() -> None:
    class WrongRelu(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.save_for_backward(x)
            return x.relu()

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Tensor:
            (x,) = ctx.saved_tensors
            return grad * (x > 0.1)  # only between 0 and 0.1 is it wrong

    x = torch.tensor([0.0, 3e-6, 0.05, 0.5, -0.5])
    result = gradcheck(WrongRelu.apply, x)
    assert result.wrong == ("argument 0",)
    assert result.parameters[0].kinks == 1
    assert gradcheck(WrongRelu.apply, x[3:])


def test_a_deep_relu_network_with_zero_biases() -> None:
    """Blank pictures put every unit of the first layer exactly at its kink."""

    def make() -> nn.Module:
        model = nn.Sequential(
            nn.Linear(8, 30), nn.ReLU(), nn.Linear(30, 30), nn.ReLU(), nn.Linear(30, 3)
        )
        for layer in model[::2]:
            nn.init.zeros_(layer.bias)
        return model

    inputs = images(40, 8)
    inputs[:10] = 0
    result = gradcheck(seeded(make), inputs, loss=loss, elements=None)
    assert result, result
    assert row(result, "0.bias").kinks == 30
    assert row(result, "4.weight").kinks == 0


def test_a_gradient_that_rounding_hides_is_unknown() -> None:
    """A bias before batch normalisation has none but rounding."""
    result = gradcheck(seeded(convolutional), images(5, 1, 8, 8), loss=loss)
    assert row(result, "0.bias").verdict == "unknown"
    assert row(result, "0.bias").rounding == 1
    assert row(result, "0.weight").verdict == "right"


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_rounding_is_no_error(scale: float) -> None:
    """A large constant takes the last bits of a small gradient."""
    x = images(6)
    result = gradcheck(lambda x: 1e3 + scale * x.sin().sum(), x)
    assert result
    assert (result.parameters[0].rounding > 1e-7) == (scale < 1)


# ---- what it prints -------------------------------------------------------------------------------


def test_the_table() -> None:
    result = gradcheck(seeded(lambda: layers(WrongTanh())), images(6, 5), loss=loss)
    lines = str(result).splitlines()
    assert lines[0].split()[:4] == ["parameter", "shape", "compared", "ratio"]
    assert len(lines) == 1 + 4 + 1
    assert lines[1].startswith("0.weight")
    assert lines[1].endswith("wrong")
    assert lines[3].endswith("right")
    assert lines[-1].startswith("FAILED: ratio")


def test_the_table_in_color() -> None:
    console = pytest.importorskip("rich.console").Console(width=120, record=True, file=io.StringIO())
    console.print(gradcheck(seeded(lambda: layers(WrongTanh())), images(6, 5), loss=loss))
    text = console.export_text()
    assert "0.weight" in text
    assert "WrongTanh" in text


# ---- errors ---------------------------------------------------------------------------------------

LINEAR = nn.Linear(5, 3)


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((3,), {}, TypeError, "target: expected a torch.nn.Module or a function, got int"),
        ((nn.ReLU(), images(3)), {}, ValueError, "target: expected parameters"),
        ((torch.add, 1, 2), {}, ValueError, "or floating-point tensors among the inputs"),
        ((LINEAR, images(2, 5)), {"elements": 0}, ValueError, "elements: expected a number >= 1"),
        ((LINEAR, images(2, 5)), {"step": 0.0}, ValueError, "step: expected a number between 0 and 1"),
        ((LINEAR, images(2, 5)), {"tolerance": math.nan}, ValueError, "tolerance: expected"),
        ((LINEAR, images(2, 5)), {"loss": torch.square}, ValueError, r"a scalar, got shape \(2, 3\)"),
        ((LINEAR, images(2, 5)), {"loss": lambda y: 1.0}, TypeError, "float64 tensor, got float"),
        ((LINEAR, images(2, 5)), {"loss": lambda y: y.float().sum()}, TypeError, "got torch.float32"),
        ((LINEAR, images(2, 5) / 0), {"loss": torch.sum}, ValueError, "expected a finite number"),
        ((lambda x: [], images(2)), {}, TypeError, "output: expected floating-point tensors, got list"),
        ((nn.Linear(2, 2, dtype=torch.complex64), images(2)), {}, TypeError, "weight: expected a real"),
        ((torch.abs, images(2) + 1j), {}, TypeError, "argument 0: expected a real"),
    ],
)
def test_errors_name_the_argument(
    arguments: Any, options: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        gradcheck(*arguments, **options)


def test_randomness_of_its_own_is_refused() -> None:
    generator = torch.Generator()

    def noisy(x: Tensor) -> Tensor:
        return (x * torch.rand(x.shape, generator=generator)).sum()

    with pytest.raises(ValueError, match=r"the same at every evaluation, got .* draw random numbers"):
        gradcheck(noisy, images(3))
