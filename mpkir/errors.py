"""The one exception that a user of mpkir is meant to read."""

from __future__ import annotations


class MpkirError(Exception):
    """Something the user can mend: says what is wrong, where, and what to do about it.

    `what`   one sentence in lower case without a full stop, e.g. "the table ends early"
    `where`  file, line, layer or task it was found in; None where there is no such place
    `hint`   the way out, as an instruction: "compile again for this machine"

    `str(error)` is one paragraph without a line break, unless `what` shows a source line with a
    caret. Tools print it after their own name and exit with a non-zero code.
    """

    def __init__(self, what: str, *, where: str | None = None, hint: str | None = None) -> None:
        super().__init__(what, where, hint)
        self.what = what
        self.where = where
        self.hint = hint

    def __str__(self) -> str:
        text = self.what if self.where is None else f"{self.where}: {self.what}"
        if self.hint is None:
            return text
        separator = "\n" if "\n" in text else "; "
        return f"{text}{separator}{self.hint}"
