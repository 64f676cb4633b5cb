"""The token sequence of a generation loop: reading the step's token, choosing and appending the
next.
"""

from __future__ import annotations

from collections.abc import Sequence

from xdsl.dialects.builtin import I64, DenseArrayBase, IntegerAttr, TensorType, f32, i64
from xdsl.ir import SSAValue
from xdsl.irdl import (
    AttrSizedOperandSegments,
    AttrSizedResultSegments,
    IRDLOperation,
    irdl_op_definition,
    operand_def,
    opt_operand_def,
    opt_prop_def,
    opt_result_def,
    prop_def,
    result_def,
    traits_def,
)
from xdsl.traits import Pure
from xdsl.utils.exceptions import VerifyException

from mpkir.dialects.tensor.program import TENSOR, element_type_of, shape_of

ENDED = -2
"""Stands, in one of several sequences, where its next token would: it takes no more."""


def sequences_in(value: SSAValue) -> int:
    """How many sequences of equal capacity a value holds: B of i64 [B, C + 1], 1 of i64 [C + 1]."""
    *lead, _ = shape_of(value)
    return lead[0] if lead else 1


def _verify_sequence(sequence: SSAValue, position: SSAValue) -> None:
    if len(shape_of(sequence)) not in (1, 2) or element_type_of(sequence) != i64:
        raise VerifyException(
            f"a token sequence is tensor<Nxi64> or tensor<BxNxi64>, got {sequence.type}"
        )
    if len(shape_of(position)) != 1 or element_type_of(position) != i64:
        raise VerifyException(f"a position is tensor<Nxi64>, got {position.type}")


def _verify_tokens(token: SSAValue, sequence: SSAValue) -> None:
    if len(shape_of(sequence)) == 2 and shape_of(token)[:1] != shape_of(sequence)[:1]:
        raise VerifyException(f"{token.type} does not hold a token for each of {sequence.type}")


@irdl_op_definition
class SequenceReadOp(IRDLOperation):
    """The step's tokens: `result[b, t] = sequence[b, position[t]]`. sequence: i64 [B, C + 1], or
    [C + 1] where B = 1; result: i64 [B, T].
    """

    name = "mpk_tensor.sequence_read"

    sequence = operand_def(TENSOR)
    position = operand_def(TENSOR)
    result = result_def(TENSOR)

    traits = traits_def(Pure())

    assembly_format = "$sequence `at` $position attr-dict `:` functional-type(operands, results)"

    def __init__(self, sequence: SSAValue, position: SSAValue):
        super().__init__(
            operands=[sequence, position],
            result_types=[TensorType(i64, [sequences_in(sequence), *shape_of(position)])],
        )

    def verify_(self) -> None:
        _verify_sequence(self.sequence, self.position)
        shape = [sequences_in(self.sequence), *shape_of(self.position)]
        if self.result.type != TensorType(i64, shape):
            raise VerifyException(f"{self.position.type} does not give {self.result.type}")


@irdl_op_definition
class SequenceAppendOp(IRDLOperation):
    """Writes the chosen token after the step's last, unless it is known already (a prompt).

    sequence: i64 [C + 1], -1 where unknown; token: i64, its last element counts; the write goes to
    `position[T - 1] + 1`. A token among `stop` ends the loop after this step.

    Several sequences, i64 [B, C + 1], take tokens [B, ..] at the same position, each as said. One
    that has chosen a stop token, or has ENDED (-2) where its token would go, has ended: ENDED is
    written where its next token would go, so the sequences themselves know it from step to step.
    The loop ends after the step in which the last of them does.
    """

    name = "mpk_tensor.sequence_append"

    sequence = operand_def(TENSOR)
    token = operand_def(TENSOR)
    position = operand_def(TENSOR)
    stop = prop_def(DenseArrayBase.constr(i64), default_value=DenseArrayBase.from_list(i64, []))
    result = result_def(TENSOR)

    traits = traits_def(Pure())

    assembly_format = (
        "$sequence `,` $token `at` $position (`stop` $stop^)? attr-dict "
        "`:` functional-type(operands, results)"
    )

    def __init__(
        self, sequence: SSAValue, token: SSAValue, position: SSAValue, stop: Sequence[int] = ()
    ):
        super().__init__(
            operands=[sequence, token, position],
            properties={"stop": DenseArrayBase.from_list(i64, stop)},
            result_types=[sequence.type],
        )

    def verify_(self) -> None:
        _verify_sequence(self.sequence, self.position)
        if self.result.type != self.sequence.type:
            raise VerifyException(f"{self.sequence.type} does not become {self.result.type}")
        _verify_tokens(self.token, self.sequence)


@irdl_op_definition
class ArgmaxPartialOp(IRDLOperation):
    """Largest element of each chunk of the last dimension, and its index in the whole.

    x: [.., V]; results: value f32 [.., S], index i64 [.., S], where S = ceil(V / chunk). A tile of
    it has x cut to its chunks; `origin` (tensor<1xi64>) is the number of its first chunk.
    """

    name = "mpk_tensor.argmax_partial"

    x = operand_def(TENSOR)
    origin = opt_operand_def(TENSOR)
    chunk = prop_def(IntegerAttr[I64])
    value = result_def(TENSOR)
    index = result_def(TENSOR)

    traits = traits_def(Pure())

    assembly_format = (
        "`chunk` $chunk $x (`origin` $origin^)? attr-dict `:` functional-type(operands, results)"
    )

    def __init__(self, x: SSAValue, chunk: int, origin: SSAValue | None = None):
        shape = [*shape_of(x)[:-1], -(-shape_of(x)[-1] // chunk)]
        super().__init__(
            operands=[x, origin],
            properties={"chunk": IntegerAttr(chunk, i64)},
            result_types=[TensorType(f32, shape), TensorType(i64, shape)],
        )

    def verify_(self) -> None:
        shape = (*shape_of(self.x)[:-1], -(-shape_of(self.x)[-1] // self.chunk.value.data))
        if shape_of(self.value) != shape or shape_of(self.index) != shape:
            raise VerifyException(f"chunks of {self.chunk.value.data} of {self.x.type}")


@irdl_op_definition
class ArgmaxJoinOp(IRDLOperation):
    """Largest of each chunk of candidates (the lowest of equals), and its index in the whole.

    value: f32 [.., S]; index: i64 [.., S]; results: f32 and i64 [.., ceil(S / chunk)]. Candidate j
    is of the row's elements from `j * part` on, and its index counts from there. A tile of it has
    the candidates cut to its chunks; `origin` (tensor<1xi64>) is the number of its first chunk.
    """

    name = "mpk_tensor.argmax_join"

    value = operand_def(TENSOR)
    index = operand_def(TENSOR)
    origin = opt_operand_def(TENSOR)
    chunk = prop_def(IntegerAttr[I64])
    part = prop_def(IntegerAttr[I64])
    value_result = result_def(TENSOR)
    index_result = result_def(TENSOR)

    traits = traits_def(Pure())

    assembly_format = (
        "`chunk` $chunk `part` $part $value `,` $index (`origin` $origin^)? attr-dict "
        "`:` functional-type(operands, results)"
    )

    def __init__(
        self,
        value: SSAValue,
        index: SSAValue,
        chunk: int,
        part: int,
        origin: SSAValue | None = None,
    ):
        *rows, count = shape_of(value)
        shape = [*rows, -(-count // chunk)]
        super().__init__(
            operands=[value, index, origin],
            properties={"chunk": IntegerAttr(chunk, i64), "part": IntegerAttr(part, i64)},
            result_types=[TensorType(f32, shape), TensorType(i64, shape)],
        )

    def verify_(self) -> None:
        candidates, chunk = (self.value.type, self.index.type), self.chunk.value.data
        *rows, count = shape_of(self.value)
        if candidates != tuple(TensorType(each, [*rows, count]) for each in (f32, i64)):
            raise VerifyException(f"cannot join {self.value.type} and {self.index.type}")
        shape = [*rows, -(-count // max(1, chunk))]
        results = (self.value_result.type, self.index_result.type)
        if chunk < 1 or results != tuple(TensorType(each, shape) for each in (f32, i64)):
            raise VerifyException(
                f"chunks of {chunk} of {self.value.type} do not give "
                f"{self.value_result.type} and {self.index_result.type}"
            )


@irdl_op_definition
class ArgmaxMergeOp(IRDLOperation):
    """Joins partial argmaxes (lowest index of equals) and, given a sequence, appends the token to
    it.

    value: f32 [.., S]; index: i64 [.., S]; result: i64 [..]. With `sequence` and `position`, the
    second result is the sequence after `sequence_append`. With `parts` [C, V], every C candidates
    are of another part, of V elements, of the row, and their indices count from its first: the
    index of candidate j is `index[j] + j div C * V`.
    """

    name = "mpk_tensor.argmax_merge"

    value = operand_def(TENSOR)
    index = operand_def(TENSOR)
    sequence = opt_operand_def(TENSOR)
    position = opt_operand_def(TENSOR)
    stop = prop_def(DenseArrayBase.constr(i64), default_value=DenseArrayBase.from_list(i64, []))
    parts = opt_prop_def(DenseArrayBase.constr(i64))
    result = result_def(TENSOR)
    sequence_result = opt_result_def(TENSOR)

    irdl_options = (
        AttrSizedOperandSegments(as_property=True),
        AttrSizedResultSegments(as_property=True),
    )
    traits = traits_def(Pure())

    assembly_format = (
        "$value `,` $index `:` type($value) `,` type($index) `to` type($result) "
        "(`append` $sequence^ `at` $position `:` type($sequence) `,` type($position) "
        "`to` type($sequence_result))? (`stop` $stop^)? (`parts` $parts^)? attr-dict"
    )

    def __init__(
        self,
        value: SSAValue,
        index: SSAValue,
        sequence: SSAValue | None = None,
        position: SSAValue | None = None,
        stop: Sequence[int] = (),
        parts: tuple[int, int] | None = None,
    ):
        super().__init__(
            operands=[value, index, sequence, position],
            properties={
                "stop": DenseArrayBase.from_list(i64, stop),
                "parts": None if parts is None else DenseArrayBase.from_list(i64, parts),
            },
            result_types=[
                TensorType(i64, shape_of(value)[:-1]),
                None if sequence is None else sequence.type,
            ],
        )

    @property
    def part(self) -> tuple[int, int]:
        """Candidates of one part of the row, and its elements; of a row that is one, all and 0."""
        if self.parts is None:
            return shape_of(self.value)[-1], 0
        each, size = self.parts.get_values()
        return int(each), int(size)

    def verify_(self) -> None:
        if self.parts is not None and (
            len(self.parts) != 2 or min(self.part) < 1 or shape_of(self.value)[-1] % self.part[0]
        ):
            raise VerifyException(
                f"{self.value.type} are not the candidates of parts {self.parts.get_values()}"
            )
        if shape_of(self.value) != shape_of(self.index) or element_type_of(self.index) != i64:
            raise VerifyException(f"cannot merge {self.value.type} and {self.index.type}")
        given = (self.sequence, self.position, self.sequence_result)
        if len({value is None for value in given}) != 1:
            raise VerifyException("sequence, position and the sequence's result go together")
        if shape_of(self.result) != shape_of(self.value)[:-1]:
            raise VerifyException(f"merge of {self.value.type} does not give {self.result.type}")
        if self.sequence is not None and self.position is not None:
            _verify_sequence(self.sequence, self.position)
            _verify_tokens(self.result, self.sequence)


OPS = (SequenceReadOp, SequenceAppendOp, ArgmaxPartialOp, ArgmaxJoinOp, ArgmaxMergeOp)
__all__ = [
    "ENDED",
    "OPS",
    "ArgmaxJoinOp",
    "ArgmaxMergeOp",
    "ArgmaxPartialOp",
    "SequenceAppendOp",
    "SequenceReadOp",
    "sequences_in",
]
