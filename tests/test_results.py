"""Figures that are published come from committed results files alone."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
RESULTS = sorted((ROOT / "benchmarks" / "results").glob("*.json"))
WANTED = {"benchmark", "system", "model", "gpu", "gpus", "batch", "commit", "versions", "date"}


def test_the_readmes_tables_are_the_results() -> None:
    script = runpy.run_path(str(ROOT / "benchmarks" / "readme_table.py"))
    assert script["tables"]() in (ROOT / "README.md").read_text("utf-8")


def test_the_page_of_compile_times_is_the_results() -> None:
    script = runpy.run_path(str(ROOT / "benchmarks" / "compile_time_report.py"))
    assert script["tables"]() in script["PAGE"].read_text("utf-8")
    assert script["plot"]() == script["PLOT"].read_text("utf-8")


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_every_record_says_what_was_measured(path: Path) -> None:
    for record in json.loads(path.read_text("utf-8")):
        assert record.keys() >= WANTED, record
