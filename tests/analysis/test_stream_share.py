"""How many stages of weights are in flight is a number of the machine that a program is for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import transformers

from mpkir import machine
from mpkir.dialects import task
from mpkir.frontend import decode_step, model_from_config
from mpkir.pipeline import lower


@pytest.mark.parametrize(("waits_from", "wanted"), [(0.0, 5), (1e6, 6)])
def test_a_program_has_as_many_in_flight_as_its_own_machine_says(
    tmp_path: Path, waits_from: float, wanted: int
) -> None:
    model = json.loads(
        Path(machine.__file__).with_name("machines").joinpath("h200.json").read_text()
    )
    model["ring"] |= {"in_flights": [6, 5], "waits_from": waits_from}
    own = tmp_path / "own.json"
    own.write_text(json.dumps(model))
    config = transformers.LlamaConfig(
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        vocab_size=160,
    )
    module = decode_step(model_from_config(config), 32)
    lower(module, machine.machine_named(str(own), workers=4))
    (ring,) = [op for op in module.walk() if isinstance(op, task.RingOp)]
    assert ring.in_flight.value.data == wanted
