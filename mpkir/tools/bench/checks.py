"""Right answers before times: logits, greedy tokens and repeated bits against PyTorch in fp32.

A step is right if its logits' error against fp32 is at most TOLERANCE times the error of PyTorch's
own bf16 run, at every position that is looked at. Integers must be the same bits in every launch.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from mpkir.errors import MpkirError
from mpkir.runtime.manifest import Manifest
from mpkir.tools.bench.caches import random_rows
from mpkir.tools.bench.records import caches_of
from mpkir.tools.bench.systems import Compiled

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TOLERANCE = 1.5
CHAIN = (0, 1, 63, 64, 500)
"""Positions that a program runs through, whose logits are compared."""
PROMPT, GREEDY = 16, 128


@dataclass(frozen=True)
class Expected:
    """Logits at some positions, f32 [positions, batch, vocabulary], and how far off bf16 is."""

    positions: tuple[int, ...]
    tokens: torch.Tensor
    """i64 [batch, n]: of the sequence up to the last position, or of each position alone."""
    exact: torch.Tensor
    torch_error: torch.Tensor
    """f32 [positions]: largest error of PyTorch in bf16."""


class Reference:
    """A model in bf16 as PyTorch runs it, and in fp32."""

    def __init__(self, bf16: PreTrainedModel, device: torch.device) -> None:
        self.bf16, self.device = bf16, device
        self.fp32 = deepcopy(bf16).float()

    def chain(self, manifest: Manifest, batch: int) -> Expected:
        """Logits of random sequences at those of CHAIN that the program has."""
        assert manifest.language is not None
        positions = tuple(p for p in CHAIN if p < manifest.language.capacity)
        tokens = self._tokens(manifest, batch, positions[-1] + 1, seed=1)
        rows = list(positions)
        exact = self._forward(self.fp32, tokens)[:, rows].transpose(0, 1)
        rounded = self._forward(self.bf16, tokens)[:, rows].transpose(0, 1)
        return Expected(positions, tokens, exact, _error(rounded, exact))

    def on_random_caches(
        self, manifest: Manifest, batch: int, positions: Sequence[int]
    ) -> Expected:
        """Logits of a step at each position, of caches with random rows before it."""
        tokens = self._tokens(manifest, batch, len(positions), seed=4)
        exact: list[torch.Tensor] = []
        rounded: list[torch.Tensor] = []
        for i, position in enumerate(positions):
            for model, found in ((self.fp32, exact), (self.bf16, rounded)):
                found.append(self._step(model, manifest, tokens[:, i : i + 1], position))
        right = torch.stack(exact)
        return Expected(tuple(positions), tokens, right, _error(torch.stack(rounded), right))

    def greedy_gap(self, tokens: torch.Tensor, first: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Of tokens i64 [batch, n] that a program chose from `first` on: whether fp32 chooses the
        same, and by how much its logit there is below the best; [batch, n - first]."""
        exact = self._forward(self.fp32, tokens)[:, first - 1 : -1]
        chosen = tokens[:, first:]
        gap = exact.amax(-1) - exact.gather(-1, chosen[..., None])[..., 0]
        return exact.argmax(-1) == chosen, gap

    def _tokens(self, manifest: Manifest, batch: int, count: int, seed: int) -> torch.Tensor:
        assert manifest.language is not None
        generator = torch.Generator().manual_seed(seed)
        shape = (batch, count)
        return torch.randint(manifest.language.vocabulary, shape, generator=generator).to(
            self.device
        )

    @torch.inference_mode()
    def _forward(self, model: PreTrainedModel, tokens: torch.Tensor) -> torch.Tensor:
        return model(input_ids=tokens, use_cache=False).logits.float()

    @torch.inference_mode()
    def _step(
        self, model: PreTrainedModel, manifest: Manifest, tokens: torch.Tensor, position: int
    ) -> torch.Tensor:
        from transformers import DynamicCache

        rows = {
            cache.name: random_rows(cache, position, self.device).to(model.dtype)
            for cache in caches_of(manifest)
        }
        cache = DynamicCache()
        for layer in range(len(rows) // 2 if position else 0):
            cache.update(rows[f"k{layer}"], rows[f"v{layer}"], layer)
        return (
            model(
                input_ids=tokens,
                position_ids=torch.full_like(tokens, position),
                past_key_values=cache,
                use_cache=True,
            )
            .logits[:, -1]
            .float()
        )


def check(
    system: Compiled,
    reference: Reference,
    chain: Expected,
    on_caches: Expected,
    repeats: int,
) -> dict[str, Any]:
    """All checks of a program; what its records say of them. Raises MpkirError for a wrong one."""
    errors = torch.cat([_chain_errors(system, chain), _cache_errors(system, on_caches)])
    torch_errors = torch.cat([chain.torch_error, on_caches.torch_error])
    positions = [*chain.positions, *on_caches.positions]
    facts: dict[str, Any] = {
        "logit_error": errors.max().item(),
        "logit_error_torch_bf16": torch_errors.max().item(),
        "logit_positions": positions,
        "logit_errors": errors.tolist(),
        "logit_errors_torch_bf16": torch_errors.tolist(),
    }
    right = (errors <= TOLERANCE * torch_errors).tolist()
    if not all(right):
        at = right.index(False)
        raise MpkirError(
            f"wrong logits at position {positions[at]}: off by {errors[at].item():.4g} from fp32, "
            f"PyTorch's bf16 by {torch_errors[at].item():.4g}",
            where=system.label,
        )
    facts |= _check_greedy(system, reference, facts["logit_error"])
    return facts | _check_bits(system, repeats)


def _chain_errors(system: Compiled, expected: Expected) -> torch.Tensor:
    """Of a run through the whole sequence; f32 [positions]."""
    system.fill_caches(0)
    system.start(expected.tokens)
    rows: list[torch.Tensor] = []
    position = 0
    for wanted in expected.positions:
        system.program.run(position, wanted + 1 - position)
        rows.append(system.logits())
        position = wanted + 1
    return _error(torch.stack(rows), expected.exact)


def _cache_errors(system: Compiled, expected: Expected) -> torch.Tensor:
    """Of single steps on caches with random rows; f32 [positions]."""
    rows: list[torch.Tensor] = []
    for i, position in enumerate(expected.positions):
        system.fill_caches(position)
        system.sequences.fill_(-1)
        system.sequences[:, position] = expected.tokens[:, i]
        system.program.run(position, 1)
        rows.append(system.logits())
    return _error(torch.stack(rows), expected.exact)


def _check_greedy(system: Compiled, reference: Reference, error: float) -> dict[str, Any]:
    """Greedy tokens of one launch, teacher-forced through the fp32 reference.

    A token is right if the reference chooses it too, or its logit is within `error` on both sides
    of the reference's best.
    """
    count = min(GREEDY, system.model.capacity - PROMPT)
    if count < 1:
        return {}
    generator = torch.Generator().manual_seed(2)
    prompt = torch.randint(
        system.model.roles.vocabulary, (system.batch, PROMPT), generator=generator
    )
    system.fill_caches(0)
    system.start(prompt)
    done = system.program.run(0, PROMPT - 1 + count)
    tokens = system.sequences[:, : done + 1].clone()
    # Sequences that have ended early hold no tokens behind their end.
    tokens = tokens[:, : int((tokens >= 0).all(0).sum())]
    same, gap = reference.greedy_gap(tokens, PROMPT)
    if not bool((gap <= 2 * error).all()):
        raise MpkirError(
            f"a greedy token's logit is {gap.max().item():.4g} below the best of fp32, more than "
            f"twice the logits' error of {error:.4g}",
            where=system.label,
        )
    return {"greedy_tokens": same.numel(), "greedy_same_as_fp32": int(same.sum())}


def _check_bits(system: Compiled, launches: int) -> dict[str, Any]:
    """Whether repeated launches give the same tokens and logits, bit for bit."""
    steps = min(PROMPT + 48, system.model.capacity)
    generator = torch.Generator().manual_seed(3)
    count = min(PROMPT, steps)
    prompt = torch.randint(
        system.model.roles.vocabulary, (system.batch, count), generator=generator
    )
    system.fill_caches(0)
    first: tuple[torch.Tensor, torch.Tensor] | None = None
    for launch in range(launches):
        system.start(prompt)
        system.program.run(0, steps)
        result = (system.sequences.clone(), system.logits())
        first = result if first is None else first
        if not all(torch.equal(a, b) for a, b in zip(first, result, strict=True)):
            raise MpkirError(
                f"launch {launch + 1} of {launches} gave other bits than the first",
                where=system.label,
            )
    return {"repeated_launches": launches, "repeated_steps": steps}


def _error(logits: torch.Tensor, exact: torch.Tensor) -> torch.Tensor:
    """The largest difference at each position."""
    return (logits - exact).abs().amax((1, 2))
