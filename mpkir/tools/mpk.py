"""mpk: compile models, run them, look into what was compiled."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, ParamSpec, TypeVar

import typer
from rich.console import Console

from mpkir.errors import MpkirError
from mpkir.tools.text_files import read_text, write_text
from mpkir.version import VERSION

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Compile PyTorch models into one persistent megakernel and run them.",
)

P = ParamSpec("P")
R = TypeVar("R")

Source = Annotated[
    str,
    typer.Argument(
        help="A model: directory, hub name or .gguf; an exported program (.pt2); IR (.mlir); "
        "or a config.json, for the model without its weights."
    ),
]
ArtifactPath = Annotated[Path, typer.Argument(help="A directory that `mpk compile` wrote.")]
Target = Annotated[str, typer.Option("--target", "-t", help="cpu, h100, h200, a100.")]
Workers = Annotated[
    int | None, typer.Option(help="SMs or threads to use; all of the target's by default.")
]
Capacity = Annotated[int | None, typer.Option(help="Longest sequence; at most 1024 by default.")]
Batch = Annotated[
    int, typer.Option(min=1, help="Sequences that a step decodes at once, in lock-step.")
]
Ranks = Annotated[
    int | None, typer.Option("--tp", min=1, help="Ranks (GPUs) that run it together; 1 by default.")
]
Policy = Annotated[
    str | None,
    typer.Option(help="Who schedules: round-robin, list, hybrid, dynamic, or a plugin's."),
]
Launch = Annotated[
    str | None,
    typer.Option(help="persistent: one kernel that stays; per-operator: a kernel for each (GPUs)."),
]
Transport = Annotated[
    str | None,
    typer.Option(
        help="nvshmem: with --tp, for GPUs of several hosts that a network connects; direct."
    ),
]
Plugins = Annotated[
    list[Path] | None,
    typer.Option(
        "--load-plugin", help="A file with operators, passes, machines, ..; may be repeated."
    ),
]
Debug = Annotated[bool, typer.Option("--debug", help="Show the Python traceback of an error.")]


def _readable_errors(command: Callable[P, R]) -> Callable[P, R]:
    """End with one paragraph and exit code 1 on an error that the user can mend."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            _load_plugins(kwargs.get("load_plugin"))
            return command(*args, **kwargs)
        except MpkirError as error:
            if kwargs.get("debug"):
                raise
            sys.exit(f"mpk: error: {error}")
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(1)
        except KeyboardInterrupt:
            sys.exit("mpk: interrupted")

    return run


def _with_options(target: str, **options: str | None) -> str:
    """A target with what else is asked for, as `machine_named` takes it: NAME{launch=..}."""
    words = [f"{name}={value}" for name, value in options.items() if value is not None]
    return f"{target}{{{','.join(words)}}}" if words else target


def _load_plugins(paths: Any) -> None:
    if paths:
        from mpkir.plugins import load_plugins

        load_plugins(paths)


@app.callback(invoke_without_command=True)
def _main(
    version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False,
) -> None:
    if version:
        print(f"mpkir {VERSION}")
        raise typer.Exit


@app.command()
@_readable_errors
def export(
    source: Source,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File to write; - or none: print.")
    ] = None,
    capacity: Capacity = None,
    batch: Batch = 1,
    raised: Annotated[
        bool, typer.Option(help="Recognise norms, attention and the like first.")
    ] = True,
    load_plugin: Plugins = None,
    debug: Debug = False,
) -> None:
    """Write a model's step as IR at tensor level.

    \b
    Examples:
      mpk export model.gguf -o step.mlir
      mpk export mlp.pt2 --no-raised | mpk-opt -f mlir -p mpk-raise
    """
    from mpkir.compiler import text_of
    from mpkir.tools import sources

    module = sources.module_of(source, capacity, batch).module
    if raised:
        from mpkir.passes.raise_operators import RaiseOperatorsPass
        from mpkir.pipeline import context

        RaiseOperatorsPass().apply(context(), module)
    text = text_of(module)
    if output is None or str(output) == "-":
        print(text, end="")
        return
    write_text(output, text)


@app.command()
@_readable_errors
def compile(
    source: Source,
    output: Annotated[Path, typer.Option("--output", "-o", help="The artifact's directory.")],
    target: Target = "cpu",
    workers: Workers = None,
    capacity: Capacity = None,
    batch: Batch = 1,
    weights: Annotated[
        list[Path] | None,
        typer.Option(help="Safetensors to refer to, for IR or a config.json; may be repeated."),
    ] = None,
    tp: Ranks = None,
    policy: Policy = None,
    launch: Launch = None,
    transport: Transport = None,
    ablate: Annotated[
        str | None, typer.Option(help="Compile this variant, as in unpacked; `mpk bench --list`.")
    ] = None,
    tuned: Annotated[
        bool, typer.Option(help="Take what was tuned for the same shapes (mpk tune).")
    ] = True,
    dump: Annotated[
        Path | None, typer.Option("--dump-dir", help="Write the IR after every pass here.")
    ] = None,
    timing: Annotated[
        bool, typer.Option(help="Print the time of every stage and pass, and the peak memory.")
    ] = False,
    load_plugin: Plugins = None,
    debug: Debug = False,
) -> None:
    """Compile a model into an artifact.

    A checkpoint's weights are stored in it; those of a config.json are given by --weights, or when
    the artifact is loaded.

    \b
    Examples:
      mpk compile SmolLM2-135M-Instruct.gguf -t cpu -o smollm2
      mpk compile config.json -t h100 -o llama
      mpk compile config.json -t h200 --tp 4 -o llama-4
      mpk compile config.json -t h200 --tp 16 --transport nvshmem -o llama-16
      mpk compile config.json -t h100 --launch per-operator -o llama-baseline
      mpk compile config.json -t h100 --ablate in-flight=4 -o llama+in-flight=4
      mpk compile step.mlir --weights model.safetensors -o step
    """
    from mpkir.tools import sources
    from mpkir.tools.ablations import DEFAULT, ablation_named
    from mpkir.tools.display import StageDisplay
    from mpkir.tools.inspection import activations
    from mpkir.tools.timing import Timing

    if transport is not None and (tp or 1) == 1:
        raise MpkirError("--transport is how several ranks are connected", hint="give --tp, too")
    variant = (DEFAULT if ablate is None else ablation_named(ablate)).variant
    times = Timing()
    with StageDisplay() as display:
        artifact = sources.compile_source(
            source,
            _with_options(target, launch=launch, transport=transport),
            workers=workers,
            capacity=capacity,
            batch=batch,
            output=output,
            weight_files=weights or (),
            dump=dump,
            **({} if policy is None else {"policy": policy}),
            variant=variant if tuned else replace(variant, tuned=False),
            progress=times.watch(display.progress),
            tp=tp or 1,
        )
        display.note(activations(artifact.manifest))
    if timing:
        print(*times.lines(), sep="\n", file=sys.stderr)
    print(artifact.path)


@app.command()
@_readable_errors
def run(
    artifact: ArtifactPath,
    inputs: Annotated[
        list[str] | None,
        typer.Option("--input", "-i", help="NAME=FILE.npy for each input; may be repeated."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Directory for the outputs as .npy.")
    ] = None,
    position: Annotated[int, typer.Option(help="Position of the first step.")] = 0,
    steps: Annotated[int, typer.Option(help="Steps to run.")] = 1,
    debug: Debug = False,
) -> None:
    """Run a compiled program's step on arrays.

    \b
    Example:
      mpk run mlp -i x=x.npy -o results
    """
    from mpkir.tools import ranks
    from mpkir.tools.arrays import run_on_files

    count = ranks.ranks_of(str(artifact), None)
    if ranks.starts_here(count):
        options = ranks.options_of(
            input=inputs, output=output, position=position, steps=steps, debug=debug
        )
        sys.exit(ranks.run("run", [*options, "--", str(artifact)], count))
    for line in run_on_files(artifact, inputs or [], output, position, steps):
        print(line)


@app.command()
@_readable_errors
def generate(
    source: Annotated[str, typer.Argument(help="An artifact, or a model to compile first.")],
    prompts: Annotated[
        list[str],
        typer.Argument(metavar="PROMPT..", help="A prompt or several; - reads standard input."),
    ],
    max_new_tokens: Annotated[
        int, typer.Option("--max-new-tokens", "-n", help="Most tokens to add.")
    ] = 64,
    chat: Annotated[bool, typer.Option(help="Use the model's chat template.")] = False,
    target: Target = "cpu",
    workers: Workers = None,
    capacity: Capacity = None,
    batch: Batch = 1,
    tp: Ranks = None,
    load_plugin: Plugins = None,
    debug: Debug = False,
) -> None:
    """Continue a prompt, streaming, or several prompts, as many at once as the batch has.

    With --tp, or for an artifact that was compiled so, several processes run the model together:
    they are started here, or by torchrun.

    \b
    Examples:
      mpk generate model.gguf "Once upon a time" -t h200 --tp 4
      mpk generate smollm2 "What is the capital of France?" --chat
      echo "Once upon a time" | mpk generate model.gguf - -n 100
      mpk generate model.gguf "One" "Two" "Three" --batch 3
    """
    from mpkir.runtime.ranks.start import rank_here
    from mpkir.tools import ranks, sources
    from mpkir.tools.display import StageDisplay

    texts = [sys.stdin.read() if prompt == "-" else prompt for prompt in prompts]
    count = ranks.ranks_of(source, tp)
    if ranks.starts_here(count):
        options = ranks.options_of(
            max_new_tokens=max_new_tokens,
            chat=chat,
            target=target,
            workers=workers,
            capacity=capacity,
            batch=batch,
            tp=tp,
            load_plugin=load_plugin,
            debug=debug,
        )
        sys.exit(ranks.run("generate", [*options, "--", source, *texts], count))
    with StageDisplay() as display:
        model = sources.language_model(
            source, target, workers, capacity, display.progress, batch, count
        )
    if rank_here() > 0:
        model.generate(texts if len(texts) > 1 else texts[0], max_new_tokens, chat=chat)
        return
    if len(texts) > 1:
        for number, answer in enumerate(model.generate(texts, max_new_tokens, chat=chat), 1):
            print(f"[{number}] {answer.text}")
        return
    answer = model.generate(
        texts[0],
        max_new_tokens=max_new_tokens,
        chat=chat,
        on_text=lambda piece: print(piece, end="", flush=True),
    )
    print()
    Console(stderr=True).print(
        f"{answer.prompt_tokens} prompt tokens in {answer.prompt_seconds:.2f} s, "
        f"{len(answer.tokens)} new ones, {answer.tokens_per_second:.1f} tokens/s",
        highlight=False,
    )


@app.command()
@_readable_errors
def bench(
    sources: Annotated[
        list[str] | None,
        typer.Argument(
            help="Models: an artifact, a checkpoint, a config.json, or a known name such as "
            "qwen3-0.6b (the last two with random weights)."
        ),
    ] = None,
    artifacts: Annotated[
        Path | None,
        typer.Option(help="Take compiled programs DIR/NAME, DIR/NAME+VARIANT; compile nothing."),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option("--target", "-t", help="Of the artifact, or the CPU, if not given."),
    ] = None,
    batch: Annotated[str, typer.Option(help="Batch sizes, as in 1,2,4.")] = "1",
    position: Annotated[
        str, typer.Option(help="Positions of the first timed step, as in 32,1000,4000.")
    ] = "32",
    steps: Annotated[int, typer.Option(help="Dependent steps in one launch.")] = 127,
    runs: Annotated[int, typer.Option(help="Timed launches of each system.")] = 10,
    repeats: Annotated[int, typer.Option(help="Launches that must give the same bits.")] = 3,
    peers: Annotated[bool, typer.Option(help="Measure PyTorch beside it.")] = True,
    peer: Annotated[
        list[str] | None,
        typer.Option(help="Only this one: eager, reduce-overhead, max-autotune; repeatable."),
    ] = None,
    per_operator: Annotated[
        bool | None,
        typer.Option(help="Measure a graph of one kernel for each operator, too."),
    ] = None,
    ablate: Annotated[
        list[str] | None,
        typer.Option(help="Variants to measure beside, as in in-flight=4,unpacked; repeatable."),
    ] = None,
    ablations: Annotated[bool, typer.Option("--list", help="List what --ablate knows.")] = False,
    tp: Annotated[
        str | None,
        typer.Option("--tp", help="Numbers of ranks (GPUs) to compare, as in 1,2,4."),
    ] = None,
    json: Annotated[Path | None, typer.Option(help="Append the records to this file.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw the records into this .svg.")] = None,
    workers: Workers = None,
    capacity: Capacity = None,
    load_plugin: Plugins = None,
    debug: Debug = False,
) -> None:
    """Time the decode step beside other systems: right answers first, then runs in turns.

    With --tp on several GPUs, too: the processes are started here, or by torchrun.

    \b
    Examples:
      mpk bench smollm2 --runs 20 --json results.json
      mpk bench qwen3-8b -t h200 --tp 1,2,4
      mpk bench qwen3-0.6b -t h100 --ablate in-flight=4,unpacked --plot qwen.svg
      mpk bench --artifacts build/h100 qwen3-0.6b --position 1000,4000 --no-peers
    """
    from mpkir.tools.ablations import ablations_named
    from mpkir.tools.bench import command
    from mpkir.tools.bench.session import Settings

    if ablations:
        Console().print(command.ablation_table())
        return
    settings = Settings(
        target=target or "",
        batches=command.numbers(batch, "batch sizes"),
        positions=command.numbers(position, "positions"),
        steps=steps,
        runs=runs,
        repeats=repeats,
        ablations=ablations_named(ablate or ()),
        artifacts=artifacts,
        workers=workers,
        capacity=capacity,
    )
    counts = command.numbers(tp, "ranks") if tp is not None else ()
    if set(counts) - {1}:
        if ablate or per_operator:
            raise MpkirError("variants are measured on one rank", hint="leave out --tp, or them")
        from mpkir.tools import ranks
        from mpkir.tools.bench.ranks import command as several

        words = ranks.options_of(
            artifacts=artifacts,
            target=target,
            batch=batch,
            position=position,
            steps=steps,
            runs=runs,
            repeats=repeats,
            peer=peer,
            no_peers=not peers,
            workers=workers,
            capacity=capacity,
            load_plugin=load_plugin,
            debug=debug,
        )
        sys.exit(
            several.run(
                sources or [],
                settings,
                counts,
                peers=(peer or ()) if peers else None,
                json=json,
                plot=plot,
                words=words,
            )
        )
    command.run(
        sources or [],
        settings,
        peers=(peer or ()) if peers else None,
        per_operator=per_operator,
        json=json,
        plot=plot,
    )


@app.command()
@_readable_errors
def tune(
    source: Annotated[
        str | None,
        typer.Argument(
            help="A model as for bench; or a MODEL.tune.json that --compile-to wrote, to measure "
            "its candidates here."
        ),
    ] = None,
    target: Annotated[str, typer.Option("--target", "-t", help="cpu, h100, h200, a100.")] = "h100",
    workers: Workers = None,
    capacity: Capacity = None,
    batch: Batch = 1,
    position: Annotated[int, typer.Option(help="Position of the first measured step.")] = 32,
    steps: Annotated[int, typer.Option(help="Dependent steps in one launch.")] = 127,
    runs: Annotated[int, typer.Option(help="Timed launches of each candidate.")] = 10,
    repeats: Annotated[
        int, typer.Option(help="Launches of each that have to give the same bits.")
    ] = 3,
    budget: Annotated[int, typer.Option(help="Most programs to simulate.")] = 60,
    proposals: Annotated[int, typer.Option(help="Of them to measure.")] = 4,
    also: Annotated[
        list[str] | None,
        typer.Option(help="A candidate to measure in any case: in_flight=3,slots=8; repeatable."),
    ] = None,
    simulate_only: Annotated[
        bool, typer.Option("--simulate-only", help="Let the simulator decide.")
    ] = False,
    compile_to: Annotated[
        Path | None, typer.Option(help="Compile the candidates into this directory; no more.")
    ] = None,
    measured: Annotated[
        Path | None, typer.Option(help="Write the measurements to this file, for --adopt.")
    ] = None,
    adopt: Annotated[
        Path | None, typer.Option(help="Keep what the measurements in this file decide.")
    ] = None,
    into: Annotated[
        Path | None, typer.Option(help="Keep it in this file, not in the cache directory.")
    ] = None,
    json: Annotated[
        Path | None, typer.Option(help="Append the adopted measurements to this results file.")
    ] = None,
    show: Annotated[bool, typer.Option("--show", help="Show what is kept for the target.")] = False,
    load_plugin: Plugins = None,
    debug: Debug = False,
) -> None:
    """Find better choices for a model's shapes: the simulator proposes, measurement decides.

    What is found is kept by machine and shapes, and taken whenever these shapes are compiled.

    \b
    Examples:
      mpk tune qwen3-0.6b -t h100
      mpk tune qwen3-0.6b -t h100 --compile-to build/tune      # where the compiler is
      mpk tune build/tune/qwen3-0.6b.tune.json --measured m.tune.json   # where the GPU is
      mpk tune --adopt m.tune.json
      mpk tune --show -t h100
    """
    from mpkir.tools.tune import command

    if adopt is not None:
        command.adopt(adopt, into, json)
    if show:
        command.show(target)
    if source is None:
        if adopt is None and not show:
            raise MpkirError("nothing to tune", hint="name a model, or give --adopt or --show")
        return
    options = command.Options(
        target=target,
        workers=workers,
        batch=batch,
        capacity=capacity,
        position=position,
        steps=steps,
        runs=runs,
        repeats=repeats,
        budget=budget,
        proposals=proposals,
        also=tuple(also or ()),
        simulate_only=simulate_only,
        compile_to=compile_to,
        measured_to=measured,
        into=into,
    )
    command.run(source, options)


@app.command()
@_readable_errors
def simulate(
    source: Annotated[str, typer.Argument(help="A model as for compile, or scheduled IR (.mlir).")],
    target: Annotated[str, typer.Option("--target", "-t", help="h100, h200, a100, cpu.")] = "h100",
    machine: Annotated[
        Path | None, typer.Option(help="A machine model (.json) in place of the target's.")
    ] = None,
    workers: Workers = None,
    capacity: Capacity = None,
    policy: Policy = None,
    position: Annotated[int, typer.Option(help="The step's place in the sequence.")] = 95,
    artifact: Annotated[
        Path | None, typer.Option(help="Play this artifact's table, compiled from SOURCE.")
    ] = None,
    trace: Annotated[
        Path | None, typer.Option(help="Compare with a traced step of the artifact (.npz).")
    ] = None,
    tp: Annotated[int, typer.Option(help="Compile for so many GPUs, and play one of them.")] = 1,
    json: Annotated[
        Path | None, typer.Option(help="Write the facts to this file; - prints them.")
    ] = None,
    load_plugin: Plugins = None,
    debug: Debug = False,
) -> None:
    """Play a step on a machine model: time, bandwidth, critical path, operators.

    \b
    Examples:
      mpk simulate config.json -t h200
      mpk simulate scheduled.mlir --policy list
      mpk simulate config.json --artifact llama --trace llama.npz --position 158
      mpk simulate config.json -t h200 --tp 8
    """
    from mpkir.tools import simulation
    from mpkir.tools.display import StageDisplay

    with StageDisplay() as display:
        found, tables = simulation.run(
            source,
            str(machine) if machine is not None else target,
            workers=workers,
            capacity=capacity,
            policy=policy,
            position=position,
            artifact=artifact,
            trace=trace,
            ranks=tp,
            progress=display.progress,
        )
    if json is not None:
        simulation.write_json(json, found)
    if json is None or str(json) != "-":
        console = Console()
        for table in tables:
            console.print(table)


@app.command()
@_readable_errors
def trace(
    artifact: ArtifactPath,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Files to write, without their endings.")
    ] = Path("trace"),
    given: Annotated[
        Path | None, typer.Option("--from", help="Draw this recording (.npz) of the artifact.")
    ] = None,
    position: Annotated[int, typer.Option(help="The first step's place in the sequence.")] = 100,
    steps: Annotated[int, typer.Option(help="Steps to keep.")] = 1,
    random_weights: Annotated[
        bool, typer.Option("--random-weights", help="For an artifact without weights.")
    ] = False,
    plan: Annotated[
        str | None, typer.Option(help="What it was compiled from: draw the simulated step, too.")
    ] = None,
    title: Annotated[str | None, typer.Option(help="Heading of the page.")] = None,
    perfetto: Annotated[bool, typer.Option(help="Write OUTPUT.pftrace as well.")] = True,
    json: Annotated[
        Path | None, typer.Option(help="Write the facts to this file; - prints them.")
    ] = None,
    debug: Debug = False,
) -> None:
    """Show a step as it ran: workers by time, waits and their causes, the critical path.

    Runs a traced build of the artifact on its target, or reads what was recorded elsewhere, and
    writes a recording (.npz), a page (.html) and a Perfetto trace (.pftrace).

    \b
    Examples:
      mpk trace smollm2 --position 32
      mpk trace llama --from llama.npz --plan config.json -o llama-trace
    """
    from mpkir.tools.display import StageDisplay
    from mpkir.tools.trace import command

    with StageDisplay() as display:
        found, written = command.run(
            artifact,
            output,
            given=given,
            position=position,
            kept=steps,
            random=random_weights,
            plan=plan,
            perfetto=perfetto,
            title=title,
            progress=display.progress,
        )
    if json is not None:
        from mpkir.tools.simulation import write_json

        write_json(json, found)
    for path in written:
        print(path, file=sys.stderr if str(json) == "-" else sys.stdout)


@app.command()
@_readable_errors
def inspect(
    source: Annotated[
        str, typer.Argument(help="A directory that `mpk compile` wrote; with --graph a source.")
    ],
    graph: Annotated[
        bool,
        typer.Option(
            "--graph", help="Count tasks, dependent pairs, events, waits of a source or of IR."
        ),
    ] = False,
    target: Target = "h100",
    workers: Workers = None,
    capacity: Capacity = None,
    debug: Debug = False,
) -> None:
    """Show what an artifact holds: target, buffers, bodies, tasks, events.

    With --graph: how big the task graph of a model or of IR at any level is.

    \b
    Examples:
      mpk inspect smollm2
      mpk inspect config.json --graph -t h100
      mpk inspect dump/12-mpk-linearize-tasks.mlir --graph
    """
    from mpkir.tools.inspection import describe, describe_graph

    console = Console()
    if not graph:
        parts = describe(Path(source))
    else:
        parts = describe_graph(source, target, workers, capacity)
    for part in parts:
        console.print(part)


@app.command()
@_readable_errors
def disasm(
    artifact: ArtifactPath,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="File to write.")] = None,
    debug: Debug = False,
) -> None:
    """Print an artifact's runtime table as text (.mpkt).

    \b
    Example:
      mpk disasm smollm2 -o table.mpkt
    """
    from mpkir.runtime.artifact import load_artifact
    from mpkir.runtime.table_text import disassemble

    text = disassemble(load_artifact(artifact).table)
    if output is None:
        print(text, end="")
        return
    write_text(output, text)


@app.command()
@_readable_errors
def asm(
    text: Annotated[Path, typer.Argument(help="A table's text form (.mpkt).")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Directory for the .npy files.")],
    debug: Debug = False,
) -> None:
    """Assemble a runtime table from its text form.

    \b
    Example:
      mpk asm table.mpkt -o table
    """
    from mpkir.runtime.table_text import assemble

    assemble(read_text(text), str(text)).save(output)
    print(output)


def main(arguments: list[str] | None = None) -> Any:
    """Run the command line."""
    return app(args=arguments)


if __name__ == "__main__":
    main()
