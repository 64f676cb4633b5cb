"""Text files of the command line: read with an error that says what to mend, written whole."""

from __future__ import annotations

from pathlib import Path

from mpkir.errors import MpkirError


def read_text(path: Path) -> str:
    """A text file's content; MpkirError where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        reason = error.strerror or error
        raise MpkirError(f"the file cannot be read ({reason})", where=str(path)) from error
    except UnicodeDecodeError as error:
        raise MpkirError("this is no text file", where=str(path)) from error


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    draft = path.with_name(f".{path.name}.draft")
    try:
        draft.write_text(text, encoding="utf-8")
        draft.replace(path)
    except OSError as error:
        draft.unlink(missing_ok=True)
        reason = error.strerror or error
        raise MpkirError(f"the file cannot be written ({reason})", where=str(path)) from error
