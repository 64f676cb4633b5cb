"""The README's performance tables, from benchmarks/results alone.

python benchmarks/readme_table.py          print them
python benchmarks/readme_table.py --write  put them between the README's markers
"""

from __future__ import annotations

import json
import sys
from itertools import groupby
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"


def records(name: str) -> list[dict[str, Any]]:
    """The records of one results file."""
    return json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text("utf-8"))


Record = dict[str, Any]
SHORT = [32, 158]
"""Positions of the steps that systems are compared by."""


def runs(rows: list[Record]) -> list[list[Record]]:
    """Records of one run: what stands together of a model, a batch size, positions and a commit."""
    keys = ("model", "batch", "positions", "commit")
    return [list(group) for _, group in groupby(rows, lambda r: [r[key] for key in keys])]


def one(run: list[Record], system: str, mode: str | None = None) -> Record | None:
    """A system's record in a run, variants aside."""
    for record in run:
        same_mode = mode is None or record.get("mode") == mode
        if record["system"] == system and same_mode and not record.get("variant"):
            return record
    return None


def ms(record: Record | None) -> str:
    """Its time, or nothing."""
    return "" if record is None else f"{record['ms']:.3f}"


def short_runs(name: str) -> list[list[Record]]:
    """Runs of one sequence at short context that have a megakernel."""
    return [
        run
        for run in runs(records(name))
        if run[0]["batch"] == 1 and run[0]["positions"] == SHORT
        if one(run, "mpkir-megakernel") is not None
    ]


def decode_table(name: str, gpu: str) -> list[str]:
    """Decode on one GPU, each model's latest run."""
    lines = [
        f"| {gpu}, bf16, batch 1, ms per token | mpkir | a kernel for each operator | floor | "
        "share of floor | logit error, ours / PyTorch bf16 | kernel of |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    latest = {run[0]["model"]: run for run in short_runs(name)}
    beside = {r[0]["model"]: r for r in short_runs(name) if one(r, "mpkir-per-operator")}
    for model, run in latest.items():
        ours = one(run, "mpkir-megakernel")
        assert ours is not None
        operators = ms(one(run, "mpkir-per-operator"))
        if not operators and model in beside:
            then = (one(beside[model], f"mpkir-{each}") for each in ("per-operator", "megakernel"))
            operators = " beside ".join(map(ms, then))
        lines.append(
            f"| {model} | {ms(ours)} | {operators} | "
            f"{ours['floor_ms']:.3f} | {ours['share_of_floor']:.0%} | {ours['logit_error']:.3f} / "
            f"{ours['logit_error_torch_bf16']:.3f} | {ours['commit']} |"
        )
    return lines


def peers_table() -> list[str]:
    """Each model's latest run beside torch.compile."""
    modes = {"CUDA graphs": "reduce-overhead", "max-autotune": "max-autotune"}
    found: dict[str, dict[str, Record | None]] = {}
    for run in short_runs("decode-h100"):
        each = {name: one(run, "torch.compile", mode) for name, mode in modes.items()}
        if any(record is not None for record in each.values()):
            found[run[0]["model"]] = {"": one(run, "mpkir-megakernel"), **each}
    shown = [name for name in modes if any(each[name] is not None for each in found.values())]
    lines = [
        "| beside PyTorch, in one run, ms per token | mpkir then | kernel of | "
        f"{' | '.join(f'torch.compile ({name})' for name in shown)} |",
        f"|{' --- |' * (len(shown) + 3)}",
    ]
    for model, each in found.items():
        ours = each[""]
        assert ours is not None
        peers = " | ".join(ms(each[name]) for name in shown)
        lines.append(f"| {model} | {ms(ours)} | {ours['commit']} | {peers} |")
    return ["", *lines]


def sweep_table(title: str, key: str, default: Any) -> list[str]:
    """Milliseconds and share of the floor of the megakernel by batch size or first position, beside
    the step of batch 1 at short context; nothing if none were measured."""
    other = {"batch": "positions", "positions": "batch"}[key]
    fixed = {"batch": 1, "positions": SHORT}[other]
    found: dict[str, dict[Any, Record]] = {}
    for run in runs(records("decode-h100")):
        ours = one(run, "mpkir-megakernel")
        if ours is not None and ours[other] == fixed:
            value = ours[key] if key == "batch" else ours[key][0]
            found.setdefault(ours["model"], {})[value] = ours
    rows = {model: each for model, each in found.items() if set(each) - {default}}
    values = sorted({value for each in rows.values() for value in each})
    if not rows:
        return []
    lines = [f"| {title} | {' | '.join(map(str, values))} |", f"|{' --- |' * (len(values) + 1)}"]
    for model, each in rows.items():
        cells = (
            f"{each[v]['ms']:.3f}, {each[v]['share_of_floor']:.0%}" if v in each else ""
            for v in values
        )
        lines.append(f"| {model} | {' | '.join(cells)} |")
    return ["", *lines]


def ranks_table() -> list[str]:
    """Decode on several H200s beside one, and one all-reduce inside a kernel beside libraries."""
    steps = records("decode-tp-h200")
    lines = [
        "| H200, bf16, batch 1, ms per token | GPUs | mpkir | of one GPU's time | "
        "of it waiting for others | share of floor | PyTorch (torch.compile, NCCL) | kernel of |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    peers = {(r["model"], r["gpus"]): r for r in steps if r["system"].startswith("torch.compile")}
    ours = [r for r in steps if r["system"] == "mpkir-megakernel" and not r.get("variant")]
    for record in ours:
        model, ranks = record["model"], record["gpus"]
        single = next((r for r in ours if r["model"] == model and r["gpus"] == 1), None)
        alone = next(
            (
                r
                for r in steps
                if (r["model"], r["gpus"]) == (model, ranks) and r.get("variant") == "alone"
            ),
            None,
        )
        ratio = "" if single is None or ranks == 1 else f"{record['ms'] / single['ms']:.3f}"
        waits = "" if alone is None else f"{1 - alone['ms'] / record['ms']:.1%}"
        share = record["floor_ms"] / record["ms"]
        lines.append(
            f"| {model} | {ranks} | {ms(record)} | {ratio} | {waits} | {share:.0%} | "
            f"{ms(peers.get((model, ranks)))} | "
            f"{record['commit']} |"
        )
    reduces = [r for r in records("allreduce-h200") if r["model"] == "8 KB"]
    best: dict[str, Record] = {}
    for record in reduces:
        if record.get("seen_by", "its own SM") == "its own SM":
            held = best.setdefault(record["system"], record)
            best[record["system"]] = min(held, record, key=lambda r: r["us"])
    times = (f"{record['us']:.2f}" for record in best.values())
    lines += [
        "",
        f"| one all-reduce of 8 KB, 2 H200s | {' | '.join(best)} |",
        f"|{' --- |' * (len(best) + 1)}",
        f"| us | {' | '.join(times)} |",
    ]
    return ["", *lines]


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
    """All tables as Markdown."""
    sweeps = [
        *sweep_table("H100, ms per step and share of floor, by batch size", "batch", 1),
        *sweep_table("H100, ms per token and share of floor, by position", "positions", SHORT[0]),
    ]
    decode = [*decode_table("decode-h100", "H100"), *sweeps, *peers_table()]
    decode += ["", *decode_table("decode-h200", "H200")]
    return "\n".join([*decode, *ranks_table(), "", *cpu_table()])


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
