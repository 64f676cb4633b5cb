"""Each rank reads its part of the weights, and no more memory than that is taken."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from mpkir.errors import MpkirError
from mpkir.runtime.buffers import bind, packed
from mpkir.runtime.manifest import Buffer, Part, Place, Shard
from mpkir.runtime.weights import TensorFiles

CPU = torch.device("cpu")
WHOLE = torch.arange(64 * 128, dtype=torch.float32).view(64, 128).to(torch.bfloat16)
ROWS = Buffer("q", "weight", "bfloat16", (16, 128), source="q", shard=Shard(0, 4))
COLUMNS = Buffer("o", "weight", "bfloat16", (64, 32), source="q", shard=Shard(1, 4))
JOINED = Buffer(
    "qk",
    "weight",
    "bfloat16",
    (16 + 32 + 64, 128),
    parts=(Part("q", 16, Shard(0, 4)), Part("k", 32, Shard(0, 2)), Part("v", 64)),
)


@pytest.fixture(params=["tensors", "files"])
def tensors(request: pytest.FixtureRequest, tmp_path: Path) -> object:
    """q, k and v, handed over whole or in a file."""
    held = {"q": WHOLE, "k": WHOLE + 1, "v": WHOLE * 2}
    if request.param == "tensors":
        return held
    save_file(held, tmp_path / "x.safetensors")
    return TensorFiles([tmp_path / "x.safetensors"])


@pytest.mark.parametrize("is_packed", [False, True])
@pytest.mark.parametrize("rank", range(4))
def test_what_a_rank_has(tensors: dict[str, torch.Tensor], rank: int, is_packed: bool):
    def bound(buffer: Buffer) -> torch.Tensor:
        return bind(replace(buffer, packed=is_packed), tensors, CPU, Place(rank, 4))

    def lies(matrix: torch.Tensor) -> torch.Tensor:
        return packed(matrix.contiguous()) if is_packed else matrix

    rows = WHOLE[16 * rank : 16 * (rank + 1)]
    assert torch.equal(bound(ROWS), lies(rows))
    assert torch.equal(bound(COLUMNS), lies(WHOLE[:, 32 * rank : 32 * (rank + 1)]))
    keys = (WHOLE + 1)[32 * (rank // 2) : 32 * (rank // 2 + 1)]  # two ranks have the same
    assert torch.equal(bound(JOINED), lies(torch.cat([rows, keys, WHOLE * 2])))


def test_a_whole_that_does_not_fit(tensors: dict[str, torch.Tensor]):
    wrong = replace(ROWS, shape=(8, 128))
    with pytest.raises(
        MpkirError, match=r"bfloat16\[64, 128\], .* compiled for bfloat16\[32, 128\]"
    ):
        bind(wrong, tensors, CPU, Place(0, 4))


def test_tied_and_converted_tensors_of_files(tmp_path: Path):
    save_file({"embed": WHOLE.float()}, tmp_path / "x.safetensors")
    files = TensorFiles(
        [tmp_path / "x.safetensors"],
        {"head": "embed"},
        {"embed": torch.bfloat16, "head": torch.bfloat16},
    )
    assert set(files) == {"embed", "head"}
    assert files.shape_of("head") == (64, 128)
    assert torch.equal(files["head"], WHOLE)
    assert torch.equal(files.rows_of("embed", 3, 5), WHOLE[3:5])


_MEASURE = """
import json, re, sys, torch
from pathlib import Path
from mpkir.runtime.buffers import bind
from mpkir.runtime.manifest import Buffer, Part, Place, Shard
from mpkir.runtime.weights import TensorFiles

def memory(what):
    status = Path("/proc/self/status").read_text()
    return int(re.search(rf"{what}:\\s+(\\d+) kB", status)[1]) * 1024

file, count, packed = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "packed"
files = TensorFiles([file])
one = Buffer("w", "weight", "bfloat16", (2048, 5120), "w0", shard=Shard(0, 2), packed=packed)
del (warm := [bind(one, files, torch.device("cpu"), Place(0, 2))])[:]  # torch's own code is there
Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
before = memory("VmRSS")
held = []
for number in range(count):
    shard = Shard(number % 2, 2)
    shape = (2048, 5120) if shard.dim == 0 else (4096, 2560)
    source = f"w{number}"
    buffer = Buffer("w", "weight", "bfloat16", shape, source, shard=shard, packed=packed)
    held.append(bind(buffer, files, torch.device("cpu"), Place(1, 2)))
print(json.dumps({"peak": memory("VmHWM") - before, "shard": sum(t.nbytes for t in held)}))
"""


@pytest.mark.parametrize("lies", ["packed", "plain"])
def test_peak_memory_is_the_shards(tmp_path_factory: pytest.TempPathFactory, lies: str):
    """5 matrices of 42 MB, divided by rows and by columns in turns."""
    file = tmp_path_factory.mktemp("weights") / "model.safetensors"
    save_file({f"w{k}": torch.zeros(4096, 5120, dtype=torch.bfloat16) + k for k in range(5)}, file)
    done = subprocess.run(
        [sys.executable, "-c", _MEASURE, str(file), "5", lies],
        capture_output=True,
        text=True,
        check=False,
    )
    file.unlink()
    assert done.returncode == 0, done.stderr
    measured = json.loads(done.stdout)
    assert measured["shard"] == 5 * 2048 * 5120 * 2
    assert measured["peak"] < 1.2 * measured["shard"]
    print(measured["peak"] / measured["shard"])
