"""Collections are rare while compiling, and as before afterwards, also after an error."""

from __future__ import annotations

import gc

import pytest

from mpkir.collection import rare_collection


@rare_collection()
def fail() -> None:
    assert gc.isenabled()
    assert gc.get_threshold()[0] >= 200_000
    raise ValueError("wrong")


def test_the_thresholds_come_back():
    before = gc.get_threshold()
    with pytest.raises(ValueError, match="wrong"):
        fail()
    assert gc.get_threshold() == before
