"""Dropout's kernels refuse wrong arguments by name, before anything is written."""

import math
import re
from typing import Any

import numpy as np
import pytest
import torch

from _dropout_cases import FORMS, Array
from _kernel_cases import Producer, memory
from fastopt import _C, kernels

SHAPE = (3, 4)
FORMS_WITH_ARRAYS = {name: form for name, form in FORMS.items() if name != "nothing added"}


def good(form: str) -> dict[str, Any]:
    """Right arguments, by name, in order."""
    it = FORMS[form]
    names = ["x", *it.extra]
    arguments = it.arguments(np.ones(SHAPE, np.float32), np.random.default_rng(0))
    return {**dict(zip(names, arguments, strict=True)), "out": np.full(SHAPE, 7, np.float32)}


def refuse(form: str, changes: dict[str, Any], error: type[Exception], match: str) -> None:
    arguments: dict[str, Any] = {**good(form), "p": 0.5, "seed": 1, **changes}
    before = memory(list(arguments.values()))
    with pytest.raises(error, match=match):
        FORMS[form].kernel(**arguments)
    assert memory(list(arguments.values())) == before, "written before it was refused"


def arrays_of(form: str) -> list[str]:
    return ["x", "out", *FORMS[form].given]


EVERY_ARRAY = [(form, name) for form in FORMS_WITH_ARRAYS for name in arrays_of(form)]


# ---- numbers --------------------------------------------------------------------------------------

WRONG: list[tuple[str, Any, type[Exception], str]] = [
    *(("p", p, ValueError, "a number from 0 to 1") for p in (-1e-9, 1.0000001, math.nan, math.inf)),
    *(("p", p, TypeError, "a number from 0 to 1") for p in ("0.5", None, 1j, [0.5])),
    ("p", 10**400, ValueError, "a number from 0 to 1"),
    *(("seed", s, ValueError, r"a whole number from -2\*\*63") for s in (2**64, -(2**63) - 1)),
    *(("seed", s, TypeError, r"a whole number from -2\*\*63") for s in (1.0, "1", None)),
    *(("offset", o, ValueError, r"a whole number from 0 to 2\*\*56 - 1") for o in (-1, 2**56, 2**70)),
    *(("offset", o, TypeError, "a whole number from 0") for o in (0.5, None)),
    *(("index", i, ValueError, "a whole number >= 0") for i in (-1, 2**63, 2**63 - 1, 2**80)),
    ("index", 1.5, TypeError, "a whole number >= 0"),
]


@pytest.mark.parametrize(("name", "wrong", "error", "accepted"), WRONG)
def test_wrong_numbers(name: str, wrong: Any, error: type[Exception], accepted: str) -> None:
    got = re.escape(repr(wrong))
    for form in FORMS:
        refuse(form, {name: wrong}, error, rf"^{name}: expected {accepted}.*, got {got}")
    with pytest.raises(error, match=rf"^{name}: expected {accepted}.*, got {got}"):
        kernels.dropout_mask(5, **{"p": 0.5, "seed": 1, name: wrong})


def test_the_last_index() -> None:
    for form in FORMS:
        last = 2**63 - 1 - (1 if form == "rows" else 12)
        arguments = {**good(form), "p": 0.5, "seed": 1}
        FORMS[form].kernel(**arguments, index=last)
        refuse(form, {"index": last + 1}, ValueError, r"^index: .* got \d+ for \d+ draws$")


@pytest.mark.parametrize(
    ("inner", "error"), [(0, ValueError), (-1, ValueError), (1.0, TypeError), (None, TypeError)]
)
def test_wrong_rows(inner: Any, error: type[Exception]) -> None:
    refuse("rows", {"inner": inner}, error, f"^inner: expected a whole number >= 1, got {inner}$")


# ---- arrays ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["int32", "uint8", "bool", "complex64", "longdouble", ">f4"])
@pytest.mark.parametrize(("form", "name"), EVERY_ARRAY)
def test_wrong_dtypes(form: str, name: str, dtype: str) -> None:
    wrong = np.ones_like(good(form)[name], dtype)
    accepted = "float32, float64, bfloat16 or float16"
    refuse(form, {name: wrong}, TypeError, rf"^{name}: expected {accepted}, got ")


@pytest.mark.parametrize(("form", "name"), EVERY_ARRAY)
def test_another_dtype_or_shape_than_xs(form: str, name: str) -> None:
    right = good(form)[name]
    if name == "x":
        return
    refuse(
        form, {name: right.astype(float)}, TypeError, f"^{name}: expected float32 like x, got float64$"
    )
    half = torch.from_numpy(right).half()
    refuse(form, {name: half}, TypeError, f"^{name}: expected float32 like x, got float16$")
    for shape in ((), (12,), (4, 3), (3, 5), (3, 4, 1), (0, 4)):
        got = re.escape(str(shape))
        wrong = np.ones(shape, np.float32)
        refuse(form, {name: wrong}, ValueError, rf"^{name}: expected shape \(.*\) like x.*, got {got}$")


def unaligned(like: Array) -> Array:
    return np.frombuffer(bytearray(like.nbytes + 1), np.uint8)[1:].view(like.dtype).reshape(like.shape)


@pytest.mark.parametrize(("form", "name"), EVERY_ARRAY)
def test_wrong_layouts(form: str, name: str) -> None:
    right = good(form)[name]
    gaps = np.repeat(right, 2, axis=-1)[..., ::2]
    refuse(form, {name: gaps}, ValueError, f"^{name}: expected a C-contiguous array, got strides")
    refuse(
        form, {name: torch.from_numpy(np.repeat(right, 2, -1))[..., ::2]}, ValueError, f"^{name}: .*C-"
    )
    refuse(form, {name: unaligned(right)}, ValueError, f"^{name}: expected memory aligned to 4 bytes")
    if right.ndim == 2:
        refuse(form, {name: np.asfortranarray(right)}, ValueError, f"^{name}: .*C-contiguous")


@pytest.mark.parametrize(
    "wrong", [1.0, "text", object(), [1.0], b"bytes", {}], ids=lambda it: type(it).__name__
)
@pytest.mark.parametrize(("form", "name"), EVERY_ARRAY)
def test_what_is_no_array(form: str, name: str, wrong: Any) -> None:
    refuse(form, {name: wrong}, TypeError, f"^{name}: expected ")


class Refusing(Producer):
    """Raises an error instead of giving a capsule, or gives what is none."""

    def __init__(self, answer: object) -> None:
        super().__init__(np.ones(SHAPE, np.float32))
        self.answer = answer

    def __dlpack__(self, **others: Any) -> object:
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer


@pytest.mark.parametrize("form", FORMS_WITH_ARRAYS)
def test_no_array_and_no_out(form: str) -> None:
    for wrong in (1.0, "text", object()):
        refuse(form, {"x": wrong, "out": None}, TypeError, "^x: expected ")


@pytest.mark.parametrize("form", FORMS_WITH_ARRAYS)
def test_what_dlpack_does_not_export_and_no_out(form: str) -> None:
    refusals = [BufferError("not today"), RuntimeError("not today"), TypeError("not today")]
    for wrong in (*(Refusing(it) for it in refusals), Refusing("a capsule"), np.ndarray):
        refuse(
            form, {"x": wrong, "out": None}, TypeError, "^x: expected an array that DLPack can export"
        )
    interrupted = {"x": Refusing(KeyboardInterrupt()), "out": None}
    refuse(form, interrupted, KeyboardInterrupt, "^$")  # type: ignore[arg-type]


@pytest.mark.parametrize(("form", "name"), EVERY_ARRAY)
@pytest.mark.filterwarnings("ignore:Sparse")
def test_wrong_memory(form: str, name: str) -> None:
    like = torch.from_numpy(good(form)[name].copy())
    meta, sparse = like.to("meta"), like.to_sparse()
    refuse(form, {name: meta}, ValueError, f"^{name}: expected .* on device meta$")
    refuse(form, {name: sparse}, TypeError, f"^{name}: expected .*torch.sparse_coo")


def test_negated_views() -> None:
    negated = torch.complex(torch.ones(SHAPE), torch.ones(SHAPE)).conj().imag
    for name in ("x", "out"):
        refuse("plain", {name: negated}, ValueError, f"^{name}: expected plain memory")
    for name in ("bias", "residual"):
        wrong = negated[0] if name == "bias" else negated
        refuse("bias and residual", {name: wrong}, ValueError, f"^{name}: expected plain memory")


def test_read_only_out() -> None:
    out = np.ones(SHAPE, np.float32)
    out.flags.writeable = False
    for form in FORMS:
        for wrong in (out, memoryview(out), Producer(out)):
            refuse(form, {"out": wrong}, ValueError, "^out: expected writable memory, got a read-only")


# ---- memory that is shared ------------------------------------------------------------------------


def overlapping(shift: int) -> tuple[Array, Array]:
    buffer = np.ones(100, np.float32)
    return buffer[:12].reshape(SHAPE), buffer[shift : shift + 12].reshape(SHAPE)


@pytest.mark.parametrize("shift", [1, 4, 11])
def test_out_that_overlaps(shift: int) -> None:
    for form in FORMS_WITH_ARRAYS:
        for name in ("x", *(n for n in FORMS[form].given if n == "residual")):
            first, second = overlapping(shift)
            match = f"^out: expected {name} itself or memory of its own, got memory shared with {name}$"
            refuse(form, {name: first, "out": second}, ValueError, match)
            refuse(form, {name: second, "out": first}, ValueError, match)


def test_out_that_overlaps_the_bias() -> None:
    out = np.ones(SHAPE, np.float32)
    match = "^out: expected memory of its own, got memory shared with bias$"
    for form in ("bias", "bias and residual"):
        refuse(form, {"bias": out[1], "out": out}, ValueError, match)


# ---- masks ----------------------------------------------------------------------------------------


def test_wrong_masks() -> None:
    for mask, error in (
        (np.ones(3, np.uint8), ValueError),
        (np.ones(1, np.uint8), ValueError),
        (np.ones(12, np.bool_), TypeError),
        (np.ones(2, np.int8), TypeError),
        (np.ones(4, np.uint8)[::2], ValueError),
        ([1, 2], TypeError),
    ):
        refuse("plain", {"mask": mask}, error, "^mask: expected ")
    out = np.ones(SHAPE, np.float32)
    inside = out.view(np.uint8).reshape(-1)[:2]
    refuse("plain", {"mask": inside, "out": out}, ValueError, "^out: .* shared with mask$")


def test_wrong_masks_to_write() -> None:
    x = np.ones(SHAPE, np.float32)
    bits = np.zeros(2, np.uint8)
    read_only = bits.copy()
    read_only.flags.writeable = False

    def call(mask_out: Any, mask: Any = None, out: Any = None) -> None:
        target = np.full(SHAPE, 7, np.float32) if out is None else out
        before = target.tobytes(), memory(mask_out)
        try:
            _C.dropout(x, target, 0.5, 1, 0, 0, 1, mask, mask_out)
        finally:
            assert (target.tobytes(), memory(mask_out)) == before

    for wrong, error in ((np.zeros(3, np.uint8), ValueError), (np.zeros(2, np.int8), TypeError)):
        with pytest.raises(error, match=r"^mask_out: expected "):
            call(wrong)
    with pytest.raises(ValueError, match=r"^mask_out: expected writable memory"):
        call(read_only)
    with pytest.raises(ValueError, match=r"^mask_out: .* shared with mask$"):
        call(bits, bits)
    for name, array in (("x", x), ("out", np.ones(SHAPE, np.float32))):
        inside = array.view(np.uint8).reshape(-1)[3:5]
        with pytest.raises(ValueError, match=rf"^mask_out: .* shared with {name}$"):
            call(inside, out=array if name == "out" else None)


def test_wrong_output_of_masks() -> None:
    mask = kernels.dropout_mask
    for out, packed, error in (
        (np.zeros(20, np.uint8), False, TypeError),
        (np.zeros(20, np.bool_), True, TypeError),
        (np.zeros(21, np.bool_), False, ValueError),
        (np.zeros(2, np.uint8), True, ValueError),
        (np.zeros(40, np.bool_)[::2], False, ValueError),
        (np.zeros(3, np.float32), True, TypeError),
        (b"123", True, ValueError),
    ):
        with pytest.raises(error, match=r"^out: expected "):
            mask(20, 0.5, seed=1, packed=packed, out=out)
    for shape in (-1, (2, -3)):
        with pytest.raises(ValueError, match=r"^shape: expected whole numbers >= 0"):
            mask(shape, 0.5, seed=1)
    with pytest.raises(TypeError):
        mask(2.5, 0.5, seed=1)  # type: ignore[arg-type]


@pytest.mark.parametrize("scale", [0, -1.0, math.nan, math.inf, 1e39, "1"])
def test_a_wrong_scale(scale: Any) -> None:
    x = np.ones(SHAPE, np.float32)
    with pytest.raises((ValueError, TypeError), match=r"^scale: expected a number > 0 .*, got "):
        _C.dropout(x, x, 0.5, 1, 0, 0, 1, scale=scale)
    assert (x == 1).all()


def test_a_refusal_bumps_no_version_counter() -> None:
    x = torch.ones(4)
    with pytest.raises(ValueError, match=r"^p: "):
        kernels.dropout(x, 2, seed=1, out=x)
    assert x._version == 0


class Moving:
    """A whole number that frees a tensor once it is asked for."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor

    def __index__(self) -> int:
        self.tensor.untyped_storage().resize_(0)
        return 1


@pytest.mark.parametrize("form", FORMS)
def test_a_tensor_that_another_argument_frees(form: str) -> None:
    x = torch.ones(SHAPE)
    arguments = {**good(form), "x": x, "p": 0.5, "seed": Moving(x)}
    with pytest.raises(ValueError, match=r"^x: expected memory that stays"):
        FORMS[form].kernel(**arguments)
    assert (arguments["out"] == 7).all()
    mask = torch.ones(5, dtype=torch.uint8)
    with pytest.raises(ValueError, match=r"^out: expected memory that stays"):
        kernels.dropout_mask(40, 0.5, seed=Moving(mask), packed=True, out=mask)  # type: ignore[arg-type]
