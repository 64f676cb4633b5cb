"""mpk: compile models, run them, look into what was compiled.

Every command has a module of its own in `mpkir.tools.commands`. These import what they need when
they run, so that `mpk --help` comes at once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import typer

from mpkir.tools.commands.asm import asm
from mpkir.tools.commands.bench import bench
from mpkir.tools.commands.compile import compile
from mpkir.tools.commands.disasm import disasm
from mpkir.tools.commands.ending import readable_errors
from mpkir.tools.commands.export import export
from mpkir.tools.commands.generate import generate
from mpkir.tools.commands.inspect import inspect
from mpkir.tools.commands.run import run
from mpkir.tools.commands.simulate import simulate
from mpkir.tools.commands.trace import trace
from mpkir.tools.commands.tune import tune
from mpkir.version import VERSION

COMMANDS: tuple[Callable[..., None], ...] = (
    export,
    compile,
    run,
    generate,
    bench,
    tune,
    simulate,
    trace,
    inspect,
    disasm,
    asm,
)
"""In the order of `mpk --help`."""

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Compile PyTorch models into one persistent megakernel and run them.",
)


@app.callback(invoke_without_command=True)
def _main(
    version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False,
) -> None:
    if version:
        print(f"mpkir {VERSION}")
        raise typer.Exit


for each in COMMANDS:
    app.command()(readable_errors(each))


def main(arguments: list[str] | None = None) -> Any:
    """Run the command line."""
    return app(args=arguments)


if __name__ == "__main__":
    main()
