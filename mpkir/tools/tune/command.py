"""`mpk tune`: search, compile, measure, keep; or one of these where the others cannot be done."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from mpkir.errors import MpkirError
from mpkir.machine import machine_named
from mpkir.tools.bench import append_records
from mpkir.tools.bench.models import ModelSource, model_source
from mpkir.tools.bench.session import Settings
from mpkir.tools.display import StageDisplay
from mpkir.tools.text_files import write_text
from mpkir.tools.tune.candidates import SUFFIX, Candidate, Tuning, read_tuning
from mpkir.tools.tune.measuring import compile_candidates, find_candidates, measured
from mpkir.tools.tune.space import changes_of, name_of, variant_of
from mpkir.tuned import Choice, choices, digest_of, own_file, read_choices, text_of


@dataclass(frozen=True)
class Options:
    """What `mpk tune` was told."""

    target: str = "h100"
    workers: int | None = None
    batch: int = 1
    capacity: int | None = None
    position: int = 32
    steps: int = 127
    runs: int = 10
    repeats: int = 3
    budget: int = 60
    proposals: int = 4
    also: tuple[str, ...] = ()
    """Candidates beside those of the search: "in_flight=3,slots=8"."""
    simulate_only: bool = False
    compile_to: Path | None = None
    measured_to: Path | None = None
    into: Path | None = None

    @property
    def settings(self) -> Settings:
        """How candidates are measured."""
        return Settings(
            target=self.target,
            batches=(self.batch,),
            positions=(self.position,),
            steps=self.steps,
            runs=self.runs,
            repeats=self.repeats,
        )

    @property
    def needed(self) -> int:
        """Positions to compile for."""
        return self.capacity or max(1024, self.position + self.steps)


def run(source: str, options: Options) -> None:
    """Tune for a model, or measure the candidates in a file.

    Raises MpkirError; what was kept before stays as it is then.
    """
    if options.measured_to is not None:
        _refuse_existing(options.measured_to, "measurements")
    with StageDisplay() as display:
        if source.endswith(SUFFIX):
            found = _measure_file(Path(source), options, display)
        else:
            found = _tune(model_source(source), options, display)
    Console().print(candidate_table(found))
    if options.measured_to is not None:
        found.write(options.measured_to)
    if options.compile_to is None and (options.measured_to is None or options.into is not None):
        print(keep(found, options.into))


def adopt(path: Path, into: Path | None, json: Path | None = None) -> None:
    """Keep what the measurements in a file decide; their records are appended to `json`."""
    tuning = read_tuning(path)
    records = [dict(each.measured) for each in tuning.candidates if each.measured]
    if not records:
        raise MpkirError(
            "nothing was measured of these candidates",
            where=str(path),
            hint=f"run `mpk tune {path} --measured FILE` where the GPU is, and adopt FILE",
        )
    if json is not None:
        append_records(json, records)
    print(keep(tuning, into))


def _refuse_existing(path: Path, what: str) -> None:
    """MpkirError for a file that an earlier run has left."""
    if path.exists():
        raise MpkirError(
            f"{what} are there already",
            where=str(path),
            hint="name another file, or remove this one",
        )


def _tune(source: ModelSource, options: Options, display: StageDisplay) -> Tuning:
    settings = options.settings
    if options.compile_to is not None:
        _refuse_existing(options.compile_to / f"{source.name}{SUFFIX}", "candidates")
    if not options.simulate_only and options.compile_to is None:
        _ = settings.device  # says so if there is none, before the search
    tuning = _propose(source, options, display)
    if options.simulate_only:
        return tuning
    programs = compile_candidates(
        source, tuning, options.needed, options.compile_to, display.progress
    )
    if options.compile_to is None:
        return measured(tuning, source, programs, settings, display.note, display.progress)
    file = options.compile_to / f"{source.name}{SUFFIX}"
    tuning.write(file)
    display.note(f"measure them by `mpk tune {file} --measured FILE` where the GPU is")
    return tuning


def _propose(source: ModelSource, options: Options, display: StageDisplay) -> Tuning:
    from mpkir.analysis.step_shapes import step_shapes
    from mpkir.frontend import decode_step, without_torch_notes
    from mpkir.tools.tune.search import Search, proposals
    from mpkir.tools.variants import model_without_values

    machine = machine_named(options.target, workers=options.workers)
    asked = [variant_of(machine, changes_of(machine, text)) for text in options.also]
    with display.progress.stage("export and import"), without_torch_notes():
        model = model_without_values(source)
        module = decode_step(model, options.needed, batch=options.batch)

    def note(candidate: Candidate, count: int) -> None:
        name = candidate.name or "default"
        display.note(f"{count:3d}/{options.budget} {candidate.simulated_us:10.1f} us  {name}")

    middle = options.position + options.steps // 2
    with display.progress.stage("search"):
        search = Search(module, machine, middle, options.budget, note)
        found = search.run()
        more = [search.candidate(variant) for variant in asked]
    chosen = proposals(found, options.proposals)
    return Tuning(
        source.name,
        options.target,
        machine.workers,
        options.batch,
        step_shapes(module),
        tuple(dict.fromkeys((*chosen, *more))),
    )


def _measure_file(path: Path, options: Options, display: StageDisplay) -> Tuning:
    tuning = read_tuning(path)
    place = path.parent
    programs = find_candidates(tuning, place)
    source = model_source(str(programs[0].artifact.path))
    settings = replace(options, target=tuning.target, batch=tuning.batch).settings
    return measured(tuning, source, programs, settings, display.note, display.progress)


def keep(tuning: Tuning, into: Path | None) -> str:
    """Write the choice to the file of its machine, or `into`; what was done, in a line.

    Where the default is best, what was kept for these shapes goes.
    """
    machine = machine_named(tuning.target).name
    file = own_file(machine) if into is None else into
    held = read_choices(file)
    digest = digest_of(tuning.shapes, tuning.workers)
    choice = tuning.choice()
    entries = {key: each for key, each in held.items() if key != digest}
    if choice is None:
        said = f"{tuning.model}: nothing beats the default"
    else:
        entries[digest] = choice
        said = (
            f"{tuning.model}: {name_of(choice.variant.machine)} by {choice.found['by']}, "
            f"{choice.found['ms']:.4f} ms, the default {choice.found['default_ms']:.4f}"
        )
    if entries == held:
        return said
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text(file, text_of(entries))
    return f"{said}; kept in {file}"


def candidate_table(tuning: Tuning) -> Table:
    """Candidates, simulated and measured."""
    table = Table(title=f"{tuning.model}, {tuning.target}, batch {tuning.batch}")
    table.add_column("candidate", overflow="fold")
    for column in ("simulated us", "measured ms", "beside the default"):
        table.add_column(column, justify="right")
    default = tuning.candidates[0].measured.get("ms")
    for each in tuning.candidates:
        time = each.measured.get("ms")
        table.add_row(
            each.name or "default",
            f"{each.simulated_us:.1f}",
            "" if time is None else f"{time:.4f}",
            "" if time is None or default is None else f"{time / default - 1:+.1%}",
        )
    return table


def show(target: str) -> None:
    """Print what is kept for a machine."""
    machine = machine_named(target)
    Console().print(choice_table(machine.name, choices(machine.name)))


def choice_table(machine: str, entries: Mapping[str, Choice]) -> Table:
    """Tuned choices with the shapes that they are for."""
    table = Table("shapes", "choice", "ms", "default", "by", title=f"tuned for {machine}")
    for digest, each in sorted(entries.items()):
        largest = sorted(each.shapes, key=len)[-1]
        table.add_row(
            f"{digest}: {len(each.shapes)} kinds, among them {largest}",
            name_of(each.variant.machine),
            *(str(each.found.get(key, "")) for key in ("ms", "default_ms", "by")),
        )
    return table
