"""A thousand random calls of fastopt.kernels: the reference's bits, or an error and nothing written."""

from __future__ import annotations

import sys
from collections.abc import Callable
from random import Random
from typing import Any

import numpy as np
import pytest
import torch

import _fuzz
from _fuzz_calls import (
    BAD_NUMBERS,
    BFLOAT16,
    BROKEN,
    DOUBLE,
    KINDS_OF_ARRAYS,
    KINDS_OF_NUMBERS,
    KINDS_OF_WHOLE_NUMBERS,
    NO_NUMBERS,
    SINGLES,
    Array,
    Call,
    Expected,
    Place,
    as_torch,
    draw_contents,
    draw_options,
    draw_shape,
    judge,
)
from _kernel_cases import STATES, Producer
from conftest import TARGETS
from fastopt import _C, reference
from fastopt.reference.dropout import keep_scale, keep_threshold
from fastopt.reference.storage import narrow, store_state, widen


@pytest.mark.parametrize("first", range(0, _fuzz.CALLS, _fuzz.BLOCK))
def test_random_calls(first: int) -> None:
    _fuzz.check(__file__, first, {"equal": 0.4, "refused": 0.2})


# ---- calls of rules -------------------------------------------------------------------------------

RULES = [*STATES, "ema"]
OPTIONAL = ("momentum_buffer", "grad_avg", "max_exp_avg_sq", "corrected")


def rule_call(random: Random) -> tuple[Call, Expected]:
    name = random.choice(RULES)
    call = Call(name + "_", {}, {}, random.choice([None, None, list, tuple]))
    names = ["average", "value", "corrected"] if name == "ema" else ["param", "grad", *STATES[name]]
    names = [it for it in names if it not in OPTIONAL or random.random() < 0.8]
    call.places = {argument: [] for argument in names}
    count = 1 if call.listed is None else random.randrange(4)
    for _ in range(count):
        shape, dtypes = draw_shape(random), draw_dtypes(random)
        for places in call.places.values():
            place = Place(draw_contents(random, shape, random.choice(dtypes)), random.randrange(20))
            places.append(place)
    if name == "ema":
        call.plain = {"decay": random.choice((0.0, 0.5, 0.9, 0.999))}
    else:
        call.plain = draw_options(random, getattr(reference, name), {"step", "as_stored"})
    steps = [random.choice((1, 2, 3, 10, 1000, 2**53)) for _ in range(count)]
    if call.listed and random.random() < 0.5:
        call.plain["step"] = steps
    else:
        call.plain["step"] = random.choice((1, 2, 3, 10, 1000, 2**53))
    call.arguments = dict(call.plain)
    return call, lambda: rule_expected(name, call)


def draw_dtypes(random: Random) -> list[Any]:
    """One for all arrays of a step, or some to choose from for each."""
    return random.choice([[DOUBLE], SINGLES, *([it] for it in SINGLES)])


def rule_expected(name: str, call: Call) -> dict[str, list[Array]]:
    """What the reference makes of the arrays; those that it does not use stay as they were."""
    options = {key: value for key, value in call.plain.items() if key != "step"}
    rule = ema if name == "ema" else getattr(reference, name)
    names = ("average", "value") if name == "ema" else ("param", "grad", *STATES[name])
    rule(**{key: np.zeros(0) for key in names}, step=1, **options)  # the options, if there is no array
    results: dict[str, list[Array]] = {key: [] for key in call.places if key not in ("grad", "value")}
    steps = call.plain["step"]
    for i in range(len(next(iter(call.places.values())))):
        arrays = {key: places[i].before for key, places in call.places.items()}
        after = rule(**arrays, step=steps[i] if isinstance(steps, list) else steps, **options)
        for key, result in zip(results, after, strict=True):
            results[key].append(result)
    return results


def ema(average: Array, value: Array, corrected: Array | None = None, **numbers: Any) -> list[Array]:
    """corrected_ema, of which each result is stored in a type of its own."""
    if not 0 <= numbers["decay"] < 1:
        raise ValueError("decay")
    after = reference.corrected_ema(widen(average), widen(value), **numbers)
    results = [narrow(after[0], average.dtype)]
    if corrected is not None:
        results.append(store_state(after[1], corrected.dtype, step=numbers["step"], state=0))
    return results


# ---- calls of dropout -----------------------------------------------------------------------------

FORMS = ("dropout", "relu_dropout", "bias_dropout_add", "dropout_rows", "alpha_dropout")


def dropout_call(random: Random) -> tuple[Call, Expected]:
    name = random.choice((*FORMS, "masked", "dropout_mask"))
    shape, dtype = draw_shape(random), random.choice([DOUBLE, *SINGLES])
    call = Call("dropout" if name == "masked" else name, {}, {})
    call.plain = {
        "p": random.choice((0, 0.0, 1e-9, 0.1, 0.5, 0.9, 1)),
        "seed": random.choice((0, 1, -1, 2**63, 2**64 - 1, random.getrandbits(64))),
        "offset": random.choice((0, 1, 2**56 - 1)),
        "index": random.choice((0, 1, 7, 8, 255, 2**32 - 3, 2**62)),
    }
    if name == "dropout_mask":
        call.arguments = {"shape": shape, "packed": random.random() < 0.5, **call.plain}
        if random.random() < 0.5:
            size = int(np.prod(shape))
            packed = call.arguments["packed"]
            contents = np.zeros((size + 7) // 8, np.uint8) if packed else np.zeros(shape, bool)
            call.places["out"] = [Place(contents, random.randrange(20))]
        return call, lambda: mask_expected(call)
    arrays = {"x": shape}
    if name == "bias_dropout_add":
        both = {"bias": shape[-1:] or (1,), "residual": shape}
        arrays |= {key: it for key, it in both.items() if random.random() < 0.7}
        call.arguments = dict.fromkeys(both)
    if name == "dropout_rows":
        call.plain["inner"] = random.choice((1, 2, 7, 49, 2**40))
    for key, extents in arrays.items():
        call.places[key] = [Place(draw_contents(random, extents, dtype), random.randrange(20))]
    if name == "masked":
        bits = np.random.default_rng(random.getrandbits(32)).bytes(
            (call.places["x"][0].view.size + 7) // 8
        )
        call.places["mask"] = [Place(np.frombuffer(bits, np.uint8), random.randrange(20))]
    out = random.choice(["new", "own", "x", "residual"])
    if out == "own":
        call.places["out"] = [Place(draw_contents(random, shape, dtype), random.randrange(20))]
    elif out in call.places:
        call.places["out"] = call.places[out]
    call.arguments |= call.plain
    return call, lambda: dropout_expected(name, call)


def dropout_expected(name: str, call: Call) -> dict[str, list[Array]]:
    arrays = {key: places[0].before for key, places in call.places.items() if key != "out"}
    if name == "masked":
        x = arrays["x"]
        result = reference.dropout(x, **call.plain)
        kept = np.unpackbits(arrays["mask"], count=x.size, bitorder="little").astype(bool)
        wide, threshold = widen(x), keep_threshold(call.plain["p"])
        with np.errstate(all="ignore"):
            scaled = wide * wide.dtype.type(keep_scale(threshold))
            kept = kept.reshape(x.shape) & (threshold > 0)
            result = narrow(np.where(kept, scaled, 0).astype(wide.dtype), x.dtype)
    else:
        missing = {key: None for key in call.arguments if call.arguments[key] is None}
        result = getattr(reference, name)(**{**missing, **arrays, **call.plain})
    return {"out" if "out" in call.places else "return": [result]}


def mask_expected(call: Call) -> dict[str, list[Array]]:
    kept = reference.dropout_mask(call.arguments["shape"], **call.plain)
    if call.arguments["packed"]:
        kept = np.packbits(kept.reshape(-1), bitorder="little")
    return {"out" if "out" in call.places else "return": [kept]}


# ---- what is done to them -------------------------------------------------------------------------


def any_place(call: Call, random: Random) -> tuple[str, Place] | None:
    places = [(name, place) for name, places in call.places.items() for place in places]
    return random.choice(places) if places else None


def uses(call: Call, name: str) -> bool:
    """Whether the options make use of a state."""
    if name not in OPTIONAL or name == "corrected":
        return True
    options = {key: value for key, value in call.plain.items() if key != "step"}
    arrays = {key: np.zeros(0) for key in call.places if key != name}
    try:
        getattr(reference, call.function[:-1])(**arrays, **options)
    except (TypeError, ValueError):
        return True
    return False


def other_kind(call: Call, random: Random) -> None:
    """Another kind of object with the same memory."""
    chosen = any_place(call, random)
    if chosen and not chosen[1].broken and chosen[1].view.dtype.kind not in "ub":
        chosen[1].object = random.choice(KINDS_OF_ARRAYS)(chosen[1].view)


def broken_array(call: Call, random: Random) -> None:
    chosen = any_place(call, random)
    if chosen is None or chosen[1].view.dtype.kind in "ub" or chosen[1].broken:
        return
    name, place = chosen
    make, is_wrong = random.choice(BROKEN)
    place.object, place.broken = make(place.view), True
    holders = {key for key, places in call.places.items() if place in places}
    if place.object is None and holders & {"bias", "residual", "out", "corrected"}:
        is_wrong = None
    (call.bad if is_wrong and uses(call, name) else call.odd).update(holders)


def broken_number(call: Call, random: Random) -> None:
    """Another value, of which the reference says whether it is one; or nothing of the kind."""
    name = random.choice(list(call.plain))
    value = random.choice(NO_NUMBERS + BAD_NUMBERS)
    usual = call.plain[name]
    if name in call.bad:
        return
    if isinstance(usual, tuple):
        call.arguments[name] = random.choice(
            [(value, 0.5), (0.5, value), value, (0.5,), (0.5,) * 3, "ab"]
        )
        call.bad.add(name)
    elif isinstance(usual, bool):
        call.arguments[name] = value
        try:
            call.plain[name] = bool(value)
        except (RuntimeError, ValueError):
            call.bad.add(name)
    elif name == "step":
        call.arguments[name] = value
        call.odd.add(name)
    elif isinstance(value, (float, np.floating)) and name not in ("seed", "offset", "index", "inner"):
        call.arguments[name] = call.plain[name] = value
    else:
        call.arguments[name] = value
        call.bad.add(name)


def kind_of_number(call: Call, random: Random) -> None:
    """The same value in another class."""
    name = random.choice(list(call.plain))
    value = call.plain[name]
    if name in ("seed", "offset", "index", "inner"):
        call.arguments[name] = random.choice(KINDS_OF_WHOLE_NUMBERS)(value)
        return
    make = random.choice(KINDS_OF_NUMBERS)
    if isinstance(value, bool):
        call.arguments[name] = random.choice([int(value), np.bool_(value), torch.tensor(value)])
    elif isinstance(value, (list, tuple)):
        call.arguments[name] = type(value)(map(make, value))
    else:
        call.arguments[name] = make(value)


def shared_memory(call: Call, random: Random) -> None:
    """Two arguments that overlap."""
    one, two = any_place(call, random), any_place(call, random)
    if one is None or two is None or one[1].root is two[1].root or one[1].broken or two[1].broken:
        return
    memory, view, shift = one[1], two[1].view, random.choice([0, 0, 1, 2]) * two[1].view.itemsize
    span = slice(memory.span.start + shift, memory.span.start + shift + view.nbytes)
    if view.dtype.kind in "ub" or span.stop > memory.root.size or span.start % view.itemsize:
        return
    two[1].broken = True
    two[1].object = memory.root[span].view(view.dtype).reshape(view.shape)
    call.odd |= {one[0], two[0]}
    used = uses(call, one[0]) and uses(call, two[0]) and span.start < memory.span.stop
    only_read = {one[0], two[0]} <= {"grad", "value", "x", "bias", "residual", "mask"}
    in_place = not call.function.endswith("_") and shift == 0
    if view.size and used and not only_read and not in_place:
        call.bad |= {one[0], two[0]}


class Disturbing(Producer):
    """Does something to the other arguments while it is asked for its own."""

    def __init__(self, contents: Any, act: Callable[[], Any]) -> None:
        super().__init__(contents)
        self.act = act

    def __dlpack__(self, **others: Any) -> object:
        self.act()
        return super().__dlpack__(**others)

    def __float__(self) -> float:
        self.act()
        return float(self.contents)

    def __index__(self) -> int:
        self.act()
        return int(self.contents)


def disturbance(call: Call, random: Random) -> None:
    """Code that runs inside the call frees an array, or empties a list."""
    one, two = any_place(call, random), any_place(call, random)
    if one is None or two is None or one[1].view.dtype.kind in "ub" or one[1].broken or two[1].broken:
        return
    victim = as_torch(one[1].view).clone()
    one[1].object, one[1].broken = victim, True
    acts: list[Callable[[], Any]] = [
        lambda: victim.untyped_storage().resize_(0),
        lambda: victim.resize_(0),
        lambda: [column.clear() for column in call.columns.values()],
    ]
    act = random.choice(acts)
    call.odd.add(one[0])
    if random.random() < 0.5 and two[1] is not one[1] and two[1].view.dtype != BFLOAT16:
        two[1].object, two[1].broken = Disturbing(two[1].view, act), True
        call.odd.add(two[0])
        return
    name = random.choice(list(call.plain))
    if isinstance(call.plain[name], (int, float)) and name not in call.bad:
        call.arguments[name] = Disturbing(call.plain[name], act)
        call.odd.add(name)


def other_length(call: Call, random: Random) -> None:
    """One list longer, or shorter, or none; steps likewise."""
    if call.listed is None:
        return
    name = random.choice([*call.places, "step"])
    count = len(next(iter(call.places.values())))
    call.bad.add(name)
    if name == "step":
        call.arguments[name] = [1] * (count + random.choice([-1, 1]) if count else 1)
    elif count and random.random() < 0.5:
        call.one_of[name] = call.places[name][0].object
    else:
        kept = [it.object for it in call.places[name]]
        call.one_of[name] = call.listed(kept[1:] if kept else [np.ones(3)])


def threads(call: Call, random: Random) -> None:
    torch.set_num_threads(random.choice([1, 2, 3]))


def target(call: Call, random: Random) -> None:
    _C.set_cpu_target(random.choice(TARGETS))


HARMLESS = {
    "other kind": other_kind,
    "kind of number": kind_of_number,
    "threads": threads,
    "target": target,
}
HARMFUL = {
    "broken array": broken_array,
    "broken number": broken_number,
    "shared memory": shared_memory,
    "other length": other_length,
    "disturbance": disturbance,
}


def draw(random: Random) -> list[_fuzz.Part]:
    names = [
        "threads",
        "target",
        *random.choices(["other kind", "kind of number"], k=random.randrange(4)),
    ]
    if random.random() < 0.5:
        names += random.choices(list(HARMFUL), [4, 3, 1, 1, 1], k=random.choice([1, 1, 1, 2]))
    return [(name, random.getrandbits(32)) for name in names]


def attempt(seed: int, parts: list[_fuzz.Part], log: _fuzz.Log) -> str:
    random = Random(-seed - 1)
    call, expected = rule_call(random) if random.random() < 0.7 else dropout_call(random)
    before = torch.get_num_threads(), _C.cpu_target()
    try:
        for name, own_seed in parts:
            (HARMLESS | HARMFUL)[name](call, Random(own_seed))
        return judge(call, expected, log)
    finally:
        torch.set_num_threads(before[0])
        _C.set_cpu_target(before[1])


if __name__ == "__main__":
    _fuzz.main(_fuzz.Fuzzer(draw, attempt), sys.argv[1:])
