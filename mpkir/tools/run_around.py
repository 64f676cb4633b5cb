"""`mpk-opt --run-before-and-after`: a pass checked by running the program before and after it."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
from xdsl.context import Context
from xdsl.dialects.builtin import BFloat16Type, Float16Type, Float32Type, ModuleOp
from xdsl.passes import ModulePass

from mpkir.backends.interpreter.values import Array
from mpkir.errors import MpkirError
from mpkir.pipeline import flattened
from mpkir.tools.random_run import Numbers

EVERY = "all"
"""The name that stands for every pass."""
_ROUNDINGS = {Float32Type: 64 * 2.0**-23, Float16Type: 8 * 2.0**-10, BFloat16Type: 8 * 2.0**-7}
"""What results may differ by, as part of the largest: some roundings of a type."""


@dataclass(frozen=True)
class RunAround(ModulePass):
    """Runs a pass, and the program before and after it; MpkirError if the results differ."""

    inner: ModulePass
    seed: int

    @property
    def name(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.inner.name

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        numbers = Numbers.random(op, self.seed)
        tolerance = tolerance_of(op)
        before = numbers.run(op, self.seed)
        self.inner.apply(ctx, op)
        op.verify()
        try:
            after = numbers.run(op, self.seed)
        except MpkirError as error:
            raise MpkirError(
                f"the program does not run after the pass: {error}", where=self.name
            ) from error
        note = compare(before, after, tolerance, self.name)
        print(f"mpk-opt: {self.name}: {note} after {numbers.steps} steps", file=sys.stderr)


def run_around(passes: Sequence[ModulePass], name: str, seed: int) -> Iterator[ModulePass]:
    """The passes, those of that name ("all": every one) with a run before and after each.

    A pass of the default pipeline is found inside it. MpkirError if there is none.
    """
    found: set[str] = set()
    for stage in flattened(passes, keep=name):
        found.add(stage.name)
        yield RunAround(stage, seed) if name in (stage.name, EVERY) else stage
    if name != EVERY and name not in found:
        raise MpkirError(
            f"the pipeline has no pass '{name}' to run before and after",
            hint=f"its passes are {', '.join(sorted(found)) or 'none'}",
        )


def tolerance_of(module: ModuleOp) -> float:
    """What results of a program may differ by, as part of the largest value: by its coarsest
    floating-point type, in whatever type the results are."""
    types = {type(t) for t in _element_types(module)}
    return max((_ROUNDINGS[t] for t in types if t in _ROUNDINGS), default=1e-12)


def _element_types(module: ModuleOp) -> Iterator[Any]:
    for op in module.walk():
        for result in op.results:
            if hasattr(result.type, "get_element_type"):
                yield getattr(result.type, "get_element_type")()


def compare(
    before: Mapping[str, Array], after: Mapping[str, Array], tolerance: float, where: str
) -> str:
    """What to say of equal results; MpkirError that names the first output that differs.

    Integers have to be equal; floats within `tolerance` times the largest value of the array.
    """
    if missing := [name for name in before if name not in after]:
        raise MpkirError(f"{missing[0]} is gone", where=where)
    faults: list[str] = []
    largest, at = 0.0, ""
    for name, wanted in before.items():
        found = after[name]
        if (found.shape, found.dtype) != (wanted.shape, wanted.dtype):
            was, is_ = (f"{a.dtype}{list(a.shape)}" for a in (wanted, found))
            faults.append(f"{name} was {was} and is {is_}")
            continue
        apart, allowed = _differences(wanted, found, tolerance)
        if apart.max(initial=0.0) > largest:
            largest, at = float(apart.max()), name
        if (apart > allowed).any():
            # The first element that differs, in row-major order.
            index = np.unravel_index(int(np.argmax(apart > allowed)), wanted.shape)
            place = f"[{', '.join(map(str, index))}]" if index else ""
            faults.append(
                f"{name}{place} was {wanted[index]} and is {found[index]}, {apart[index]:.6g} "
                f"apart, allowed is {allowed:.6g}; {int((apart > allowed).sum())} of "
                f"{wanted.size} elements differ"
            )
    if faults:
        more = f" ({len(faults)} of {len(before)} outputs and states differ)"
        raise MpkirError(f"the pass changes results: {faults[0]}{more}", where=where)
    same = "identical" if largest == 0 else f"at most {largest:.3g} apart ({at})"
    return f"{len(before)} outputs and states {same}"


def _differences(wanted: Array, found: Array, tolerance: float) -> tuple[Array, float]:
    """How far elements are apart (infinitely where only one is a number), and how far they may."""
    if not _is_float(wanted.dtype):
        apart = np.abs(wanted.astype(np.float64) - found.astype(np.float64))
        return np.where(wanted != found, np.maximum(apart, 1.0), 0.0), 0.0
    a, b = wanted.astype(np.float64), found.astype(np.float64)
    finite = np.isfinite(a)
    largest = np.abs(a[finite]).max(initial=0.0)
    with np.errstate(invalid="ignore"):
        apart = np.abs(a - b)
    apart[(a == b) | (np.isnan(a) & np.isnan(b))] = 0.0
    apart[np.isnan(apart)] = np.inf
    return apart, tolerance * float(largest)


def _is_float(dtype: np.dtype[Any]) -> bool:
    return dtype == ml_dtypes.bfloat16 or np.issubdtype(dtype, np.floating)
