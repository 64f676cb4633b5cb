"""Our programs as several ranks time them: one that all run, one that rank 0 runs alone."""

from __future__ import annotations

from typing import Any

import torch

from mpkir.runtime.generation import LoadedLanguageModel
from mpkir.runtime.manifest import Manifest
from mpkir.runtime.ranks.group import Group
from mpkir.tools.bench.caches import random_rows
from mpkir.tools.bench.ranks.programs import ALONE
from mpkir.tools.bench.ranks.together import at_once
from mpkir.tools.bench.records import caches_of
from mpkir.tools.bench.systems import Compiled, system_name


class Ranks(Compiled):
    """A program of several ranks, of which this is one.

    whole    its manifest, undivided
    variant  ALONE waits for nobody, so that its tokens mean nothing
    """

    def __init__(
        self, model: LoadedLanguageModel, group: Group, whole: Manifest, variant: str = ""
    ) -> None:
        super().__init__(model, variant)
        self.group = group
        self.label += f", tp={group.ranks}"
        self.facts["tp"] = group.ranks
        self._whole = {buffer.name: buffer for buffer in caches_of(whole)}
        self._alone = variant == ALONE.name

    def fill_caches(self, positions: int) -> None:
        """Give each rank its heads of the rows that a program for one rank has."""
        for cache in caches_of(self.manifest):
            whole, heads = self._whole[cache.name], cache.shape[1]
            part = self.group.rank * (whole.shape[1] // heads) // self.group.ranks
            rows = random_rows(whole, positions, self.program.device)
            memory = self.program.buffer(cache.name)
            memory.zero_()
            memory[:, :, :positions] = rows[:, part * heads : (part + 1) * heads]

    def logits(self) -> torch.Tensor:
        logits = self.program.output(self.model.roles.logits).to(self.program.device)
        return logits.float().reshape(self.batch, -1).clone()

    def run(self, position: int, steps: int) -> float:
        own = super().run
        return at_once(self.group, self.program.device, lambda: own(position, steps))

    def _check_repeats(self, position: int, steps: int) -> None:
        if not self._alone:
            super()._check_repeats(position, steps)


class Single:
    """A program for one rank, which rank 0 runs while the others wait.

    own  the program; None on the others
    """

    def __init__(
        self, manifest: Manifest, own: Compiled | None, group: Group, device: torch.device
    ) -> None:
        self.manifest, self.own, self.group, self.device = manifest, own, group, device
        self.name = system_name(manifest)
        self.label = f"{self.name}, tp=1"
        policy = manifest.info.get("policy", "round-robin")
        self.facts: dict[str, Any] = {"policy": policy, "tp": 1}

    def prepare(self, position: int) -> None:
        if self.own is not None:
            self.own.prepare(position)

    def run(self, position: int, steps: int) -> float:
        own = self.own
        measured = None if own is None else lambda: own.run(position, steps)
        return at_once(self.group, self.device, measured)
