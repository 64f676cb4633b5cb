"""A loaded program: an artifact bound to memory. Needs neither xDSL nor a compiler."""

from __future__ import annotations

import os
from collections.abc import Generator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from torch.utils import _pytree as pytree

from mpkir.errors import MpkirError
from mpkir.runtime.artifact import Artifact, load_artifact, read_manifest
from mpkir.runtime.buffers import allocate, bind, check_fits, values_of
from mpkir.runtime.host import check_host
from mpkir.runtime.manifest import Buffer, Manifest, Place, Signature, Target
from mpkir.runtime.origins import flagged_writers, origins_of, partial_buffers
from mpkir.runtime.ranks.agreement import check_agreement
from mpkir.runtime.ranks.group import Group, telling
from mpkir.runtime.ranks.memory import PeerMemory
from mpkir.runtime.ranks.outputs import gathered


class Launcher(Protocol):
    """Runs a binary on bound memory; one for each kind of target. A run that another thread can
    end has `abort()`."""

    def run(self, position: int, steps: int) -> int:
        """Run up to `steps` steps from `position` on; the number of steps done."""
        ...


class TellingLauncher(Launcher, Protocol):
    """Says tokens while a run goes on; of one that could and whose program does not, `tells` is
    false."""

    tells: bool

    def launch(self, position: int, steps: int) -> None:
        """Start a run; `finish` must follow."""
        ...

    def told(self, step: int) -> list[int] | None:
        """What a step put behind its token in each sequence; None if the run ended before."""
        ...

    def finish(self, steps: int) -> int:
        """Wait for the run's end; the number of steps done."""
        ...


class Program:
    """A compiled program with its memory.

    artifact  where it came from
    weights   tensors by source name, instead of those the artifact holds or refers to; a tensor
              on the right device is used in place, not copied
    device    of a GPU program; None is the current one
    beside    another program on the same weights and device: what both hold alike lies there once
    group     of a program of several ranks: this process among them, by default as torchrun's
              environment says; each rank makes the same calls

    Raises MpkirError if this machine is not the target, a weight is missing or misfits, or the
    ranks differ in what they run.
    """

    def __init__(
        self,
        artifact: Artifact,
        weights: Mapping[str, torch.Tensor] | None = None,
        device: torch.device | str | None = None,
        beside: Program | None = None,
        group: Group | None = None,
    ) -> None:
        self.artifact = artifact
        self.manifest = artifact.manifest
        self.table = artifact.table
        self.group = _group_for(self.manifest, group)
        """The ranks that run it, if there are several."""
        with telling(self.group):
            self._load(weights, device, beside)

    def _load(
        self,
        weights: Mapping[str, torch.Tensor] | None,
        device: torch.device | str | None,
        beside: Program | None,
    ) -> None:
        if device is None and self.group is not None and self.manifest.target.kind == "cuda":
            device = _gpu_of(self.group)
        self.device = _device_of(self.manifest.target, device)
        check_host(self.manifest.target, self.device, str(self.artifact.path))
        artifact = self.artifact
        weights = artifact.weights() if weights is None else weights
        self._peers: PeerMemory | None = None
        if self.group is not None:
            check_agreement(self.group, artifact, weights)
            self._peers = PeerMemory(self.manifest, self.device, self.group)
        self._buffers = self._allocate(weights, {} if beside is None else beside.weights)
        self.launcher = _launcher(artifact, list(self._buffers.values()), self._peers)
        self.reset()
        if self.group is not None:
            self.group.barrier()  # Who reads its weights for longer is not late for a launch.

    def run(self, position: int = 0, steps: int = 1) -> int:
        """Run up to `steps` steps, the first at token `position`, in one launch.

        Returns the number of steps done, which is smaller where the program stopped by itself.
        """
        self._check_run(position, steps)
        with self._launching():
            return self.launcher.run(position, steps)

    @property
    def tells(self) -> bool:
        """Whether tokens are known while a launch goes on."""
        return getattr(self.launcher, "tells", False)

    def stream(self, places: Sequence[int], position: int = 0) -> Generator[list[list[int]]]:
        """Run a language model's steps from token `position` on, and say what each sequence holds
        behind them as soon as that is known.

        places   rising: a piece ends at each of these places of the sequences

        Gives pieces, a list for each sequence: the tokens up to there since the piece before. Where
        the program stopped by itself the last piece is shorter. A program that `tells` runs all of
        it in one launch, and so to its end also if no more pieces are asked for; any other makes a
        launch for each piece. The memory of the program is to be used only when the last piece has
        come or the iterator is closed.
        """
        language = self.manifest.language
        if language is None:
            raise MpkirError("this program is not a language model")
        if self.tells:
            yield from self._told(places, position)
            return
        rows = self.buffer(language.tokens).view(language.batch, -1)
        for place in places:
            done = self.run(position, place - position)
            yield rows[:, position + 1 : position + 1 + done].tolist()
            position += done
            if position < place:
                return

    def _told(self, places: Sequence[int], position: int) -> Generator[list[list[int]]]:
        """`stream` in one launch."""
        launcher = cast(TellingLauncher, self.launcher)
        steps = places[-1] - position
        self._check_run(position, steps)
        with self._launching():
            launcher.launch(position, steps)
            try:
                step = 0
                for place in places:
                    columns: list[list[int]] = []
                    while position + step < place and (column := launcher.told(step)) is not None:
                        columns.append(column)
                        step += 1
                    if columns:
                        yield [list(row) for row in zip(*columns, strict=True)]
                    if position + step < place:
                        return
            finally:
                launcher.finish(steps)

    def _check_run(self, position: int, steps: int) -> None:
        if position < 0 or steps < 1:
            raise MpkirError(f"cannot run {steps} steps from position {position}")
        language = self.manifest.language
        end = position + steps * self.manifest.tokens_per_step
        if language is not None and end > language.capacity:
            raise MpkirError(
                f"{steps} steps from position {position} end at {end}, but the program was "
                f"compiled for {language.capacity} positions",
                hint="run fewer steps, or compile again with a larger capacity",
            )

    def _launching(self) -> AbstractContextManager[None]:
        """Around a launch."""
        if self.group is None:
            return nullcontext()
        return self.group.launching(getattr(self.launcher, "abort", None))

    def buffer(self, name: str) -> torch.Tensor:
        """The memory of a buffer; what is written to it is what the next run reads.

        Of a flagged one a copy of the values: nobody but the program can write its elements.
        """
        if name not in self._buffers:
            raise MpkirError(
                f"the program has no buffer {name!r}", hint="`mpk inspect` lists the buffers"
            )
        spec = next(buffer for buffer in self.manifest.buffers if buffer.name == name)
        return values_of(spec, self._buffers[name]).clone() if spec.flagged else self._buffers[name]

    def output(self, name: str) -> torch.Tensor:
        """What a buffer holds, put together where each rank has a part: all of them have to ask.

        A part's memory is only copied where there are several.
        """
        memory = self.buffer(name)
        spec = next(buffer for buffer in self.manifest.buffers if buffer.name == name)
        if self.group is None or spec.shard is None:
            return memory
        return gathered(self.group, spec.shard, memory)

    @property
    def weights(self) -> dict[Buffer, torch.Tensor]:
        """The memory of the weights, by what the manifest says of each."""
        held = (buffer for buffer in self.manifest.buffers if buffer.kind == "weight")
        return {buffer: self._buffers[buffer.name] for buffer in held}

    def reset(self) -> None:
        """Give every state (caches, token sequence) its initial value again."""
        constants = self.artifact.constants()
        for buffer in self.manifest.buffers:
            if buffer.kind == "state":
                memory = self._buffers[buffer.name]
                if buffer.source is None:
                    memory.fill_(buffer.initial or 0)
                else:
                    check_fits(buffer, constants[buffer.source], f"state {buffer.name!r}")
                    memory.copy_(constants[buffer.source])

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run one step like the module that was compiled; the results are copies.

        Raises MpkirError if the arguments differ from those it was exported with.
        """
        signature = self.manifest.signature
        if signature is None:
            raise MpkirError(
                "this program has no call signature", hint="set its buffers and use run()"
            )
        specs = {buffer.name: buffer for buffer in self.manifest.buffers}
        tensors = _flatten_arguments(signature, args, kwargs)
        for name, tensor in zip(signature.inputs, tensors, strict=True):
            check_fits(specs[name], tensor, f"input {name!r}")
        for name, tensor in zip(signature.inputs, tensors, strict=True):
            self._buffers[name].copy_(tensor)
        self.run()
        for name, tensor in zip(signature.inputs, tensors, strict=True):
            if specs[name].donated:
                tensor.detach().copy_(self._buffers[name])
        results = [self.output(name).clone() for name in signature.outputs]
        if signature.out_tree is not None:
            return pytree.tree_unflatten(results, pytree.treespec_loads(signature.out_tree))
        return results[0] if len(results) == 1 else tuple(results)

    @property
    def _place(self) -> Place:
        return Place() if self.group is None else Place(self.group.rank, self.group.ranks)

    def _allocate(
        self, weights: Mapping[str, torch.Tensor], held: Mapping[Buffer, torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        """Memory by buffer name, in the order of the buffers' ids; of those held already, that."""
        tensors = {"weight": weights, "constant": self.artifact.constants()}
        if not weights and any(buffer.kind == "weight" for buffer in self.manifest.buffers):
            raise MpkirError(
                "the artifact holds no weights and refers to none",
                where=str(self.artifact.path),
                hint="hand them over: load(path, weights={name: tensor, ...})",
            )
        return {
            buffer.name: held[buffer]
            if buffer in held
            else bind(buffer, tensors[buffer.kind], self.device, self._place)
            if buffer.kind in tensors
            else self._peers.buffer(buffer)
            if self._peers is not None and buffer.exchange
            else allocate(buffer, self.device)
            for buffer in self.manifest.buffers
        }


def load(
    path: str | Path,
    weights: Mapping[str, torch.Tensor] | None = None,
    device: torch.device | str | None = None,
    group: Group | None = None,
) -> Program:
    """Load an artifact directory; the arguments are those of `Program`.

    Raises MpkirError if anything in it is missing, changed, or made for another machine.
    """
    group = _group_for(read_manifest(Path(os.path.abspath(path))), group)
    with telling(group):
        artifact = load_artifact(path, Place() if group is None else group.place_on_host)
    return Program(artifact, weights, device, group=group)


def _group_for(manifest: Manifest, group: Group | None) -> Group | None:
    """The ranks that run a program: None if it is one, those of the environment if not given."""
    if manifest.ranks == 1:
        return None
    if group is None:
        return Group.join(manifest.ranks)
    if group.ranks != manifest.ranks:
        raise MpkirError(f"{group.ranks} ranks run a program that is for {manifest.ranks}")
    return group


def _gpu_of(group: Group) -> torch.device:
    """The GPU of a rank: the one of its number on its host, or the only one that it is shown."""
    return torch.device("cuda", group.number_on_host % max(1, torch.cuda.device_count()))


def _device_of(target: Target, device: torch.device | str | None) -> torch.device:
    kind = torch.device(device) if device is not None else torch.device(target.kind)
    if kind.type != target.kind:
        raise MpkirError(
            f"a program for {target.name} ({target.kind}) cannot run on device {str(device)!r}",
            hint=f"compile it for {kind.type}",
        )
    if kind.type == "cuda" and kind.index is None and torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    return kind


def _launcher(
    artifact: Artifact, buffers: Sequence[torch.Tensor], peers: PeerMemory | None
) -> Launcher:
    manifest, table, binary = artifact.manifest, artifact.table, artifact.binary_path
    flagged = [number for number, buffer in enumerate(manifest.buffers) if buffer.flagged]
    if manifest.target.kind == "cpu":
        from mpkir.runtime.cpu import CpuProgram

        if flagged:
            raise MpkirError(
                f"buffer {manifest.buffers[flagged[0]].name!r} is flagged, and threads hand over "
                "by counters only",
                hint="compile the model again for this machine",
            )
        return CpuProgram(binary, table, buffers, peers=peers)
    if manifest.target.launch == "per-operator":
        from mpkir.runtime.per_operator import PerOperatorProgram

        if peers is not None:
            raise MpkirError(
                "several ranks run one persistent kernel, not one for each operator",
                where=str(artifact.path),
                hint="compile it again with --launch persistent",
            )
        return PerOperatorProgram(binary, table, buffers)
    from mpkir.runtime.cuda import CudaProgram

    origins = origins_of(artifact.path, manifest)
    writers = flagged_writers(table, manifest, origins)
    reads = [origin.reads for origin in origins]
    language = manifest.language
    shapes = {buffer.name: buffer.shape for buffer in manifest.buffers}
    return CudaProgram(
        binary,
        table,
        buffers,
        flagged=writers,
        reads=reads,
        partial=partial_buffers(writers, origins),
        peers=peers,
        specs=manifest.buffers,
        sequences=() if language is None else shapes[language.tokens],
    )


def _flatten_arguments(
    signature: Signature, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> list[torch.Tensor]:
    leaves, tree = pytree.tree_flatten((args, kwargs))
    if signature.in_tree is not None and tree != pytree.treespec_loads(signature.in_tree):
        raise MpkirError(
            "the arguments are not arranged as in the example that was exported",
            hint="pass the same positional and keyword arguments",
        )
    if len(leaves) != len(signature.inputs):
        raise MpkirError(
            f"found {len(leaves)} tensors, expected {len(signature.inputs)}: "
            f"{', '.join(signature.inputs)}"
        )
    for name, leaf in zip(signature.inputs, leaves, strict=True):
        if not isinstance(leaf, torch.Tensor):
            raise MpkirError(f"input {name!r} is {type(leaf).__name__}, expected a tensor")
    return leaves
