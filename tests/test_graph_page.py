"""docs/graph.md shows what was counted, and our graphs of the paper's tasks keep to its events."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
import transformers
from xdsl.passes import PassPipeline
from xdsl.universe import Universe

from mpkir.analysis.statistics import statistics_of
from mpkir.pipeline import context

ROOT = Path(__file__).parents[1]
SCRIPT = runpy.run_path(str(ROOT / "benchmarks" / "graph_statistics.py"))

SHAPE = {
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
}
"""Of Qwen3-1.7B."""


def test_the_pages_table_is_the_results():
    assert SCRIPT["table"]() in (ROOT / "docs" / "graph.md").read_text("utf-8")


@pytest.mark.parametrize("model", SCRIPT["MODELS"])
def test_the_papers_tasks_need_no_more_events_than_in_the_paper(model: str):
    published = SCRIPT["PAPER"][model]
    found = next(
        row
        for row in SCRIPT["records"]()
        if row["model"] == model and row["system"] == "mpkir, the paper's tasks"
    )
    assert found["operators"] == published["operators"]
    assert found["tasks_per_operator"] == pytest.approx(published["tasks_per_operator"], abs=0.15)
    assert found["events"] <= published["events"]
    assert found["linearization_ratio"] >= published["linearization_ratio"]


def test_a_layer_of_the_papers_tasks_has_62_events():
    """8 to the heads of keys, 48 to the activation of the gated product, 6 for whole operators."""
    graph = runpy.run_path(str(ROOT / "benchmarks" / "paper_graph.py"))["paper_graph"]
    events: list[int] = []
    for layers in (1, 2):
        module = graph(transformers.Qwen3Config(**SHAPE, num_hidden_layers=layers))
        passes = Universe.get_multiverse().all_passes
        PassPipeline.parse_spec(passes, SCRIPT["EVENT_LEVEL"]).apply(context(), module)
        found = statistics_of(module)
        assert found.linearization_ratio == pytest.approx(found.tasks / found.events)
        assert found.chain == found.operators
        events.append(found.events)
    assert events[1] - events[0] == 62
