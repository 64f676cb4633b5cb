"""mpkir turns a PyTorch model into one persistent megakernel.

    step = mpkir.compile(torch.export.export(module, args), target="cpu")
    lm = mpkir.LanguageModel.from_pretrained("path, hub name or .gguf", target="h100")
    program = mpkir.load("artifact/")

Names are imported when first used: `mpkir.load` needs neither xDSL nor the compiler.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from mpkir.errors import MpkirError
from mpkir.version import VERSION as __version__

if TYPE_CHECKING:
    from mpkir.compiler import compile
    from mpkir.language_model import LanguageModel
    from mpkir.runtime.program import load


__all__ = ["LanguageModel", "MpkirError", "__version__", "compile", "load"]

_HOME = {
    "LanguageModel": "mpkir.language_model",
    "compile": "mpkir.compiler",
    "load": "mpkir.runtime.program",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'mpkir' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
