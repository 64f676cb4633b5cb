"""`mpk bench --tp`: starts the ranks of each number, or is one of them; tables, records, a plot."""

from __future__ import annotations

import json as json_module
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console

from mpkir.errors import MpkirError
from mpkir.machine import machine_named
from mpkir.progress import SILENT
from mpkir.runtime.ranks.environment import number_of
from mpkir.runtime.ranks.group import Group, telling
from mpkir.runtime.ranks.start import is_rank
from mpkir.tools import ranks
from mpkir.tools.bench.models import model_source
from mpkir.tools.bench.plot import write_plot
from mpkir.tools.bench.ranks.programs import directory_of, find_programs
from mpkir.tools.bench.ranks.records import Record
from mpkir.tools.bench.ranks.report import table_of
from mpkir.tools.bench.ranks.session import Run, measure
from mpkir.tools.bench.records import append_records
from mpkir.tools.bench.session import Settings
from mpkir.tools.bench.systems import EAGER, PEERS
from mpkir.tools.display import StageDisplay

COMPILED = "reduce-overhead"
"""How PyTorch is measured on GPUs where nobody says otherwise."""


def run(
    sources: Sequence[str],
    settings: Settings,
    tps: Sequence[int],
    *,
    peers: Sequence[str] | None = None,
    json: Path | None = None,
    plot: Path | None = None,
    words: Sequence[str] = (),
) -> int:
    """Measure each model on as many ranks as each of `tps` says, and on one if 1 is among them; the
    exit code.

    peers: modes of PyTorch, (): the usual one, None: none; words: the options of the command that
    each rank is to be started with, but for --tp and --json

    Raises MpkirError for what cannot run, before anything is started.
    """
    if plot is not None and plot.suffix != ".svg":
        raise MpkirError(f"plots are SVG, not {plot.suffix or plot.name}", hint="name it .svg")
    if not sources:
        raise MpkirError("nothing to measure", hint="name a model")
    if 0 in tps:
        raise MpkirError("a program has one rank or more", hint="write numbers like 1,2,4")
    many, with_one = [tp for tp in tps if tp > 1], 1 in tps
    found = [_checked(source, settings, many, with_one) for source in sources]
    _check_peers(peers or ())
    if is_rank():
        world = number_of("WORLD_SIZE") or 1
        if many != [world]:
            raise MpkirError(
                f"--tp {','.join(map(str, tps))} in one of {world} processes",
                hint=f"give --tp {world} or --tp 1,{world} here, or let mpk start the processes",
            )
        return _as_rank(sources, found, world, with_one, peers, json, plot)
    return _start_all(sources, tps, many, json, plot, words)


def _checked(source: str, settings: Settings, many: Sequence[int], with_one: bool) -> Settings:
    """The settings for one model with its target. Raises MpkirError for what cannot run here."""
    model = model_source(source)
    directory = directory_of(source, settings)
    target = settings.target
    if directory is not None:
        for batch in settings.batches:
            for tp in many:
                programs = find_programs(
                    directory, model.name, batch, tp, with_one, settings.ablations
                )
                target = target or programs.many.manifest.target.name
    target = target or "cpu"
    if machine_named(target).kind == "cuda":
        here = number_of("LOCAL_WORLD_SIZE") or max(many)
        _check_gpus(target, here)
    return replace(settings, target=target)


def _check_gpus(target: str, ranks: int) -> None:
    count = torch.cuda.device_count()
    if count == 0:
        raise MpkirError(
            f"{target} is a GPU, and torch sees none here",
            hint="compile here (benchmarks/compile_artifacts.py --tp) and measure with --artifacts "
            "where there are some, or give --target cpu",
        )
    if count < ranks and not (is_rank() and count == 1):  # Each may be shown its own alone.
        raise MpkirError(
            f"{ranks} ranks need a GPU each, and torch sees {count} here",
            hint="ask for fewer with --tp",
        )


def _check_peers(names: Sequence[str]) -> None:
    for name in names:
        if name not in PEERS:
            raise MpkirError(f"no peer is called {name!r}", hint=f"choose of {', '.join(PEERS)}")


def _start_all(
    sources: Sequence[str],
    tps: Sequence[int],
    many: Sequence[int],
    json: Path | None,
    plot: Path | None,
    words: Sequence[str],
) -> int:
    """The ranks of each number, one after another until one fails. Their records are taken over."""
    records: list[Record] = []
    with tempfile.TemporaryDirectory() as folder:
        for tp in many:
            told = Path(folder) / f"{tp}.json"
            asked = f"1,{tp}" if 1 in tps else str(tp)
            options = [*words, *ranks.options_of(tp=asked, json=told)]
            code = ranks.run("bench", [*options, "--", *sources], tp)
            if told.exists():
                new = json_module.loads(told.read_text(encoding="utf-8"))
                command = " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])
                new = [record | {"command": command} for record in new]
                records += new
                _keep(records, new, json, plot)
            if code:
                return code
    return 0


def _keep(
    records: Sequence[Record], new: Sequence[Record], json: Path | None, plot: Path | None
) -> None:
    if json is not None:
        append_records(json, new)
    if plot is not None and records:
        write_plot(plot, records)


def _as_rank(
    sources: Sequence[str],
    settings: Sequence[Settings],
    world: int,
    with_one: bool,
    peers: Sequence[str] | None,
    json: Path | None,
    plot: Path | None,
) -> int:
    """Measure as one of the ranks; rank 0 says what was found."""
    group = Group.join(world)
    device = torch.device("cpu")
    if machine_named(settings[0].target).kind == "cuda":
        device = torch.device("cuda", group.number_on_host % torch.cuda.device_count())
        torch.cuda.set_device(device)
    if peers is not None:
        from mpkir.tools.bench.ranks import tensor_parallel

        tensor_parallel.start(group, device)
        peers = peers or ((EAGER,) if device.type == "cpu" else (COMPILED,))
    records: list[Record] = []
    errors: list[MpkirError] = []
    is_first = group.rank == 0
    with StageDisplay() as display, telling(group):
        for source, own in zip(sources, settings, strict=True):
            run = Run(
                replace(own, peers=tuple(peers or ())),
                group,
                device,
                with_one,
                display.note if is_first else _say_nothing,
                display.progress if is_first else SILENT,
            )
            try:
                for outcome in measure(source, run):
                    records += outcome.records
                    errors += outcome.errors
                    if is_first:
                        _keep(records, outcome.records, json, plot)
            except RuntimeError as error:
                # Out of memory, or a kernel that took the GPU's context with it.
                raise MpkirError(str(error).splitlines()[0], where=source) from error
    if is_first and records:
        # A log has no width of its own; a terminal has.
        console = Console() if Console().is_terminal else Console(width=180)
        console.print(table_of(records))
    return _ended(group, device, errors)


def _ended(group: Group, device: torch.device, errors: Sequence[MpkirError]) -> int:
    """Say what went wrong, and end this rank: its exit code."""
    if errors and group.rank == 0:
        print(f"mpk: error: {' | '.join(map(str, errors))}", file=sys.stderr)
    code = 1 if errors else 0
    if device.type == "cuda":
        group.leave()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)  # Ending NCCL waits for graphs that hold its calls.
    return code


def _say_nothing(text: str) -> None:
    """What ranks other than 0 say of what rank 0 says already."""
