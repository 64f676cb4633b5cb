"""What an exported model depends on, hashed without exporting it.

A key must change with everything that can change the IR. Where that cannot be known (modules of
the user's own, hooks, patched functions), there is no key, and the model is exported.
"""

from __future__ import annotations

import operator
import sys
import sysconfig
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from types import FunctionType
from typing import Any

import torch
from torch import nn
from torch.export import ExportedProgram

from mpkir import program_cache
from mpkir.program_cache import Key

_KNOWN = ("torch", "transformers")
"""Packages whose code is told by their version, where they are installed and not linked."""
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")
_OPERATORS = ("aten", "prims")


def language_model_key(
    model: nn.Module,
    parts: Sequence[Any],
    constants: Mapping[str, torch.Tensor],
    extra_files: Mapping[str, bytes],
) -> Key | None:
    """The key of a transformers model's decode step; None if what it depends on cannot be known.

    parts                   all else that goes into the compilation: machine, capacity, policy, ..
    constants, extra_files  what the artifact holds beside the code

    Of weights it has names, types and shapes only, and which are tied.
    """
    config, known = getattr(model, "config", None), program_cache.environment()
    if config is None or known is None or not _is_code_known(model):
        return None
    key = Key("language model", known, tuple(parts))
    program_cache.add_artifact_parts(key, (), constants, extra_files)
    key.add(sorted(_settings(config)))
    for name, module in model.named_modules():
        key.add(name, type(module).__module__, type(module).__qualname__, module.training)
        key.add(sorted(_plain(vars(module)).items()))
    first: dict[int, str] = {}
    for name, tensor in _tensors(model):
        same = first.setdefault(id(tensor), name)
        key.add(name, same, tensor.dtype, tuple(tensor.shape), tensor.stride(), tensor.device.type)
    return key


def _tensors(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    yield from model.named_parameters(remove_duplicate=False)
    yield from model.named_buffers(remove_duplicate=False)


def _settings(config: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """All of a configuration, what it inherits and what it contains, as text."""
    for name, value in vars(config).items():
        if hasattr(value, "to_dict") and hasattr(value, "model_type"):
            yield from _settings(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", repr(value)
    yield f"{prefix}class", f"{type(config).__module__}.{type(config).__qualname__}"


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    """Those that are numbers, words, or sequences of them."""
    return {name: value for name, value in values.items() if _is_plain(value)}


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(_is_plain(each) for each in value)
    return value is None or isinstance(value, bool | int | float | str | torch.dtype)


def _is_code_known(model: nn.Module) -> bool:
    """Whether the code that runs in an export is that of installed packages, unchanged."""
    if not all(map(_is_installed, _KNOWN)) or torch.nn.modules.module._has_any_global_hook():
        return False
    classes: set[type] = set()
    for module in model.modules():
        if "forward" in vars(module) or any(vars(module).get(hook) for hook in _HOOKS):
            return False
        classes.update(type(module).__mro__)
    homes = {each.__module__ for each in classes} - {"builtins"}
    if any(home.partition(".")[0] not in _KNOWN and not _is_standard(home) for home in homes):
        return False
    functions = [f for each in classes for f in vars(each).values()]
    # What a model's file calls by name may have been replaced there, too.
    for home in homes:
        if home.startswith("transformers.models."):
            functions += vars(sys.modules[home]).values()
    return all(map(_is_original, functions)) and _is_attention_known(model)


def _is_attention_known(model: nn.Module) -> bool:
    """Whether the attention that the configuration names is one of transformers' own."""
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    name = getattr(getattr(model, "config", None), "_attn_implementation", None)
    found = [table.get(name) for table in (ALL_ATTENTION_FUNCTIONS, ALL_MASK_ATTENTION_FUNCTIONS)]
    return all(map(_is_original, found))


def _is_standard(module: str) -> bool:
    return module.partition(".")[0] in sys.stdlib_module_names


def _is_original(function: Any) -> bool:
    """Whether a function's code lies in a known package or in Python's library; True for what is no
    Python function."""
    if isinstance(function, staticmethod | classmethod):
        function = function.__func__
    return not isinstance(function, FunctionType) or _is_known_file(function.__code__.co_filename)


@cache
def _is_known_file(name: str) -> bool:
    path = Path(name)
    return any(path.is_relative_to(root) for root in _known_folders())


@cache
def _known_folders() -> tuple[Path, ...]:
    packages = [Path(sys.modules[name].__file__ or "").parent for name in _KNOWN]
    return (*packages, Path(sysconfig.get_path("stdlib")))


@cache
def _is_installed(package: str) -> bool:
    """Whether a package's version says what its files are: not for one linked to a working copy."""
    try:
        link = distribution(package).read_text("direct_url.json")
    except PackageNotFoundError:
        return False
    return link is None or '"editable": true' not in link


def exported_program_key(program: ExportedProgram, parts: Sequence[Any]) -> Key | None:
    """The key of an exported program: its graph and signature, and `parts`, all else that goes into
    the compilation. None where operators of unknown packages are in it."""
    known = program_cache.environment()
    if known is None:
        return None
    key = Key("exported program", known, tuple(parts))
    for name, module in program.graph_module.named_modules():
        if not isinstance(module, torch.fx.GraphModule):
            continue
        key.add(name)
        for node in module.graph.nodes:
            if node.op == "call_function" and not _is_known_operator(node.target):
                return None
            key.add(node.op, node.name, str(node.target), _text(node.args), _text(node.kwargs))
            key.add(_text(node.meta.get("val")), node.meta.get("stack_trace"))
            stack = node.meta.get("nn_module_stack") or {}
            key.add([path for path, _ in stack.values()])
    signature = program.graph_signature
    key.add(str(signature.input_specs), str(signature.output_specs), str(program.call_spec))
    for name, tensor in program.state_dict.items():
        key.add(name, tensor.dtype, tuple(tensor.shape))
    constants = {k: v for k, v in program.constants.items() if isinstance(v, torch.Tensor)}
    key.add_tensors(constants)
    # Which buffers the program writes is known only after its import: all may be states, whose
    # first values the artifact holds.
    buffers = set(signature.inputs_to_buffers.values())
    key.add_tensors({k: v for k, v in program.state_dict.items() if k in buffers})
    return key


def _is_known_operator(target: Any) -> bool:
    if isinstance(target, torch._ops.OpOverload):
        return target.namespace in _OPERATORS
    return isinstance(target, torch._ops.HigherOrderOperator) or target is operator.getitem


def _text(value: Any) -> str:
    """Arguments and results with tensors as types and nodes as names."""
    if isinstance(value, torch.Tensor):
        return f"{value.dtype}{list(value.shape)}{value.device.type}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_text, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{k}: {_text(v)}' for k, v in value.items())}}}"
    return str(value)
