"""What is timed: compiled programs, and PyTorch on the same step. One class for each.

Every system makes `steps` dependent greedy steps from a position: embedding to argmax, the token of
a step fed to the next on the device.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING, Any, Protocol

import torch

from mpkir.errors import MpkirError
from mpkir.runtime.generation import LoadedLanguageModel
from mpkir.runtime.manifest import Manifest
from mpkir.tools.bench.caches import fill_caches

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PER_OPERATOR = "per-operator"
EAGER = "eager"
COMPILED = ("reduce-overhead", "max-autotune")
"""Modes of torch.compile that use CUDA graphs."""
PEERS = (EAGER, *COMPILED)
LAUNCHES = 21
FURTHER = 4
"""To see what a launch costs: so many of one step, and as many of so many steps more."""


class System(Protocol):
    """Something that decodes."""

    name: str
    """`system` of its records."""
    label: str
    """What tables and plots call it."""
    facts: dict[str, Any]
    """What its records say beside."""

    def prepare(self, position: int) -> None:
        """Fill the caches up to `position`; called once before the runs from there."""
        ...

    def run(self, position: int, steps: int) -> float:
        """Milliseconds of a step, of `steps` from `position` on."""
        ...


class Compiled:
    """A program of mpkir's: a megakernel, or a kernel for every operator in a graph."""

    def __init__(self, model: LoadedLanguageModel, variant: str = "") -> None:
        self.model = model
        self.program = model.program
        self.manifest = model.program.manifest
        self.batch = batch_of(self.manifest)
        self.name = system_name(self.manifest)
        self.variant = variant
        shown = "" if variant == PER_OPERATOR else variant
        self.label = f"{self.name}, {shown}" if shown else self.name
        self.facts: dict[str, Any] = {"policy": self.manifest.info.get("policy", "round-robin")}
        if shown:
            self.facts["variant"] = shown
        self._results: set[tuple[int, ...]] = set()
        self._prompt = torch.zeros(0, dtype=torch.int64)

    @property
    def sequences(self) -> torch.Tensor:
        """The token sequences, i64 [batch, capacity + 1]."""
        return self.program.buffer(self.model.roles.tokens).view(self.batch, -1)

    def logits(self) -> torch.Tensor:
        """Of the last step, f32 [batch, vocabulary]."""
        logits = self.program.buffer(self.model.roles.logits)
        return logits.float().reshape(self.batch, -1).clone()

    def start(self, tokens: torch.Tensor) -> None:
        """Let each sequence begin with `tokens`, i64 [batch, n]."""
        self.sequences.fill_(-1)
        self.sequences[:, : tokens.shape[1]] = tokens.to(self.program.device)

    def fill_caches(self, positions: int) -> None:
        """Put random rows before `positions`, zeros behind."""
        fill_caches(self.program, positions)

    def prepare(self, position: int) -> None:
        self.fill_caches(position)
        generator = torch.Generator().manual_seed(0)
        shape = (self.batch, position + 1)
        self._prompt = torch.randint(self.model.roles.vocabulary, shape, generator=generator)
        self._results.clear()

    def run(self, position: int, steps: int) -> float:
        self.start(self._prompt)
        begun = now(self.program.device)
        done = self.program.run(position, steps)
        elapsed = perf_counter() - begun  # a run ends when all is done
        self._check_repeats(position, steps)
        return elapsed * 1e3 / done

    def launch_costs(self, position: int) -> dict[str, float]:
        """What a launch costs over its steps, microseconds by the host's clock.

        `launch_us`: the time of a launch of one step, from the call on an idle GPU until the call
        returns with the token in the GPU's memory, less what each of FURTHER steps adds to that;
        medians of LAUNCHES, in turns. So beside the host's work, the way to the GPU and the way
        back it holds what a first step takes longer than one that follows another.
        `first_token_us`, where tokens are told while a launch goes on: the same until the host
        has the token. `benchmarks/launch_overhead.py` takes both apart.
        """
        one: list[float] = []
        more: list[float] = []
        first: list[float] = []
        for _ in range(LAUNCHES):
            one.append(self.run(position, 1) * 1e3)
            more.append(self.run(position, 1 + FURTHER) * (1 + FURTHER) * 1e3)
            if self.program.tells:
                first.append(self._first_token(position) * 1e6)
        step = (median(more) - median(one)) / FURTHER
        costs = {"launch_us": median(one) - step}
        if first:
            costs["first_token_us"] = median(first) - step
        return {name: round(cost, 1) for name, cost in costs.items()}

    def _first_token(self, position: int) -> float:
        """Seconds from the call until the host has what one step chose."""
        self.start(self._prompt)
        begun = now(self.program.device)
        with closing(self.program.stream((position + 1,), position)) as pieces:
            next(pieces)
            return perf_counter() - begun

    def _check_repeats(self, position: int, steps: int) -> None:
        """Runs with the same prompt have to end with the same tokens."""
        chosen = self.sequences[:, position + 1 : position + 1 + steps]
        self._results.add((steps, *chosen.flatten().tolist()))
        if len({each[0] for each in self._results}) != len(self._results):
            raise MpkirError("runs with the same prompt gave different tokens", where=self.label)


class Torch:
    """transformers' model under PyTorch: eager, or torch.compile with a static cache."""

    def __init__(
        self, model: PreTrainedModel, mode: str, batch: int, capacity: int, device: torch.device
    ) -> None:
        self.model, self.mode, self.device = model, mode, device
        self.batch, self.capacity = batch, capacity
        self.name = "torch.eager" if mode == EAGER else "torch.compile"
        self.label = self.name if mode == EAGER else f"{self.name}, {mode}"
        self.facts: dict[str, Any] = {} if mode == EAGER else {"mode": mode}
        self._cache: Any = None
        self._step: Callable[..., torch.Tensor] = self._plain_step
        if mode != EAGER:
            self._step = torch.compile(self._plain_step, mode=mode, fullgraph=True)

    def prepare(self, position: int) -> None:
        from transformers import StaticCache

        if self._cache is None:
            # Made once: a compiled step is bound to the cache's memory.
            self._cache = StaticCache(config=self.model.config, max_cache_len=self.capacity)

    def run(self, position: int, steps: int) -> float:
        try:
            return self._run(position, steps)
        except Exception as error:
            # Whatever goes wrong in there is no reason to lose the other systems' times.
            lines = str(error).strip().splitlines() or [type(error).__name__]
            raise MpkirError(f"PyTorch failed: {lines[0]}", where=self.label) from error

    @torch.inference_mode()
    def _run(self, position: int, steps: int) -> float:
        generator = torch.Generator().manual_seed(0)
        shape = (self.batch, position + 1)
        prompt = torch.randint(self.model.config.vocab_size, shape, generator=generator)
        prompt = prompt.to(self.device)
        self._cache.reset()
        if position:
            self.model(
                input_ids=prompt[:, :-1],
                past_key_values=self._cache,
                use_cache=True,
                logits_to_keep=1,
            )
        token = prompt[:, -1:].clone()
        positions = torch.arange(position, position + steps, device=self.device)
        begun = now(self.device)
        for index in range(steps):
            if self.mode != EAGER:
                torch.compiler.cudagraph_mark_step_begin()
            token = self._step(token, positions[index : index + 1]).clone()
        return (now(self.device) - begun) * 1e3 / steps

    def _plain_step(self, token: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
        logits = self.model(
            input_ids=token,
            position_ids=position[None].expand(self.batch, 1),
            past_key_values=self._cache,
            use_cache=True,
        ).logits
        return logits[:, -1].argmax(-1, keepdim=True)


def batch_of(manifest: Manifest) -> int:
    """Sequences that a language model's step takes on together."""
    assert manifest.language is not None
    (tokens,) = (b for b in manifest.buffers if b.name == manifest.language.tokens)
    return 1 if len(tokens.shape) == 1 else tokens.shape[0]


def system_name(manifest: Manifest) -> str:
    """`system` of a program's records."""
    if manifest.target.launch == PER_OPERATOR:
        return "mpkir-per-operator"
    return "mpkir-cpu" if manifest.target.kind == "cpu" else "mpkir-megakernel"


def now(device: torch.device) -> float:
    """Seconds, when all that was given to the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return perf_counter()
