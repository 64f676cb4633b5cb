"""`mpk run`: a program's step on arrays from files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from mpkir.errors import MpkirError
from mpkir.runtime.buffers import check_fits
from mpkir.runtime.program import load
from mpkir.runtime.ranks.start import rank_here


def run_on_files(
    artifact: Path, inputs: Sequence[str], output: Path | None, position: int, steps: int
) -> Iterator[str]:
    """Fill the inputs from .npy files, run, and write every output as .npy (bf16 as float32).

    Yields one line for each output: its name, shape, and smallest, mean and largest value.
    """
    program = load(artifact)
    specs = {buffer.name: buffer for buffer in program.manifest.buffers}
    given = dict(_pair(text) for text in inputs)
    wanted = {name for name, buffer in specs.items() if buffer.kind == "input"}
    if unknown := given.keys() - wanted:
        raise MpkirError(
            f"the program has no input {min(unknown)!r}",
            hint=f"its inputs are {', '.join(sorted(wanted)) or 'none'}",
        )
    if missing := wanted - given.keys():
        raise MpkirError(
            f"input {min(missing)!r} is not given", hint=f"add --input {min(missing)}=FILE.npy"
        )
    for name, path in given.items():
        tensor = _read(path).to(program.buffer(name).dtype)
        check_fits(specs[name], tensor, f"input {name!r}")
        program.buffer(name).copy_(tensor)
    done = program.run(position, steps)
    yield f"{done} of {steps} steps"
    for name, buffer in specs.items():
        if buffer.kind != "output":
            continue
        values = program.output(name).cpu()
        values = values.float() if values.dtype == torch.bfloat16 else values
        if rank_here() > 0:
            continue
        if output is not None:
            output.mkdir(parents=True, exist_ok=True)
            np.save(output / f"{name}.npy", values.numpy())
        numbers = values.double()
        yield (
            f"{name} {list(values.shape)}: {numbers.min():.6g} .. {numbers.max():.6g}, "
            f"mean {numbers.mean():.6g}"
        )


def _pair(text: str) -> tuple[str, Path]:
    name, separator, path = text.partition("=")
    if not separator or not name or not path:
        raise MpkirError(f"{text!r} is no input", hint="write --input NAME=FILE.npy")
    return name, Path(path)


def _read(path: Path) -> torch.Tensor:
    try:
        # numpy.load would also open any zip file, an .npz or a .pt2, and keep it open.
        with path.open("rb") as file:
            array = np.lib.format.read_array(file, allow_pickle=False)
    except OSError as error:
        raise MpkirError(f"the file cannot be read ({error.strerror})", where=str(path)) from error
    except ValueError as error:
        raise MpkirError("this is no .npy file", where=str(path)) from error
    return torch.from_numpy(array)
