"""fastopt.nn.functional and the modules: bits, layouts, generators, what goes to torch, errors."""

from __future__ import annotations

import copy
import io
import math
import pickle
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from _nn_cases import DTYPES, FORMS, MODULES, SHAPES, assert_same, expected, normal, numbers
from fastopt import nn, reference
from fastopt.nn import functional

NUMBERS = {"seed": 7, "offset": 3, "index": 5}
IN_PLACE = [name for name, form in FORMS.items() if form.inplace]


# ---- bits -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("p", [0.1, 0.5, 0.999, 1e-7, 1.0])
@pytest.mark.parametrize("name", FORMS)
def test_bits_are_the_references(name: str, p: float, target: str) -> None:
    for dtype in DTYPES:
        for shape in SHAPES:
            x = numbers(shape, dtype)
            before = x.clone()
            y = FORMS[name].ours(x, p, True, **NUMBERS)
            assert_same(y, expected(name, x, p, **NUMBERS))
            assert_same(x, before)


@pytest.mark.parametrize("name", IN_PLACE)
@pytest.mark.parametrize("dtype", DTYPES)
def test_in_place(name: str, dtype: torch.dtype) -> None:
    x = numbers((3, 4, 5, 7), dtype)
    wanted = expected(name, x, 0.4, **NUMBERS)
    version = x._version
    assert FORMS[name].ours(x, 0.4, True, inplace=True, **NUMBERS) is x
    assert x._version > version
    assert_same(x, wanted)


def strided(layout: str, dtype: torch.dtype) -> Tensor:
    """Of shape (3, 4, 5, 7), or as near as the layout allows."""
    x = numbers((3, 4, 5, 7), dtype)
    if layout == "channels_last":
        return x.to(memory_format=torch.channels_last)
    if layout == "transposed":
        return x.transpose(1, 3)
    if layout == "gaps":
        return x[:, ::2, :, 1:]
    if layout == "expanded":
        return x[:, :1].expand(3, 4, 5, 7)
    if layout == "negated":
        return torch.complex(x.double(), x.double()).conj().imag
    return x.flip(0)


LAYOUTS = ["channels_last", "transposed", "gaps", "expanded", "flipped"]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_mask_goes_by_the_logical_place(name: str, layout: str, dtype: torch.dtype) -> None:
    x = strided(layout, dtype)
    y = FORMS[name].ours(x, 0.4, True, **NUMBERS)
    assert_same(y, expected(name, x, 0.4, **NUMBERS))
    assert y.stride() == torch.empty_like(x).stride()


@pytest.mark.parametrize("name", FORMS)
def test_a_negated_view(name: str) -> None:
    x = strided("negated", torch.float64)
    assert x.is_neg()
    assert_same(FORMS[name].ours(x, 0.4, True, **NUMBERS), expected(name, x, 0.4, **NUMBERS))


@pytest.mark.parametrize("layout", ["channels_last", "transposed", "gaps"])
@pytest.mark.parametrize("name", IN_PLACE)
def test_in_place_in_any_layout(name: str, layout: str) -> None:
    x = strided(layout, torch.float32)
    wanted, stride = expected(name, x, 0.4, **NUMBERS), x.stride()
    assert FORMS[name].ours(x, 0.4, True, inplace=True, **NUMBERS) is x
    assert x.stride() == stride
    assert_same(x, wanted)


@pytest.mark.parametrize("name", IN_PLACE)
def test_in_place_on_shared_memory_raises(name: str) -> None:
    x = torch.ones(1, 3, 4, 4).expand(2, 3, 4, 4)
    with pytest.raises(RuntimeError, match="refers to a single memory location"):
        FORMS[name].ours(x, 0.4, True, inplace=True)


@pytest.mark.parametrize("shape", [(), (1,), (0,), (5,), (8, 8), (2, 1, 3)])
def test_any_shape(shape: tuple[int, ...]) -> None:
    x = normal(*shape)
    assert_same(functional.dropout(x, 0.5, seed=1), expected("dropout", x, 0.5, seed=1))
    y = functional.relu_dropout(x, 0.5, seed=1)
    assert_same(y, expected("relu", x, 0.5, seed=1))


def test_channels_without_a_batch() -> None:
    x = normal(3, 8)
    assert_same(
        functional.dropout1d(x, 0.5, seed=2),
        torch.from_numpy(reference.dropout_rows(x.numpy(), 8, 0.5, seed=2)),
    )
    y = normal(2, 3, 8)
    wanted = torch.from_numpy(reference.dropout_rows(y.numpy(), 8, 0.5, seed=2))
    assert_same(functional.dropout1d(y, 0.5, seed=2), wanted)
    with pytest.warns(UserWarning, match="Received a 3D input to dropout2d"):
        assert_same(functional.dropout2d(y, 0.5, seed=2), wanted)
    z = normal(2, 3, 2, 2, 2)
    assert_same(
        functional.dropout3d(z, 0.5, seed=2),
        torch.from_numpy(reference.dropout_rows(z.numpy(), 8, 0.5, seed=2)),
    )


def test_a_shard_draws_what_the_whole_would() -> None:
    x = normal(1000)
    whole = functional.dropout(x, 0.3, seed=9)
    parts = [functional.dropout(x[a:b], 0.3, seed=9, index=a) for a, b in ((0, 333), (333, 1000))]
    assert torch.equal(torch.cat(parts), whole)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("with_residual", [True, False])
def test_bias_dropout_add(dtype: torch.dtype, with_bias: bool, with_residual: bool) -> None:
    x, residual, bias = numbers((6, 9), dtype), numbers((6, 9), dtype, 2), normal(9, dtype=dtype)
    arrays = [x, bias if with_bias else None, residual if with_residual else None]
    y = functional.bias_dropout_add(*arrays, 0.4, **NUMBERS)
    wide = [None if it is None else it.to(torch.promote_types(dtype, torch.float32)) for it in arrays]
    wanted = reference.bias_dropout_add(
        *(None if it is None else it.numpy() for it in wide), 0.4, **NUMBERS
    )
    assert_same(y, torch.from_numpy(wanted).to(dtype))
    laid_out = [it.t().contiguous().t() if it is not None and it.dim() == 2 else it for it in arrays]
    assert_same(functional.bias_dropout_add(*laid_out, 0.4, **NUMBERS), y)
    idle = functional.bias_dropout_add(*arrays, 0.4, training=False)
    summed = x + bias if with_bias else x
    assert_same(idle, residual + summed if with_residual else summed)


def test_bias_dropout_add_of_mixed_dtypes_promotes_as_torch() -> None:
    x, bias, residual = normal(4, 6, dtype=torch.bfloat16), normal(6), normal(4, 6)
    y = functional.bias_dropout_add(x, bias, residual, 0.4, seed=1)
    assert torch.equal(y, residual + functional.dropout(x + bias, 0.4, seed=1))
    scalar = functional.bias_dropout_add(x.float(), normal(1), None, 0.4, seed=1)
    assert torch.equal(scalar, functional.dropout(x.float() + normal(1), 0.4, seed=1))


@pytest.mark.parametrize("name", FORMS)
def test_threads_do_not_matter(name: str, set_threads: Callable[[int], None]) -> None:
    x = normal(2, 16, 50, 100)
    results = []
    for threads in (1, 2):
        set_threads(threads)
        results.append(FORMS[name].ours(x, 0.3, True, **NUMBERS))
    assert torch.equal(*results)


# ---- idle, and the extremes -----------------------------------------------------------------------


@pytest.mark.parametrize("name", [it for it in FORMS if it not in ("relu", "3d")])
def test_evaluation_and_p_0_return_the_input(name: str) -> None:
    x = normal(2, 3, 4, 4)
    assert FORMS[name].ours(x, 0.5, False) is x
    assert FORMS[name].ours(x, 0.0, True) is x


@pytest.mark.parametrize(("ours", "_", "shape"), MODULES)
def test_modules_idle(ours: Any, _: Any, shape: tuple[int, ...]) -> None:
    x = normal(*shape)
    assert ours(0.5).eval()(x) is x
    assert not ours(1.0)(torch.full(shape, math.inf)).any()


def test_idle_relu() -> None:
    x = normal(100)
    assert torch.equal(functional.relu_dropout(x, 0.5, training=False), x.relu())
    assert torch.equal(functional.relu_dropout(x, 0.0), x.relu())


def test_p_decides_how_many_are_dropped() -> None:
    x = torch.ones(200_000)
    for p in (0.1, 0.5, 0.9):
        y = functional.dropout(x, p, seed=4)
        assert (y == 0).float().mean().item() == pytest.approx(p, abs=0.005)
        assert y.mean().item() == pytest.approx(1, abs=0.02)


def test_alpha_keeps_mean_and_variance() -> None:
    y = functional.alpha_dropout(normal(200_000), 0.3, training=True, seed=4)
    assert y.mean().item() == pytest.approx(0, abs=0.02)
    assert y.var().item() == pytest.approx(1, abs=0.03)


# ---- where a seed comes from ----------------------------------------------------------------------


@pytest.mark.parametrize("name", FORMS)
def test_manual_seed_rules(name: str) -> None:
    x = normal(4, 5, 6, 6)

    def two() -> list[Tensor]:
        torch.manual_seed(3)
        return [FORMS[name].ours(x, 0.5, True) for _ in range(2)]

    first, second = two()
    again = two()
    assert torch.equal(first, again[0])
    assert torch.equal(second, again[1])
    if name not in ("batch", "row", "3d"):  # which have few outcomes
        assert not torch.equal(first, second)


def test_a_generator_of_ones_own() -> None:
    x = normal(1000)
    state = torch.get_rng_state()
    draws = [functional.dropout(x, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    assert torch.equal(torch.get_rng_state(), state)
    with pytest.raises(ValueError, match="expected at most one"):
        functional.dropout(x, seed=1, generator=torch.Generator())


def test_an_explicit_seed_leaves_the_generator_alone() -> None:
    state = torch.get_rng_state()
    functional.dropout(normal(10), seed=1)
    nn.Dropout().eval()(normal(10))
    assert torch.equal(torch.get_rng_state(), state)


def test_threads_draw_by_themselves() -> None:
    """Each with a generator of its own; the masks are those of one thread."""
    x = normal(5000)

    def masks(seed: int) -> list[Tensor]:
        generator = torch.Generator().manual_seed(seed)
        return [functional.dropout(x, generator=generator) for _ in range(50)]

    got: dict[int, list[Tensor]] = {}
    threads = [
        threading.Thread(target=lambda seed=seed: got.update({seed: masks(seed)})) for seed in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed, made in got.items():
        assert all(torch.equal(*pair) for pair in zip(made, masks(seed), strict=True))


def test_a_generator_is_copied_with_its_module() -> None:
    generator = torch.Generator().manual_seed(5)
    model = torch.nn.Sequential(nn.Dropout(generator=generator), nn.Dropout(generator=generator))
    x = normal(100)
    model(x)
    copies = [copy.deepcopy(model), pickle.loads(pickle.dumps(model))]
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    copies.append(torch.load(file, weights_only=False))
    wanted = model(x)
    for it in copies:
        assert it[0].generator is it[1].generator is not generator
        assert torch.equal(it(x), wanted)
        assert it.state_dict() == {}


# ---- modules --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("ours", "torchs", "shape"), MODULES)
def test_modules(ours: Any, torchs: Any, shape: tuple[int, ...]) -> None:
    module = ours(0.3, True)
    assert isinstance(module, torchs)
    assert repr(module) == repr(torchs(0.3, True))
    assert repr(ours()) == repr(torchs())
    assert "generator=<torch" in repr(ours(generator=torch.Generator()))
    assert module.state_dict() == {}
    module.load_state_dict(torchs().state_dict())
    x = normal(*shape)
    torch.manual_seed(0)
    y = ours(0.3)(x)
    torch.manual_seed(0)
    assert torch.equal(copy.deepcopy(ours(0.3))(x), y)
    assert module.training
    assert (module(x) is x) == (ours is not nn.AlphaDropout)


def test_a_module_is_its_function() -> None:
    x, four = normal(6, 8), normal(2, 3, 4, 4)
    drawn = int(torch.empty((), dtype=torch.int64).random_(generator=torch.Generator().manual_seed(1)))

    def generator() -> torch.Generator:
        return torch.Generator().manual_seed(1)

    pairs = [
        (nn.Dropout(0.3, generator=generator())(x), functional.dropout(x, 0.3, seed=drawn)),
        (nn.Dropout2d(0.3, generator=generator())(four), functional.dropout2d(four, 0.3, seed=drawn)),
        (
            nn.AlphaDropout(0.3, generator=generator())(x),
            functional.alpha_dropout(x, 0.3, True, seed=drawn),
        ),
        (
            nn.StochasticDepth(0.3, "batch", generator=generator())(x),
            functional.stochastic_depth(x, 0.3, "batch", seed=drawn),
        ),
        (
            nn.BiasDropoutAdd(0.3, generator=generator())(x, x[0], x),
            functional.bias_dropout_add(x, x[0], x, 0.3, seed=drawn),
        ),
    ]
    for module, function in pairs:
        assert torch.equal(module, function)


def test_stochastic_depth() -> None:
    assert nn.DropPath is nn.StochasticDepth
    assert repr(nn.StochasticDepth(0.2, "batch")) == "StochasticDepth(p=0.2, mode=batch)"
    assert repr(nn.BiasDropoutAdd(0.2)) == "BiasDropoutAdd(p=0.2)"
    y = nn.StochasticDepth(0.5)(torch.ones(100, 3, 4))
    assert {tuple(row.unique().tolist()) for row in y} == {(0.0,), (2.0,)}
    x = normal(4, 6)
    assert nn.StochasticDepth(0.5).eval()(x) is x
    with pytest.raises(ValueError, match=r"drop probability has to be between 0 and 1, but got 1\.5"):
        nn.StochasticDepth(1.5)
    with pytest.raises(ValueError, match="mode has to be either 'batch' or 'row', but got column"):
        nn.StochasticDepth(0.5, "column")
