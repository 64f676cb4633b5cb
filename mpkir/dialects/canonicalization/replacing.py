"""Replacing one op by another of the same place in the user's model."""

from __future__ import annotations

from xdsl.ir import Operation
from xdsl.pattern_rewriter import PatternRewriter


def replace_by(op: Operation, new: Operation, rewriter: PatternRewriter) -> None:
    """Put `new` in the place of `op`; it keeps the source location, which rewriters drop."""
    new.location = op.location
    rewriter.replace(op, new)
