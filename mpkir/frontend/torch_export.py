"""torch.export -> tensor dialect: one ATen call to one operator, names and source lines kept."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import fx
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind, TensorArgument
from xdsl.dialects.builtin import (
    FileLineColLoc,
    IntAttr,
    LocationAttr,
    ModuleOp,
    NameLoc,
    StringAttr,
    UnknownLoc,
)
from xdsl.dialects.func import FuncOp, ReturnOp
from xdsl.ir import Block, Region, SSAValue

from mpkir.dialects import tensor
from mpkir.errors import MpkirError
from mpkir.frontend.aten import LOWERINGS, Lowering, tensor_type
from mpkir.frontend.aten.registry import HINTS, Value
from mpkir.frontend.aten.scalars import number
from mpkir.frontend.direct import (
    functional,
    inlined_graph,
    is_direct,
    written_buffers,
    written_value,
)

_TORCH = str(Path(torch.__file__).parent)
_FRAME = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+)')
_IGNORED = {
    torch.ops.aten._assert_tensor_metadata.default,
    torch.ops.aten._assert_async.msg,
    torch.ops.aten._assert_scalar.default,
    torch.ops.aten.sym_constrain_range_for_size.default,
}


def import_program(program: ExportedProgram, *, below: str = "") -> ModuleOp:
    """The program as `func.func @step()` of tensor operators.

    Parameters, buffers and constants become `weight "<name>"`, inputs `input "<name>"`, buffers and
    inputs that the program writes `state "<name>"` and `store_state`, results `output "output0"`,
    `output "output1"`, ..; `below` names a submodule: names inside it are then relative to it
    ("model.layers.0" for "lm.model.layers.0" with below="lm"). MpkirError for dynamic shapes and
    for operators without a lowering.
    """
    for node in program.graph.nodes:
        if node.op == "placeholder" and isinstance(node.meta.get("val"), torch.Tensor):
            tensor_type(node.meta["val"], f"input '{node.target}'")
    if not is_direct(program, {*LOWERINGS, *_IGNORED}):
        program = program.run_decompositions({})
    return _Importer(program, below).run()


class _Importer:
    def __init__(self, program: ExportedProgram, below: str) -> None:
        self.program = program
        self.prefix = f"{below}." if below else ""
        self.block = Block()
        self.values: dict[fx.Node, Value] = {}
        self.names: dict[fx.Node, list[fx.Node]] = {}
        """The nodes that stand for a value that is written in place."""

    def run(self) -> ModuleOp:
        self.import_inputs()
        self.import_calls(self.program.graph)
        self.import_outputs()
        self.block.add_op(ReturnOp())
        return ModuleOp([FuncOp("step", ((), ()), Region(self.block))])

    def relative(self, name: str) -> str:
        return name.removeprefix(self.prefix)

    def import_inputs(self) -> None:
        signature = self.program.graph_signature
        mutated = {*signature.buffers_to_mutate.values(), *written_buffers(self.program)}
        mutated_inputs = set(signature.user_inputs_to_mutate.values())
        specs = {spec.arg.name: spec for spec in signature.input_specs}
        for node in self.program.graph.find_nodes(op="placeholder"):
            spec, value = specs[node.name], node.meta.get("val")
            if not isinstance(value, torch.Tensor):
                if node.users:
                    raise MpkirError(
                        f"input '{node.name}' is {type(value).__name__}, not a tensor",
                        hint="pass tensors, or numbers that the model does not compute with",
                    )
                continue
            target = self.relative(spec.target or node.name)
            ranked = tensor_type(value, f"input '{target}'")
            if spec.kind is InputKind.CONSTANT_TENSOR and node.users:
                self.check_value(spec.target or "")
            match spec.kind:
                case InputKind.CONSTANT_TENSOR if value.numel() == 1:
                    literal = self.program.constants[spec.target or ""]
                    assert isinstance(literal, torch.Tensor)
                    attribute = number(literal.item(), ranked.get_element_type())
                    op = tensor.FullOp(attribute, ranked)
                case InputKind.USER_INPUT if node.name in mutated_inputs:
                    op = tensor.StateOp(node.name, ranked)
                case InputKind.USER_INPUT:
                    op = tensor.InputOp(node.name, ranked)
                case InputKind.BUFFER if spec.target in mutated:
                    op = tensor.StateOp(target, ranked)
                case InputKind.PARAMETER | InputKind.BUFFER | InputKind.CONSTANT_TENSOR:
                    op = tensor.WeightOp(target, ranked)
                case _:
                    raise MpkirError(f"input '{target}' is a {spec.kind.name.lower()}")
            if node.users or isinstance(op, tensor.InputOp | tensor.StateOp):
                self.block.add_op(op)
                self.values[node] = op.results[0]

    def check_value(self, constant: str) -> None:
        """Raise MpkirError for a constant of a model without values."""
        value: Any = self.program.constants[constant]
        if value.device.type == "meta":
            raise MpkirError(
                f"the constant '{self.relative(constant)}' has no value",
                hint="what the model's code makes of literals has values only where its weights "
                "have: load the checkpoint, not the configuration alone",
            )

    def import_calls(self, graph: fx.Graph) -> None:
        for node in graph.nodes:
            if node.op != "call_function" or node.target in _IGNORED:
                continue
            if (inner := inlined_graph(node)) is not None:
                self.values[node] = self.import_graph(inner, node.args[2:])
                continue
            self.values[node] = self.import_call(node)
            if functional(node.target) is not None:
                # Whoever reads what the call writes to, by any name, takes what it gives.
                written = written_value(node)
                names = self.names.setdefault(written, [written])
                names.append(node)
                self.values.update(dict.fromkeys(names, self.values[node]))

    def import_graph(self, graph: fx.Graph, arguments: Sequence[Any]) -> tuple[SSAValue, ...]:
        """Import what another graph does with these arguments; its results."""
        inputs = graph.find_nodes(op="placeholder")
        for node, argument in zip(inputs, arguments, strict=True):
            self.values[node] = self.values[argument]
        self.import_calls(graph)
        (output,) = graph.find_nodes(op="output")
        value_of: Any = self.values.__getitem__
        results: Any = fx.map_arg(output.args[0], value_of)
        return tuple(results)

    def import_call(self, node: fx.Node) -> Value:
        location, where = _location(node, self.prefix)
        low = Lowering(node, self.block, location, where)
        overload = functional(node.target) or node.target
        function = LOWERINGS.get(overload)
        if function is None:
            add = f"({str(node.target).replace('aten.', 'torch.ops.aten.', 1)})"
            hints = (f"add one with @mpkir.frontend.register_lowering{add}", HINTS.get(overload))
            raise MpkirError(
                f"{low.describe()} has no lowering",
                where=where,
                hint="; ".join(hint for hint in hints if hint),
            )
        value_of: Any = self.values.__getitem__
        args: Any = fx.map_arg(node.args, value_of)
        kwargs: Any = fx.map_arg(dict(node.kwargs), value_of)
        return function(low, *args, **kwargs)

    def import_outputs(self) -> None:
        nodes = {node.name: node for node in self.program.graph.nodes}
        results = 0
        for target, node in written_buffers(self.program).items():
            value = self.values[node]
            assert isinstance(value, SSAValue)
            self.block.add_op(tensor.StoreStateOp(self.relative(target), value))
        for spec in self.program.graph_signature.output_specs:
            if not isinstance(spec.arg, TensorArgument):
                if spec.kind is OutputKind.USER_OUTPUT:
                    raise MpkirError(f"result {spec.arg} of the program is not a tensor")
                continue
            value = self.values[nodes[spec.arg.name]]
            assert isinstance(value, SSAValue)
            match spec.kind:
                case OutputKind.BUFFER_MUTATION:
                    assert spec.target is not None
                    self.block.add_op(tensor.StoreStateOp(self.relative(spec.target), value))
                case OutputKind.USER_INPUT_MUTATION:
                    assert spec.target is not None
                    self.block.add_op(tensor.StoreStateOp(spec.target, value))
                case OutputKind.USER_OUTPUT:
                    self.block.add_op(tensor.OutputOp(f"output{results}", value))
                    results += 1
                case _:
                    raise MpkirError(
                        f"the program writes to '{spec.target}' ({spec.kind.name.lower()})",
                        hint="write to buffers only",
                    )


def _location(node: fx.Node, prefix: str) -> tuple[LocationAttr, str | None]:
    """The module path with the innermost source line outside torch, as an attribute and as text."""
    frames: list[tuple[str, int]] = [
        (match["file"], int(match["line"]))
        for match in _FRAME.finditer(node.meta.get("stack_trace") or "")
    ]
    own = [frame for frame in frames if not frame[0].startswith(_TORCH)] or frames
    stack: dict[str, Any] = node.meta.get("nn_module_stack") or {}
    path = (list(stack.values())[-1][0] if stack else "").removeprefix("L['self'].")
    path = "" if f"{path}." == prefix else path.removeprefix(prefix)
    line: LocationAttr = UnknownLoc()
    text = path or None
    if own:
        file, number = own[-1]
        line = FileLineColLoc(StringAttr(file), IntAttr(number), IntAttr(0))
        text = f"{file}:{number}" + (f" ({path})" if path else "")
    return (NameLoc(StringAttr(path), line) if path else line), text
