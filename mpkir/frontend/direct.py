"""Whether an exported program can be imported as it stands.

`ExportedProgram.run_decompositions` retraces the whole program to make it functional, which takes
longer than all that the compiler does with it. What models write in place is mostly a cache, or a
value that nothing else looks at: there a functional operator does the same if later readers take
its result. This module says so, or that the program needs the retracing.
"""

from __future__ import annotations

import operator
from collections.abc import Container, Mapping
from typing import Any

import torch
from torch import fx
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind

_GRAD_MODE = torch.ops.higher_order.wrap_with_set_grad_enabled
_COMPOSITE = torch._C.DispatchKey.CompositeImplicitAutograd


def functional(target: Any) -> Any | None:
    """The operator that computes what this one writes to its first argument; None if it writes
    nothing, or something else."""
    if not isinstance(target, torch._ops.OpOverload) or not target._schema.is_mutable:
        return None
    if target is torch.ops.aten.detach_.default:
        return None
    packet = target._schema.name.removeprefix("aten::")
    if not packet.endswith("_") or packet.endswith("__"):
        return None
    found = getattr(torch.ops.aten, packet.removesuffix("_"), None)
    return getattr(found, target._overloadname, None)


def written_value(node: fx.Node) -> fx.Node:
    """Whose memory a call writes: the value that its argument is after earlier writes."""
    while functional(node.target) is not None and isinstance(node.args[0], fx.Node):
        node = node.args[0]
    return node


def inlined_graph(node: fx.Node) -> fx.Graph | None:
    """The graph that a node runs with gradients on or off, which is nothing to a compiler."""
    if node.target is not _GRAD_MODE:
        return None
    body = node.args[1]
    assert isinstance(body, fx.Node)
    module = node.graph.owning_module
    assert module is not None
    return getattr(module, str(body.target)).graph


def is_direct(program: ExportedProgram, known: Container[Any]) -> bool:
    """Whether every call has a known operator and every write may become a new value."""
    buffers = _buffers(program)
    places = {node: place for place, node in enumerate(program.graph.nodes)}
    for node in program.graph.nodes:
        if node.op != "call_function":
            continue
        if (graph := inlined_graph(node)) is not None:
            if not all(_is_known(inner, known) for inner in graph.nodes):
                return False
        elif not _is_known(node, known):
            if functional(node.target) not in known or not _may_replace(node, buffers, places):
                return False
    return True


def written_buffers(program: ExportedProgram) -> dict[str, fx.Node]:
    """The buffers that calls of a direct program write, with their placeholders, by target."""
    buffers = _buffers(program)
    found: dict[str, fx.Node] = {}
    for node in program.graph.nodes:
        if node.op == "call_function" and functional(node.target) is not None:
            written = written_value(node)
            if written in buffers:
                found[buffers[written]] = written
    return found


def _buffers(program: ExportedProgram) -> Mapping[Any, str]:
    names = {
        spec.arg.name: spec.target
        for spec in program.graph_signature.input_specs
        if spec.kind is InputKind.BUFFER and spec.target is not None
    }
    return {
        node: names[node.name]
        for node in program.graph.find_nodes(op="placeholder")
        if node.name in names
    }


def _is_known(node: fx.Node, known: Container[Any]) -> bool:
    if node.op != "call_function":
        return node.op in ("placeholder", "output", "get_attr")
    return node.target in known


def _may_replace(node: fx.Node, buffers: Mapping[Any, str], places: Mapping[fx.Node, int]) -> bool:
    """Whether nothing but the written value and what comes of it sees the write."""
    written = written_value(node)
    if written.op == "placeholder":
        if written not in buffers:
            return False
    elif _may_be_view(written):
        return False
    names = [written]
    for name in names:
        for user in name.users:
            if places[user] >= places[node]:
                continue
            if functional(user.target) is not None and user.args[0] is name:
                names.append(user)
            elif _may_be_view(user):
                return False
    return True


def _may_be_view(node: fx.Node) -> bool:
    """Whether a node's result may share memory with an argument's."""
    if node.target is operator.getitem:
        source = node.args[0]
        return not isinstance(source, fx.Node) or _may_be_view(source)
    target = node.target
    if not isinstance(target, torch._ops.OpOverload):
        return True
    aliases = any(result.alias_info is not None for result in target._schema.returns)
    return aliases or target.has_kernel_for_dispatch_key(_COMPOSITE)
