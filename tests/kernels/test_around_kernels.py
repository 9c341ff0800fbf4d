"""What `fastopt.kernels` do around a rule in the same pass: divide gradients, write copies."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch

from _kernel_cases import (
    KINDS,
    SHAPE,
    STATES,
    USING_ALL_STATES,
    Array,
    arguments_of,
    arrays_for,
    assert_same_bits,
    kernel,
    lists_for,
    make_arrays,
    refuse,
    rule,
    values,
)
from conftest import takes
from fastopt import kernels, optim, reference
from fastopt.reference.storage import narrow, widen
from fastopt.rules import RuleError
from fastopt.rules import rule as as_rule
from fastopt.rules.library.adopt import adopt

Arrays = dict[str, Array]

F32, F64 = np.dtype(np.float32), np.dtype(np.float64)
F16, BF16 = np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16)
MIXES = [(F32, F32, F32), (F64, F64, F64), (BF16, BF16, BF16), (F32, BF16, F32), (F16, F32, BF16)]
SCALES = [65536.0, 3.0, 1e-3, 1.0]

each_rule = pytest.mark.parametrize("name", STATES)
each_mix = pytest.mark.parametrize("mix", MIXES, ids=lambda it: "-".join(map(str, it)))


def drawn(name: str, mix: tuple[np.dtype[Any], ...], size: Any, seed: int = 0) -> Arrays:
    """Arrays for one step in the dtypes of the parameter, the gradient and the states."""
    random = np.random.default_rng(seed)
    arrays = {
        key: values(random, size, mix[min(place, 2)]) for place, key in enumerate(arguments_of(name))
    }
    for state in STATES[name]:
        np.abs(arrays[state], out=arrays[state])
    return arrays


def copies(arrays: Arrays) -> Arrays:
    return {key: it.copy() for key, it in arrays.items()}


def expected_of(name: str, before: Arrays, scale: float, step: int) -> Arrays:
    """What the reference makes of arrays whose gradient is divided by a scale first."""
    grad = reference.unscaled(before["grad"], scale)
    expected = rule(name)(**{**before, "grad": grad}, step=step, **USING_ALL_STATES[name])
    return dict(zip(["param", *STATES[name]], expected, strict=True))


@each_rule
@each_mix
def test_gradients_are_divided_by_their_scale(
    backend: str, name: str, mix: tuple[np.dtype[Any], ...]
) -> None:
    for scale, size in zip(SCALES, [(5, 13), 0, 4097, 70], strict=True):
        before = drawn(name, mix, size)
        after = copies(before)
        kernel(name)(**after, step=3, grad_scale=scale, **USING_ALL_STATES[name])
        for key, expected in expected_of(name, before, scale, 3).items():
            assert_same_bits(after[key], expected, (key, scale))
        assert after["grad"].tobytes() == before["grad"].tobytes()


@each_rule
def test_a_scale_of_lists_and_threads(name: str, backend: str, set_threads: Any) -> None:
    set_threads(3)
    before = [
        drawn(name, (F32,) * 3, size, seed) for seed, size in enumerate([(300, 301), 17, (70, 90)])
    ]
    after = [copies(it) for it in before]
    columns = {key: [it[key] for it in after] for key in arguments_of(name)}
    kernel(name)(**columns, step=[1, 2, 9], grad_scale=1024.0, **USING_ALL_STATES[name])
    for arrays, was, step in zip(after, before, (1, 2, 9), strict=True):
        for key, expected in expected_of(name, was, 1024.0, step).items():
            assert_same_bits(arrays[key], expected, key)


def test_a_scale_is_that_of_an_optimizers_step() -> None:
    param = torch.nn.Parameter(torch.randn(9, 11))
    optimizer = optim.Adam([param])
    param.grad = torch.randn(9, 11)
    arrays = [param.detach().clone(), param.grad.clone(), torch.zeros(9, 11), torch.zeros(9, 11)]
    optimizer.grad_scale = torch.tensor(7.0)
    optimizer.step()
    kernels.adam_(*arrays, grad_scale=7.0)
    state = optimizer.state[param]
    for ours, its in zip(
        [arrays[0], *arrays[2:]], [param, state["exp_avg"], state["exp_avg_sq"]], strict=True
    ):
        assert torch.equal(ours, its)


@pytest.mark.parametrize(
    "scale", [8, np.float32(8), np.array(8.0), torch.tensor(8.0), torch.tensor([8.0])], ids=repr
)
def test_kinds_of_scales(scale: Any) -> None:
    before = make_arrays("adam", np.random.default_rng(0), SHAPE, np.float32)
    after, like = copies(before), copies(before)
    kernel("adam")(**after, grad_scale=scale)
    kernel("adam")(**like, grad_scale=8.0)
    for key, it in after.items():
        assert_same_bits(it, like[key], key)


def test_a_rule_in_python_takes_a_scale(backend: str) -> None:
    random = np.random.default_rng(1)
    before = [np.abs(values(random, 1000, np.float32)) for _ in range(4)]
    after = [it.copy() for it in before]
    adopt.kernel_(*after, t=2, grad_scale=48.0)
    scaled = reference.unscaled(before[1], 48.0)
    expected = adopt.reference(before[0], scaled, *before[2:], t=2)
    for got, it in zip([after[0], *after[2:]], expected, strict=True):
        assert_same_bits(got, it)


@pytest.mark.parametrize("option", ["grad_scale", "copy_to"])
def test_a_rule_in_python_has_no_such_option(option: str) -> None:
    code = f"lambda p, g, *, t, {option}=1.0: p - {option} * g"
    with pytest.raises(RuleError, match=f"option {option} is what kernel_ takes around every rule"):
        as_rule(eval(code))


NOT_SCALES = [0, -1.0, float("nan"), float("inf"), "2", [2.0], torch.tensor([1.0, 2.0])]


@each_rule
def test_what_is_no_scale_is_refused(name: str) -> None:
    for wrong in NOT_SCALES:
        error = ValueError if isinstance(wrong, (int, float)) else TypeError
        match = "^grad_scale: expected a finite number above 0 or None, got "
        refuse(name, arrays_for(name), error, match, grad_scale=wrong)
        refuse(name, lists_for(name), error, match, grad_scale=wrong)
    if takes("cuda walk", name):
        refuse(name, arrays_for(name), ValueError, "grad_scale: expected", grad_scale=10**400)


# ---- copies ---------------------------------------------------------------------------------------

TYPES = [*(it for it in (F32, BF16, F16)), F64]
COPIED = [(mix, to) for mix in MIXES for to in (TYPES[:3] if mix[0] != F64 else [F64, F32])]
each_copy = pytest.mark.parametrize(("mix", "to"), COPIED, ids=lambda it: str(it).replace(" ", ""))


def rounded(param: Array, to: np.dtype[Any]) -> Array:
    """What a copy of a parameter is to be."""
    with np.errstate(all="ignore"):
        return param.astype(to) if param.dtype == F64 else narrow(widen(param), to)


@each_rule
@each_copy
def test_copies_are_the_parameter_rounded(
    backend: str, name: str, mix: tuple[np.dtype[Any], ...], to: np.dtype[Any]
) -> None:
    for size in [(5, 13), 0, 1, 4097, 70]:
        before = drawn(name, mix, size)
        after, like = copies(before), copies(before)
        copy = np.full(before["param"].shape, 7, to)
        kernel(name)(**after, step=3, copy_to=copy, **USING_ALL_STATES[name])
        kernel(name)(**like, step=3, **USING_ALL_STATES[name])
        for key, it in like.items():
            assert_same_bits(after[key], it, key)
        assert_same_bits(copy, rounded(after["param"], to), size)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("to", [F32, BF16, F16], ids=str)
@pytest.mark.parametrize("stored", [F32, BF16, F16], ids=str)
def test_copies_of_any_numbers(
    backend: str, stored: np.dtype[Any], to: np.dtype[Any], kind: str, random: np.random.Generator
) -> None:
    """Of a step that changes nothing: ties, denormals, overflow, NaN."""
    for size in [*range(20), 65, 10_000]:
        param = values(random, size, stored, kind)
        whole = np.full(size + 9, 7, to)
        kernels.sgd_(param, np.zeros_like(param), lr=0.0, copy_to=whole[3 : 3 + size])
        assert_same_bits(whole[3 : 3 + size], rounded(param, to), size)
        assert (np.delete(whole, np.s_[3 : 3 + size]) == 7).all()


def test_copies_of_lists_and_threads(backend: str, set_threads: Any) -> None:
    set_threads(3)
    before = [
        drawn("adam", (F32,) * 3, size, seed) for seed, size in enumerate([(300, 301), 17, 70_001])
    ]
    columns = {key: [it[key] for it in before] for key in arguments_of("adam")}
    targets = [
        np.full(it["param"].shape, 7, to) for it, to in zip(before, (BF16, F32, F16), strict=True)
    ]
    kernel("adam")(**columns, **USING_ALL_STATES["adam"], copy_to=targets)
    for it, copy in zip(before, targets, strict=True):
        assert_same_bits(copy, rounded(it["param"], copy.dtype))


def test_a_rule_in_python_writes_copies(backend: str) -> None:
    arrays = [np.abs(values(np.random.default_rng(1), 5000, np.float32)) for _ in range(4)]
    copy = np.zeros(5000, BF16)
    adopt.kernel_(*arrays, t=2, copy_to=copy)
    assert_same_bits(copy, rounded(arrays[0], BF16))


def test_a_copy_of_torchs_counts_as_written() -> None:
    tensors = [torch.ones(4) for _ in range(4)]
    copy = torch.zeros(4, dtype=torch.bfloat16)
    kernels.adam_(*tensors, copy_to=copy)
    assert torch.equal(copy, tensors[0].bfloat16())
    assert copy._version == 1


def read_only(shape: tuple[int, ...]) -> Array:
    array = np.zeros(shape, np.float32)
    array.flags.writeable = False
    return array


WRONG_COPIES: list[tuple[Any, type[Exception], str]] = [
    (np.zeros((4, 3), np.float32), ValueError, r"expected shape \(3, 4\) like param.*, got \(4, 3\)"),
    (np.zeros(SHAPE), TypeError, "expected float32, bfloat16 or float16 for param.* of float32, got f"),
    (np.zeros(SHAPE, np.int16), TypeError, "expected float32, float64, bfloat16 or float16, got int16"),
    (np.zeros((4, 3), np.float32).T, ValueError, "expected a C-contiguous array"),
    (read_only(SHAPE), ValueError, "expected writable memory"),
    (
        torch.zeros(SHAPE, device="meta"),
        ValueError,
        "expected a dense torch tensor with memory on the CPU",
    ),
    (torch.zeros(3, 4, dtype=torch.complex64).conj().imag, ValueError, "a lazily negated view"),
    ("copy", TypeError, "expected a NumPy array, a dense torch"),
]


@pytest.mark.parametrize(("wrong", "error", "match"), WRONG_COPIES, ids=lambda it: str(it)[:20])
def test_what_is_no_copy_is_refused(wrong: Any, error: type[Exception], match: str) -> None:
    refuse("adam", arrays_for("adam"), error, "^copy_to: .*" + match, copy_to=wrong)
    lists = lists_for("adam")
    good = [np.zeros(SHAPE, BF16) for _ in range(2)]
    refuse("adam", lists, error, r"^copy_to\[2\]: .*" + match, copy_to=[*good, wrong])
    for it in good:
        assert not it.any()


@each_rule
def test_a_copy_with_memory_of_something_else_is_refused(name: str) -> None:
    arrays = arrays_for(name)
    for key, it in arrays.items():
        match = f"(copy_to|{key}): expected memory of its own, got memory shared with (copy_to|{key})$"
        refuse(name, arrays, ValueError, match, copy_to=it)
    one = np.zeros((6, 4), BF16)
    match = r"copy_to\[\d\]: expected memory of its own"
    refuse(name, lists_for(name, 2), ValueError, match, copy_to=[one[:3], one[2:5]])


def test_copies_of_another_number() -> None:
    match = "copy_to: expected 3 arrays like param, got 1$"
    refuse("adam", lists_for("adam"), ValueError, match, copy_to=[np.zeros(SHAPE, BF16)])
    match = "copy_to: expected one array like param, got list$"
    refuse("adam", arrays_for("adam"), TypeError, match, copy_to=[np.zeros(SHAPE, BF16)])


def test_a_float64_parameter_is_rounded_once() -> None:
    arrays = {key: it.astype(np.float64) for key, it in arrays_for("adam").items()}
    match = "copy_to: expected float64 or float32 for param of float64, got bfloat16"
    refuse("adam", arrays, TypeError, match, copy_to=np.zeros(SHAPE, BF16))
