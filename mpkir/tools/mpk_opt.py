"""mpk-opt: read IR, run passes, print IR or a target's form. Bad input ends in one message."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Container, Sequence
from dataclasses import MISSING, fields
from difflib import get_close_matches
from pathlib import Path
from typing import TypeVar

from xdsl.dialects.builtin import ModuleOp
from xdsl.passes import ModulePass, PassPipeline
from xdsl.universe import XDSL_UNIVERSE
from xdsl.utils.arg_spec import ArgSpec, parse_pipeline
from xdsl.utils.exceptions import (
    AlreadyRegisteredConstructException,
    ArgSpecParseError,
    DiagnosticException,
    ParseError,
    PassFailedException,
    UnregisteredConstructException,
    VerifyException,
)
from xdsl.xdsl_opt_main import xDSLOptMain

from mpkir.analysis.statistics import statistics_of
from mpkir.errors import MpkirError
from mpkir.plugins import load_plugins, multiverse
from mpkir.tools.timing import Timing

_EXAMPLES = """\
examples:
  mpk-opt step.mlir -p 'mpk-fuse-operators,mpk-partition-tiles{workers=132}'
  mpk-opt step.mlir -p 'mpk-pipeline{target=h100}' --print-between-passes
  mpk-opt step.mlir -p 'mpk-pipeline{target=h100}' -t mpk-cuda
  mpk-opt --list-passes
"""

T = TypeVar("T")

# What a wrong file, pipeline or option ends in; anything else is a defect of ours and keeps its
# traceback.
_BAD_INPUT = (
    AlreadyRegisteredConstructException,
    ArgSpecParseError,
    DiagnosticException,
    MpkirError,
    OSError,
    ParseError,
    PassFailedException,
    UnicodeDecodeError,
    UnregisteredConstructException,
    ValueError,
    VerifyException,
)


def describe(pass_type: type[ModulePass]) -> str:
    """A pass's name, what it does, and its options with their defaults."""
    lines = [pass_type.name]
    lines += [f"    {line.strip()}" for line in (pass_type.__doc__ or "").strip().splitlines()]
    lines += [f"    {{{option}}}" for option in _options(pass_type)]
    return "\n".join(line.rstrip() for line in lines)


def _options(pass_type: type[ModulePass]) -> list[str]:
    return [
        f"{option.name}={'required' if option.default is MISSING else option.default}"
        for option in fields(pass_type)  # pyright: ignore[reportArgumentType]
    ]


class MpkOptMain(xDSLOptMain):
    """xDSL's driver; dialects, passes and targets come from the installed universes."""

    timing = Timing()

    version_format = "mpk-opt built from xdsl version {xdsl_version}"

    def register_all_dialects(self) -> None:
        """Those of all universes, files given by --load-plugin included."""
        for name, factory in multiverse().all_dialects.items():
            self.ctx.register_dialect(name, factory)

    def register_all_passes(self) -> None:
        """Likewise."""
        self.available_passes |= multiverse().all_passes

    def register_all_targets(self) -> None:
        """Likewise."""
        super().register_all_targets()
        self.available_targets |= multiverse().all_targets

    def register_all_arguments(self, arg_parser: argparse.ArgumentParser) -> None:
        """Add what xDSL's driver lacks; its help names every pass, ours mpkir's own."""
        passes, targets = self.available_passes, self.available_targets
        self.available_passes = _without(passes, XDSL_UNIVERSE.all_passes)
        own = _without(targets, XDSL_UNIVERSE.all_targets)
        self.available_targets = {**own, "mlir": targets["mlir"]}
        super().register_all_arguments(arg_parser)
        self.available_passes, self.available_targets = passes, targets
        arg_parser.add_argument(
            "--list-passes", action="store_true", help="list mpkir's passes with their options"
        )
        arg_parser.add_argument(
            "--debug", action="store_true", help="show the Python traceback of an error"
        )
        arg_parser.add_argument(
            "--load-plugin",
            action="append",
            metavar="FILE.py",
            help="a file with dialects, passes, operators, ..; may be repeated",
        )
        arg_parser.add_argument(
            "--run-before-and-after",
            metavar="PASS",
            help="run the program on random numbers before and after each PASS ('all': every "
            "pass), those inside mpk-pipeline too, and compare",
        )
        arg_parser.add_argument(
            "--timing",
            action="store_true",
            help="print the time of each pass, those inside mpk-pipeline too, on stderr",
        )
        arg_parser.add_argument(
            "--run-seed", type=int, default=0, help="of these numbers, and of who runs when"
        )
        arg_parser.add_argument(
            "--print-graph-stats",
            action="store_true",
            help="begin the output with comments that count tasks, pairs, events, waits, ..",
        )
        arg_parser.formatter_class = argparse.RawDescriptionHelpFormatter
        arg_parser.epilog = f"{_EXAMPLES}\nxDSL's own passes and targets can be named too."

    def setup_pipeline(self) -> None:
        """Check names and options of passes one by one, so that a mistake is told with its pass."""
        for spec in parse_pipeline(self.args.passes):
            self._check(spec)
        super().setup_pipeline()
        if (around := self.args.run_before_and_after) is not None:
            from mpkir.tools.run_around import run_around

            passes = run_around(self.pipeline.passes, around, self.args.run_seed)
            self.pipeline = PassPipeline(tuple(passes), self.pipeline.callback)
        if self.args.timing:
            from mpkir.pipeline import flattened

            passes = self.timing.passes(flattened(self.pipeline.passes))
            self.pipeline = PassPipeline(tuple(passes), self.pipeline.callback)

    def apply_passes(self, prog: ModuleOp) -> None:
        """Run the pipeline; with --timing, tell on stderr where the time went."""
        super().apply_passes(prog)
        if self.args.timing:
            print(*self.timing.lines(), sep="\n", file=sys.stderr)
            self.timing.rows.clear()

    def output_resulting_program(self, prog: ModuleOp) -> str:
        """The program in the target's form, under comments with its statistics if asked for."""
        output = super().output_resulting_program(prog)
        if not self.args.print_graph_stats:
            return output
        rows = statistics_of(prog).rows()
        return "".join(f"// {name}: {value}\n" for name, value in rows) + output

    def _check(self, spec: ArgSpec) -> None:
        if spec.name not in self.available_passes:
            near = get_close_matches(spec.name, self.available_passes, 1)
            raise MpkirError(
                f"no pass is named '{spec.name}'",
                hint=(f"did you mean '{near[0]}'? " if near else "")
                + "`mpk-opt --list-passes` lists them",
            )
        pass_type = self.available_passes[spec.name]()
        try:
            pass_type.from_spec(spec)
        except ValueError as error:
            message = str(error)[:1].lower() + str(error)[1:]
            raise MpkirError(
                message,
                where=spec.name,
                hint=f"its options are {', '.join(_options(pass_type)) or 'none'}",
            ) from error


def _without(named: dict[str, T], others: Container[str]) -> dict[str, T]:
    return {name: value for name, value in named.items() if name not in others}


def _list_passes() -> None:
    passes = multiverse().all_passes
    for name in sorted(set(passes) - set(XDSL_UNIVERSE.all_passes)):
        print(describe(passes[name]()), end="\n\n")


def _plugins_of(arguments: Sequence[str]) -> list[Path]:
    """Files to load: before all else, because what they bring decides what arguments mean."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--load-plugin", action="append", default=[], type=Path)
    return parser.parse_known_args(arguments)[0].load_plugin


def _message(error: BaseException) -> str:
    """One message: of a failed verification the reason, not the module that xDSL notes with it."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror.lower()}"
    return str(error).rstrip()


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the tool; exit code 1 and one message on bad input."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        load_plugins(_plugins_of(arguments))
        if "--list-passes" in arguments:
            _list_passes()
        else:
            MpkOptMain(description="mpkir's optimizer driver", args=arguments).run()
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except _BAD_INPUT as error:
        if "--debug" in arguments:
            raise
        sys.exit(f"mpk-opt: error: {_message(error)}")


if __name__ == "__main__":
    main()
