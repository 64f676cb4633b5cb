"""How an exported program is called, in terms of the buffers that its compiled form will have."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind, TensorArgument
from torch.utils import _pytree as pytree
from xdsl.dialects.builtin import ModuleOp

from mpkir.dialects import tensor
from mpkir.errors import MpkirError
from mpkir.runtime.manifest import Signature


def export_module(
    module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None
) -> ExportedProgram:
    """`torch.export.export` of a module in evaluation mode; MpkirError where torch refuses it."""
    try:
        with without_torch_notes():
            return torch.export.export(module.eval(), args, kwargs, strict=False)
    except Exception as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise MpkirError(
            f"torch.export refuses {type(module).__name__}: {reason[0]}",
            hint="see torch.export's documentation, or export it yourself and pass the program",
        ) from error


@contextmanager
def without_torch_notes() -> Iterator[None]:
    """Without the warnings that torch.export's own code gives torch's own code."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*LeafSpec.*", FutureWarning)
        yield


def signature_of(program: ExportedProgram) -> Signature:
    """The names of a program's inputs and outputs in order, and how its arguments nest."""
    inputs = [
        spec.arg.name
        for spec in program.graph_signature.input_specs
        if spec.kind is InputKind.USER_INPUT and isinstance(spec.arg, TensorArgument)
    ]
    results = [
        spec
        for spec in program.graph_signature.output_specs
        if spec.kind is OutputKind.USER_OUTPUT and isinstance(spec.arg, TensorArgument)
    ]
    outputs = [f"output{index}" for index in range(len(results))]
    return Signature(
        inputs=tuple(inputs),
        outputs=tuple(outputs),
        in_tree=_dumps(program.call_spec.in_spec, len(inputs)),
        out_tree=_dumps(program.call_spec.out_spec, len(outputs)),
    )


def tensors_of(program: ExportedProgram) -> dict[str, torch.Tensor]:
    """Parameters, buffers and constants of a program by name, not copied."""
    found: dict[str, Any] = {**program.state_dict, **program.constants}
    return {name: value for name, value in found.items() if isinstance(value, torch.Tensor)}


def first_states(module: ModuleOp, program: ExportedProgram) -> dict[str, torch.Tensor]:
    """What the states of an imported program begin as, by name, where it is not zeros.

    A state that is an argument has no beginning of its own.
    """
    tensors = tensors_of(program)
    names = [op.sym.data for op in module.walk() if isinstance(op, tensor.StateOp)]
    return {name: tensors[name] for name in names if name in tensors and bool(tensors[name].any())}


def _dumps(spec: pytree.TreeSpec | None, tensors: int) -> str | None:
    """A tree as JSON; None where it holds other leaves than these tensors or types of the user."""
    if spec is None or spec.num_leaves != tensors:
        return None
    try:
        return pytree.treespec_dumps(spec)
    except (NotImplementedError, TypeError, ValueError):
        return None
