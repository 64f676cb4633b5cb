"""From a module at tensor level to an artifact on disk, and from a torch module to a program.

`compile` is what a user calls; `compile_module` is the same for IR that is already there.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from io import StringIO
from math import prod
from pathlib import Path
from time import perf_counter
from typing import Any, cast
from uuid import uuid4

import torch
from xdsl.dialects.builtin import FixedBitwidthType, ModuleOp
from xdsl.ir import SSAValue
from xdsl.passes import ModulePass
from xdsl.printer import Printer

from mpkir import program_cache
from mpkir.analysis.step_shapes import step_shapes
from mpkir.backends.body import bodies_of
from mpkir.backends.origins import origins_in
from mpkir.backends.table import Buffer as TableBuffer
from mpkir.backends.table import buffers_of, table_of
from mpkir.builders import Builder
from mpkir.collection import rare_collection
from mpkir.dialects import task
from mpkir.dialects.shards import ShardAttr
from mpkir.dialects.tensor import EmbeddingOp, ExpertLinearOp, shape_of
from mpkir.errors import MpkirError
from mpkir.machine import Machine, machine_named
from mpkir.passes.plan_memory import activation_bytes
from mpkir.passes.shard import remarks_of
from mpkir.pipeline import POLICY, lower
from mpkir.program_cache import Key
from mpkir.progress import SILENT, Progress
from mpkir.registry import include_directories, named
from mpkir.runtime.arrangement import Arrangement
from mpkir.runtime.artifact import Artifact, check_replaceable, write_artifact
from mpkir.runtime.manifest import (
    Buffer,
    BufferKind,
    LanguageRoles,
    Manifest,
    Part,
    Piece,
    Shard,
    Signature,
)
from mpkir.runtime.origins import ORIGINS
from mpkir.runtime.origins import to_json as origins_to_json
from mpkir.runtime.program import Program
from mpkir.runtime.weights import TensorFiles
from mpkir.source_keys import exported_program_key
from mpkir.tuned import choices, with_tuned
from mpkir.variant import DEFAULT, Variant


@rare_collection()
def compile_module(
    module: ModuleOp,
    machine: Machine,
    *,
    output: str | Path | None = None,
    constants: Mapping[str, torch.Tensor] | None = None,
    weights: Mapping[str, torch.Tensor] | None = None,
    weight_files: Sequence[str | Path] = (),
    made_weights: Mapping[str, Arrangement] | None = None,
    signature: Signature | None = None,
    language: LanguageRoles | None = None,
    extra_files: Mapping[str, bytes] | None = None,
    tokens_per_step: int = 1,
    progress: Progress = SILENT,
    dump: str | Path | None = None,
    policy: str = POLICY,
    variant: Variant = DEFAULT,
    tp: int = 1,
) -> Artifact:
    """Compile a tensor-level module, which is changed in place, and write its artifact.

    `output` is the artifact's directory. By default it is one in the cache, named by all that goes
    into the compilation; what lies there already, whole and unchanged, is taken as it is.
    `constants` are small tensors kept in the artifact; `weights` are stored with it, `weight_files`
    referred to, with `made_weights` made of what they hold; with neither the loader brings them.
    `dump` is a directory that gets the IR after every pass; `policy` schedules the tasks; `variant`
    is what is done otherwise than by default; `tp` is how many ranks run the program together.
    Raises MpkirError.
    """
    if output is not None:
        check_replaceable(output)
    variant = with_tuned(variant, machine, step_shapes(module))
    machine = variant.machine_of(machine)
    constants, extra_files = dict(constants or {}), dict(extra_files or {})
    if output is None:
        with progress.stage("look into the cache"):
            files = tuple(str(Path(file).resolve()) for file in weight_files)
            known = program_cache.environment()
            # Where code has no file, an artifact is made each time, in a place of its own.
            key = Key(uuid4().hex if known is None else known, text_of(module, generic=True))
            made = sorted((made_weights or {}).items())
            parts = (
                machine,
                signature,
                language,
                tokens_per_step,
                policy,
                variant,
                tp,
                files,
                made,
            )
            program_cache.add_artifact_parts(key, parts, constants, extra_files)
            output = program_cache.place_of(key)
            held = program_cache.artifact_at(output)
        if held is not None and dump is None:
            return held
    _lower(module, machine, progress, dump, policy, variant, tp)
    with progress.stage("emit"):
        bodies = bodies_of(module)
        table = table_of(module)
        builder = _builder(machine)
        source = variant.source_of(builder.emit(bodies, machine, tokens_per_step))
    with progress.stage("build"):
        binary, target = builder.build(source, machine, include_directories())
    with progress.stage("write"):
        manifest = Manifest(
            target=target,
            buffers=tuple(_manifest_buffer(each, constants) for each in buffers_of(module)),
            bodies=table.names.bodies,
            families=table.names.families,
            events=table.names.events,
            source=f"kernel.{builder.suffix}",
            binary="kernel.so" if target.kind == "cpu" else "kernel.cubin",
            tokens_per_step=tokens_per_step,
            ranks=table.ranks,
            peer_events=table.peer_events,
            signature=signature,
            language=language,
            info={
                "weight_bytes_per_step": weight_bytes_per_step(module),
                **activation_bytes(module),
                "policy": policy,
                **({"variant": variant.name} if variant.name else {}),
                **({"undivided": "; ".join(remarks)} if (remarks := remarks_of(module)) else {}),
            },
        )
        # A tied weight has several names, of which a program uses one.
        used = {
            name
            for buffer in manifest.buffers
            if buffer.kind == "weight"
            for name in buffer.sources
        }
        if weights is not None:
            weights = {name: tensor for name, tensor in weights.items() if name in used}
        found = {name: each for name, each in (made_weights or {}).items() if name in used}
        manifest = replace(manifest, made_weights=found)
        if weight_files:
            _check_held(used, TensorFiles(map(Path, weight_files), found))
        return write_artifact(
            output,
            manifest,
            table,
            source=source,
            binary=binary,
            constants=constants,
            weights=weights,
            weight_files=weight_files,
            extra_files={**extra_files, ORIGINS: origins_to_json(origins_in(module, bodies))},
        )


def _check_held(names: Collection[str], files: TensorFiles) -> None:
    """MpkirError unless weights of these names are in files that an artifact is to refer to."""
    missing = [name for name in sorted(names) if not files.can_make(name)]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise MpkirError(
            f"weight {missing[0]!r}{more} not in the files, which hold {len(files)} tensors",
            hint="give all files of the checkpoint, each with --weights, or none",
        )


def text_of(module: ModuleOp, *, generic: bool = False) -> str:
    """A module as text that parses back to it, with a line break at the end."""
    text = StringIO()
    Printer(text, print_generic_format=generic).print_op(module)
    return f"{text.getvalue()}\n"


def weight_bytes_per_step(module: ModuleOp) -> int:
    """Bytes of weights that a step has to read: each once; of a table that is only looked up in,
    the rows that are looked up; of a stack of experts, as many as are chosen (the same expert for
    several tokens counts for each, up to all that there are)."""
    total: dict[task.BufferOp, int] = {}
    for grid in module.walk():
        if not isinstance(grid, task.GridOp):
            continue
        reads: dict[SSAValue, SSAValue] = dict(zip(grid.body.block.args, grid.reads, strict=True))
        for argument, value in reads.items():
            buffer = task.buffer_of(value)
            if buffer.kind.data is not task.BufferKind.WEIGHT:
                continue
            type = task.memref_type_of(buffer.result)
            element = type.get_element_type()
            assert isinstance(element, FixedBitwidthType)
            elements = prod(type.get_shape())
            for use in argument.uses:
                op = use.operation
                if isinstance(op, EmbeddingOp) and op.table is argument:
                    elements = prod(shape_of(op.result))
                elif isinstance(op, ExpertLinearOp) and argument in op.weights:
                    slots = prod(task.memref_type_of(reads[op.experts]).get_shape())
                    experts = shape_of(argument)[0]
                    elements = elements // experts * min(slots, experts)
            total[buffer] = max(total.get(buffer, 0), elements * element.bitwidth // 8)
    return sum(total.values())


def _lower(
    module: ModuleOp,
    machine: Machine,
    progress: Progress,
    dump: str | Path | None,
    policy: str,
    variant: Variant,
    tp: int,
) -> None:
    directory = None if dump is None else Path(dump)
    if directory is not None:
        _make_directory(directory)
    begun = perf_counter()
    count = 0

    def on_pass(stage: ModulePass) -> None:
        nonlocal begun
        progress.begin(stage.name.removeprefix("mpk-"))
        begun = perf_counter()

    def after_pass(stage: ModulePass, module: ModuleOp) -> None:
        nonlocal count
        progress.end(stage.name.removeprefix("mpk-"), perf_counter() - begun)
        if directory is not None:
            (directory / f"{count:02d}-{stage.name}.mlir").write_text(text_of(module))
            count += 1

    lower(
        module,
        machine,
        policy=policy,
        variant=variant,
        tp=tp,
        on_pass=on_pass,
        after_pass=after_pass,
    )


def _make_directory(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MpkirError(
            f"the directory cannot be made ({error.strerror})", where=str(path)
        ) from error


def _builder(machine: Machine) -> Builder:
    """The backend of a machine. Raises MpkirError if nobody has it."""
    backends = named("backends")
    if machine.builder not in backends:
        raise MpkirError(
            f"no backend is named {machine.builder!r}, which {machine.name} asks for",
            hint=f"load the plugin that has it, or choose one of {', '.join(backends)}",
        )
    return backends[machine.builder]()()


def _manifest_buffer(buffer: TableBuffer, constants: Mapping[str, torch.Tensor]) -> Buffer:
    is_weight, is_state = buffer.kind == "weight", buffer.kind == "state"
    has_source = (is_weight and not buffer.parts) or (is_state and buffer.name in constants)
    names = [name for name, _, _ in buffer.parts] or [buffer.symbol]
    is_constant = is_weight and all(name in constants for name in names)
    return Buffer(
        name=buffer.name,
        kind=cast(BufferKind, "constant" if is_constant else buffer.kind),
        dtype=buffer.dtype,
        shape=tuple(buffer.shape),
        source=buffer.symbol if has_source else None,
        initial=buffer.initial if is_state else None,
        donated=buffer.donated,
        flagged=buffer.flagged,
        brief=buffer.brief,
        apart=buffer.apart,
        panels=0 if buffer.panels is None else buffer.panels.group,
        columns=0 if buffer.panels is None else buffer.panels.columns,
        planes=buffer.planes,
        packed=buffer.packed,
        parts=tuple(Part(name, rows, _shard(shard)) for name, rows, shard in buffer.parts),
        shard=_shard(buffer.shard),
        exchange=buffer.exchange,
    )


def _shard(shard: ShardAttr | None) -> Shard | None:
    if shard is None:
        return None
    return Shard(shard.dim.data, shard.of.data, tuple(Piece(*each) for each in shard.pieces))


@rare_collection()
def compile(
    program: torch.export.ExportedProgram | torch.nn.Module,
    args: tuple[Any, ...] | None = None,
    kwargs: dict[str, Any] | None = None,
    *,
    target: str = "cpu",
    workers: int | None = None,
    output: str | Path | None = None,
    progress: Progress = SILENT,
    dump: str | Path | None = None,
    policy: str = POLICY,
) -> Program:
    """Compile an exported program, or a module with example arguments, into a program like it.

    target: "cpu", a GPU of `machines/` ("h100", ..) or an architecture ("sm_80"); workers: threads
    or SMs to use, all by default; output: the artifact's directory, which then holds the weights
    too, by default one in the cache; policy: who schedules the tasks ("round-robin", "hybrid", ..,
    see docs/scheduling.md). Parameters are used in place where they lie on the target's device
    already. Raises MpkirError for what cannot be exported, imported or compiled.
    """
    from mpkir.frontend import (
        export_module,
        first_states,
        import_program,
        signature_of,
        tensors_of,
        without_torch_notes,
    )

    machine = machine_named(target, workers=workers)
    if isinstance(program, torch.nn.Module):
        if args is None and kwargs is None:
            raise MpkirError(
                "a module is compiled for the shapes of example arguments, and none were given",
                hint="mpkir.compile(module, (tensor, ...))",
            )
        with progress.stage("export"):
            exported = export_module(program, args or (), kwargs)
    elif args is not None or kwargs is not None:
        raise MpkirError(
            "an exported program has its arguments already", hint="leave out args and kwargs"
        )
    else:
        exported = program
    tensors = tensors_of(exported)
    parts = (machine, policy, choices(machine.name))
    key = None if output is not None else exported_program_key(exported, parts)
    if key is not None and dump is None:
        with progress.stage("look into the cache"):
            held = program_cache.find(key)
        if held is not None:
            return Program(held, weights=tensors)
    with progress.stage("import"), without_torch_notes():
        module = import_program(exported)
    artifact = compile_module(
        module,
        machine,
        output=output,
        constants=first_states(module, exported),
        weights=tensors if output is not None else None,
        signature=signature_of(exported),
        progress=progress,
        dump=dump,
        policy=policy,
    )
    if key is not None:
        program_cache.remember(key, artifact)
    return Program(artifact, weights=tensors)
