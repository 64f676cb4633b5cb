"""What the compilers made of a kernel: registers, spills, code, loops of products, weight copies.

    python benchmarks/kernel_code.py build/h100/MODEL .. --json benchmarks/results/kernel-code.json

A product's loop over the stages of the ring is found in the machine code as an innermost one that
waits for a stage, multiplies on tensor cores and gives the stage back. Its instructions are counted
for a warp and a stage; what a warp runs only while it waits lies elsewhere and is not among them.
What it runs while it polls for x is: a loop that asks again for what others write, its instructions
counted for a round.
What the loader does between a landing and the copy that it lets start costs bandwidth: of each copy
the instructions behind the wait before it are counted, in the order of the code.
Needs nvcc, and nvdisasm (of the CUDA toolkit, or of the triton package), but no GPU.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from mpkir.errors import MpkirError
from mpkir.runtime.artifact import load_artifact
from mpkir.runtime.build_cuda import INCLUDE
from mpkir.tools.bench.records import append_records, provenance

KINDS = {
    "tensor core": r"HMMA",
    "shared memory": r"LDSM?|STS",
    "barrier": r"SYNCS|BAR|MEMBAR|WARPSYNC|BSSY|BSYNC|YIELD",
    "move": r"MOV|IMAD\.MOV|UMOV|CS2R|SEL",
    "branch": r"BRA|CALL|RET",
    "float": r"FADD|FMUL|FFMA|SHFL|MUFU|F2F|FSEL",
    "other": r"",
}
"""Kinds of instructions, and what theirs begin with; the first that fits."""


@dataclass
class Loop:
    """Instructions from a label to the branch back to it."""

    body: list[str]
    """Mnemonics, in order."""

    def count(self, mnemonic: str) -> int:
        """Of those that begin so."""
        return sum(each.startswith(mnemonic) for each in self.body)

    @property
    def stages(self) -> int:
        """Stages of the ring that it gives back each time."""
        return self.count("SYNCS.ARRIVE")

    @property
    def is_product(self) -> bool:
        """Whether it takes stages of the ring through tensor cores, and does nothing else."""
        wanted = ("HMMA", "LDS", "SYNCS.PHASECHK", "SYNCS.ARRIVE")
        return all(self.count(each) for each in wanted) and not self.count("BAR")

    @property
    def is_poll(self) -> bool:
        """Whether it asks for several vectors that others write, again and again."""
        return self.polled > 1 and not self.count("HMMA")

    @property
    def polled(self) -> int:
        """Vectors of 16 bytes that a round asks for at most."""
        return self.count("LDG.E.128.STRONG")

    def round(self) -> dict[str, int]:
        """Of polls, for a warp."""
        reads = self.count("LDS")
        return {"polled": self.polled, "instructions": len(self.body), "shared_reads": reads}

    def facts(self) -> dict[str, Any]:
        """For a warp and a stage."""
        kinds = Counter(next(k for k, p in KINDS.items() if re.match(p, m)) for m in self.body)
        by_kind = {kind: round(kinds[kind] / self.stages, 1) for kind in KINDS if kinds[kind]}
        return {
            "stages_at_once": self.stages,
            "instructions": round(len(self.body) / self.stages, 1),
            **by_kind,
        }


@dataclass
class Code:
    """A kernel's machine code as nvdisasm prints it."""

    mnemonics: list[str] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)
    branches: list[tuple[int, str]] = field(default_factory=list)
    """Places of branches and the labels they go to."""

    @staticmethod
    def of(listing: str, kernel: str = "mpk_run") -> Code:
        """Of the kernel's section; empty if there is none."""
        code = Code()
        begun = False
        for line in listing.splitlines():
            if line.lstrip().startswith(".section"):
                begun = f".text.{kernel}" in line
            elif begun and (label := re.match(r"(\.L\w+):", line)):
                code.labels[label[1]] = len(code.mnemonics)
            elif begun and (found := _INSTRUCTION.search(line)):
                if target := re.search(r"`\((\.L\w+)\)", line):
                    code.branches.append((len(code.mnemonics), target[1]))
                code.mnemonics.append(found[1])
        return code

    def product_loops(self) -> list[dict[str, Any]]:
        """Each product's, in the order of the code: the shortest of those that overlap."""
        return [loop.facts() for loop in self._innermost(lambda loop: loop.is_product)]

    def poll_loops(self) -> list[dict[str, int]]:
        """Each wait's for vectors of x, in the same way."""
        return [loop.round() for loop in self._innermost(lambda loop: loop.is_poll)]

    def _innermost(self, wanted: Callable[[Loop], bool]) -> list[Loop]:
        back = {(self.labels.get(target, place + 1), place) for place, target in self.branches}
        found: list[tuple[int, int]] = []
        for first, last in sorted(back, key=lambda span: span[1] - span[0]):
            if first > last or any(first <= b and a <= last for a, b in found):
                continue
            if wanted(Loop(self.mnemonics[first : last + 1])):
                found.append((first, last))
        return [Loop(self.mnemonics[a : b + 1]) for a, b in sorted(found)]

    def behind_landings(self) -> list[int]:
        """Of each copy of a stage: instructions behind the wait before it, itself among them."""
        found: list[int] = []
        waited = 0
        for place, mnemonic in enumerate(self.mnemonics):
            if mnemonic.endswith("TRYWAIT"):
                waited = place
            elif mnemonic.startswith("UBLKCP"):
                found.append(place - waited)
        return found


_INSTRUCTION = re.compile(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\d+\s+)?([A-Z][\w.]*)")


def resources(report: str) -> dict[str, int]:
    """What ptxas -v says of the kernel."""
    stack, stores, loads = _numbers(
        r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", report
    )
    (registers,) = _numbers(r"Used (\d+) registers", report)
    return {
        "registers": registers,
        "stack_bytes": stack,
        "spill_stores": stores,
        "spill_loads": loads,
    }


def _numbers(pattern: str, text: str) -> list[int]:
    found = re.search(pattern, text)
    if found is None:
        raise MpkirError("ptxas has not said what the kernel takes", hint=text[-500:])
    return [int(each) for each in found.groups()]


def examine(artifact: Path, nvdisasm: str, defines: list[str]) -> dict[str, Any]:
    """A record of the artifact's kernel; MpkirError if a compiler fails."""
    loaded = load_artifact(artifact)
    with TemporaryDirectory() as folder:
        binary = Path(folder) / "kernel.cubin"
        arch = f"-arch={loaded.manifest.target.arch}"
        options = ["-std=c++17", "-O3", arch, "-cubin", "-Xptxas", "-v"]
        options += [f"-D{define}" for define in defines]
        report = _run(
            ["nvcc", *options, f"-I{INCLUDE}", str(loaded.source_path), "-o", str(binary)]
        )
        code = Code.of(_run([nvdisasm, "-c", str(binary)]))
    model, *parts = artifact.name.split("+")
    variant = "+".join(part for part in parts if not part.startswith("batch="))
    return {
        "benchmark": "kernel-resources",
        "system": "mpkir-megakernel",
        "model": model,
        "variant": variant,
        "target": loaded.manifest.target.name,
        "gpu": "none: compiled",
        "gpus": 1,
        "batch": language.batch if (language := loaded.manifest.language) else 1,
        "defines": defines,
        **resources(report),
        "code_bytes": 16 * len(code.mnemonics),
        "product_loops": code.product_loops(),
        "poll_loops": code.poll_loops(),
        "behind_landings": code.behind_landings(),
        **provenance(),
    }


def _run(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except FileNotFoundError:
        raise MpkirError(f"there is no {command[0]} here") from None
    except subprocess.CalledProcessError as error:
        raise MpkirError(f"{command[0]} failed", hint=error.stderr[-2000:]) from None
    return done.stdout + done.stderr


def main() -> None:
    """Examine each artifact, print its line, append its record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("artifacts", nargs="+", type=Path)
    parser.add_argument("--nvdisasm", default="nvdisasm", help="the program, if not on the path")
    parser.add_argument("--define", action="append", default=[], help="a macro for the kernel")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    try:
        records = [examine(each, given.nvdisasm, given.define) for each in given.artifacts]
    except MpkirError as error:
        sys.exit(f"kernel_code: error: {error}")
    for record in records:
        print(
            f"{record['model']} {record['variant']} batch {record['batch']}: "
            f"{record['registers']} registers, "
            f"{record['spill_stores']} bytes spilled, {record['code_bytes'] // 1024} KB, "
            f"copies behind landings {record['behind_landings']}"
        )
        for loop in record["product_loops"]:
            print("   ", loop)
    if given.json:
        append_records(given.json, records)


if __name__ == "__main__":
    main()
