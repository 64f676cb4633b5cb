"""From a module at tensor level to an artifact on disk, and from a torch module to a program.

`compile` is what a user calls; `compile_module` is the same for IR that is already there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from io import StringIO
from math import prod
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from xdsl.dialects.builtin import FixedBitwidthType, ModuleOp
from xdsl.passes import ModulePass
from xdsl.printer import Printer

from mpkir.backends.body import bodies_of, buffer_of
from mpkir.backends.table import buffers_of, table_of
from mpkir.dialects import task
from mpkir.dialects.tensor import EmbeddingOp, shape_of
from mpkir.errors import MpkirError
from mpkir.machine import Machine, machine_named
from mpkir.pipeline import PassTiming, lower
from mpkir.runtime.artifact import Artifact, write_artifact
from mpkir.runtime.cache import cache_directory, source_digest
from mpkir.runtime.host import cpu_arch, cpu_features
from mpkir.runtime.manifest import Buffer, LanguageRoles, Manifest, Signature, Target
from mpkir.runtime.program import Program


@dataclass(frozen=True)
class Progress:
    """What a compilation tells whoever watches it; both callbacks get a stage's name."""

    begin: Callable[[str], None] = lambda stage: None
    end: Callable[[str, float], None] = lambda stage, seconds: None


@dataclass
class _Clock:
    """Announces stages and times them."""

    progress: Progress
    timings: list[PassTiming] = field(default_factory=list[PassTiming])
    stage: str = ""
    begun: float = 0.0

    def start(self, stage: str) -> None:
        """End the stage that is running and begin another."""
        self.stop()
        self.stage, self.begun = stage, perf_counter()
        self.progress.begin(stage)

    def stop(self) -> None:
        """End the stage that is running, if any."""
        if self.stage:
            seconds = perf_counter() - self.begun
            self.timings.append(PassTiming(self.stage, seconds))
            self.progress.end(self.stage, seconds)
        self.stage = ""


def compile_module(
    module: ModuleOp,
    machine: Machine,
    *,
    output: str | Path | None = None,
    constants: Mapping[str, torch.Tensor] | None = None,
    weights: Mapping[str, torch.Tensor] | None = None,
    weight_files: Sequence[str | Path] = (),
    signature: Signature | None = None,
    language: LanguageRoles | None = None,
    extra_files: Mapping[str, bytes] | None = None,
    tokens_per_step: int = 1,
    progress: Progress = Progress(),
    dump: str | Path | None = None,
) -> Artifact:
    """Compile a tensor-level module, which is changed in place, and write its artifact.

    `output` is the artifact's directory; by default one in the cache, named by the content of the
    module, the machine and the compiler. `constants` are small tensors kept in the artifact;
    `weights` are stored with it, `weight_files` referred to; with neither the loader brings them.
    `dump` is a directory that gets the IR after every pass. Raises MpkirError.
    """
    output = default_output(module, machine) if output is None else Path(output)
    clock = _Clock(progress)
    _lower(module, machine, clock, dump)
    clock.start("emit")
    bodies = bodies_of(module)
    table = table_of(module)
    source, suffix = _emit(bodies, machine, tokens_per_step)
    clock.start("build")
    binary, target = _build(source, machine)
    clock.start("write")
    held = frozenset(constants or {})
    manifest = Manifest(
        target=target,
        buffers=tuple(_manifest_buffer(buffer, held) for buffer in buffers_of(module)),
        bodies=table.names.bodies,
        families=table.names.families,
        events=table.names.events,
        source=f"kernel.{suffix}",
        binary="kernel.so" if target.kind == "cpu" else "kernel.cubin",
        tokens_per_step=tokens_per_step,
        signature=signature,
        language=language,
        info={"weight_bytes_per_step": weight_bytes_per_step(module)},
    )
    artifact = write_artifact(
        output,
        manifest,
        table,
        source=source,
        binary=binary,
        constants=constants,
        weights=weights,
        weight_files=weight_files,
        extra_files=extra_files,
    )
    clock.stop()
    return artifact


def default_output(module: ModuleOp, machine: Machine) -> Path:
    """Where an artifact goes when the user names no place."""
    text = StringIO()
    Printer(text, print_generic_format=True).print_op(module)
    key = hashlib.sha256(f"{text.getvalue()}\n{machine}\n{source_digest()}".encode())
    return cache_directory() / "programs" / key.hexdigest()[:24]


def weight_bytes_per_step(module: ModuleOp) -> int:
    """Bytes of weights that a step has to read: each once; of a table that is only looked up in,
    the rows that are looked up."""
    total: dict[task.BufferOp, int] = {}
    for grid in module.walk():
        if not isinstance(grid, task.GridOp):
            continue
        lookup = next((op for op in grid.body.block.ops if isinstance(op, EmbeddingOp)), None)
        for value in grid.reads:
            buffer = buffer_of(value)
            if buffer.kind.data is not task.BufferKind.WEIGHT:
                continue
            type = task.memref_type_of(buffer.result)
            element = type.get_element_type()
            assert isinstance(element, FixedBitwidthType)
            elements = prod(type.get_shape())
            if lookup is not None and value is grid.reads[0]:
                elements = prod(shape_of(lookup.result))
            total[buffer] = max(total.get(buffer, 0), elements * element.bitwidth // 8)
    return sum(total.values())


def _lower(module: ModuleOp, machine: Machine, clock: _Clock, dump: str | Path | None) -> None:
    directory = None if dump is None else Path(dump)
    if directory is not None:
        directory.mkdir(parents=True, exist_ok=True)
    count = 0

    def after(stage: ModulePass, module: ModuleOp) -> None:
        nonlocal count
        if directory is not None:
            (directory / f"{count:02d}-{stage.name}.mlir").write_text(f"{module}\n")
            count += 1

    lower(
        module,
        machine,
        on_pass=lambda stage: clock.start(stage.name.removeprefix("mpk-")),
        after_pass=after,
    )


def _emit(bodies: Any, machine: Machine, tokens: int) -> tuple[str, str]:
    """Source text and its file's suffix."""
    if machine.kind == "cpu":
        from mpkir.backends.cpu.emit import emit

        return emit(bodies, machine.workers, tokens), "cpp"
    from mpkir.backends.cuda.emit import emit as emit_cuda

    return emit_cuda(bodies, machine, tokens), "cu"


def _build(source: str, machine: Machine) -> tuple[bytes, Target]:
    """The binary and what it runs on."""
    if machine.kind == "cpu":
        from mpkir.runtime.cpu import build

        target = Target(
            kind="cpu",
            name=machine.name,
            arch=cpu_arch(),
            workers=machine.workers,
            features=tuple(sorted(cpu_features())),
        )
        return build(source).read_bytes(), target
    from mpkir.runtime.build_cuda import build_cuda
    from mpkir.runtime.cuda import THREADS

    target = Target(
        kind="cuda",
        name=machine.name,
        arch=machine.arch,
        workers=machine.workers,
        threads=THREADS,
        shared_bytes=machine.shared_memory,
    )
    return build_cuda(source, machine.arch), target


def _manifest_buffer(buffer: Any, constants: frozenset[str]) -> Buffer:
    is_weight = buffer.kind == "weight"
    return Buffer(
        name=buffer.name,
        kind="constant" if is_weight and buffer.name in constants else buffer.kind,
        dtype=buffer.dtype,
        shape=tuple(buffer.shape),
        source=buffer.name if is_weight else None,
        initial=buffer.initial if buffer.kind == "state" else None,
    )


def compile(
    program: torch.export.ExportedProgram | torch.nn.Module,
    example_inputs: tuple[Any, ...] | None = None,
    *,
    target: str = "cpu",
    workers: int | None = None,
    output: str | Path | None = None,
    progress: Progress = Progress(),
    dump: str | Path | None = None,
) -> Program:
    """Compile an exported program, or a module with example inputs, into something to call like it.

    target: "cpu", a GPU of `machines/` ("h100", ..) or an architecture ("sm_80"); workers: threads
    or SMs to use, all by default. The program's parameters are used in place where they lie on the
    target's device already. Raises MpkirError for what cannot be exported, imported or compiled.
    """
    from mpkir.frontend import export_module, import_program, signature_of

    machine = machine_named(target, workers=workers)
    if isinstance(program, torch.nn.Module):
        if example_inputs is None:
            raise MpkirError(
                "a module is compiled for the shapes of example inputs, and none were given",
                hint="mpkir.compile(module, (tensor, ...))",
            )
        program = export_module(program, example_inputs)
    module = import_program(program)
    tensors: dict[str, torch.Tensor] = {**program.state_dict, **program.constants}
    artifact = compile_module(
        module,
        machine,
        output=output,
        signature=signature_of(program),
        progress=progress,
        dump=dump,
    )
    return Program(artifact, weights=tensors)
