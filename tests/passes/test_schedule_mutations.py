"""Some hundreds of broken schedules of each kind of graph: none that fails is accepted.

benchmarks/mutations.py makes tens of thousands (docs/verification.md); here are others, by seed.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import pytest

from mpkir.analysis import dependence

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def mutations(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    module = importlib.import_module("mutations")
    for name in ("boxes_of", "refine", "distinct", "overlapping"):
        # So that they are put back when the test is over.
        monkeypatch.setattr(dependence, name, getattr(dependence, name))
    module.remember_regions()
    return module


@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")
@pytest.mark.parametrize(
    ("family", "count", "kinds"),
    [("smollm2", 200, 18), ("fork-join", 200, 19), ("two-gpu", 200, 20)],
)
def test_what_can_fail_is_rejected(mutations, family: str, count: int, kinds: int) -> None:
    tally, wrong, schedules = mutations.run_family(family, count, seed=1)
    assert wrong == []
    assert schedules >= 7
    assert tally.missed == []
    assert len(tally.kinds) >= kinds
    total = {name: sum(c[name] for c in tally.kinds.values()) for name in mutations.COLUMNS}
    assert total["made"] == count
    # The proof is not merely strict: most of what it rejects fails, and it accepts what does not.
    assert total["failing"] > count // 2
    assert total["strict"] < count // 10
    assert total["equivalent"] > count // 20


def test_the_table(mutations, tmp_path: Path) -> None:
    tally, _, schedules = mutations.run_family("fork-join", 40, seed=2)
    records = [mutations.record("fork-join", tally, schedules, 40)]
    page = tmp_path / "page.md"
    page.write_text(f"before\n\n{mutations.MARK}\n\nan old table\n", encoding="utf-8")
    mutations.write_docs(page, records)
    text = page.read_text(encoding="utf-8")
    assert text.startswith(f"before\n\n{mutations.MARK}\n\n### fork-join:")
    assert "an old table" not in text
    assert f"{schedules} unbroken schedules, all accepted; 40 mutants." in text
