"""Programs as text, run through passes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from xdsl.dialects.builtin import ModuleOp
from xdsl.parser import Parser
from xdsl.passes import PassPipeline
from xdsl.universe import Universe

from mpkir.pipeline import context


@pytest.fixture
def run() -> Callable[[str, str], ModuleOp]:
    """Parse a module and run a pipeline like "mpk-lower-dependencies,mpk-fuse-events" on it."""

    def parse_and_run(text: str, pipeline: str) -> ModuleOp:
        ctx = context()
        module = Parser(ctx, text).parse_module()
        passes = Universe.get_multiverse().all_passes
        PassPipeline.parse_spec(passes, pipeline).apply(ctx, module)
        module.verify()
        return module

    return parse_and_run
