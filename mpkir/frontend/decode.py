"""A causal language model's decode step: token in, token out, caches as states.

The model is any that transformers builds: it is exported with a cache of our own whose layers are
plain tensors of fixed capacity, so that the exported graph writes rows of buffers and masks by
position.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.export import ExportedProgram
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, CacheLayerMixin
from xdsl.dialects.builtin import ModuleOp, TensorType, i64
from xdsl.ir import SSAValue
from xdsl.rewriter import InsertPoint, Rewriter

from mpkir.dialects import tensor
from mpkir.errors import MpkirError
from mpkir.frontend.huggingface import settle_frequencies
from mpkir.frontend.torch_export import import_program

SEQUENCE = "tokens"
"""The state that holds the token sequence: i64 [capacity + 1], -1 where unknown; of a batch of
several sequences, i64 [batch, capacity + 1]."""
ROUND = 16
"""Cache capacities are multiples of this, so that a cache divides into equal chunks."""


def decode_step(
    model: PreTrainedModel,
    capacity: int,
    tokens: int = 1,
    stop: Sequence[int] = (),
    *,
    batch: int = 1,
) -> ModuleOp:
    """The program of one step of a generation loop, at positions p .. p + tokens - 1.

    Reads the step's tokens from the state "tokens", appends keys and values to the states "k0",
    "v0", .., gives `output "logits"` (f32 [batch, tokens, V]) and appends the most likely next
    token unless it is known; a token in `stop` ends the loop. `capacity` (rounded up to a multiple
    of 16) is the longest sequence. A batch of several sequences goes through the same positions in
    lock-step, each with its own tokens and caches, until all have ended (see `SequenceAppendOp`).
    Weight names are the model's own. The model may lie on the meta device. MpkirError where it
    cannot be exported.
    """
    return export_step(model, capacity, tokens, batch).module(stop)


@dataclass(frozen=True)
class ExportedStep:
    """A decode step that torch has exported."""

    model: PreTrainedModel
    program: ExportedProgram
    caches: Sequence[str]
    capacity: int
    tokens: int
    batch: int

    def module(self, stop: Sequence[int] = ()) -> ModuleOp:
        """It as a step program; see `decode_step`."""
        module = import_program(self.program, below="model")
        written = {op.sym.data for op in module.walk() if isinstance(op, tensor.StoreStateOp)}
        if missing := [name for name in self.caches if name not in written]:
            raise _not_decodable(self.model, f"it does not write the cache {missing[0]}")
        _close_loop(module, self, stop)
        return module


def export_step(
    model: PreTrainedModel, capacity: int, tokens: int = 1, batch: int = 1
) -> ExportedStep:
    """What `decode_step` imports."""
    if capacity < 1 or not 1 <= tokens <= capacity:
        raise MpkirError(f"a step of {tokens} tokens with capacity {capacity}")
    if batch < 1:
        raise MpkirError(f"a batch of {batch} sequences")
    capacity = -(-capacity // ROUND) * ROUND
    settle_frequencies(model)
    device = next(model.parameters()).device
    example = (
        torch.zeros(batch, tokens, dtype=torch.long, device=device),
        torch.zeros(tokens, dtype=torch.long, device=device),
    )
    with _buffers_on(model, device), _gathered_experts(model):
        try:
            step = _DecodeStep(model, capacity, batch).eval()
            try:
                program = torch.export.export(step, example, strict=False)
            except GuardOnDataDependentSymNode as error:
                program = _exported_with_mask(step, example, error)
            else:
                if any(node.target in _NUMBERS for node in program.graph.nodes):
                    program = _exported_with_mask(step, example)
        except MpkirError:
            raise
        except Exception as error:
            lines = str(error).strip().splitlines() or [type(error).__name__]
            raise _not_decodable(model, lines[0]) from error
    return ExportedStep(model, program, step.caches, capacity, tokens, batch)


_NUMBERS = (torch.ops.aten.item.default, torch.ops.aten._local_scalar_dense.default)
"""What makes a number, as of a length, of a tensor."""


def _exported_with_mask(
    step: _DecodeStep, example: tuple[torch.Tensor, ...], refused: Exception | None = None
) -> ExportedProgram:
    """The program of a model that makes a tensor as long as the text is: told of a mask as long as
    the cache, it takes that. `refused`, if it does not.
    """
    step.masked = True
    try:
        return torch.export.export(step, example, strict=False)
    except Exception as error:
        raise refused or error from error


def _not_decodable(model: PreTrainedModel, reason: str) -> MpkirError:
    hint = "models with one key-value cache of full length for each layer are supported"
    if "item()" in reason or "data-dependent" in reason:
        hint = "its code asks for the value of a tensor, which is known only when a step runs"
    return MpkirError(
        f"{model.config.model_type} cannot be exported with a static cache: {reason}", hint=hint
    )


class _CacheLayer(CacheLayerMixin):
    """Keys and values of one layer: whole tensors of which a step writes its rows."""

    is_compileable = True
    is_sliding = False
    keys: Any
    values: Any

    def __init__(self, keys: torch.Tensor, values: torch.Tensor, position: torch.Tensor) -> None:
        super().__init__()
        self.keys, self.values, self.position = keys, values, position
        self.is_initialized = True

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        raise AssertionError("the cache exists before the model runs")

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        self.keys.index_copy_(2, self.position, key_states)
        self.values.index_copy_(2, self.position, value_states)
        return self.keys, self.values

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.keys.shape[2], 0

    def get_seq_length(self) -> Any:
        # A tensor, not a number: the model's mask code then compares positions in the graph.
        return self.position[0]

    def get_max_length(self) -> int:
        return self.keys.shape[2]


class _DecodeStep(nn.Module):
    """`model` with a static cache in buffers k0, v0, k1, ..; gives f32 logits."""

    def __init__(self, model: PreTrainedModel, capacity: int, batch: int) -> None:
        super().__init__()
        self.model = model
        self.capacity = capacity
        self.masked = False
        """Whether the model is told that it may see the whole cache, up to its position."""
        self.caches: list[str] = []
        weight = next(model.parameters())
        kept = _kept_by_layers(model)
        self.layers = len(kept)
        for i, shapes in enumerate(kept):
            for name, (heads, dim) in zip((f"k{i}", f"v{i}"), shapes, strict=True):
                shape = (batch, heads, capacity, dim)
                cache = torch.zeros(shape, dtype=weight.dtype, device=weight.device)
                self.register_buffer(name, cache, persistent=False)
                self.caches.append(name)

    def forward(self, token: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
        layers: list[Any] = [
            _CacheLayer(getattr(self, f"k{i}"), getattr(self, f"v{i}"), position)
            for i in range(self.layers)
        ]
        options: dict[str, torch.Tensor] = {}
        if self.masked:
            shape = (token.shape[0], self.capacity)
            options["attention_mask"] = torch.ones(shape, dtype=torch.long, device=token.device)
        result = self.model(
            input_ids=token,
            position_ids=position[None],
            past_key_values=Cache(layers=layers),
            use_cache=True,
            **options,
        )
        return result.logits.float()


def _kept_by_layers(
    model: PreTrainedModel,
) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """(heads, size) of the keys and of the values that each layer keeps.

    The model says it by what it keeps of one token; it runs without values. MpkirError for layers
    that keep something else.
    """
    given = (*model.named_parameters(), *model.named_buffers())
    values = {name: value.to("meta") for name, value in given}
    one = torch.zeros(1, 1, dtype=torch.long, device="meta")
    options = {"input_ids": one, "use_cache": True}
    try:
        with torch.no_grad():
            result = torch.func.functional_call(model, values, kwargs=options)
    except Exception:
        # It asks for values. An export, which is told positions, may do without.
        kept = _kept_by_configuration(model)
    else:
        kept = _kept_of(model, getattr(result, "past_key_values", None))
    own = type(model).__module__.startswith("transformers.")
    if own and not model._can_compile_fullgraph:
        # It might give wrong numbers: a mask of its own that counts from the end of the text.
        raise _not_decodable(model, "transformers says that it works with a growing one only")
    return kept


def _kept_of(model: PreTrainedModel, cache: Any) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """The same of what a model has kept."""
    kept: list[tuple[tuple[int, int], tuple[int, int]]] = []
    layers: Any = getattr(cache, "layers", ())
    for number, layer in enumerate(layers):
        shapes = [
            (int(each.shape[1]), int(each.shape[3]))
            for each in (getattr(layer, "keys", None), getattr(layer, "values", None))
            if isinstance(each, torch.Tensor) and each.dim() == 4
        ]
        if len(shapes) != 2:
            kind = type(layer).__name__
            raise _not_decodable(model, f"layer {number} keeps something else ({kind})")
        kept.append((shapes[0], shapes[1]))
    if not kept:
        raise _not_decodable(model, "its layers keep no keys and values")
    return kept


def _kept_by_configuration(
    model: PreTrainedModel,
) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """The same by what configurations usually call it."""
    config = model.config.get_text_config()
    # Layers that differ: only newer transformers know them.
    layers = getattr(config, "per_layer_config", [config] * int(config.num_hidden_layers))
    kept: list[tuple[tuple[int, int], tuple[int, int]]] = []
    for layer in layers:
        heads = layer.num_attention_heads
        kv = getattr(layer, "num_key_value_heads", None) or heads
        dim = getattr(layer, "head_dim", None) or layer.hidden_size // heads
        kept.append(((kv, dim), (kv, dim)))
    return kept


@contextmanager
def _buffers_on(model: nn.Module, device: torch.device) -> Iterator[None]:
    """For a while, buffers are on the device of the parameters: an export needs no values."""
    places = [
        (owner, name, buffer)
        for owner in model.modules()
        for name, buffer in owner.named_buffers(recurse=False)
        if buffer.device != device
    ]
    for owner, name, buffer in places:
        owner._buffers[name] = buffer.to(device)
    try:
        yield
    finally:
        for owner, name, buffer in places:
            owner._buffers[name] = buffer


@contextmanager
def _gathered_experts(model: PreTrainedModel) -> Iterator[None]:
    """For a while, mixtures of experts gather the weights that their routers choose.

    Of transformers' implementations this one has static shapes and touches the chosen experts only.
    """
    held = model.get_experts_implementation()
    model.set_experts_implementation("batched_mm")
    try:
        yield
    finally:
        model.set_experts_implementation(held)


def _close_loop(module: ModuleOp, step: ExportedStep, stop: Sequence[int]) -> None:
    """Replace the step's inputs by position and token sequence; append the chosen token to it."""
    inputs = {op.sym.data: op for op in module.walk() if isinstance(op, tensor.InputOp)}
    (logits,) = (op for op in module.walk() if isinstance(op, tensor.OutputOp))
    block = logits.parent_block()
    assert block is not None
    position = tensor.PositionOp(step.tokens)
    rows = [] if step.batch == 1 else [step.batch]
    shape = [*rows, step.capacity + 1]
    sequence = tensor.StateOp(SEQUENCE, TensorType(i64, shape), initial=-1)
    read = tensor.SequenceReadOp(sequence.result, position.result)
    Rewriter.insert_op([position, sequence, read], InsertPoint.at_start(block))
    for name, value in (("position", position.result), ("token", read.result)):
        _replace(inputs[name].result, value)
    chosen = tensor.ArgmaxOp(logits.value)
    appended = tensor.SequenceAppendOp(sequence.result, chosen.result, position.result, stop)
    named = tensor.OutputOp("logits", logits.value)
    for op in (chosen, appended):
        op.location = logits.location
    store = tensor.StoreStateOp(SEQUENCE, appended.result)
    Rewriter.replace_op(logits, [named, chosen, appended, store], [])


def _replace(old: SSAValue, new: SSAValue) -> None:
    old.replace_all_uses_with(new)
    op = old.owner
    assert isinstance(op, tensor.InputOp)
    op.detach()
    op.erase()
