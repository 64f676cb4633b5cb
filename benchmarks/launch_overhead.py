"""Where the time of a launch goes that its steps do not take, on a GPU.

    python benchmarks/compile_artifacts.py [--traced] MODEL                    # anywhere
    python benchmarks/launch_overhead.py --artifact build/h100/MODEL .. [--json FILE]

Weights are random. Needs neither xDSL nor a compiler. All of it in microseconds by the host's
clock, medians (least) of REPEATS, in turns, each on an idle GPU behind a launch of one step:

  step         what each further step of a launch adds
  first token  from the call until the host sees what the first step chose, beyond a step
  launch       from the call until a launch of one step has ended and the host knows, beyond a step
  empty        the same of a launch of no step
  enqueue      until the driver has the launch
  bare         a kernel that writes one word of the host's, as one block and shaped like the
               program: until the host sees the word, and until the kernel has ended

Then first tokens behind other things. Where there is a traced build it says which operators the
first step is longer in than the third.
"""

from __future__ import annotations

import argparse
import gc
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from time import perf_counter, sleep
from typing import Any

import numpy as np
import torch
from bare_kernel import BareKernel

from mpkir.errors import MpkirError
from mpkir.runtime.artifact import Artifact, load_artifact
from mpkir.runtime.cuda import CudaProgram
from mpkir.runtime.program import Program, TellingLauncher
from mpkir.runtime.recording import (
    MARKS,
    TRACED_BINARY,
    Notes,
    earliest,
    random_weights,
    since,
    traced,
)
from mpkir.tools.bench.records import append_records, device_name, provenance

WARM, REPEATS = 5, 51
MORE = 5
"""Steps of the longer launches."""
TRACED_STEPS, TRACED_LAUNCHES = 4, 7
STAGES = 256


class Launches:
    """Launches from one position, in microseconds."""

    def __init__(
        self,
        launcher: TellingLauncher,
        position: int,
        clock: Callable[[], float] = perf_counter,
    ) -> None:
        self.launcher, self.position, self._clock = launcher, position, clock

    def end(self, steps: int) -> float:
        """From the call until the launch has ended."""
        begun = self._clock()
        done = self.launcher.run(self.position, steps)
        elapsed = self._clock() - begun
        assert done == steps
        return elapsed * 1e6

    def first(self, steps: int) -> float:
        """From the call until the host sees the first step's token; the others follow."""
        begun = self._clock()
        self.launcher.launch(self.position, steps)
        token = self.launcher.told(0)
        elapsed = self._clock() - begun
        self.launcher.finish(steps)
        assert token is not None
        return elapsed * 1e6

    def enqueued(self) -> float:
        """From the call until the driver has the launch of one step."""
        begun = self._clock()
        self.launcher.launch(self.position, 1)
        elapsed = self._clock() - begun
        self.launcher.finish(1)
        return elapsed * 1e6

    def apart(self) -> float:
        """Between the last two tokens of a longer launch, as the host sees them."""
        self.launcher.launch(self.position, MORE)
        self.launcher.told(MORE - 2)
        begun = self._clock()
        self.launcher.told(MORE - 1)
        elapsed = self._clock() - begun
        self.launcher.finish(MORE)
        return elapsed * 1e6


def in_turns(
    measures: Mapping[str, Callable[[], float]], before: Callable[[], object]
) -> dict[str, list[float]]:
    """REPEATS times of each, by turns, so that what changes meanwhile changes all alike."""
    times: dict[str, list[float]] = {name: [] for name in measures}
    for turn in range(WARM + REPEATS):
        for name, measure in measures.items():
            before()
            elapsed = measure()
            if turn >= WARM:
                times[name].append(elapsed)
    return times


def shown(times: Sequence[float], less: float = 0.0) -> str:
    """Median, least, and what a tenth exceeds."""
    median_, least, most = median(times), min(times), float(np.quantile(times, 0.9))
    return f"{median_ - less:8.1f} ({least - less:.1f}, 90 %: {most - less:.1f})"


def split(
    launches: Launches, others: Mapping[str, Callable[[], float]]
) -> tuple[dict[str, float], dict[str, float]]:
    """The parts of a launch, and medians of the other measures beside them; prints both."""
    steps = (0, 1, 2, MORE)
    own: dict[str, Callable[[], float]] = {
        **{f"end {n}": lambda n=n: launches.end(n) for n in steps},
        "first of 1": lambda: launches.first(1),
        f"first of {MORE}": lambda: launches.first(MORE),
        "apart": launches.apart,
        "enqueue": launches.enqueued,
    }
    times = in_turns({**own, **others}, lambda: launches.end(1))
    medians = {name: median(each) for name, each in times.items()}
    step = (medians[f"end {MORE}"] - medians["end 1"]) / (MORE - 1)
    found = {
        "step_us": step,
        "step_seen_us": medians["apart"],
        "first_token_us": medians["first of 1"] - step,
        "first_of_more_us": medians[f"first of {MORE}"] - step,
        "launch_us": medians["end 1"] - step,
        "launch_of_two_us": medians["end 2"] - 2 * step,
        "empty_us": medians["end 0"],
        "enqueue_us": medians["enqueue"],
    }
    print(f"  step, by the ends    {step:8.1f}, as tokens are seen {medians['apart']:.1f}")
    print(f"  first token          {shown(times['first of 1'], step)}")
    print(f"    of {MORE} steps         {shown(times[f'first of {MORE}'], step)}")
    print(f"  launch               {shown(times['end 1'], step)}")
    print(f"  empty                {shown(times['end 0'])}")
    print(f"  enqueue              {shown(times['enqueue'])}")
    for name in others:
        print(f"  {name:40s}{shown(times[name])}")
    return found, {name: medians[name] for name in others}


def beside(launches: Launches) -> dict[str, Callable[[], float]]:
    """Other things to be measured in turns with a program's launches."""
    launcher = launches.launcher
    assert isinstance(launcher, CudaProgram)
    device = launcher.device  # with its number
    small = torch.zeros(1024, device=device)
    found: dict[str, Callable[[], float]] = {
        "wait for an idle stream": lambda: _timed(torch.cuda.current_stream().synchronize),
        "a small kernel of torch's": lambda: _timed(
            lambda: (small.add_(1.0), torch.cuda.synchronize())
        ),
    }
    shape = launcher.table.worker_count, launcher.threads, launcher.shared_bytes
    shapes = (
        ("one block", (1, 32, 0), False),
        ("all", shape, True),
        ("all, not cooperative", shape, False),
    )
    try:
        for name, kind, together in shapes:
            bare = BareKernel(device, *kind, together=together)
            found |= {f"bare, {name}: seen": bare.seen, f"bare, {name}: end": bare.end}
    except MpkirError as error:
        print(f"  no bare kernel: {error.what}")
    together = launcher._config
    apart = launcher._module.launch_config(*shape, together=False)
    apart.hStream = torch.cuda.current_stream(device).cuda_stream

    def any_time() -> float:
        launcher._config = apart
        elapsed = launches.first(1)
        launcher._config = together
        return elapsed

    own = torch.cuda.Stream(device)

    def own_stream() -> float:
        with torch.cuda.stream(own):
            launches.end(1)
            elapsed = launches.first(1)
        launches.end(1)  # the others find their stream as they left it
        return elapsed

    return {
        **found,
        "a step and its token, not cooperative": any_time,
        "a step and its token, own stream": own_stream,
    }


def circumstances(launches: Launches, device: torch.device, step: float) -> dict[str, float]:
    """First tokens of one step behind other things, beyond a step; prints them."""
    small = torch.zeros(1024, device=device)
    large = torch.zeros(2**26, device=device)  # 256 MiB, five times the L2 cache
    befores: dict[str, Callable[[], object]] = {
        "a launch of one step": lambda: launches.end(1),
        "a launch of nine": lambda: launches.end(9),
        "1 ms": lambda: sleep(1e-3),
        "30 ms": lambda: sleep(30e-3),
        "small kernels": lambda: small.add_(1.0).add_(1.0).add_(1.0),
        "other data in the caches": lambda: large.add_(1.0),
    }
    found: dict[str, float] = {}
    for name, before in befores.items():
        times = in_turns({name: lambda: launches.first(1)}, lambda: (before(), _idle()))[name]
        found[name] = median(times) - step
        print(f"  first token behind {name:26s}{shown(times, step)}")
    return found


def _idle() -> None:
    torch.cuda.synchronize()


def _timed(what: Callable[[], Any]) -> float:
    begun = perf_counter()
    what()
    return (perf_counter() - begun) * 1e6


def traced_ends(program: Program, launches: Launches) -> np.ndarray[Any, np.dtype[np.float64]]:
    """When each family of each step was done, [steps, families], medians of several launches;
    from the first mark of a launch."""
    table = program.table
    family = table.tasks[:, 0]
    found: list[np.ndarray[Any, np.dtype[np.float64]]] = []
    for _ in range(2 + TRACED_LAUNCHES):
        with Notes(program, TRACED_STEPS, TRACED_STEPS, STAGES) as notes:
            torch.cuda.synchronize()
            launches.end(TRACED_STEPS)
        marks = notes.marks(range(TRACED_STEPS))
        begin = earliest(marks[0, :, MARKS.index("asked")])
        done = since(marks[..., MARKS.index("done")], begin)
        ends = np.zeros((TRACED_STEPS, len(table.families)))
        for step in range(TRACED_STEPS):
            np.maximum.at(ends[step], family, done[step] / 1e3)
        found.append(ends)
    return np.median(np.stack(found[2:]), axis=0)


def by_operator(program: Program, launches: Launches) -> dict[str, Any]:
    """What the first step takes longer than the third, by operator and by quarter of the step;
    prints it."""
    ends = traced_ends(program, launches)
    order = np.argsort(ends[2], kind="stable")
    ends = ends[:, order]
    begins = np.concatenate([[0.0], ends[:-1, -1]])
    lasting = np.diff(ends, axis=1, prepend=begins[:, None])
    names = [program.table.names.families[int(k)] for k in order]
    surplus = lasting[0] - lasting[2]
    steps = [round(float(end - begin), 1) for begin, end in zip(begins, ends[:, -1], strict=True)]
    quarters = [round(float(each.sum()), 1) for each in np.array_split(surplus, 4)]
    sums: dict[str, list[float]] = defaultdict(list)
    for name, each in zip(names, surplus, strict=True):
        sums[re.sub(r"\d+", "*", name)].append(float(each))
    print(f"  traced: steps take {steps}; the first beyond the third, by quarters: {quarters}")
    print("  the first families, as they end: us of the first step, of the third")
    for name, a, b in zip(names[:10], lasting[0], lasting[2], strict=False):
        print(f"    {name:44s}{a:8.2f}{b:8.2f}")
    print("  by operator: families, surplus of the first, of all others together")
    worst = sorted(sums.items(), key=lambda item: -abs(sum(item[1])))[:12]
    for name, each in worst:
        print(f"    {name:44s}{len(each):4d}{each[0]:8.2f}{sum(each[1:]):8.2f}")
    return {
        "traced_steps_us": steps,
        "surplus_by_quarter_us": quarters,
        "surplus_by_operator_us": {
            name: [round(each[0], 2), round(sum(each[1:]), 2)] for name, each in worst
        },
    }


def loaded(artifact: Artifact, position: int) -> tuple[Program, Launches]:
    """With random weights, all tokens known. MpkirError where what is told is not so."""
    program = Program(artifact, random_weights(artifact))
    language = program.manifest.language
    if language is None or not program.tells:
        raise MpkirError(
            "this kernel tells no tokens while it runs",
            where=str(artifact.path),
            hint="compile it again",
        )
    torch.manual_seed(0)
    tokens = program.buffer(language.tokens).random_(0, language.vocabulary)
    behind = slice(position + 1, position + 1 + MORE)
    tokens[behind] = -1
    seen = [token for piece in program.stream([position + MORE], position) for token in piece[0]]
    if seen != tokens[behind].tolist() or min(seen) < 0:
        raise MpkirError("the host was told other tokens than stand in the GPU's memory")
    assert isinstance(program.launcher, CudaProgram)
    return program, Launches(program.launcher, position)


def measure(artifact: Artifact, position: int) -> dict[str, Any]:
    """Everything of one model; prints it."""
    name = artifact.path.name
    print(f"{name}, position {position}", flush=True)
    program, launches = loaded(artifact, position)
    found, others = split(launches, beside(launches))
    behind = circumstances(launches, program.device, found["step_us"])
    record: dict[str, Any] = {
        **_rounded(found),
        "beside_us": _rounded(others),
        "first_token_behind_us": _rounded(behind),
    }
    if (artifact.path / TRACED_BINARY).is_file():
        del program, launches
        gc.collect()
        torch.cuda.empty_cache()
        record |= by_operator(*loaded(traced(artifact), position))
    return {
        "benchmark": "launch",
        "system": "mpkir-megakernel",
        "model": name,
        "gpu": device_name(torch.device("cuda")),
        "gpus": 1,
        "batch": 1,
        "position": position,
        **record,
        **provenance(),
    }


def _rounded(times: Mapping[str, float]) -> dict[str, float]:
    return {name: round(each, 1) for name, each in times.items()}


def main() -> None:
    """Take the launches of each model apart."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--artifact", type=Path, nargs="+", required=True, metavar="DIR")
    parser.add_argument("--position", type=int, default=32)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    gc.disable()  # its pauses are as long as what is measured
    for path in given.artifact:
        record = measure(load_artifact(path), given.position)
        if given.json is not None:
            append_records(given.json, [record])
        gc.collect()
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
