"""A step divided as was chosen: local shapes, shards of weights, and what ranks exchange."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from xdsl.dialects.builtin import DenseArrayBase, IntegerAttr, TensorType, f32, i64
from xdsl.ir import Block, Operation, SSAValue
from xdsl.rewriter import InsertPoint, Rewriter

from mpkir.dialects import tensor
from mpkir.dialects.shards import ShardAttr
from mpkir.passes.sharding.forms import WHOLE, Form, Kind, Way, dim_of_parts
from mpkir.passes.sharding.rules import forms_within


def _shard(form: Form) -> ShardAttr | None:
    return None if form == WHOLE else ShardAttr(form.dim, form.of, form.pieces)


def _made_local(value: SSAValue, form: Form) -> SSAValue:
    """The value with the type that a rank has of it."""
    if form == WHOLE:
        return value
    shape = form.local(tensor.shape_of(value))
    return Rewriter.replace_value_with_new_type(
        value, TensorType(tensor.element_type_of(value), shape)
    )


def _shift(op: tensor.SliceOp | tensor.ExpertLinearOp, way: Way) -> None:
    """Let an operator on pieces of a value begin where they do in what a rank has."""
    length = tensor.shape_of(op.result)
    if isinstance(op, tensor.SliceOp):
        form = way.operands[0]
        if form.pieces:
            piece = form.span(op.start.value.data, length[form.dim])
            assert piece is not None, "a slice of pieces is taken whole pieces at a time"
            op.start = IntegerAttr(piece[0], i64)
        return
    forms = way.operands[1 : 1 + len(op.weights)]
    firsts: list[int] = []
    for first, form in zip(op.firsts, forms, strict=True):
        piece = form.span(first, length[-1]) if form.pieces else (first, form)
        assert piece is not None, "a product of a stack has whole pieces of it"
        firsts.append(piece[0])
    op.first_rows = DenseArrayBase.from_list(i64, firsts)


@dataclass
class Division:
    """The rewriting of one step, operator by operator in its order."""

    ranks: int
    ways: Mapping[Operation, Way]
    forms: dict[SSAValue, Form] = field(default_factory=dict[SSAValue, Form])
    """Of values that are not whole."""
    given: dict[tuple[SSAValue, Form], SSAValue] = field(
        default_factory=dict[tuple[SSAValue, Form], SSAValue]
    )
    """A value in a form that is not its own."""

    def apply(self, block: Block) -> None:
        """Divide all of a step."""
        states = self._forms_of_states(block)
        for op in tuple(block.ops):
            if isinstance(op, tensor.StateOp):
                form = states.get(op.sym.data, WHOLE)
                op.shard = _shard(form)
                self._set_form(op.result, form)
            elif op in self.ways:
                self._divide(op, self.ways[op])

    def _forms_of_states(self, block: Block) -> dict[str, Form]:
        """The form of each state, as its first reader, or else who stores it, has it."""
        result: dict[str, Form] = {}
        for op in block.ops:
            if op not in self.ways:
                continue
            for value, form in zip(op.operands, self.ways[op].operands, strict=True):
                owner = value.owner
                if isinstance(owner, tensor.StateOp) and result.get(owner.sym.data) in (
                    None,
                    WHOLE,
                ):
                    result[owner.sym.data] = form
            if isinstance(op, tensor.StoreStateOp):
                result[op.sym.data] = self.ways[op].operands[0]
        return result

    def _set_form(self, value: SSAValue, form: Form) -> None:
        local = _made_local(value, form)
        if form != WHOLE:
            self.forms[local] = form

    def _in_form(self, value: SSAValue, form: Form) -> SSAValue:
        """A value as an operator wants it."""
        own = self.forms.get(value, WHOLE)
        if own == form:
            return value
        if (value, form) not in self.given:
            self.given[value, form] = self._converted(value, own, form)
        return self.given[value, form]

    def _converted(self, value: SSAValue, own: Form, form: Form) -> SSAValue:
        source = value.owner
        assert isinstance(source, Operation)
        local = TensorType(tensor.element_type_of(value), form.local(tensor.shape_of(value)))
        match source:
            case tensor.WeightOp():
                new = tensor.WeightOp(source.sym.data, local, shard=_shard(form))
            case tensor.FullOp():
                new = tensor.FullOp(source.value, local)
            case _:
                assert form == WHOLE, "what is whole on each rank does not become parts"
                new = tensor.AllGatherOp(value, own.dim, own.of)
        new.location = source.location
        Rewriter.insert_op(new, InsertPoint.after(source))
        return new.results[0]

    def _divide(self, op: Operation, way: Way) -> None:
        exchange = way.exchange
        if isinstance(op, tensor.SliceOp | tensor.ExpertLinearOp):
            _shift(op, way)
        for index, form in enumerate(way.operands):
            gathers = exchange is not None and exchange.kind is Kind.SHARDS
            op.operands[index] = self._in_form(op.operands[index], WHOLE if gathers else form)
        if isinstance(op, tensor.OutputOp):
            op.shard = _shard(way.operands[0])
        if isinstance(op, tensor.AttentionOp):
            self._divide_regions(op, way)
        if exchange is None or exchange.kind is Kind.SHARDS:
            for value, form in zip(tuple(op.results), way.results, strict=True):
                self._set_form(value, form)
            return
        assert isinstance(op, tensor.LinearOp | tensor.ExpertLinearOp)
        if exchange.kind is Kind.SUM_IN_PARTS:
            self._sum_up_in_parts(op, exchange.of)
        else:
            self._sum_up(op, way.results[0], exchange.of)

    def _divide_regions(self, op: tensor.AttentionOp, way: Way) -> None:
        for region, form in ((op.q_prologue, way.operands[0]), (op.k_prologue, way.operands[1])):
            if region is None:
                continue
            forms = forms_within(region.block, form, self.ranks)
            assert forms is not None, "an attention is divided only if its prologues can be"
            for value, each in forms.items():
                _made_local(value, each)

    def _sum_up(self, op: tensor.LinearOp | tensor.ExpertLinearOp, result: Form, of: int) -> None:
        """A product gives its partial sums; its epilogue comes after they are added."""
        partial = op.like(op.x, f32)
        element = tensor.element_type_of(op.result)
        if result == WHOLE:
            epilogue = None if op.epilogue is None else op.detach_region(op.epilogue)
            total = tensor.AllReduceOp(
                partial.result, of, element, epilogue=epilogue, epilogue_args=op.epilogue_args
            )
        else:
            total = tensor.ReduceScatterOp(partial.result, result.dim, of, element)
        partial.location = total.location = op.location
        if result != WHOLE:
            self.forms[total.result] = result
        Rewriter.replace_op(op, [partial, total], [total.result])

    def _sum_up_in_parts(self, op: tensor.LinearOp | tensor.ExpertLinearOp, of: int) -> None:
        """Each rank adds up a part and sends it to all; then comes the epilogue."""
        partial = op.like(op.x, f32)
        element = tensor.element_type_of(op.result) if op.epilogue is None else f32
        dim = dim_of_parts(tensor.shape_of(op.result), of)
        assert dim is not None, "only what falls into parts is summed up in parts"
        part = tensor.ReduceScatterOp(partial.result, dim, of, element)
        new: list[Operation] = [partial, part, tensor.AllGatherOp(part.result, dim, of)]
        if op.epilogue is not None:
            block = op.detach_region(op.epilogue).detach_block(0)
            inputs = [new[-1].results[0], *op.epilogue_args]
            new.append(tensor.ElementwiseOp(inputs, block, op.result.type))
        for each in new:
            each.location = op.location
        Rewriter.replace_op(op, new, [new[-1].results[0]])
