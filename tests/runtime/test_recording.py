"""What a traced build noted, as times."""

from __future__ import annotations

import numpy as np

from mpkir.runtime.recording import NOT_MARKED, earliest, since


def test_a_clock_that_begins_anew():
    """Between marks the clock passes its largest value; 0 is no mark."""
    clock = np.array([[0, 2**32 - 5], [3, 2**32 - 40]], np.uint32)
    assert earliest(clock) == 2**32 - 40
    assert since(clock, earliest(clock)).tolist() == [[NOT_MARKED, 35], [43, 0]]
