"""Times by several clocks on one: what a traced build's workers noted, in nanoseconds of all.

A GPU's worker notes the cycles of its SM, and once a step looks together at these and at the
nanoseconds that all SMs share (`StepClock` of include/mpk/trace.cuh). Between two such looks a
clock is taken to be even, before the first and behind the last as it is next to it. All are modulo
2^32.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Words = npt.NDArray[np.uint32]
Times = npt.NDArray[np.int64]


def shared_times(cycles: Words, worker: npt.NDArray[np.integer], looks: Words) -> Times:
    """Nanoseconds from some moment on that is the same for all.

    cycles: [..] a worker's clock, within 2^31 of its looks; worker: [..] whose
    looks: [workers, n, 2] cycles and nanoseconds of each look, within 2^31 of each other; 0, 0 is
        none. With none at all, `cycles` are nanoseconds that all share as they are
    """
    known = looks[..., 1] != 0
    if not known.any():
        return _since(cycles, cycles[cycles != 0][:1].sum(dtype=np.uint32))
    begin = looks[known][0, 1]
    lines: dict[int, tuple[Times, Times]] = {}
    for number in np.flatnonzero(known.any(axis=1)).tolist():
        pairs = looks[number][known[number]]
        at, nanoseconds = _since(pairs[:, 0], pairs[0, 0]), _since(pairs[:, 1], begin)
        order = np.argsort(at)
        lines[number] = at[order], nanoseconds[order]
    slopes = [(n[-1] - n[0]) / (at[-1] - at[0]) for at, n in lines.values() if len(at) > 1]
    usual = float(np.median(slopes)) if slopes else 1.0
    result = np.zeros(cycles.shape, np.int64)
    for number, (at, nanoseconds) in lines.items():
        mine = worker == number
        since = _since(cycles[mine], looks[number][known[number]][0, 0])
        slope = np.diff(nanoseconds) / np.diff(at) if len(at) > 1 else np.array([usual])
        part = np.clip(np.searchsorted(at, since, "right") - 1, 0, len(slope) - 1)
        result[mine] = np.rint(nanoseconds[part] + (since - at[part]) * slope[part])
    return result


def _since(values: Words, begin: np.uint32) -> Times:
    return (values - begin).view(np.int32).astype(np.int64)
