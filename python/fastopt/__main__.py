"""``python -m fastopt info | verify | audit | bench | demo``."""

from __future__ import annotations

import argparse
import importlib
import sys
from typing import Any

from fastopt import _output
from fastopt._arguments import writable

COMMANDS = {
    "info": "version, CPU targets, threads, CUDA, torch",
    "verify": "check every kernel against its NumPy reference, bit for bit",
    "audit": "check an optimizer, anybody's: its numbers, and what torch promises",
    "bench": "measure the kernels against the memory limit and other packages",
    "demo": "train on real digits with every optimizer, beside torch.optim's",
}


def print_info(argv: list[str]) -> int:
    """``python -m fastopt info [--json FILE]``."""
    from fastopt import info

    parser = argparse.ArgumentParser(prog="python -m fastopt info", description=COMMANDS["info"])
    parser.add_argument("--json", type=writable, metavar="FILE", help="also write it as JSON")
    arguments = parser.parse_args(argv)
    facts: dict[str, Any] = info()
    if arguments.json:
        _output.write_json(arguments.json, facts)
    targets = facts.pop("cpu_targets")
    with _output.printing():
        for key, value in facts.items():
            print(f"{key + ':':18}{'none' if value is None else value}")
        for name, target in targets.items():
            supported = "supported" if target["supported"] else "not supported by this machine"
            chosen = ", in use" if name == facts["cpu_target"] else ""
            print(f"{'target ' + name + ':':18}{target['description']}; {supported}{chosen}")
    return 0


def run_command(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m fastopt",
        usage="python -m fastopt COMMAND ...",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Fused optimizers for PyTorch and NumPy. Options: --help after a command.",
        epilog="commands:\n" + "\n".join(f"  {name:8}{text}" for name, text in COMMANDS.items()),
    )
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND", help=argparse.SUPPRESS)
    if not argv:
        with _output.printing():
            parser.print_help()
        return 0
    arguments = parser.parse_args(argv[:1])
    if arguments.command == "info":
        return print_info(argv[1:])
    module = importlib.import_module(f"fastopt.{arguments.command}")
    return int(module.main(argv[1:]))


def main(argv: list[str] | None = None) -> int:
    """Run one command; its exit status."""
    return _output.run(lambda: run_command(sys.argv[1:] if argv is None else argv))


if __name__ == "__main__":
    sys.exit(main())
