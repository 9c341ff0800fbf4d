"""One OpenMP pool with torch, its thread count obeyed from any thread, forks that do not hang.

What depends on which library comes first, or would leave something behind, runs in a process of its
own and prints what it found as JSON.
"""

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import fastopt
from _in_threads import in_threads
from _kernel_cases import Array, assert_step, kernel, make_arrays
from conftest import RunPython
from fastopt import _C

LARGE = 1 << 18  # elements: more than one thread's worth

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/task").is_dir(), reason="threads are counted under /proc"
)
needs_openmp = pytest.mark.skipif(not _C.max_threads(), reason="a build without OpenMP has no pool")


def run_json(run_python: RunPython, script: str) -> dict[str, Any]:
    result = run_python("-c", script)
    assert result.returncode == 0, result.stderr
    facts: dict[str, Any] = json.loads(result.stdout)
    return facts


# ---- one pool -------------------------------------------------------------------------------------

WORK = f"""
import json, os
import numpy, threadpoolctl, torch, fastopt

def threads():
    return len(os.listdir("/proc/self/task"))

# from_numpy, because torch.zeros would start the pool
param, grad = (torch.from_numpy(numpy.full({LARGE}, it, "f4")) for it in (0, 1))

def torch_work():
    param.mul_(2.0).add_(1.0)

def fastopt_work():
    fastopt.kernels.sgd_(param, grad)
"""

ONE_POOL = """
torch.set_num_threads(3)
counts = [threads()]
for work in order:
    work()
    counts.append(threads())
followed = []
for count in (1, 2, 4, 3):
    torch.set_num_threads(count)
    followed.append(fastopt._C.max_threads())
library = fastopt.info()["openmp_library"]
ours = [
    pool["num_threads"]
    for pool in threadpoolctl.threadpool_info()
    if pool["user_api"] == "openmp" and os.path.samefile(pool["filepath"], library)
]
print(json.dumps({"counts": counts, "followed": followed, "ours": ours}))
"""

TORCH_THEN_FASTOPT, FASTOPT_THEN_TORCH = (
    "order = [torch_work, fastopt_work]",
    "order = [fastopt_work, torch_work]",
)


@needs_openmp
@pytest.mark.parametrize(
    ("imports", "order"),
    [
        ("import torch", TORCH_THEN_FASTOPT),
        ("import fastopt", FASTOPT_THEN_TORCH),
        ("import sklearn.utils._openmp_helpers", FASTOPT_THEN_TORCH),
        ("import numpy", TORCH_THEN_FASTOPT),
    ],
    ids=lambda text: text.split(".")[0] if text.startswith("import") else "",
)
def test_torch_and_fastopt_share_one_pool(imports: str, order: str, run_python: RunPython) -> None:
    facts = run_json(run_python, "\n".join([imports, WORK, order, ONE_POOL]))
    start, first, second = facts["counts"]
    assert first == start + 2, "the first to work starts two threads beside its own"
    assert second == first, "the second one starts none"
    assert facts["followed"] == [1, 2, 4, 3], "fastopt's runtime follows torch.set_num_threads"
    assert facts["ours"] == [3], "info() names the library whose pool it is"


OBEDIENCE = """
import threading

counts, finished = [], threading.Event()

def step():
    before = threads()
    fastopt_work()
    counts.append(threads() - before)

def step_in_a_new_thread():
    def run():
        step()
        stepped.set()
        finished.wait()  # a thread that ends now would disturb the next count
    stepped = threading.Event()
    threading.Thread(target=run).start()
    stepped.wait()

for count in (1, 3):
    torch.set_num_threads(count)
    step()
    step_in_a_new_thread()
finished.set()
print(json.dumps({"started": counts, "param": param.unique().tolist()}))
"""


@needs_openmp  # whose threads stay, and can be counted
def test_the_thread_count_is_torchs_in_every_thread(run_python: RunPython) -> None:
    """Set in the main thread, it holds in a second one: how many more a step starts, in order."""
    facts = run_json(run_python, WORK + OBEDIENCE)
    assert facts["started"] == [0, 0, 2, 2]
    assert facts["param"] == pytest.approx([-4e-3])


# ---- forks ----------------------------------------------------------------------------------------

FORKS = """
import signal

def values(number):
    return numpy.full(100_000, number, "f4")

torch.set_num_threads(2)
module = torch.nn.Parameter(torch.from_numpy(values(1)))
module.grad = torch.from_numpy(values(0.1))
optimizer = fastopt.optim.Adam([module])

def first_step():
    optimizer.step()

low = torch.nn.Parameter(torch.zeros(100_000, dtype=torch.bfloat16))
low.grad = torch.ones_like(low)

def new_state():
    options = {"momentum": 0.5, "ema_decay": 0.5, "state_dtype": torch.float32}
    fresh = fastopt.optim.SGD([low], lr=0.5, **options)
    fresh.step()
    return (fresh.state[low]["ema"].numpy() == numpy.float32(-0.25)).all()

def same_as_reference():
    param, zeros = values(1), values(0)
    first = fastopt.reference.adam(param, values(0.1), zeros, zeros)
    second = fastopt.reference.adam(first[0], values(0.1), *first[1:], step=2)
    fastopt.kernels.adam_(param, values(0.1), zeros, values(0))
    stepped = second if optimizer.state else first
    optimizer.step()
    return (param == first[0]).all() and (module.detach().numpy() == stepped[0]).all()

def status_of_a_child():
    child = os.fork()
    if child == 0:
        signal.alarm(30)  # kills a child that hangs
        os._exit(0 if same_as_reference() and new_state() else 1)
    return os.waitpid(child, 0)[1]

children = [status_of_a_child()]
for work in (fastopt_work, torch_work, first_step):
    work()
    children.append(status_of_a_child())
print(json.dumps({"children": children, "parent": bool(same_as_reference())}))
"""


def test_forked_children_step(run_python: RunPython) -> None:
    """Before and after fastopt and torch have used the pool; the parent goes on as well."""
    assert run_json(run_python, WORK + FORKS) == {"children": [0, 0, 0, 0], "parent": True}


EVERYTHING = """
import signal
from fastopt.nn import functional as F

torch.set_num_threads(2)

ONES = torch.ones(512, 512)

def made(dtype=torch.float32, gaps=False, turned=False):
    values = torch.ones(512, 600, dtype=dtype)
    param = torch.nn.Parameter(values[:, :512] if gaps else values[:, :512].contiguous())
    param.grad = ONES.to(dtype).t() if turned else ONES.to(dtype)
    return param

def step(param, **options):
    optimizer = fastopt.optim.AdamW([param], **options)
    return optimizer, optimizer.step

def averaging(**options):
    optimizer, first = step(made(), ema_decay=0.5, **options)
    first()
    def swap():
        with optimizer.swap_ema():
            pass
    return swap

def averaged():
    model = torch.nn.Linear(512, 512)
    optimizer = fastopt.optim.AdamW(model.parameters(), ema_decay=0.5)
    average = fastopt.averages.AveragedModel(model, optimizer)
    return lambda: average.update_parameters(model)

def loaded(**options):
    saved = step(made())
    saved[1]()
    fresh = step(made(), **options)[0]
    return lambda: fresh.load_state_dict(saved[0].state_dict())

def saved():
    optimizer, first = step(made(), state_dtype=torch.bfloat16)
    first()
    return lambda: optimizer.state_dict(as_torch=True)

def second_order():
    param = made(turned=True)
    def closure():
        return 1.0
    return lambda: fastopt.optim.LBFGS([param], max_iter=3).step(closure)

def dropped(function, layout, backward=False, **options):
    weights = torch.ones(2 * 256 * 32 * 32)
    x = torch.ones(2, 256, 32, 32)
    x = x.transpose(1, 2) if layout == "turned" else x.contiguous(memory_format=layout)
    if not backward:
        return lambda: function(x, 0.5, True, **options)
    x.requires_grad_()
    def train():
        y = function(x, 0.5, True, **options)
        torch.autograd.grad(y, x, weights.as_strided(y.shape, y.stride()))
    return train

complex = torch.nn.Parameter(ONES.to(torch.complex64))
complex.grad = ONES.to(torch.complex64)
works = {
    "gaps": step(made(gaps=True))[1],
    "another layout": step(made(turned=True))[1],
    "bfloat16 masters": step(made(torch.bfloat16), master_weights=True)[1],
    "float16 masters": step(made(torch.float16), master_weights=True)[1],
    "codes": step(made(), state_dtype="int8")[1],
    "random rounding": step(made(torch.bfloat16), stochastic_rounding=True)[1],
    "torch's": step(complex)[1],
    "swap": averaging(),
    "swap corrected": averaging(ema_bias_correction=True),
    "averages": averaged(),
    "load": loaded(state_dtype=torch.bfloat16),
    "save": saved(),
    "lbfgs": second_order(),
    "turned": dropped(F.dropout, "turned"),
    "turned in place": dropped(F.dropout, "turned", inplace=True),
    "turned, backward": dropped(F.dropout, "turned", True),
    "packed, backward": dropped(F.dropout, "turned", True, packed_mask=True),
    "relu, backward": dropped(F.relu_dropout, torch.contiguous_format, True),
    "alpha, backward": dropped(F.alpha_dropout, "turned", True),
    "channels": dropped(F.dropout2d, torch.channels_last, True),
    "bias": lambda: F.bias_dropout_add(ONES.t(), ONES[0], ONES.t(), 0.5),
    "bias of another type": lambda: F.bias_dropout_add(ONES, ONES[0].double(), ONES, 0.5),
    "others": lambda: F.dropout(complex.grad),
}
torch_work()
fastopt_work()
hang = []
for name, work in works.items():
    child = os.fork()
    if child == 0:
        signal.alarm(20)  # kills a child that hangs
        try:
            work()
        finally:
            os._exit(0 if torch.get_num_threads() == 2 else 1)
    if os.waitpid(child, 0)[1]:
        hang.append(name)
print(json.dumps(hang))
"""


def test_nothing_of_ours_waits_for_threads_in_a_forked_child(run_python: RunPython) -> None:
    """Whatever torch is asked for besides the kernels: copies, masters, averages, other layouts."""
    assert run_json(run_python, WORK + EVERYTHING) == []


# ---- many Python threads --------------------------------------------------------------------------


class Training:
    """Five steps of one optimizer over tensors small and large."""

    def __init__(self, name: str, seed: int, **options: Any) -> None:
        self.random = np.random.default_rng(seed)
        self.params = [torch.nn.Parameter(self.normal(size)) for size in (3, LARGE // 2, *[17] * 40)]
        self.optimizer = getattr(fastopt.optim, name)(self.params, **options)

    def normal(self, size: int) -> torch.Tensor:
        return torch.from_numpy(self.random.standard_normal(size, np.float32))

    def run(self) -> None:
        for _ in range(5):
            for param in self.params:
                param.grad = self.normal(param.numel())
            self.optimizer.step()

    def bits(self) -> list[bytes]:
        tensors = list(self.params)
        for state in self.optimizer.state.values():
            tensors += [value for value in state.values() if isinstance(value, torch.Tensor)]
        return [tensor.detach().numpy().tobytes() for tensor in tensors]


def trainings() -> list[Training]:
    """Three of one kind, with options of their own, and another."""
    return [
        Training("Adam", 1, lr=0.1, betas=(0.5, 0.6)),
        Training("Adam", 2, lr=0.001, weight_decay=0.1),
        Training("Adam", 3, lr=10.0, amsgrad=True),
        Training("SGD", 4, lr=0.1, momentum=0.9),
    ]


def test_optimizers_step_at_the_same_time(
    switching: Callable[[float], None], set_threads: Callable[[int], None]
) -> None:
    set_threads(2)
    alone, together = trainings(), trainings()
    for training in alone:
        training.run()
    switching(1e-6)
    in_threads(*(training.run for training in together))
    for one, other in zip(alone, together, strict=True):
        assert one.bits() == other.bits()


def test_an_optimizer_may_step_within_the_step_of_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """As happens where making a state gives another thread its turn."""
    outer, alone, inner = (Training("Adam", 1, lr=lr) for lr in (0.1, 0.1, 10.0))
    make_state = outer.optimizer._new_state

    def make_state_after_another_step(*arguments: Any) -> torch.Tensor:
        inner.optimizer.step()
        tensor: torch.Tensor = make_state(*arguments)
        return tensor

    monkeypatch.setattr(outer.optimizer, "_new_state", make_state_after_another_step)
    for param in inner.params:
        param.grad = torch.ones_like(param)
    outer.run()
    alone.run()
    assert outer.bits() == alone.bits()


def test_kernels_run_at_the_same_time(
    switching: Callable[[float], None], set_threads: Callable[[int], None]
) -> None:
    set_threads(2)
    names = ["adam", "adam", "rmsprop", "sgd"]
    before = [
        make_arrays(name, np.random.default_rng(seed), LARGE, np.float32)
        for seed, name in enumerate(names)
    ]
    after = [{key: array.copy() for key, array in arrays.items()} for arrays in before]
    switching(1e-6)
    in_threads(*(lambda n=n, a=a: kernel(n)(**a, lr=0.5) for n, a in zip(names, after, strict=True)))
    for name, was, now in zip(names, before, after, strict=True):
        assert_step(name, was, now, lr=0.5)


def test_the_gil_is_released(switching: Callable[[float], None]) -> None:
    """Another thread counts while a call runs.

    With this switch interval a thread keeps the lock until it gives it up by itself: the counting
    thread does after each count, the main thread nowhere between the two readings but in the call.
    """
    arrays: list[list[Array]] = [[np.zeros(LARGE * 16, np.float32)] for _ in range(4)]
    columns = [*arrays, None]
    counted, stop = 0, False

    def count() -> None:
        nonlocal counted
        while not stop:
            counted += 1
            time.sleep(0)

    def progress(work: Callable[[], object]) -> int:
        before = counted
        work()
        return counted - before

    def call() -> None:
        _C.apply("adam", columns, [1], {}, False, 1)

    call()
    switching(1000.0)
    thread = threading.Thread(target=count)
    thread.start()
    try:
        assert progress(lambda: sum(range(100_000))) == 0, "the readings do not tell"
        assert any(progress(call) for _ in range(100))
    finally:
        stop = True
        thread.join()


@needs_openmp
def test_the_count_of_threads_is_restored(set_threads: Callable[[int], None]) -> None:
    """A step leaves the runtime's setting as it was."""
    set_threads(2)
    _C.apply("sgd", [[np.zeros(LARGE)], [np.zeros(LARGE)], None], [1], {}, False, 3)
    assert _C.max_threads() == torch.get_num_threads() == 2


# ---- without OpenMP -------------------------------------------------------------------------------


@pytest.mark.skipif(
    _C.max_threads() > 0, reason="a build with OpenMP: scripts/no_openmp.sh has one without"
)
def test_threads_of_our_own_end_with_the_step(run_python: RunPython) -> None:
    """As many as torch's setting says, for large steps alone, as the main thread counts them."""
    script = """
import json, os, threading, time
import numpy, torch, fastopt

def threads():
    return set(os.listdir("/proc/self/task"))

def most_in_a_step(count, size):
    torch.set_num_threads(count)
    param, grad = numpy.ones(size, "f4"), numpy.ones(size, "f4")
    before, most = threads(), 0
    worker = threading.Thread(target=fastopt.kernels.sgd_, args=(param, grad), kwargs={"lr": 0.5})
    worker.start()
    while worker.is_alive():
        most = max(most, len(threads() - before) - 1)  # beside the worker
    worker.join()
    assert (param == 0.5).all()
    for _ in range(1000):  # the system lists a thread for a moment after it is joined
        if threads() <= before:
            break
        time.sleep(0.005)
    return most, len(threads() - before)

most_in_a_step(1, 1000)  # what a first step starts otherwise
large = [most_in_a_step(3, 1 << 25) for _ in range(5)]  # a step may end before all of them are seen
print(json.dumps({"large": large, "others": [most_in_a_step(1, 1 << 25), most_in_a_step(3, 1000)]}))
"""
    facts = run_json(run_python, script)
    assert max(most for most, _ in facts["large"]) == 2
    assert [after for _, after in facts["large"]] == [0] * 5
    assert facts["others"] == [[0, 0], [0, 0]]
    told = fastopt.info()
    assert (told["openmp_threads"], told["openmp_library"]) == (0, None)
