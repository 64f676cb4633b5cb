"""How a command of `mpk` ends when something goes wrong: one paragraph, not a traceback."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import wraps
from typing import Any

from mpkir.errors import MpkirError


def readable_errors(command: Callable[..., None]) -> Callable[..., None]:
    """End with one paragraph and exit code 1 on an error that the user can mend.

    Plugins (`load_plugin`) are loaded here, so that their errors end so too; with `debug` an error
    keeps its traceback.
    """

    @wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            _load_plugins(kwargs.get("load_plugin"))
            command(*args, **kwargs)
        except MpkirError as error:
            if kwargs.get("debug"):
                raise
            sys.exit(f"mpk: error: {error}")
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(1)
        except KeyboardInterrupt:
            sys.exit("mpk: interrupted")

    return run


def _load_plugins(paths: Any) -> None:
    if paths:
        from mpkir.plugins import load_plugins

        load_plugins(paths)
