"""How right is an optimizer, anybody's?

    python -m fastopt audit torch.optim.AdamW fused=True
    python -m fastopt audit PATH [KEY=VALUE ...] [--rule NAME] [--assume KEY=VALUE ...]
                            [--device NAME] [--dtype NAME ...] [--check NAME ...]
                            [--quick] [--huge] [--json FILE]

The class at a dotted path, made with these options, is asked every check: whether its numbers are
those of its rule, the same at every place and for every layout of memory, and whether it does what
torch promises of optimizers: late gradients, added groups, checkpoints, hooks, schedulers, scalers.
It need only be a torch optimizer. The rule is that of fastopt of the class's name, or --rule NAME:
one of fastopt's, or one in Python as package.module:name; with the options that its groups have by
the same names, and those that --assume says. Where there is none, numbers are compared with the
optimizer's own in float64.

Shown is a row for each check: passed; FAILED, with the smallest case that failed; n/a, and why. The
exit status is 1 if one failed, 2 if that cannot be told. --quick takes under a minute; --huge asks
for tensors of 2**31 elements, too, in tens of gigabytes. docs/audit.md lists the checks, with what a
user loses where one fails, and what they found in the optimizers of the field.

As a library, in a test of your own:

    from fastopt import audit

    report = audit.audit(lambda params: MyAdamW(params, lr=1e-3), "adamw")
    assert report.failed == []

What a check is stands in registry.py, what it has to work with in subject.py, rules in float64 in
model.py; checks/ has a file for each family.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import torch

from fastopt import _output
from fastopt._arguments import writable
from fastopt.verify.cases import Rule as Compiled

from .find import find_class, find_rule, maker, parse_options, rule_of
from .model import Rule, name_of
from .registry import CHECKS
from .run import Report, questions, run
from .subject import DTYPES, MakeOptimizer, Subject, nameof, settings_kept

__all__ = ["CHECKS", "Report", "audit"]


def audit(
    make_optimizer: MakeOptimizer,
    rule: str | Rule | None = None,
    *,
    options: dict[str, Any] | None = None,
    device: str = "cpu",
    dtypes: Sequence[torch.dtype] | None = None,
    quick: bool = True,
    checks: Sequence[str] | None = None,
) -> Report:
    """Ask an optimizer every check.

    Args:
        make_optimizer: what makes one, given parameters or groups as dicts.
        rule: what it should compute: a name in fastopt, a rule in Python, or None if nobody knows.
        options: of the rule, where the optimizer's groups have none of the name.
        device: where its parameters are.
        dtypes: of its parameters; by default those that it takes of float32, float64, bfloat16 and
            float16 (quick: of float32 and bfloat16).
        quick: fewer dtypes, sizes and steps.
        checks: only these.

    Returns:
        The answers; ``failed`` has the names of the checks that failed.

    Raises:
        ValueError: if it steps no parameter of any of the dtypes, or a name is not known.
    """
    for name in checks or ():
        if name not in CHECKS:
            raise ValueError(f"no check {name!r}; there are {', '.join(CHECKS)}")
    found = find_rule(rule) if isinstance(rule, str) else rule
    with settings_kept():
        subject = Subject(
            make_optimizer, found, device=device, dtypes=dtypes, quick=quick, options=options
        )
        return run(subject, checks)


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line; a wrong one ends the program with status 2."""
    parser = argparse.ArgumentParser(
        prog="python -m fastopt audit",
        description="Check an optimizer, anybody's: its numbers, and what torch promises.",
    )

    def typed(function: Any) -> Any:
        def convert(text: str) -> Any:
            try:
                return function(text)
            except ValueError as error:
                raise argparse.ArgumentTypeError(str(error)) from error

        return convert

    parser.add_argument("path", metavar="PATH", help="of the class, as torch.optim.AdamW")
    parser.add_argument(
        "options", nargs="*", metavar="KEY=VALUE", help="of its constructor, as fused=True"
    )
    parser.add_argument(
        "--rule",
        type=typed(find_rule),
        metavar="NAME",
        help="what it should compute, if its name does not say so; also package.module:name",
    )
    parser.add_argument(
        "--assume", nargs="+", default=[], metavar="KEY=VALUE",
        help="options of the rule that the class has not, as bias_correction=False",
    )  # fmt: skip
    parser.add_argument("--device", default="cpu", help="of its parameters (default: %(default)s)")
    parser.add_argument(
        "--dtype", nargs="+", choices=[nameof(it) for it in DTYPES], metavar="NAME",
        help=f"only these of {', '.join(nameof(it) for it in DTYPES)}",
    )  # fmt: skip
    parser.add_argument(
        "--check", nargs="+", choices=list(CHECKS), metavar="NAME",
        help="only these, of those in docs/audit.md",
    )  # fmt: skip
    parser.add_argument("--quick", action="store_true", help="under a minute: fewer dtypes and steps")
    parser.add_argument("--huge", action="store_true", help="tensors of 2**31 elements, too")
    parser.add_argument("--json", type=writable, metavar="FILE", help="also write it as JSON")
    arguments = parser.parse_intermixed_args(argv)
    arguments.parser = parser
    return arguments


def main(argv: list[str] | None = None) -> int:
    """Run the command; 0 if nothing failed, 1 if a check did, 2 if it cannot be told."""
    arguments = parse(argv)
    try:
        options = parse_options(arguments.options)
        arguments.assume = parse_options(arguments.assume)
        cls = find_class(arguments.path)
    except ValueError as error:
        arguments.parser.error(str(error))
    if find_spec("rich") is None:
        print('audit needs rich, not installed here: pip install "fastopt[demo]"', file=sys.stderr)
        return _output.FAILED
    from . import show

    rule = arguments.rule or rule_of(cls)
    title = " ".join([arguments.path, *arguments.options])
    against = "its own steps in float64" if rule is None else f"the rule {described(rule)}"
    report, begin, finished = Report(), time.perf_counter(), False
    with settings_kept():
        try:
            subject = Subject(
                maker(cls, options),
                rule,
                device=arguments.device,
                dtypes=[getattr(torch, it) for it in arguments.dtype or ()] or None,
                quick=arguments.quick,
                huge=arguments.huge,
                options=options | arguments.assume,
            )
        except ValueError as error:
            print(f"audit: {title} steps nothing: {error}", file=sys.stderr)
            return _output.FAILED

        def facts() -> dict[str, Any] | None:
            seconds = time.perf_counter() - begin
            return show.as_json(title, report, subject, seconds, finished)

        try:
            asked = len(questions(subject, arguments.check))
            with _output.saved(arguments.json, facts) as save, show.progress(asked) as advance:

                def hear(label: str) -> None:
                    advance(label)
                    save()

                run(subject, arguments.check, hear, report)
                finished = True
        except KeyboardInterrupt:
            pass
    with _output.printing():
        heading = f"{title}, against {against}"
        show.show(heading, report, subject, time.perf_counter() - begin, finished)
    return 1 if report.failed else 0 if finished else _output.FAILED


def described(rule: Rule) -> str:
    """A rule's name, and where it is from if it is in Python."""
    return name_of(rule) if isinstance(rule, Compiled) else f"{rule.__module__}:{rule.__name__}"
