"""`mpk bench`: from options to tables, records and a plot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from mpkir.errors import MpkirError
from mpkir.tools.ablations import TABLE, Ablation, ablation_named
from mpkir.tools.bench.models import model_source
from mpkir.tools.bench.plot import write_plot
from mpkir.tools.bench.programs import find_artifact
from mpkir.tools.bench.records import append_records
from mpkir.tools.bench.report import Record, table_of
from mpkir.tools.bench.session import Settings, measure
from mpkir.tools.bench.systems import COMPILED, EAGER, PEERS, PER_OPERATOR
from mpkir.tools.display import StageDisplay


def numbers(text: str, what: str) -> tuple[int, ...]:
    """The numbers of a comma-separated list, each once. Raises MpkirError."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise MpkirError(f"{text!r} is no list of {what}", hint="write numbers like 1,2,4")
    return tuple(dict.fromkeys(int(part) for part in parts))


def peers_named(names: Sequence[str], settings: Settings) -> tuple[str, ...]:
    """Other systems to measure beside; where none is named, torch.compile on a GPU, eager PyTorch
    on a CPU. Raises MpkirError for an unknown one."""
    for name in names:
        if name not in PEERS:
            raise MpkirError(f"no peer is called {name!r}", hint=f"choose of {', '.join(PEERS)}")
    if names:
        return tuple(dict.fromkeys(names))
    return (EAGER,) if settings.device.type == "cpu" else COMPILED


def run(
    sources: Sequence[str],
    settings: Settings,
    *,
    peers: Sequence[str] | None = None,
    per_operator: bool | None = None,
    json: Path | None = None,
    plot: Path | None = None,
) -> None:
    """Measure each model; records are appended as soon as they are there.

    sources: may be empty where `settings.artifacts` is itself an artifact; peers: other systems by
    name, (): the usual ones, None: none; per_operator: whether to measure the graph of one kernel
    for each operator, too; None: where there is one

    Raises MpkirError at the end if a system was wrong or failed; the others have their records.
    """
    records: list[Record] = []
    errors: list[MpkirError] = []
    if plot is not None and plot.suffix != ".svg":
        raise MpkirError(f"plots are SVG, not {plot.suffix or plot.name}", hint="name it .svg")
    if peers is not None:
        settings = replace(settings, peers=peers_named(peers, settings))
    if not sources:
        if settings.artifacts is None:
            raise MpkirError("nothing to measure", hint="name a model or give --artifacts")
        sources = [str(settings.artifacts)]
    with StageDisplay() as display:
        for source in sources:
            own = _with_per_operator(source, settings, per_operator)
            for outcome in measure(source, own, display.note, display.progress):
                records += outcome.records
                errors += outcome.errors
                if json is not None:
                    append_records(json, outcome.records)
                if plot is not None and records:
                    write_plot(plot, records)
    if records:
        # A log has no width of its own; a terminal has.
        console = Console() if Console().is_terminal else Console(width=120)
        console.print(table_of(records))
    if errors:
        raise MpkirError(
            f"{len(errors)} measurements failed; " + "; ".join(str(error) for error in errors)
        )


def _with_per_operator(source: str, settings: Settings, wanted: bool | None) -> Settings:
    graph = ablation_named(PER_OPERATOR)
    if graph in settings.ablations or wanted is False:
        return settings
    if wanted is None and not _has_graph(source, settings, graph):
        return settings
    return replace(settings, ablations=(graph, *settings.ablations))


def _has_graph(source: str, settings: Settings, graph: Ablation) -> bool:
    """Whether a program for this launch is there, or can be compiled."""
    directory = settings.artifacts
    if directory is None and not (Path(source) / "manifest.json").is_file():
        return settings.device.type == "cuda"
    try:
        for batch in settings.batches:
            find_artifact(directory or Path(source), model_source(source).name, graph, batch)
    except MpkirError:
        return False
    return True


def ablation_table() -> Table:
    """The switches of --ablate."""
    table = Table("--ablate", "what", "expected", title="ablations", show_lines=True)
    for each in TABLE:
        table.add_row(each.form, each.what, each.expected)
    return table
