"""`python -m fastopt bench`: what it measures, compares and writes. Nothing here asserts a time."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from math import prod
from pathlib import Path

import pytest
import torch

from fastopt import _C
from fastopt.bench import compare, dropout, lowbit, peers, report
from fastopt.bench.machine import thread_counts
from fastopt.bench.peers import Peer, attribute_of
from fastopt.bench.results import Entry, Report, Result, group_by_suite
from fastopt.bench.shapes import MODELS, count, shrink
from fastopt.bench.suites import SUITES, Case, Scene, half_decades
from fastopt.bench.tail import torch_tail
from fastopt.bench.timing import Contender, Spread, interleave, ratio
from fastopt.bench.workload import LINE, SETTINGS, Workload, block_size

SHAPES = ((3, 5), (1,), (64,), (7, 2, 2))


def result(times: dict[str, float], threads: int = 1, suite: str = "large") -> Result:
    """A result whose contenders take these times, give or take a percent, in 5 rounds."""
    wobble = (1.0, 1.01, 0.99, 1.005, 0.995)
    entries = [
        Entry(
            name,
            target="avx2" if name in ("limit", "fastopt") else None,
            version="1.0",
            moved_bytes=1000,
            repeats=1,
            samples=[seconds * w for w in wobble],
        )
        for name, seconds in times.items()
    ]
    return Result(suite, "1 x 8", "AdamW", threads, tensors=1, elements=8, entries=entries)


def cold(r: Result) -> Result:
    """The same of a gigabyte."""
    return replace(r, entries=[replace(entry, moved_bytes=10**9) for entry in r.entries])


class TestTiming:
    def test_each_round_measures_everybody_once(self) -> None:
        log: list[str] = []
        contenders = [
            Contender(name, run=lambda name=name: log.append(name), moved_bytes=1) for name in "ABC"
        ]
        rounds_seen: list[int] = []
        interleave(contenders, 4, 0.0, lambda: rounds_seen.append(len(log)))
        per_round = log[-12:]
        assert all(sorted(per_round[i : i + 3]) == ["A", "B", "C"] for i in range(0, 12, 3))
        assert len(rounds_seen) == 4
        assert all(len(c.samples) == 4 and c.repeats == 1 for c in contenders)

    def test_short_work_is_repeated(self) -> None:
        contender = Contender("A", run=lambda: None, moved_bytes=1)
        contender.calibrate(1e-4)
        assert contender.repeats > 1

    def test_preparation_precedes_each_measurement(self) -> None:
        log: list[str] = []
        contender = Contender(
            "A", lambda: log.append("run"), 1, prepare=lambda: log.append("prepare"), repeats=2
        )
        contender.measure()
        assert log == ["prepare", "run", "run"]

    def test_ratios_are_taken_within_a_round(self) -> None:
        # The machine halves its speed in the second round: the ratio does not notice.
        assert ratio([2.0, 4.0, 2.0], [1.0, 2.0, 1.0]) == Spread(2, 2, 2)

    def test_slow_contenders_take_part_in_the_first_rounds(self) -> None:
        quick, slow = (Contender(name, run=lambda: None, moved_bytes=1) for name in "AB")
        slow.most_rounds = 2
        interleave([quick, slow], 4, 0.0)
        assert (len(quick.samples), len(slow.samples)) == (4, 2)
        assert ratio([2.0, 4.0], [1.0, 2.0, 8.0]) == Spread(2, 2, 2)

    def test_spread(self) -> None:
        assert Spread.of([5.0]) == Spread(5, 5, 5)
        spread = Spread.of([1.0, 2.0, 3.0, 4.0, 5.0])
        assert (spread.median, spread.low, spread.high) == (3, 2, 4)
        assert spread.relative == pytest.approx(2 / 3)


class TestShapes:
    @pytest.mark.parametrize(
        ("name", "tensors", "elements"),
        [
            ("ResNet-50", 161, 25_557_032),
            ("ViT-B/16", 152, 86_567_656),
            ("GPT-2 small", 148, 124_439_808),
        ],
    )
    def test_models(self, name: str, tensors: int, elements: int) -> None:
        shapes = tuple(MODELS[name]())
        assert (len(shapes), count(shapes)) == (tensors, elements)
        assert len(tuple(shrink(iter(shapes), 8))) == tensors

    def test_half_decades(self) -> None:
        assert half_decades(1, 100) == [1, 3, 10, 30, 100]
        assert half_decades(100, 1000) == [100, 300, 1000]


class TestSuites:
    @pytest.mark.parametrize("suite", SUITES)
    def test_full_size_fits_in_8_gib(self, suite: str) -> None:
        for case in SUITES[suite].cases(False, None):
            assert 0 < SUITES[suite].needed_bytes(case) < 8 * 2**30

    def test_the_curve_ends_where_it_says(self) -> None:
        sizes = {(len(c.shapes), count(c.shapes)) for c in SUITES["curve"].cases(False, None)}
        assert {(1, 100), (1, 100_000_000), (1, 64), (10_000, 640_000)} <= sizes

    def test_optimizers_can_be_chosen(self) -> None:
        cases = SUITES["large"].cases(True, ["Adam"])
        assert [case.work for case in cases] == ["Adam"]

    @pytest.mark.parametrize("suite", SUITES)
    def test_limit_and_fastopt_are_entered_for_each_target(self, suite: str) -> None:
        targets = [name for name, t in _C.cpu_targets().items() if t["supported"]]
        small_case = Case("1 x 8", SUITES[suite].cases(True, None)[-1].work, ((8,),))
        contenders = SUITES[suite].prepare(small_case)(Scene(targets, threads=1))
        entered = [(c.name, c.target) for c in contenders]
        for target in targets:
            assert ("limit", target) in entered
            assert ("fastopt", target) in entered
        assert any(name.startswith("torch") for name, _ in entered)


@pytest.mark.parametrize("optimizer", [it for it in SETTINGS if not SETTINGS[it].tail])
class TestWorkload:
    def test_all_step_the_same_memory(self, optimizer: str) -> None:
        workload = Workload(optimizer, SHAPES)
        made = []
        for name in ("torch fused", "torch foreach", "torch default"):
            peer = next(p for p in peers.PEERS if p.name == name)
            built = peer.build(optimizer, list(workload.params), dict(workload.setting.options))
            if built is not None:
                made.append(built)
        assert len(made) == (2 if optimizer == "RMSprop" else 3)
        for built in made:
            built.step()
            workload.share_states(built)
        built = made[0]
        contenders = [workload.ours(_C.cpu_target()), workload.limit(_C.cpu_target(), 1)]
        for param, shared in zip(workload.params, workload.states, strict=True):
            assert len(shared) == SETTINGS[optimizer].states
            for entries in (b.state[param] for b in made):
                arrays = [v for k, v in entries.items() if v is not None and k != "step"]
                assert [a.data_ptr() for a in arrays] == [s.data_ptr() for s in shared]
        for contender in contenders:
            before = [block.clone() for block in workload.blocks]
            contender.run()
            changed = [not torch.equal(a, b) for a, b in zip(before, workload.blocks, strict=True)]
            assert changed == [True, False] + [True] * SETTINGS[optimizer].states

    def test_values_stay_finite(self, optimizer: str) -> None:
        workload = Workload(optimizer, SHAPES)
        contenders = [workload.ours(_C.cpu_target()), workload.limit(_C.cpu_target(), 1)]
        contenders += peers.join(workload, peers.PEERS[:3], False, set(), print)
        for _ in range(50):
            for contender in contenders:
                contender.run()
        for array in workload.blocks:
            assert torch.isfinite(array).all()
        for state in workload.blocks[2:]:
            assert (state > 1e-30).all()

    def test_layout(self, optimizer: str) -> None:
        workload = Workload(optimizer, SHAPES)
        assert workload.elements == sum(map(prod, SHAPES))
        assert block_size(SHAPES) == 3 * LINE + (64 - LINE) + 28
        assert [tuple(p.shape) for p in workload.params] == list(SHAPES)
        for param in workload.params:
            assert param.is_contiguous()
            assert param.data_ptr() % 64 == 0
            assert param.grad is not None
            assert param.grad.data_ptr() % 64 == 0
        assert workload.params[0].data_ptr() == workload.blocks[0].data_ptr()
        bytes_per_element = 28 if optimizer.startswith("Adam") else 20
        assert workload.setting.moved_bytes(10) == 10 * bytes_per_element


@pytest.mark.parametrize("work", [it for it in SETTINGS if SETTINGS[it].tail])
def test_the_tails_do_the_same_work(work: str) -> None:
    """fastopt's one call and torch's calls, from the same start, agree to torch's rounding."""
    results = []
    for ours in (True, False):
        workload = Workload(work, SHAPES)
        contender = workload.ours(_C.cpu_target()) if ours else torch_tail(workload)
        for block in workload.blocks[2:]:
            block.fill_(1e-3)  # the states after the contender's first step are its own
        contender.run()
        results.append(workload.blocks[0].clone())
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-5)


class TestDropout:
    @pytest.mark.parametrize("work", dropout.WORKS)
    def test_all_run(self, work: str) -> None:
        contenders = dropout.WORKS[work](((4, 16),), [_C.cpu_target()])
        assert [it.name for it in contenders] == ["limit", "fastopt", "torch dropout"]
        for contender in contenders:
            contender.run()
        assert dropout.needed_bytes(work, ((4, 16),)) > 0

    def test_what_is_kept_is_counted(self) -> None:
        """Of four activations: torch's mask as numbers; and a ReLU's output beside the dropout's."""
        size = 4 * 16 * 4
        limit, ours, torchs = dropout.WORKS["the MLP's dropout"](((4, 16),) * 4, ["scalar"])
        assert [it.kept_bytes for it in (limit, ours, torchs)] == [None, 0, 4 * size]
        limit, ours, torchs = dropout.WORKS["MLP"](((4, 16),), ["scalar"])
        assert [it.kept_bytes for it in (limit, ours, torchs)] == [4 * size, 7 * size, 11 * size]

    def test_it_is_shown(self) -> None:
        r = result({"limit": 1.0, "fastopt": 2.0, "torch dropout": 6.0})
        assert "GB/s" in [str(it.header) for it in report.make_case_table(r).columns]
        r = replace(r, entries=[replace(it, kept_bytes=14_700_000) for it in r.entries])
        assert Result.from_json(r.to_json()) == r
        columns = {str(it.header): list(it.cells) for it in report.make_case_table(r).columns}
        assert columns["keeps"] == ["14.7 MB"] * 3
        assert [report.size(it) for it in (None, 0, 640)] == ["", "0", "0.640 kB"]

    def test_reports_from_before_can_be_read(self) -> None:
        data = result({"limit": 1.0, "fastopt": 2.0}).to_json()
        for entry in data["entries"]:
            del entry["kept_bytes"]
        assert Result.from_json(data).entries[0].kept_bytes is None


class TestLowbit:
    SHAPE = (16, 1024)

    @pytest.mark.parametrize(
        ("work", "state_bytes", "moved_bytes"),
        [
            ("AdamW float32", 8, 28),
            ("AdamW float32, bf16 state", 4, 20),
            ("AdamW float32, int8 state", 2 + 8 / 256, 12 + 4 + 16 / 256),
            ("AdamW bf16", 4, 14),
            ("AdamW bf16, stochastic rounding", 4, 14),
            ("AdamW bf16, master weights", 10, 26),
            ("AdamW bf16, int8 state", 2 + 8 / 256, 6 + 4 + 16 / 256),
        ],
    )
    def test_bytes(self, work: str, state_bytes: float, moved_bytes: float) -> None:
        workload = lowbit.LowbitWorkload(work, (self.SHAPE,))
        elements = prod(self.SHAPE)
        (fused,) = peers.join(workload, peers.PEERS[:1], False, set(), print)
        ours, limit = workload.ours(_C.cpu_target()), workload.limit(_C.cpu_target(), 1)
        # Nothing but step counts and seeds in addition.
        assert ours.state_bytes == pytest.approx(state_bytes, abs=0.01)
        assert ours.moved_bytes / elements == pytest.approx(moved_bytes, abs=0.02)
        assert limit.moved_bytes == ours.moved_bytes
        assert fused.state_bytes == pytest.approx(2 * workload.storage.dtype.itemsize, abs=0.01)
        for contender in (ours, limit, fused):
            contender.run()
        assert torch.isfinite(workload.params[0]).all()

    @pytest.mark.parametrize("written", [400, 404, 1000, 1600, 2400])
    def test_the_limit_writes_all_that_is_asked_for(self, written: int) -> None:
        calls = lowbit.limit_calls(400, written)
        arrays = [arrays for arrays, _ in calls]
        assert sum(a.nbytes for param, grad, *states in arrays for a in sum(states, param)) == written
        assert sum(a.nbytes for a in arrays[0][1]) == 400
        assert all(len(arrays) == 2 + states for arrays, states in calls)

    def test_memory_of_composed_tensors(self) -> None:
        composed = torch.nested.nested_tensor([torch.ones(3), torch.ones(5)], layout=torch.jagged)
        assert lowbit.tensor_bytes(composed) == 8 * 4 + 3 * 8  # values and offsets

    def test_8_bit_packages_join_8_bit_states(self) -> None:
        for storage in lowbit.WORKS.values():
            names = {peer.name for peer in lowbit.peers_of(storage)}
            eight = {"bitsandbytes 8-bit", "torchao 8-bit"}
            assert names == ({"torch fused", *eight} if storage.is_eight_bit else {"torch fused"})


class TestPeers:
    def write_package(self, folder: Path, body: str) -> Peer:
        (folder / "otherpackage.py").write_text("import torch\n__version__ = '2.0'\n" + body)
        return Peer("other", "otherpackage", "otherpackage", attribute_of("otherpackage"))

    def join(self, peer: Peer) -> tuple[list[Contender], set[str]]:
        failed: set[str] = set()
        contenders = peers.join(Workload("AdamW", SHAPES), [peer], False, failed, print)
        return list(contenders), failed

    @pytest.fixture
    def folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, "otherpackage", raising=False)
        return tmp_path

    def test_installed_ones_join(self, folder: Path) -> None:
        peer = self.write_package(folder, "class AdamW(torch.optim.AdamW): pass\n")
        (contender,), failed = self.join(peer)
        assert (contender.name, contender.version, failed) == ("other", "2.0", set())
        contender.run()

    def test_others_are_absent(self, monkeypatch: pytest.MonkeyPatch) -> None:
        peer = Peer("other", "nowhere_installed", "nowhere", attribute_of("nowhere_installed"))
        assert self.join(peer) == ([], set())
        monkeypatch.setattr(peers, "PEERS", (peer,))
        assert peers.absent() == ["nowhere"]

    def test_an_optimizer_may_be_lacking(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        assert self.join(self.write_package(folder, "")) == ([], set())

    def test_failures_are_noted(self, folder: Path) -> None:
        peer = self.write_package(folder, "def AdamW(*_, **__): raise OSError('no compiler')\n")
        assert self.join(peer) == ([], {"other 2.0: OSError: no compiler"})

    def test_slow_starters_join_on_request(self) -> None:
        slow = replace(peers.PEERS[0], compiles=True)
        assert self.join(slow) == ([], set())


class TestResults:
    def test_figures(self) -> None:
        r = result({"limit": 1.0, "fastopt": 2.0, "torch fused": 6.0})
        limit, ours, theirs = r.entries
        assert r.limit_fraction(limit).median == 1
        assert r.limit_fraction(theirs).median == pytest.approx(1 / 6)
        assert r.speedup(theirs).median == pytest.approx(3)
        assert ours.gigabytes_per_second == pytest.approx(5e-7)

    def test_each_target_has_its_limit(self) -> None:
        r = result({"limit": 1.0, "fastopt": 2.0, "torch fused": 6.0})
        more = [replace(e, target="avx512", samples=[0.5] * 5) for e in r.entries[:2]]
        r = replace(r, entries=r.entries + more)
        assert [r.matching("limit", e).target for e in r.entries] == [
            *("avx2", "avx2", "avx2"),
            *("avx512", "avx512"),
        ]
        assert [r.label(e) for e in r.entries[1:4]] == ["fastopt avx2", "torch fused", "limit avx512"]

    def test_bandwidth_is_shown_by_threads(self) -> None:
        """Of what comes from memory and was measured with several."""
        measured = [result({"limit": 1.0, "fastopt": 2.0}, threads) for threads in (4, 1)]
        assert report.make_threads_table(measured) is None
        assert report.make_threads_table([cold(measured[0])]) is None
        table = report.make_threads_table([cold(it) for it in measured])
        assert table is not None
        columns = {str(it.header): list(it.cells) for it in table.columns}
        assert columns["threads"] == ["1", "4"]
        assert columns["limit GB/s"] == ["1.00", "1.00"]
        assert columns["fastopt GB/s"] == ["0.500", "0.500"]
        assert columns["of limit"] == ["0.500", "0.500"]

    @pytest.mark.parametrize(("cpus", "expected"), [(1, [1]), (2, [1, 2]), (12, [1, 2, 4, 8, 12])])
    def test_threads_go_up_to_all(self, cpus: int, expected: list[int]) -> None:
        assert thread_counts(cpus) == expected

    def test_json_and_back(self) -> None:
        whole = Report({"cpu": "a"}, [result({"limit": 1.0, "fastopt": 2.0})], ["note"])
        assert Report.from_json(json.loads(json.dumps(whole.to_json()))) == whole

    def test_json_of_before_states_were_measured(self) -> None:
        report = Report({"cpu": "a"}, [result({"limit": 1.0, "fastopt": 2.0})])
        data = json.loads(json.dumps(report.to_json()))
        for entry in data["results"][0]["entries"]:
            del entry["state_bytes"]
        assert Report.from_json(data) == report

    @pytest.mark.parametrize("data", [{}, [], {"format": 0}, {"format": 1, "results": [{}]}])
    def test_other_json_is_refused(self, data: object) -> None:
        with pytest.raises(ValueError, match=r"expected|not the JSON"):
            Report.from_json(data)

    def test_groups_follow_the_order_measured(self) -> None:
        times = {"limit": 1.0, "fastopt": 2.0}
        results = [result(times, threads, suite) for suite in ("small", "large") for threads in (1, 2)]
        expected = [("small", 1), ("small", 2), ("large", 1), ("large", 2)]
        assert list(group_by_suite(results)) == expected


class TestCompare:
    OLD = result({"limit": 1.0, "fastopt": 2.0, "torch fused": 4.0})

    @pytest.mark.parametrize(
        ("times", "verdict"),
        [
            ({"limit": 1.0, "fastopt": 2.02, "torch fused": 4.0}, "same"),
            ({"limit": 1.0, "fastopt": 2.2, "torch fused": 4.0}, "slower"),
            ({"limit": 1.0, "fastopt": 1.8, "torch fused": 4.0}, "faster"),
            # The machine takes twice as long for everything.
            ({"limit": 2.0, "fastopt": 4.0, "torch fused": 8.0}, "same"),
            # Nothing in common but fastopt: seconds are compared.
            ({"limit": 1.0, "fastopt": 2.2, "torch foreach": 4.0}, "slower"),
        ],
    )
    def test_verdicts(self, times: dict[str, float], verdict: str) -> None:
        (change,) = compare.changes([self.OLD], [result(times)])
        assert change.verdict == verdict
        assert change.yardstick == ("torch fused" if "torch fused" in times else None)

    def test_another_version_is_no_yardstick(self) -> None:
        new = result({"limit": 1.0, "fastopt": 2.0, "torch fused": 4.0})
        entries = [replace(e, version="9") for e in new.entries]
        (change,) = compare.changes([self.OLD], [replace(new, entries=entries)])
        assert change.yardstick is None

    def test_a_wide_spread_hides_a_small_change(self) -> None:
        new = result({"limit": 1.0, "fastopt": 2.0})
        noisy = replace(new.entries[1], samples=[1.5, 2.0, 2.2, 3.0, 3.5])
        old = result({"limit": 1.0, "fastopt": 2.0})
        (change,) = compare.changes([old], [replace(new, entries=[new.entries[0], noisy])])
        assert change.relative == pytest.approx(0.1)
        assert change.verdict == "same"
