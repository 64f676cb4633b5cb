"""mpk_event: event tensors, and the edges by which task families wait for them and signal them.

An event tensor is an array of counters. A counter fires in a step when `arrivals` signals have come
in; it is never reset, so in step e (from 0) it has fired when it reached arrivals * (e + 1). What a
family of tasks waits for and signals stands on its `mpk_task.grid` as a list of edges, each with a
map from the task's grid index to one counter.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import auto

from xdsl.dialects.builtin import (
    I64,
    AffineMapAttr,
    DenseArrayBase,
    IntAttr,
    IntegerAttr,
    StringAttr,
    SymbolNameConstraint,
    SymbolRefAttr,
    i64,
)
from xdsl.dialects.utils import EnumAttribute
from xdsl.ir import Dialect, ParametrizedAttribute, SpacedOpaqueSyntaxAttribute
from xdsl.ir.affine import AffineMap
from xdsl.irdl import (
    IRDLOperation,
    irdl_attr_definition,
    irdl_op_definition,
    opt_prop_def,
    param_def,
    prop_def,
    traits_def,
)
from xdsl.parser import AttrParser
from xdsl.printer import Printer
from xdsl.traits import SymbolOpInterface
from xdsl.utils.exceptions import VerifyException
from xdsl.utils.str_enum import StrEnum

from mpkir.dialects.mesh import ranks_around


class Handoff(StrEnum):
    """How data goes from the signalling to the waiting task.

    local: same worker, program order is enough; counter: a counter in global memory, release and
    acquire; flag: the data carries its own mark; peer: between ranks, a counter in the memory of
    each, which a signal raises in all of them.
    """

    LOCAL = auto()
    COUNTER = auto()
    FLAG = auto()
    PEER = auto()


@irdl_attr_definition
class HandoffAttr(EnumAttribute[Handoff], SpacedOpaqueSyntaxAttribute):
    name = "mpk_event.handoff"


@irdl_attr_definition
class EdgeAttr(ParametrizedAttribute):
    """One wait or signal of a task family: the counter `event[index(grid index)]`, `lag` steps ago.

    ```mlir
    #mpk_event.edge<@e7, affine_map<(d0) -> (d0 floordiv 64)>>
    #mpk_event.edge<@end, affine_map<(d0) -> (0)>, lag 1>
    ```
    """

    name = "mpk_event.edge"

    event: SymbolRefAttr = param_def()
    index: AffineMapAttr = param_def()
    lag: IntAttr = param_def()

    def __init__(
        self, event: str | SymbolRefAttr, index: AffineMap | AffineMapAttr, lag: int | IntAttr = 0
    ):
        super().__init__(
            SymbolRefAttr(event) if isinstance(event, str) else event,
            AffineMapAttr(index) if isinstance(index, AffineMap) else index,
            IntAttr(lag) if isinstance(lag, int) else lag,
        )

    @property
    def symbol(self) -> str:
        """The event tensor's name."""
        return self.event.string_value()

    def counter(self, coordinates: Sequence[int]) -> int:
        """The counter that the task at these grid coordinates uses."""
        return self.index.data.eval(list(coordinates), [])[0]

    @classmethod
    def parse_parameters(
        cls, parser: AttrParser
    ) -> Sequence[SymbolRefAttr | AffineMapAttr | IntAttr]:
        with parser.in_angle_brackets():
            event = parser.parse_attribute()
            parser.parse_punctuation(",")
            index = parser.parse_attribute()
            lag = 0
            if parser.parse_optional_punctuation(",") is not None:
                parser.parse_keyword("lag")
                lag = parser.parse_integer(allow_negative=False)
        if not isinstance(event, SymbolRefAttr) or not isinstance(index, AffineMapAttr):
            parser.raise_error("expected an event's name and an affine map")
        return (event, index, IntAttr(lag))

    def print_parameters(self, printer: Printer) -> None:
        with printer.in_angle_brackets():
            printer.print_attribute(self.event)
            printer.print_string(", ")
            printer.print_attribute(self.index)
            if self.lag.data:
                printer.print_string(f", lag {self.lag.data}")

    def verify(self) -> None:
        if len(self.index.data.results) != 1:
            raise VerifyException("an edge's map gives one counter")
        if self.lag.data not in (0, 1):
            raise VerifyException(f"lag is 0 or 1, got {self.lag.data}")


@irdl_op_definition
class TensorOp(IRDLOperation):
    """An array of `counters` counters, each of which fires once a step after its number of
    arrivals.

    ```mlir
    mpk_event.tensor @e7 counters 16 arrivals [64] handoff counter
    ```

    `arrivals` has one number for all counters or one for each; those of a hand-off between peers
    come from the tasks of all ranks. Where counters order more pairs of
    tasks than conflict, `orders 48 where 32 conflict` says how many of both.
    """

    name = "mpk_event.tensor"

    sym_name = prop_def(SymbolNameConstraint())
    counters = prop_def(IntegerAttr[I64])
    arrivals = prop_def(DenseArrayBase.constr(i64))
    handoff = prop_def(HandoffAttr, default_value=HandoffAttr(Handoff.COUNTER))
    ordered = opt_prop_def(IntegerAttr[I64])
    conflicting = opt_prop_def(IntegerAttr[I64])

    traits = traits_def(SymbolOpInterface())

    assembly_format = (
        "$sym_name `counters` $counters `arrivals` $arrivals (`handoff` $handoff^)? "
        "(`orders` $ordered^ `where` $conflicting `conflict`)? attr-dict"
    )

    def __init__(
        self,
        name: str,
        counters: int,
        arrivals: int | Sequence[int],
        handoff: Handoff = Handoff.COUNTER,
        coarsened: tuple[int, int] | None = None,
    ):
        each = [arrivals] if isinstance(arrivals, int) else list(arrivals)
        ordered, conflicting = coarsened or (None, None)
        super().__init__(
            properties={
                "sym_name": StringAttr(name),
                "counters": IntegerAttr(counters, i64),
                "arrivals": DenseArrayBase.from_list(i64, each),
                "handoff": HandoffAttr(handoff),
                "ordered": None if ordered is None else IntegerAttr(ordered, i64),
                "conflicting": None if conflicting is None else IntegerAttr(conflicting, i64),
            }
        )

    @property
    def arrivals_of_each(self) -> tuple[int, ...]:
        """Arrivals of every counter."""
        given = tuple(int(n) for n in self.arrivals.get_values())
        return given * self.counters.value.data if len(given) == 1 else given

    def local_arrivals(self, ranks: int) -> tuple[int, ...]:
        """Arrivals of every counter that come from the tasks of one rank, of so many."""
        if self.handoff.data is not Handoff.PEER:
            return self.arrivals_of_each
        return tuple(arrivals // ranks for arrivals in self.arrivals_of_each)

    def verify_(self) -> None:
        counters = self.counters.value.data
        if counters < 1:
            raise VerifyException(f"event tensor needs at least one counter, got {counters}")
        if len(self.arrivals.get_values()) not in (1, counters):
            raise VerifyException(
                f"{counters} counters have {len(self.arrivals.get_values())} numbers of arrivals"
            )
        if min(self.arrivals.get_values()) < 1:
            raise VerifyException("event needs at least one arrival")
        ranks = ranks_around(self) or 1
        if self.handoff.data is Handoff.PEER and any(n % ranks for n in self.arrivals.get_values()):
            raise VerifyException(
                f"arrivals from {ranks} ranks alike are a multiple of that, got "
                f"{', '.join(map(str, self.arrivals.get_values()))}"
            )
        if (self.ordered is None) != (self.conflicting is None):
            raise VerifyException("pairs that an event tensor orders go with those that conflict")
        if self.ordered is not None and self.conflicting is not None:
            ordered, conflicting = self.ordered.value.data, self.conflicting.value.data
            if not 0 < conflicting < ordered:
                raise VerifyException(
                    f"an event tensor may order more pairs than conflict, not {ordered} where "
                    f"{conflicting} do"
                )


Event = Dialect("mpk_event", [TensorOp], [EdgeAttr, HandoffAttr])

__all__ = ["EdgeAttr", "Event", "Handoff", "HandoffAttr", "TensorOp"]
