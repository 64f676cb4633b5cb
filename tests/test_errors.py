"""Errors are one paragraph: where, what, and the way out."""

from __future__ import annotations

import pytest

from mpkir.errors import MpkirError


@pytest.mark.parametrize(
    ("where", "hint", "text"),
    [
        (None, None, "the table ends early"),
        ("a/tasks.npy", None, "a/tasks.npy: the table ends early"),
        (None, "compile again", "the table ends early; compile again"),
        ("a/tasks.npy", "compile again", "a/tasks.npy: the table ends early; compile again"),
    ],
)
def test_paragraph(where: str | None, hint: str | None, text: str):
    error = MpkirError("the table ends early", where=where, hint=hint)
    assert str(error) == text
    assert (error.what, error.where, error.hint) == ("the table ends early", where, hint)


def test_a_shown_source_line_keeps_its_own_line():
    error = MpkirError("no such name\nwait e9\n     ^", where="a:1:6", hint="declare it")
    assert str(error) == "a:1:6: no such name\nwait e9\n     ^\ndeclare it"
