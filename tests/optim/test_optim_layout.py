"""Layout never changes the bits, and a step writes its parameters and nothing beside them.

Each layout is a view into a larger buffer whose other elements must stay as they were. Pointers go
stale between steps: replaced data, states and gradients are seen at the next one.
"""

from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from _optim_cases import (
    CASES,
    DTYPES,
    FULL,
    STORED,
    Mirror,
    Snapshot,
    assert_same_bits,
    gradients,
    option_id,
    parameters,
    set_gradients,
    step_and_check,
)

each_optimizer = pytest.mark.parametrize("name", CASES)


class Layout(NamedTuple):
    """A view of size, strides and offset into a one-dimensional buffer."""

    size: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int = 0


LAYOUTS = {
    "contiguous": Layout((2, 3, 5, 7), (105, 35, 7, 1)),
    "channels_last": Layout((2, 3, 5, 7), (105, 1, 21, 3)),
    "transposed": Layout((5, 7), (1, 5)),
    "permuted": Layout((3, 5, 7), (7, 21, 1)),
    "offset": Layout((4, 9), (9, 1), 3),
    "every second": Layout((17,), (2,), 1),
    "columns": Layout((5, 7), (11, 1), 2),
    "columns, transposed": Layout((7, 5), (1, 11), 2),
    "gaps everywhere": Layout((3, 5, 7), (200, 23, 3), 5),
    "0-dim": Layout((), (), 3),
    "0-dim of a column": Layout((1,), (7,), 3),
    "one element, stride 0": Layout((1, 1), (0, 0), 3),
    "size 1, odd strides": Layout((5, 1, 7, 1), (7, 3, 1, 99)),
    "size 1, stride 0": Layout((5, 1), (1, 0), 1),
    "size 1, stride 0, gaps": Layout((5, 1), (2, 0), 1),
    "no element": Layout((0, 3), (3, 1)),
    "no element, odd strides": Layout((3, 0, 2), (5, 7, 11)),
}
each_layout = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())


def view(layout: Layout, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    """Random values in the layout; `untouched` knows its neighbours, which are NaN."""
    reach = sum(s * max(n - 1, 0) for n, s in zip(layout.size, layout.strides, strict=True))
    buffer = torch.full((layout.offset + reach + 40,), float("nan"), dtype=dtype)
    result = buffer.as_strided(*layout)
    return result.copy_(gradients([torch.empty(layout.size, dtype=dtype)], seed)[0])


def neighbours_untouched(tensor: Tensor) -> bool:
    base = tensor.detach()
    buffer = base.as_strided((base.untyped_storage().nbytes() // base.element_size(),), (1,), 0)
    return int(buffer.isnan().sum()) == buffer.numel() - tensor.numel()


@each_optimizer
@pytest.mark.parametrize("dtype", [*DTYPES, *STORED], ids=option_id)
@each_layout
def test_parameters_in_any_layout(name: str, layout: Layout, dtype: torch.dtype) -> None:
    """With gradients in the same layout and without gaps, in turn, as a new object each."""
    params = [torch.nn.Parameter(view(layout, dtype, seed)) for seed in range(2)]
    mirror = Mirror(name, CASES[name].ours(params, **FULL[name]))
    for step in range(4):
        for index, param in enumerate(params):
            grad = view(layout, dtype, seed=10 * step + index)
            param.grad = grad if step % 2 else grad.contiguous()
        step_and_check(mirror)
        for param in params:
            assert param.stride() == layout.strides
            assert neighbours_untouched(param)
            assert param.grad is not None
            assert step % 2 == 0 or neighbours_untouched(param.grad)


@each_optimizer
@each_layout
def test_states_have_torchs_strides(name: str, layout: Layout) -> None:
    strides = []
    for optimizer_class in CASES[name].classes:
        param = torch.nn.Parameter(view(layout))
        param.grad = param.detach().clone()
        optimizer = optimizer_class([param], **FULL[name])
        optimizer.step()
        state = optimizer.state[param]
        strides.append({key: _strides_that_matter(value) for key, value in state.items()})
    assert strides[0] == strides[1]


def _strides_that_matter(tensor: Tensor) -> list[int]:
    pairs = zip(tensor.shape, tensor.stride(), strict=True)
    return [stride for size, stride in pairs if size > 1 and tensor.numel() > 0]


GRADIENTS: dict[str, Callable[[Tensor], Tensor]] = {
    "transposed": lambda g: g.t().contiguous().t(),
    "columns of a wider one": lambda g: torch.cat([g, g], 1)[:, : g.shape[1]],
    "one row expanded": lambda g: g[:1].expand_as(g),
    "one number expanded": lambda g: g[0, 0].expand_as(g),
    "lazily negated": lambda g: torch.complex(g, g).conj().imag,
    "reversed rows": lambda g: g.flip(0),
}


@each_optimizer
@pytest.mark.parametrize("shape", [(5, 7), (5, 1), (1, 1)])
@pytest.mark.parametrize("change", GRADIENTS.values(), ids=GRADIENTS.keys())
@pytest.mark.parametrize("layout", ["contiguous", "transposed", "strided"])
def test_gradients_in_another_layout(
    name: str, shape: tuple[int, int], change: Callable[[Tensor], Tensor], layout: str
) -> None:
    rows, columns = shape
    strides = {"contiguous": (columns, 1), "transposed": (1, rows), "strided": (3 * columns, 2)}
    param = torch.nn.Parameter(view(Layout(shape, strides[layout])))
    mirror = Mirror(name, CASES[name].ours([param], **FULL[name]))
    for step in range(3):
        param.grad = change(gradients([param], seed=step)[0])
        before = param.grad.clone()
        step_and_check(mirror)
        assert torch.equal(param.grad, before)
    assert neighbours_untouched(param)


@each_optimizer
def test_a_scalars_gradient_that_autograd_left_lazily_negated(name: str) -> None:
    """The backward pass of complex arithmetic ends in `imag` of a conjugate: a negated view."""
    param = torch.nn.Parameter(torch.tensor(1.0))
    mirror = Mirror(name, CASES[name].ours([param], **FULL[name]))
    for _ in range(3):
        param.grad = None
        value = torch.complex(torch.tensor(2.0), param).conj() * torch.tensor(1 + 2j)
        value.abs().backward()
        assert param.grad is not None
        assert param.grad.is_neg(), "this test needs another way to such a gradient"
        step_and_check(mirror)


@each_optimizer
@pytest.mark.parametrize("shape", [(4,), (1,), ()])
def test_a_lazily_negated_parameter(name: str, shape: tuple[int, ...]) -> None:
    numbers = torch.randn(shape, dtype=torch.complex64)
    real = numbers.real.clone()
    param = torch.nn.Parameter(numbers.conj().imag)
    assert param.is_neg()
    mirror = Mirror(name, CASES[name].ours([param], **FULL[name]))
    for step in range(3):
        set_gradients([param], seed=step)
        step_and_check(mirror)
    assert_same_bits(-numbers.imag, mirror.params[param])
    assert_same_bits(numbers.real, real)


def test_an_expanded_parameter_is_refused_before_anything_is_written() -> None:
    for name, case in CASES.items():
        first = parameters(shapes=[(5,)])[0]
        param = torch.nn.Parameter(torch.ones(1, 3).expand(4, 3))
        optimizer = case.ours([{"params": [first]}, {"params": [param]}], **FULL[name])
        set_gradients([first, param], seed=0)
        before = Snapshot(optimizer)
        with pytest.raises(RuntimeError, match=r"shape \(4, 3\).*share one place"):
            optimizer.step()
        before.assert_unchanged()


@pytest.mark.parametrize("strides", [(1, 1), (3, 2), (2, 3), (1, 2)])
def test_elements_that_share_a_place_are_refused_before_anything_is_written(
    strides: tuple[int, int],
) -> None:
    first, param = parameters(shapes=[(5,), (4, 4)])
    optimizer = CASES["Adam"].ours([first, param])
    set_gradients([first, param], seed=0)
    optimizer.step()
    folded = torch.arange(30.0).as_strided((4, 4), strides)
    for make in (lambda: param, lambda: optimizer.state[param]["exp_avg"]):
        tensor = make()
        own, tensor.data = tensor.data, folded
        before = Snapshot(optimizer)
        with pytest.raises(RuntimeError, match=r"shape \(4, 4\).*share one place"):
            optimizer.step()
        before.assert_unchanged()
        tensor.data = own
    param.data = torch.ones(40).as_strided((4, 4), (5, 1))
    optimizer.step()


def test_a_state_that_cannot_be_written_is_refused_before_anything_is() -> None:
    first, param = parameters(shapes=[(5,), (4, 4)])
    optimizer = CASES["Adam"].ours([first, param])
    set_gradients([first, param], seed=0)
    optimizer.step()
    with torch.inference_mode():
        optimizer.state[param]["exp_avg"] = torch.ones(4, 4).t()
    before = Snapshot(optimizer)
    with pytest.raises(RuntimeError, match="inference tensor outside InferenceMode"):
        optimizer.step()
    before.assert_unchanged()
    with torch.inference_mode():
        optimizer.step()
    assert optimizer.state[first]["step"] == 2


def test_a_mode_that_raises_leaves_no_step_half_made() -> None:
    class Raises(torch.overrides.TorchFunctionMode):
        """Stops at the n-th function."""

        def __init__(self, n: int) -> None:
            self.n = n

        def __torch_function__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            self.n -= 1
            if self.n == 0:
                raise ValueError("stop")
            return function(*args, **(kwargs or {}))

    outcomes = set()
    for n in range(1, 200):
        first = parameters(shapes=[(5,)])[0]
        param = torch.nn.Parameter(torch.ones(4, 6)[:, :4])
        optimizer = CASES["Adam"].ours([first, param])
        set_gradients([first, param], seed=0)
        optimizer.step()
        before, steps = Snapshot(optimizer), optimizer.state[first]["step"]
        try:
            with Raises(n):
                optimizer.step()
            outcomes.add("done")
            break
        except ValueError:
            outcomes.add("refused")
            before.assert_unchanged()
        finally:
            torch.set_grad_enabled(True)  # it may have stopped no_grad's own way out
    assert outcomes == {"done", "refused"}
    assert steps == 2


@each_optimizer
def test_an_expanded_state_is_refused_before_anything_is_written(name: str) -> None:
    """torch refuses it too, in the middle of its step."""
    params = parameters(shapes=[(5,), (6,)])
    optimizer = CASES[name].ours(params, **FULL[name])
    set_gradients(params, seed=0)
    optimizer.step()
    key = CASES[name].states[0]
    optimizer.state[params[1]][key] = torch.zeros(1).expand(6)
    before = Snapshot(optimizer)
    with pytest.raises(RuntimeError):
        optimizer.step()
    before.assert_unchanged()


# ---- what is replaced between two steps ---------------------------------------------------------


@each_optimizer
@pytest.mark.parametrize("layout", ["transposed", "columns", "every second"])
def test_states_in_another_layout_are_written_where_they_are(name: str, layout: str) -> None:
    size = LAYOUTS[layout].size
    params = parameters(shapes=[size])
    optimizer = CASES[name].ours(params, **FULL[name])
    mirror = Mirror(name, optimizer)
    set_gradients(params, seed=0)
    step_and_check(mirror)
    state = optimizer.state[params[0]]
    replaced = {}
    for key in CASES[name].states:
        replaced[key] = view(LAYOUTS[layout]).copy_(state[key])
        state[key] = replaced[key]
    for step in range(3):
        set_gradients(params, seed=step)
        step_and_check(mirror)
    for key, tensor in replaced.items():
        assert state[key] is tensor
        assert neighbours_untouched(tensor)


@each_optimizer
def test_replaced_states_are_seen(name: str) -> None:
    """Replaced whole, and by assigning to .data."""
    params = parameters()
    optimizer = CASES[name].ours(params, **FULL[name])
    mirror = Mirror(name, optimizer)
    old = []
    for step in range(4):
        set_gradients(params, seed=step)
        step_and_check(mirror)
        for state in optimizer.state.values():
            for key in CASES[name].states:
                old.append((state[key].data, state[key].data.clone()))
                if step % 2:
                    state[key] = state[key].clone()
                else:
                    state[key].data = state[key].clone()
    assert all(torch.equal(tensor, before) for tensor, before in old)


@each_optimizer
def test_replaced_parameter_data_is_seen(name: str) -> None:
    """Also in another layout, and elsewhere in memory."""
    params = parameters(shapes=[(5, 7), (4, 3, 2, 2)])
    mirror = Mirror(name, CASES[name].ours(params, **FULL[name]))
    for step in range(4):
        old = [(param.data, param.data.clone()) for param in params]
        if step == 1:
            params[0].data = params[0].data.clone() + 1
            params[1].data = params[1].data.contiguous(memory_format=torch.channels_last)
        elif step == 2:
            params[0].data = params[0].data.t().contiguous().t()
            params[1].data = torch.cat([params[1].data] * 2, 1)[:, :3]
        mirror.reread()
        set_gradients(params, seed=step)
        step_and_check(mirror)
        if step in (1, 2):
            assert all(torch.equal(tensor, before) for tensor, before in old)


@each_optimizer
def test_parameters_that_change_their_dtype(name: str) -> None:
    """torch casts neither the states; the step is then torch's, as in test_optim_fallback.py."""
    results = []
    for optimizer_class in CASES[name].classes:
        params = parameters(shapes=[(5, 7)])
        optimizer = optimizer_class(params, **FULL[name])
        params[0].data = params[0].data.double()
        optimizer.load_state_dict(optimizer.state_dict())  # this casts them
        for step in range(3):
            set_gradients(params, seed=step)
            optimizer.step()
        results.append(params[0].detach())
    assert results[0].dtype == torch.float64
    torch.testing.assert_close(*results, rtol=1e-12, atol=1e-12)


@each_optimizer
def test_the_gradient_may_be_the_parameter_itself(name: str) -> None:
    params = parameters()
    mirror = Mirror(name, CASES[name].ours(params, **FULL[name]))
    for param in params:
        param.grad = param.data
    for _ in range(3):
        step_and_check(mirror)


@each_optimizer
def test_parameters_in_one_buffer(name: str) -> None:
    """Side by side, at offsets that no vector is aligned to."""
    sizes = [1, 3, 17, 0, 64, 5, 31]
    buffer = torch.full((sum(sizes) + 2,), float("nan"))
    params = [torch.nn.Parameter(it) for it in buffer[1:-1].split(sizes)]
    for param, values in zip(params, gradients(params, seed=9), strict=True):
        param.data.copy_(values)
    mirror = Mirror(name, CASES[name].ours(params, **FULL[name]))
    for step in range(3):
        set_gradients(params, seed=step)
        step_and_check(mirror)
    assert buffer.isnan().nonzero().flatten().tolist() == [0, buffer.numel() - 1]


@each_optimizer
def test_tensors_that_start_between_elements(name: str) -> None:
    """As torch.frombuffer makes them from a file's bytes."""
    raw = bytearray(4 * 100 + 1)
    param = torch.nn.Parameter(torch.frombuffer(raw, dtype=torch.float32, offset=1, count=100))
    optimizer = CASES[name].ours([param], **FULL[name])
    mirror = Mirror(name, optimizer)
    for step in range(3):
        grad = torch.frombuffer(bytearray(4 * 100 + 1), dtype=torch.float32, offset=1, count=100)
        set_gradients([param], seed=step)
        assert param.grad is not None
        param.grad = grad.copy_(param.grad)
        step_and_check(mirror)
