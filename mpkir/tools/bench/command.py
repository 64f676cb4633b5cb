"""`mpk bench`: from options to tables, records and a plot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from mpkir.errors import MpkirError
from mpkir.runtime.manifest import MANIFEST
from mpkir.tools.ablations import DEFAULT, TABLE, Ablation, ablation_named
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
    if not sources:
        if settings.artifacts is None:
            raise MpkirError("nothing to measure", hint="name a model or give --artifacts")
        sources = [str(settings.artifacts)]
    with StageDisplay() as display:
        for source in sources:
            try:
                own = _completed(source, settings, peers, per_operator)
                for outcome in measure(source, own, display.note, display.progress):
                    records += outcome.records
                    errors += outcome.errors
                    if json is not None:
                        append_records(json, outcome.records)
                    if plot is not None and records:
                        write_plot(plot, records)
            except MpkirError as error:
                errors.append(error)
            except RuntimeError as error:
                # Out of memory, or a kernel that took the GPU's context with it.
                errors.append(MpkirError(str(error).splitlines()[0], where=source))
    if records:
        # A log has no width of its own; a terminal has.
        console = Console() if Console().is_terminal else Console(width=120)
        console.print(table_of(records))
    if len(errors) == 1:
        raise errors[0]
    if errors:
        raise MpkirError(f"{len(errors)} failures: " + " | ".join(str(error) for error in errors))


def _completed(
    source: str, settings: Settings, peers: Sequence[str] | None, per_operator: bool | None
) -> Settings:
    """The settings for one model, with what the user has left open."""
    settings = replace(settings, target=settings.target or _target_of(source, settings))
    if peers is not None:
        settings = replace(settings, peers=peers_named(peers, settings))
    graph = ablation_named(PER_OPERATOR)
    if graph in settings.ablations or per_operator is False:
        return settings
    if per_operator is None and not _has_graph(source, settings, graph):
        return settings
    return replace(settings, ablations=(graph, *settings.ablations))


def _directory(source: str, settings: Settings) -> Path | None:
    """Where compiled programs are; None: nowhere, they are to be compiled."""
    if settings.artifacts is None and (Path(source) / MANIFEST).is_file():
        return Path(source)
    return settings.artifacts


def _target_of(source: str, settings: Settings) -> str:
    """What the compiled program is for; the CPU where there is none."""
    directory = _directory(source, settings)
    if directory is None:
        return "cpu"
    found = find_artifact(directory, model_source(source).name, DEFAULT, settings.batches[0])
    return found.manifest.target.name


def _has_graph(source: str, settings: Settings, graph: Ablation) -> bool:
    """Whether a program with this launch is there, or can be compiled."""
    directory = _directory(source, settings)
    if directory is None:
        return settings.device.type == "cuda"
    try:
        for batch in settings.batches:
            find_artifact(directory, model_source(source).name, graph, batch)
    except MpkirError:
        return False
    return True


def ablation_table() -> Table:
    """The switches of --ablate."""
    table = Table("--ablate", "what", "expected", title="ablations", show_lines=True)
    for each in TABLE:
        table.add_row(each.form, each.what, each.expected)
    return table
