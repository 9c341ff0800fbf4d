"""convert_dropout, revert_dropout and mc_dropout: what changes, what stays; the latter's example."""

from __future__ import annotations

import copy
import importlib.util
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from _nn_cases import normal
from fastopt import nn
from fastopt.nn import convert_dropout, mc_dropout, revert_dropout

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples/mc_dropout.py"

PAIRS = [
    (torch.nn.Dropout, nn.Dropout),
    (torch.nn.Dropout1d, nn.Dropout1d),
    (torch.nn.Dropout2d, nn.Dropout2d),
    (torch.nn.Dropout3d, nn.Dropout3d),
    (torch.nn.AlphaDropout, nn.AlphaDropout),
]


class Depth(torch.nn.Module):
    """As torchvision.ops.StochasticDepth."""

    def __init__(self, p: float, mode: str) -> None:
        super().__init__()
        self.p, self.mode = p, mode

    def forward(self, input: Tensor) -> Tensor:
        return input * 0 if self.training else input


@pytest.fixture
def torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    module: Any = types.ModuleType("torchvision.ops")
    module.StochasticDepth = Depth
    monkeypatch.setitem(sys.modules, "torchvision.ops", module)


# ---- conversion -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("torchs", "ours"), PAIRS)
def test_a_module_keeps_everything_but_its_class(torchs: Any, ours: Any) -> None:
    module = torchs(0.3, inplace=True).eval()
    calls: list[str] = []
    module.register_forward_hook(lambda *_: calls.append("hook"))
    module.mark = "here"
    text = repr(module)
    assert convert_dropout(module) is module
    assert type(module) is ours
    assert (module.p, module.inplace, module.training, module.mark) == (0.3, True, False, "here")
    assert repr(module) == text
    assert module.generator is None
    x = torch.ones(2, 3, *(4,) * {"Dropout1d": 1, "Dropout3d": 3}.get(torchs.__name__, 2))
    module(x)
    assert calls == ["hook"]
    assert (copy.deepcopy(module).train()(x) == 1).sum() == 0


def test_a_network() -> None:
    shared = torch.nn.Dropout(0.2)

    class Own(torch.nn.Dropout):
        pass

    model = torch.nn.Sequential(
        shared,
        torch.nn.Linear(4, 4),
        torch.nn.Sequential(shared, torch.nn.FeatureAlphaDropout(0.1), Own(0.1)),
        nn.Dropout(0.4, packed_mask=True),
    )
    state, weight = model.state_dict(), model[1].weight
    assert convert_dropout(model) is model
    assert model[0] is model[2][0] is shared
    assert [type(it) for it in model[2]] == [nn.Dropout, torch.nn.FeatureAlphaDropout, Own]
    assert model[3].packed_mask
    assert model[1].weight is weight
    assert model.state_dict().keys() == state.keys()
    assert convert_dropout(model) is model  # again changes nothing


def test_a_transformer_layer() -> None:
    layer = torch.nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    encoder = convert_dropout(torch.nn.TransformerEncoder(layer, 2, enable_nested_tensor=False))
    for it in encoder.layers:
        assert {type(it.dropout), type(it.dropout1), type(it.dropout2)} == {nn.Dropout}
    x = normal(2, 5, 16)
    assert encoder(x).shape == x.shape
    assert not torch.equal(encoder(x), encoder(x))
    assert torch.equal(encoder.eval()(x), encoder(x))


def test_torchvisions_is_taken_where_it_is_imported(torchvision: None) -> None:
    model = convert_dropout(torch.nn.Sequential(Depth(0.5, "row").eval()))
    assert type(model[0]) is nn.StochasticDepth
    assert (model[0].p, model[0].mode, model[0].training) == (0.5, "row", False)
    assert repr(model[0]) == "StochasticDepth(p=0.5, mode=row)"
    y = model.train()(torch.ones(100, 2))
    assert set(y.flatten().tolist()) == {0.0, 2.0}


def test_nothing_is_imported_for_it() -> None:
    before = set(sys.modules)
    convert_dropout(torch.nn.Linear(2, 2))
    assert "torchvision" not in set(sys.modules) - before


def test_what_is_no_module_is_refused() -> None:
    for function in (convert_dropout, revert_dropout, lambda it: mc_dropout(it).__enter__()):
        with pytest.raises(TypeError, match=r"model: expected a torch.nn.Module, got list"):
            function([torch.nn.Dropout()])


# ---- and back -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("torchs", "ours"), PAIRS)
@pytest.mark.parametrize("converted", [True, False])
def test_a_module_of_ours_becomes_torchs(torchs: Any, ours: Any, converted: bool) -> None:
    before = torchs(0.3, inplace=True).eval()
    module = convert_dropout(copy.deepcopy(before)) if converted else ours(0.3, inplace=True).eval()
    calls: list[str] = []
    for it in (module, before):
        it.mark = "here"
    module.register_forward_hook(lambda *_: calls.append("hook"))
    hooks = module._forward_hooks
    assert revert_dropout(module) is module
    assert type(module) is torchs
    assert vars(module).keys() == vars(before).keys()
    assert (module.p, module.inplace, module.training, module.mark) == (0.3, True, False, "here")
    assert repr(module) == repr(before)
    assert module._forward_hooks is hooks
    module(torch.ones(2, 3, *(4,) * {"Dropout1d": 1, "Dropout3d": 3}.get(torchs.__name__, 2)))
    assert calls == ["hook"]
    assert type(convert_dropout(module)) is ours


def test_a_network_there_and_back(torchvision: None) -> None:
    shared = torch.nn.Dropout(0.2)

    class Own(nn.Dropout):
        pass

    def described(model: torch.nn.Module) -> list[tuple[str, int, type, set[str]]]:
        return [(n, id(it), type(it), set(vars(it))) for n, it in model.named_modules()]

    inner = torch.nn.Sequential(shared, torch.nn.Linear(4, 4))
    model = torch.nn.Sequential(shared, inner, Depth(0.5, "row"), Own())
    before, text = described(model), repr(model)
    assert revert_dropout(model) is model
    assert described(model) == before  # torch's stay as they are
    convert_dropout(model)
    assert [type(it) for it in model] == [nn.Dropout, torch.nn.Sequential, nn.StochasticDepth, Own]
    revert_dropout(model)
    assert described(model) == before
    assert repr(model) == text
    assert type(revert_dropout(nn.StochasticDepth(0.5))) is Depth


def test_what_torch_lacks_stays() -> None:
    model = torch.nn.ModuleList(
        [nn.StochasticDepth(0.5), nn.BiasDropoutAdd(), nn.Dropout(packed_mask=True)]
    )
    revert_dropout(model)
    assert [type(it) for it in model] == [nn.StochasticDepth, nn.BiasDropoutAdd, torch.nn.Dropout]
    assert "packed_mask" not in vars(model[2])


def test_a_generator_is_not_dropped_silently() -> None:
    model = torch.nn.Sequential(
        nn.Dropout(), torch.nn.Sequential(nn.Dropout(generator=torch.Generator()))
    )
    with pytest.raises(ValueError, match=r"1\.0: generator=.*; expected None in a Dropout to revert"):
        revert_dropout(model)
    assert type(model[0]) is nn.Dropout  # nothing has changed


# ---- Monte Carlo ----------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", [it for pair in PAIRS for it in pair])
def test_dropout_is_at_work_and_the_rest_is_not(cls: Any) -> None:
    model = torch.nn.Sequential(torch.nn.BatchNorm1d(6), cls(0.5), torch.nn.Linear(8, 8)).eval()
    model[2].train()
    flags = [it.training for it in model.modules()]
    x, mean = normal(4, 6, 8), model[0].running_mean.clone()
    with mc_dropout(model) as entered:
        assert entered is model
        assert [it.training for it in model] == [False, True, False]
        if cls not in (torch.nn.Dropout2d, torch.nn.Dropout3d, nn.Dropout2d, nn.Dropout3d):
            assert not torch.equal(model(x), model(x))
    assert [it.training for it in model.modules()] == flags
    assert torch.equal(model[0].running_mean, mean)


def test_flags_return_after_an_error() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), nn.Dropout()).train()
    with pytest.raises(KeyError), mc_dropout(model):
        raise KeyError
    assert all(it.training for it in model.modules())


LAYERS = {
    "transformer": lambda: torch.nn.TransformerEncoderLayer(8, 2, 16, 0.5, batch_first=True),
    "encoder": lambda: torch.nn.TransformerEncoder(
        torch.nn.TransformerEncoderLayer(8, 2, 16, 0.5, batch_first=True), 2
    ),
    "lstm": lambda: torch.nn.LSTM(8, 8, num_layers=2, dropout=0.5, batch_first=True),
    "attention": lambda: Attention(),
    "depth": lambda: nn.StochasticDepth(0.5),
    "bias": lambda: Bias(),
}


class Attention(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = torch.nn.MultiheadAttention(8, 2, dropout=0.5, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.inner(x, x, x, need_weights=False)[0]
        return y


class Bias(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.drop = nn.BiasDropoutAdd(0.5)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.drop(x, None, x)
        return y


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.filterwarnings("ignore:enable_nested_tensor")
def test_dropout_inside_of_layers_is_at_work(name: str) -> None:
    """Also without gradients, where torch's transformer would take a path that leaves it out."""
    torch.manual_seed(0)
    model, x = LAYERS[name]().eval(), normal(8, 5, 8)

    def run() -> Tensor:
        y = model(x)
        return y[0] if isinstance(y, tuple) else y

    with torch.no_grad():
        with mc_dropout(model):
            assert not torch.equal(run(), run())
        assert torch.equal(run(), run())
    assert not any(it.training for it in model.modules())


def test_torchvisions_depth_is_at_work(torchvision: None) -> None:
    model = torch.nn.Sequential(Depth(0.5, "row")).eval()
    with mc_dropout(model):
        assert not model(torch.ones(3)).any()


@pytest.mark.parametrize("model", [torch.nn.Linear(2, 2), torch.nn.LSTM(2, 2)])
def test_a_network_without_dropout_is_refused(model: torch.nn.Module) -> None:
    with pytest.raises(ValueError, match="expected a network with dropout modules"), mc_dropout(model):
        pass


# ---- the example ----------------------------------------------------------------------------------


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> Any:
    if not EXAMPLE.is_file():
        pytest.skip("needs the repository's examples")
    pytest.importorskip("sklearn")
    spec = importlib.util.spec_from_file_location("mc_dropout_example", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)  # where dataclasses look
    spec.loader.exec_module(module)
    return module


def test_the_example(example: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    picture = tmp_path / "spread.png"
    assert example.main(["--epochs", "3", "--samples", "8", "--plot", str(picture)]) == 0
    printed = capsys.readouterr().out
    assert "one prediction with dropout" in printed
    assert "mean of 8 predictions" in printed
    assert "spread where it is wrong" in printed
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_the_example_is_reproducible(example: Any) -> None:
    results = [example.measure(example.train(2, seed=0), samples=4) for _ in range(2)]
    assert results[0].summary() == results[1].summary()
    assert results[0].accuracy > 0.5
