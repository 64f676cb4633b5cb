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
from mpkir.runtime import weights
from mpkir.runtime.arrangement import Arrangement, Joined, Stacked, Swapped
from mpkir.runtime.buffers import bind, packed
from mpkir.runtime.manifest import Buffer, Part, Piece, Place, Shard
from mpkir.runtime.weights import Box, TensorFiles

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


IN_PIECES = Buffer(
    "qkv",
    "weight",
    "bfloat16",
    (8 + 8 + 16, 128),
    source="q",
    shard=Shard(
        0,
        4,
        (Piece(32, 4), Piece(16, 2), Piece(16, 1)),
    ),
)
COLUMNS_IN_PIECES = Buffer(
    "gu",
    "weight",
    "bfloat16",
    (64, 32),
    source="q",
    shard=Shard(1, 4, (Piece(64, 4), Piece(64, 4))),
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
    low, high = 8 * rank, 32 + 8 * (rank // 2)
    pieces = torch.cat([WHOLE[low : low + 8], WHOLE[high : high + 8], WHOLE[48:]])
    assert torch.equal(bound(IN_PIECES), lies(pieces))
    halves = [WHOLE[:, begin + 16 * rank : begin + 16 * (rank + 1)] for begin in (0, 64)]
    assert torch.equal(bound(COLUMNS_IN_PIECES), lies(torch.cat(halves, 1)))


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


EXPERTS = 12
GATES, UPS, DOWNS = (
    {f"{k}.{name}": torch.randn(shape) for k in range(EXPERTS)}
    for name, shape in (("gate", (8, 6)), ("up", (8, 6)), ("down", (6, 8)))
)
STACKS: dict[str, Arrangement] = {
    "gate_up": Joined((Stacked(tuple(GATES), 0), Stacked(tuple(UPS), 0)), 1),
    "down": Stacked(tuple(DOWNS), 0),
    "across": Stacked(tuple(DOWNS), 2),
    "turned": Swapped(Stacked(tuple(UPS), 0), (0, 2)),
}


@pytest.fixture
def stacks(tmp_path: Path) -> TensorFiles:
    """Experts in two files, and stacks of them."""
    save_file(GATES | UPS, tmp_path / "1.safetensors")
    save_file(DOWNS, tmp_path / "2.safetensors")
    return TensorFiles(sorted(tmp_path.glob("*.safetensors")), STACKS)


def test_boxes_of_what_is_put_together(stacks: TensorFiles):
    gates, ups, downs = (torch.stack(list(each.values())) for each in (GATES, UPS, DOWNS))
    wholes = {
        "gate_up": torch.cat([gates, ups], 1),
        "down": downs,
        "across": downs.permute(1, 2, 0),
        "turned": ups.transpose(0, 2),
    }
    assert wholes.keys() <= set(stacks)
    for name, whole in wholes.items():
        assert stacks.shape_of(name) == tuple(whole.shape)
        assert torch.equal(stacks[name], whole)
        assert torch.equal(stacks.rows_of(name, 2, 5), whole[2:5])
        boxes: list[Box] = [
            ((1, 4), (0, 5), (2, 6)),
            ((5, 6), (5, 6), (0, 1)),
            ((0, 1), (3, 8), (1, 2)),
        ]
        for box in boxes:
            inside = tuple((a, min(b, n)) for (a, b), n in zip(box, whole.shape, strict=True))
            wanted = whole[tuple(slice(*each) for each in inside)]
            assert torch.equal(stacks.box_of(name, inside), wanted)


@pytest.mark.parametrize("rank", [0, 1, 3])
def test_a_rank_reads_its_rows_of_each_expert(
    stacks: TensorFiles, rank: int, monkeypatch: pytest.MonkeyPatch
):
    """Half the rows of every gate and of every up, and of no other."""
    read: dict[str, list[tuple[int, int]]] = {}
    read_box = weights.TensorFiles._read

    def noted(self: TensorFiles, name: str, box: Box) -> torch.Tensor:
        read.setdefault(name, []).append(box[0])
        return read_box(self, name, box)

    shard = Shard(1, 2, (Piece(8, 2), Piece(8, 2)))
    buffer = Buffer("w", "weight", "float32", (EXPERTS, 8, 6), "gate_up", shard=shard)
    columns = Buffer("d", "weight", "float32", (EXPERTS, 6, 4), "down", shard=Shard(2, 2))
    place = Place(rank, 4)
    wanted = stacks["gate_up"], stacks["down"]
    monkeypatch.setattr(weights.TensorFiles, "_read", noted)
    first = 4 * (rank // 2)
    rows = [*range(first, first + 4), *range(8 + first, 12 + first)]
    assert torch.equal(bind(buffer, stacks, CPU, place), wanted[0][:, rows])
    assert torch.equal(bind(columns, stacks, CPU, place), wanted[1][:, :, first : first + 4])
    one = (0, 1)  # whose type is looked at
    assert set(read) == {*GATES, *UPS, *DOWNS}
    assert all(set(read[name]) <= {(first, first + 4), one} for name in (*GATES, *UPS))


def test_what_does_not_fit_together(tmp_path: Path):
    save_file({"a": WHOLE, "b": WHOLE[:8].clone()}, tmp_path / "x.safetensors")
    for wrong in (Stacked(("a", "b"), 0), Joined(("a", "b"), 1), Joined(("a", "b"), 2)):
        with pytest.raises(ValueError, match=r"fit together|no dimension 2"):
            TensorFiles([tmp_path / "x.safetensors"], {"ab": wrong}).shape_of("ab")


def test_a_tensor_that_lies_at_an_odd_place(tmp_path: Path):
    header = json.dumps({"w": {"dtype": "BF16", "shape": [64, 128], "data_offsets": [0, 16384]}})
    padded = header + " " * (1 - len(header) % 2)
    content = WHOLE.view(torch.uint8).numpy().tobytes()
    file = tmp_path / "x.safetensors"
    file.write_bytes(len(padded).to_bytes(8, "little") + padded.encode() + content)
    assert torch.equal(TensorFiles([file]).rows_of("w", 3, 5), WHOLE[3:5])


_MEASURE = """
import json, re, sys, torch
from pathlib import Path
from mpkir.runtime.arrangement import Joined, Stacked
from mpkir.runtime.buffers import bind
from mpkir.runtime.manifest import Buffer, Piece, Place, Shard
from mpkir.runtime.weights import TensorFiles

def memory(what):
    status = Path("/proc/self/status").read_text()
    return int(re.search(rf"{what}:\\s+(\\d+) kB", status)[1]) * 1024

file, count, packed = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "packed"
names = [f"w{number}" for number in range(count)]
half = count // 2
stacks = {
    "gate_up": Joined((Stacked(tuple(names[:half]), 0), Stacked(tuple(names[-half:]), 0)), 1),
    "down": Stacked(tuple(names), 0),
}
files = TensorFiles([file], stacks)
if sys.argv[3] == "stacked":
    pieces = (Piece(4096, 2), Piece(4096, 2))
    shards = [("gate_up", (half, 4096, 5120), Shard(1, 2, pieces))]
    shards += [("down", (count, 4096, 2560), Shard(2, 2))]
else:
    shapes = (2048, 5120), (4096, 2560)
    shards = [(name, shapes[k % 2], Shard(k % 2, 2)) for k, name in enumerate(names)]
one = Buffer("w", "weight", "bfloat16", (2048, 5120), "w0", shard=Shard(0, 2), packed=packed)
del (warm := [bind(one, files, torch.device("cpu"), Place(0, 2))])[:]  # torch's own code is there
Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
before = memory("VmRSS")
held = []
for source, shape, shard in shards:
    buffer = Buffer("w", "weight", "bfloat16", shape, source, shard=shard, packed=packed)
    held.append(bind(buffer, files, torch.device("cpu"), Place(1, 2)))
print(json.dumps({"peak": memory("VmHWM") - before, "shard": sum(t.nbytes for t in held)}))
"""


@pytest.mark.parametrize("lies", ["packed", "plain", "stacked"])
def test_peak_memory_is_the_shards(tmp_path_factory: pytest.TempPathFactory, lies: str):
    """5 matrices of 42 MB, divided by rows and by columns in turns; or 4 that are experts: two of
    gates and two of what they gate, and four of what sums these up."""
    count = 4 if lies == "stacked" else 5
    file = tmp_path_factory.mktemp("weights") / "model.safetensors"
    tensors = {f"w{k}": torch.zeros(4096, 5120, dtype=torch.bfloat16) + k for k in range(count)}
    save_file(tensors, file)
    done = subprocess.run(
        [sys.executable, "-c", _MEASURE, str(file), str(count), lies],
        capture_output=True,
        text=True,
        check=False,
    )
    file.unlink()
    assert done.returncode == 0, done.stderr
    measured = json.loads(done.stdout)
    assert measured["shard"] == (8 if lies == "stacked" else 5) * 2048 * 5120 * 2
    assert measured["peak"] < 1.2 * measured["shard"]
    print(measured["peak"] / measured["shard"])
