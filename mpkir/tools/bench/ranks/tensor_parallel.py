"""PyTorch on several ranks: tensor parallelism of torch.distributed under torch.compile, with NCCL
(gloo on CPUs).

transformers' model, its products divided by torch.distributed.tensor.parallel: columns for q, k, v,
gate, up and the head, rows for o and down, so two all-reduces a layer; static cache, CUDA graphs.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    ParallelStyle,
    RowwiseParallel,
    parallelize_module,
)

from mpkir.errors import MpkirError
from mpkir.runtime.ranks.group import Group
from mpkir.tools.bench.ranks.together import at_once
from mpkir.tools.bench.systems import Torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel

BY_COLUMNS = ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj")
BY_ROWS = ("o_proj", "down_proj")
TOLERANCE = 0.1
"""Of the logits' norm: partial sums are rounded to bf16 before they are added, and many layers make
several percent of that. Logits of a product wrongly divided are off by as much as they are."""


def start(group: Group, device: torch.device) -> None:
    """Let torch.distributed know the ranks. It is told before memory is shared, which goes by the
    same group."""
    if device.type == "cpu":
        assert group.process_group
        return
    os.environ["NCCL_NVLS_ENABLE"] = "0"
    if group.is_one_host:  # which may have no network
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group("cpu:gloo,cuda:nccl", device_id=device)


def divide(model: PreTrainedModel) -> None:
    """Leave each rank its part of the products' weights, in place. Raises MpkirError for a product
    that nobody says how to divide, and if its logits are not those of before."""
    device = next(model.parameters()).device
    plan: dict[str, ParallelStyle] = {}
    for name, module in model.named_modules():
        if not isinstance(module, nn.Linear):
            continue
        last = name.rpartition(".")[2]
        if last in BY_COLUMNS:
            plan[name] = ColwiseParallel()
        elif last in BY_ROWS:
            plan[name] = RowwiseParallel()
        elif last == "lm_head":
            plan[name] = ColwiseParallel(output_layouts=Replicate())
        else:
            raise MpkirError(
                f"nobody says how PyTorch divides {name}", hint="measure without it: --no-peers"
            )
    try:
        before = _last_logits(model)
        mesh = init_device_mesh(device.type, (dist.get_world_size(),))
        # The weights are the same on all ranks already.
        parallelize_module(model, mesh, plan, src_data_rank=None)
        error = ((_last_logits(model) - before).norm() / before.norm()).item()
    except RuntimeError as failed:
        first = (str(failed).strip().splitlines() or [type(failed).__name__])[0]
        raise MpkirError(f"PyTorch cannot divide the model: {first}") from failed
    if not error <= TOLERANCE:
        raise MpkirError(f"the logits of PyTorch's divided model are off by {error:.1%}")


class TensorParallel(Torch):
    """`Torch` on all ranks, whose model `divide` has divided."""

    def __init__(
        self,
        model: PreTrainedModel,
        mode: str,
        batch: int,
        capacity: int,
        device: torch.device,
        group: Group,
    ) -> None:
        super().__init__(model, mode, batch, capacity, device)
        self.group = group
        self.name = f"{self.name}, tensor parallel"
        self.label = f"{self.label}, tensor parallel"
        self.facts = {**self.facts, "tp": group.ranks}

    def run(self, position: int, steps: int) -> float:
        return at_once(self.group, self.device, lambda: self._watched(position, steps))

    def _watched(self, position: int, steps: int) -> float:
        """A run that ends with this process if another rank's ends: NCCL would wait for it."""
        failed: MpkirError | None = None
        elapsed = 0.0
        with self.group.launching(lambda: _give_up(self.label)):
            try:
                elapsed = super().run(position, steps)
            except MpkirError as error:
                failed = error  # That PyTorch cannot is no reason for the ranks to part.
        if failed is not None:
            raise failed
        return elapsed


def _give_up(where: str) -> None:
    """End this process, from a thread beside the one that waits."""
    print(f"mpk: error: {where}: another rank has ended", file=sys.stderr, flush=True)
    os._exit(1)


def _last_logits(model: PreTrainedModel) -> torch.Tensor:
    """Of a short random sequence, f32 [vocabulary]."""
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(model.config.vocab_size, (1, 8), generator=generator)
    with torch.inference_mode():
        result = model(input_ids=tokens.to(model.device), use_cache=False)
    return result.logits[0, -1].float()
