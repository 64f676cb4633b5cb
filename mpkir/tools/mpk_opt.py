"""mpk-opt: read IR, run passes, print IR or a target's form. Bad input ends in one message.

mpk-opt model.mlir -p mpk-fuse-operators,mpk-partition-tiles{workers=132}
mpk-opt model.mlir -p mpk-pipeline{target=h100} --print-between-passes
mpk-opt --list-passes
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import MISSING, fields

from xdsl.passes import ModulePass
from xdsl.universe import Universe
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

from mpkir.errors import MpkirError

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
    for option in fields(pass_type):  # pyright: ignore[reportArgumentType]
        default = "required" if option.default is MISSING else option.default
        lines.append(f"    {{{option.name}={default}}}")
    return "\n".join(lines)


class MpkOptMain(xDSLOptMain):
    """xDSL's driver; dialects, passes and targets come from the installed universes."""

    version_format = "mpk-opt built from xdsl version {xdsl_version}"

    def register_all_arguments(self, arg_parser: argparse.ArgumentParser) -> None:
        """Add what xDSL's driver lacks."""
        super().register_all_arguments(arg_parser)
        arg_parser.add_argument(
            "--list-passes", action="store_true", help="list mpkir's passes with their options"
        )
        arg_parser.add_argument(
            "--debug", action="store_true", help="show the Python traceback of an error"
        )


def _list_passes() -> None:
    passes = Universe.get_multiverse().all_passes
    for name in sorted(name for name in passes if name.startswith("mpk-")):
        print(describe(passes[name]()), end="\n\n")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the tool; exit code 1 and one message on bad input."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if "--list-passes" in arguments:
        _list_passes()
        return
    debug = "--debug" in arguments
    try:
        MpkOptMain(description="mpkir optimizer driver", args=arguments).run()
    except _BAD_INPUT as error:
        if debug:
            raise
        sys.exit(f"mpk-opt: error: {error}")


if __name__ == "__main__":
    main()
