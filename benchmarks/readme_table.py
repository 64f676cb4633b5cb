"""The README's performance tables, from benchmarks/results alone.

python benchmarks/readme_table.py          print them
python benchmarks/readme_table.py --write  put them between the README's markers
"""

from __future__ import annotations

import json
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"


def records(name: str) -> list[dict[str, Any]]:
    """The records of one results file."""
    return json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text("utf-8"))


def decode_table() -> list[str]:
    """Decode on the H100, each model beside the peer that was measured in the same run."""
    rows = records("decode-h100")
    lines = [
        "| H100, bf16, batch 1, ms per token | mpkir | torch.compile (CUDA graphs) | floor | "
        "share of floor | logit error, ours / PyTorch bf16 |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for ours, peer in pairwise(rows):
        if peer["system"] != "torch.compile":
            continue
        lines.append(
            f"| {ours['model']} | {ours['ms']:.3f} | {peer['ms']:.3f} | {ours['floor_ms']:.3f} | "
            f"{ours['share_of_floor']:.0%} | {ours['logit_error']:.3f} / "
            f"{ours['logit_error_torch_bf16']:.3f} |"
        )
    return lines


def cpu_table() -> list[str]:
    """Decode on two CPU threads beside PyTorch's eager decode in the same run."""
    lines = [
        "| SmolLM2-135M shape, bf16, 2 threads | ms per token | share of floor |",
        "| --- | --- | --- |",
    ]
    for row in records("cpu-decode-amd-epyc"):
        lines.append(f"| {row['system']} | {row['ms']:.1f} | {row['floor_ms'] / row['ms']:.0%} |")
    return lines


def tables() -> str:
    """Both tables as Markdown."""
    return "\n".join([*decode_table(), "", *cpu_table()])


def main() -> None:
    """Print the tables or write them into the README."""
    if "--write" not in sys.argv:
        print(tables())
        return
    readme = ROOT / "README.md"
    text = readme.read_text("utf-8")
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    readme.write_text(f"{before}{BEGIN}\n{tables()}\n{END}{after}", "utf-8")


if __name__ == "__main__":
    main()
