"""What torch.fx, make_fx, torch.export and torch.jit.script make of fastopt.nn: the flag stays free."""

from __future__ import annotations

import copy
import io
import itertools
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.fx import Tracer
from torch.fx.experimental.proxy_tensor import make_fx

from _nn_cases import MODULES, assert_same, normal
from fastopt import nn
from fastopt.nn import convert_dropout, functional

KINDS: dict[str, tuple[Callable[[], Any], tuple[int, ...]]] = {
    **{ours.__name__: (ours, shape) for ours, _, shape in MODULES},
    "packed": (lambda: nn.Dropout(packed_mask=True), (4, 6)),
    "row": (lambda: nn.StochasticDepth(0.5), (16, 6)),
    "batch": (lambda: nn.StochasticDepth(0.5, "batch"), (16, 6)),
    "bias": (lambda: nn.BiasDropoutAdd(), (8, 6)),
}


class Network(torch.nn.Module):
    """A module of ours, within another one, fed with what it is called with or with a buffer."""

    def __init__(self, drop: torch.nn.Module, shape: tuple[int, ...], own: bool) -> None:
        super().__init__()
        self.inner = torch.nn.ModuleDict({"drop": drop})
        self.bias = torch.nn.Parameter(torch.ones(shape[-1]))
        self.register_buffer("kept", torch.ones(shape))
        self.own = own

    def forward(self, x: Tensor) -> Tensor:
        given = self.kept if self.own else x
        drop = self.inner["drop"]
        rest = (self.bias, x) if isinstance(drop, nn.BiasDropoutAdd) else ()
        y: Tensor = drop(given, *rest) * 2
        return y


def works(call: Callable[[], Tensor]) -> bool:
    """Whether dropout is at work: channels and batches may well be kept a few times."""
    first = call()
    return any(not torch.equal(call(), first) for _ in range(30))


class Ours(Tracer):
    """One with rules of its own about leaves."""

    def is_leaf_module(self, m: torch.nn.Module, module_qualified_name: str) -> bool:
        return False


# ---- torch.fx -------------------------------------------------------------------------------------


@pytest.mark.parametrize("tracer", [Tracer, Ours])
@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("traced_in", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_fx_keeps_calls_of_modules(kind: str, traced_in: bool, own: bool, tracer: Any) -> None:
    make, shape = KINDS[kind]
    model, x = Network(make(), shape, own).train(traced_in), torch.ones(shape)
    graph = torch.fx.GraphModule(model, tracer().trace(model))
    calls = [node.target for node in graph.graph.nodes if node.op == "call_module"]
    assert calls == ["inner.drop"]
    assert not any("dropout" in str(it.target) for it in graph.graph.nodes if it.op == "call_function")
    for training in (False, True):
        graph.train(training)
        assert works(lambda: graph(x)) is training
    graph.eval()
    assert_same(graph(x), copy.deepcopy(model).eval()(x))
    graph.train()
    model.train()
    torch.manual_seed(1)
    y = graph(x)
    torch.manual_seed(1)
    assert_same(y, model(x))  # with fastopt's masks


def test_hooks_of_a_kept_module_run_once() -> None:
    model = torch.nn.Sequential(convert_dropout(torch.nn.Dropout())).eval()
    model[0].register_forward_hook(lambda _, __, y: y * 2)
    model[0].register_forward_pre_hook(lambda _, inputs: (inputs[0] + 1,))
    graph = torch.fx.symbolic_trace(model)
    assert graph(torch.ones(2)).tolist() == [4.0, 4.0]


@pytest.mark.parametrize("training", [True, False])
def test_fx_keeps_calls_of_functions(training: bool) -> None:
    """With the seed, which torch's function would not take."""

    def plain(x: Tensor) -> Tensor:
        return functional.dropout(x, 0.4, training, seed=3, offset=1)

    def added(bias: Tensor, x: Tensor) -> Tensor:
        return functional.bias_dropout_add(x, bias=bias, residual=x, p=0.4, training=training, seed=3)

    x = normal(8, 6)
    for function, inputs in ((plain, (x,)), (added, (normal(6), x))):
        graph = torch.fx.symbolic_trace(function)
        assert_same(graph(*inputs), function(*inputs))
        assert sum(node.op == "call_function" for node in graph.graph.nodes) == 1
        assert works(lambda graph=graph, inputs=inputs: graph(*inputs)) is False


@pytest.mark.filterwarnings("ignore")
def test_the_quantization_flow_keeps_them() -> None:
    from torch.ao.quantization import get_default_qconfig_mapping, quantize_fx

    if "x86" not in torch.backends.quantized.supported_engines:
        pytest.skip("needs x86's quantized kernels")
    plain = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Dropout(), torch.nn.Linear(8, 4)).eval()
    x, outputs = normal(16, 8), []
    for model in (plain, convert_dropout(copy.deepcopy(plain))):
        prepared = quantize_fx.prepare_fx(model, get_default_qconfig_mapping("x86"), (x,))
        assert any(node.op == "call_module" and node.target == "1" for node in prepared.graph.nodes)
        prepared(x)
        outputs.append(quantize_fx.convert_fx(copy.deepcopy(prepared))(x))
        assert works(lambda prepared=prepared: prepared.train()(x))
    assert torch.equal(*outputs)


# ---- make_fx, functionalize, export ---------------------------------------------------------------


def forms(
    shape: tuple[int, ...] = (2, 6, 4, 4),
) -> dict[str, tuple[Callable[[Tensor], Tensor], Tensor]]:
    x = torch.ones(shape)
    return {
        "dropout": (lambda x: functional.dropout(x, 0.5), x),
        "seeded": (lambda x: functional.dropout(x, 0.5, seed=1), x),
        "packed": (lambda x: functional.dropout(x, 0.5, packed_mask=True), x),
        "relu": (lambda x: functional.relu_dropout(x, 0.5), x),
        "alpha": (lambda x: functional.alpha_dropout(x, 0.5, True), x),
        "1d": (lambda x: functional.dropout1d(x, 0.5), x[0]),
        "2d": (lambda x: functional.dropout2d(x, 0.5), x),
        "3d": (lambda x: functional.dropout3d(x, 0.5), x),
        "row": (lambda x: functional.stochastic_depth(x, 0.5), x),
        "bias": (lambda x: functional.bias_dropout_add(x, x[0, 0, 0], x, 0.5), x),
    }


MODES = list(itertools.product(("real", "fake", "symbolic"), (False, True)))


@pytest.mark.parametrize(("mode", "pre_dispatch"), MODES)
@pytest.mark.parametrize("name", forms())
def test_make_fx_records_them(name: str, mode: str, pre_dispatch: bool) -> None:
    function, x = forms()[name]
    graph = make_fx(function, tracing_mode=mode, pre_dispatch=pre_dispatch)(x)
    assert graph(x).shape == x.shape
    assert works(lambda: graph(x))


@pytest.mark.parametrize("name", forms())
def test_functionalize_takes_them(name: str) -> None:
    function, x = forms()[name]
    functionalized = torch.func.functionalize(function)
    assert functionalized(x).shape == x.shape
    assert works(lambda: functionalized(x))
    assert works(lambda: torch.func.functionalize(lambda y: function(x) + y)(x))  # of what is outside
    gradient = torch.func.functionalize(torch.func.grad(lambda x: function(x).sum()))
    assert works(lambda: gradient(x))


@pytest.mark.parametrize("name", forms())
def test_zeros_without_memory(name: str) -> None:
    """What forward mode and complex gradients are made of."""
    function, x = forms()[name]
    zeros = torch._efficientzerotensor(x.shape)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if name == "seeded":
            with pytest.raises(
                ValueError, match="seed=1: expected None, since a tensor without memory"
            ):
                function(zeros)
        elif name == "alpha":
            with pytest.raises(RuntimeError, match="ZeroTensors are immutable"):  # torch's, too
                function(zeros)
        else:
            assert not (function(zeros) + 0).any()


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("ours", [it[0] for it in MODULES[:4]])
def test_an_exported_program_can_change_its_mode(ours: Any, training: bool, strict: bool) -> None:
    """Its dropout stays one of torch's, idle or not, as quantization in torchao expects."""
    shape = next(it[2] for it in MODULES if it[0] is ours)
    program = torch.export.export(ours().train(training), (torch.ones(shape),), strict=strict)
    (node,) = (it for it in program.graph.nodes if "dropout" in str(it.target))
    assert node.args[1:] == (0.5, training)


# ---- torch.jit.script -----------------------------------------------------------------------------


class Nested(torch.nn.Module):
    def __init__(self, drop: torch.nn.Module) -> None:
        super().__init__()
        self.drop = drop

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.drop(x)
        return y


class Added(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.drop = nn.BiasDropoutAdd(0.5)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.drop(x, x[0], x)
        return y


@pytest.mark.parametrize("scripted_in", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_a_scripted_module_drops_in_training_only(kind: str, scripted_in: bool) -> None:
    make, shape = KINDS[kind]
    model: torch.nn.Module = Added() if kind == "bias" else Nested(make())
    file = io.BytesIO()
    torch.jit.save(torch.jit.script(model.train(scripted_in)), file)
    file.seek(0)
    scripted, x = torch.jit.load(file), torch.ones(shape)
    assert works(lambda: scripted.train()(x))
    assert torch.equal(scripted.eval()(x), model.eval()(x))


@pytest.mark.parametrize(("ours", "torchs", "shape"), MODULES)
def test_a_scripted_network_is_torchs(ours: Any, torchs: Any, shape: tuple[int, ...]) -> None:
    plain = torch.nn.Sequential(torch.nn.Tanh(), torchs(0.3))
    scripted = [torch.jit.script(it) for it in (plain, convert_dropout(copy.deepcopy(plain)))]
    torch.manual_seed(1)
    y = scripted[0](normal(*shape))
    torch.manual_seed(1)
    assert torch.equal(scripted[1](normal(*shape)), y)
    frozen = torch.jit.freeze(torch.jit.script(convert_dropout(plain).eval()))
    assert torch.equal(frozen(normal(*shape)), normal(*shape).tanh())


@pytest.mark.parametrize("kind", ["Dropout", "AlphaDropout", "row", "bias"])
def test_a_generator_cannot_be_scripted(kind: str) -> None:
    module = KINDS[kind][0]()
    module.generator = torch.Generator()
    with pytest.raises(ValueError, match=r"generator=.*: expected None in a \w+ for torch.jit.script"):
        torch.jit.script(torch.nn.Sequential(module))
