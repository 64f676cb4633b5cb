"""PyTorch on several GPUs: tensor parallelism of torch.distributed under torch.compile, with NCCL.

    torchrun --standalone --nproc-per-node 2 benchmarks/tp_peers.py [MODEL] [--json FILE]

transformers' model with random weights, its products divided by torch.distributed.tensor.parallel
(columns for q, k, v, gate, up and the head, rows for o and down: two all-reduces a layer), static
cache, CUDA graphs; steps are timed as `mpk bench` times them. `tp_decode.py` measures it in turns
with our own.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

os.environ["NCCL_NVLS_ENABLE"] = "0"
os.environ["TORCH_SYMM_MEM_DISABLE_MULTICAST"] = "1"
os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # one host, which may have no network

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

sys.path.insert(0, str(Path(__file__).parents[1]))

from mpkir.errors import MpkirError
from mpkir.tools.bench.models import model_source
from mpkir.tools.bench.records import append_records, provenance
from mpkir.tools.bench.systems import Torch
from mpkir.tools.bench.timing import WARM

if TYPE_CHECKING:
    from transformers import PreTrainedModel

BY_COLUMNS = ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj")
BY_ROWS = ("o_proj", "down_proj")


def start(device_type: str = "cuda") -> torch.device:
    """Join the other ranks under torchrun; this one's device."""
    if device_type == "cpu":
        dist.init_process_group("gloo")
        return torch.device("cpu")
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    torch.cuda.set_device(device)
    dist.init_process_group("cpu:gloo,cuda:nccl", device_id=device)
    return device


@cache
def hosts() -> dist.ProcessGroup:
    """The ranks' processes, without their GPUs."""
    return dist.new_group(backend="gloo")


def meet(device: torch.device) -> None:
    """Wait for all ranks, with nothing under way on the GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    dist.barrier(hosts())


def fastest(own: float) -> float:
    """The least of what the ranks found: they end together, so it is from the last one's begin."""
    each: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(each, own, group=hosts())
    return min(each)


def divide(model: PreTrainedModel) -> None:
    """Leave each rank its part of the products' weights, in place."""
    device = next(model.parameters()).device
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
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
            raise MpkirError(f"nobody says how to divide {name}")
    # The weights are the same on all ranks already.
    parallelize_module(model, mesh, plan, src_data_rank=None)


class TensorParallel(Torch):
    """`Torch` on all ranks, whose model `divide` has divided."""

    def __init__(
        self, model: PreTrainedModel, mode: str, batch: int, capacity: int, device: torch.device
    ) -> None:
        super().__init__(model, mode, batch, capacity, device)
        self.name = f"{self.name}, tensor parallel"
        self.label = f"{self.label}, tensor parallel"
        self.facts = {**self.facts, "tp": dist.get_world_size()}

    def run(self, position: int, steps: int) -> float:
        meet(self.device)
        return fastest(super().run(position, steps))


def logits_of(model: PreTrainedModel, tokens: torch.Tensor) -> torch.Tensor:
    """Of the last position, f32 [batch, vocabulary]."""
    with torch.inference_mode():
        return model(input_ids=tokens, use_cache=False).logits[:, -1].float()


def divided(source: str, device: torch.device, check: bool = True) -> PreTrainedModel:
    """A model with random weights, divided; MpkirError if its logits are not those of before."""
    model = model_source(source).build(device)
    vocabulary = model.config.vocab_size
    tokens = torch.randint(vocabulary, (1, 40), generator=torch.Generator().manual_seed(1))
    tokens = tokens.to(device)
    before = logits_of(model, tokens) if check else None
    divide(model)
    if before is not None:
        # Partial sums are rounded to bf16 before they are added.
        error = (logits_of(model, tokens) - before).abs().max().item()
        if not error <= 0.1 * before.abs().max().item():
            raise MpkirError(f"PyTorch's divided model is off by {error:.3g}", where=source)
    return model


def timed(run: Callable[[], float], runs: int) -> list[float]:
    """What `run` gives, after some that do not count."""
    return [run() for _ in range(WARM + runs)][WARM:]


def main() -> None:
    """Measure one model; rank 0 prints and writes the record."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", nargs="?", default="qwen3-8b")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--mode", default="reduce-overhead")
    parser.add_argument("--capacity", type=int, default=1024)
    parser.add_argument("--position", type=int, default=32)
    parser.add_argument("--steps", type=int, default=127)
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    device = start(given.device)
    hosts()
    try:
        model = divided(given.model, device)
        system = TensorParallel(model, given.mode, 1, given.capacity, device)
        system.prepare(given.position)
        each = timed(lambda: system.run(given.position, given.steps), given.runs)
    except MpkirError as error:
        print(f"tp_peers: error: {error}", file=sys.stderr, flush=True)
        os._exit(1)
    if dist.get_rank() == 0:
        record = {
            "benchmark": "decode",
            "system": system.name,
            **system.facts,
            "model": given.model,
            "weights": "random",
            "gpu": "cpu" if device.type == "cpu" else torch.cuda.get_device_name(device),
            "gpus": dist.get_world_size(),
            "batch": 1,
            "positions": [given.position, given.position + given.steps - 1],
            "capacity": given.capacity,
            "ms": round(median(each), 5),
            "ms_min": round(min(each), 5),
            "ms_max": round(max(each), 5),
            "runs": len(each),
            **provenance(),
        }
        print(f"{given.model}, {system.label}: {record['ms']:.4f} ms a step", flush=True)
        if given.json is not None:
            append_records(given.json, [record])
    meet(device)
    sys.stdout.flush()
    os._exit(0)  # Ending NCCL waits for graphs that hold its calls.


if __name__ == "__main__":
    main()
