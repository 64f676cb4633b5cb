"""How long compiling takes, stage by stage, and how it grows with layers; no weights, no GPU.

    python benchmarks/compile_time.py --json benchmarks/results/compile-time.json
    python benchmarks/compile_time_report.py      # table and plot in docs/, of these records

Every model is measured in a process of its own, so that peaks of memory are its own. Seconds are
those of the clock (`wall_s`) and CPU seconds of that process (`cpu_s`), the smaller ones where the
machine does other things, too: the compiler is one thread.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

from mpkir.collection import rare_collection

MACHINE = {"gpu": "none", "gpus": 0, "batch": 1, "cpu": platform.processor() or platform.machine()}
MODELS = ("smollm2-135m", "qwen3-8b", "qwen3-235b-a22b")
LAYERS = (4, 8, 16, 36, 72, 94)
"""Depths at which the growth is measured."""


@dataclass
class Clock:
    """Seconds by stage."""

    wall: dict[str, float] = field(default_factory=dict)
    cpu: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        wall, cpu = perf_counter(), process_time()
        yield
        self.wall[name] = round(perf_counter() - wall, 4)
        self.cpu[name] = round(process_time() - cpu, 4)


def peak_mib() -> int:
    """Most memory that this process has had so far, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def measure(name: str, layers: int | None, target: str) -> dict[str, Any]:
    """One compilation in this process, to the table and the source; not to the binary."""
    clock = Clock()
    with clock.stage("load torch and transformers"):
        import torch
        from models import CAPACITY, configurations

        from mpkir.frontend import export_step, model_from_config, without_torch_notes
    from xdsl.context import Context

    from mpkir.backends.body import bodies_of
    from mpkir.backends.cuda.emit import emit
    from mpkir.backends.table import table_of
    from mpkir.machine import machine_named
    from mpkir.pipeline import context, stages
    from mpkir.tools.bench import provenance

    torch.set_num_threads(1)
    machine = machine_named(target)
    config = configurations()[name]
    if layers is not None:
        config.num_hidden_layers = layers
        for attribute in ("layer_types",):
            if isinstance(kinds := getattr(config, attribute, None), list):
                setattr(config, attribute, (kinds * layers)[:layers])
    with clock.stage("build"), without_torch_notes():
        model = model_from_config(config)
    with clock.stage("export"), without_torch_notes():
        exported = export_step(model, CAPACITY)
    before = peak_mib()
    steps = Clock()
    with steps.stage("import"), without_torch_notes():
        module = exported.module()
    ctx: Context = context()
    for stage in stages(machine):
        with steps.stage(stage.name):
            stage.apply(ctx, module)
    with steps.stage("table"):
        table_of(module)
    with steps.stage("source"):
        emit(bodies_of(module), machine, 1)
    return {
        "benchmark": "compile",
        "system": "mpkir",
        "model": name,
        "layers": config.num_hidden_layers,
        "target": target,
        **MACHINE,
        "export_s": clock.wall["export"],
        "compile_wall_s": round(sum(steps.wall.values()), 3),
        "compile_cpu_s": round(sum(steps.cpu.values()), 3),
        "peak_mib": peak_mib(),
        "peak_mib_after_export": before,
        "wall_s": clock.wall | steps.wall,
        "cpu_s": clock.cpu | steps.cpu,
        **provenance(),
    }


def in_own_process(*arguments: str) -> dict[str, Any]:
    """The record that this script prints with these arguments, in a new process."""
    command = [sys.executable, __file__, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{' '.join(arguments)}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def measure_again(source: str, target: str) -> dict[str, Any]:
    """A compilation of something that is in the cache already, in this process.

    `source` is a model's name, without weights, or a checkpoint (a .gguf, a directory).
    """
    clock = Clock()
    with clock.stage("load torch and transformers"):
        from models import configurations

        from mpkir.frontend import model_from_config
        from mpkir.language_model import LanguageModel, compile_language_model
    from mpkir.progress import Progress
    from mpkir.tools.bench import provenance

    stages: dict[str, float] = {}
    progress = Progress(end=stages.__setitem__)
    config = configurations().get(source)
    if config is None:
        LanguageModel.from_pretrained(source, target, progress=progress)
        loading = stages.pop("load the checkpoint")
    else:
        with clock.stage("build"):
            model = model_from_config(config)
        loading = clock.wall["build"]
        compile_language_model(model, target, progress=progress)
    if "build" in stages:
        sys.exit(f"{source} was not in the cache: it is now, run this again")
    return {
        "benchmark": "compile-again",
        "system": "mpkir",
        "model": Path(source).stem,
        "target": target,
        **MACHINE,
        "load_s": round(loading, 3),
        "compile_wall_s": round(sum(stages.values()), 3),
        "wall_s": stages,
        **provenance(),
        "command": " ".join(Path(argument).name for argument in sys.argv),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, default="compile-time.json", help="for the records")
    parser.add_argument("--target", default="h100")
    parser.add_argument("--models", nargs="*", default=MODELS)
    parser.add_argument("--growth", default="qwen3-8b", help="the model that is stretched")
    parser.add_argument("--growth-layers", nargs="*", type=int, default=LAYERS)
    parser.add_argument("--one", help="measure one model in this process, print its record")
    parser.add_argument("--layers", type=int)
    parser.add_argument(
        "--again",
        nargs="*",
        default=[],
        metavar="SOURCE=TARGET",
        help="compilations from the cache",
    )
    parser.add_argument("--one-again", help="measure one of these in this process")
    given = parser.parse_args()
    if given.one is not None:
        with rare_collection():
            print(json.dumps(measure(given.one, given.layers, given.target)))
        return
    if given.one_again is not None:
        print(json.dumps(measure_again(given.one_again, given.target)))
        return
    wanted = [("--one", name, "--target", given.target) for name in given.models]
    wanted += [
        ("--one", given.growth, "--layers", str(layers), "--target", given.target)
        for layers in given.growth_layers
    ]
    wanted += [
        ("--one-again", *pair.split("=")[:1], "--target", pair.split("=")[1])
        for pair in given.again
    ]
    records: list[dict[str, Any]] = []
    for arguments in wanted:
        record = in_own_process(*arguments)
        records.append(record)
        print(*arguments, f"{record['compile_wall_s']:.2f} s", flush=True)
        # Written as it goes, so that a measurement cut short leaves what it has.
        given.json.write_text(json.dumps(records, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
