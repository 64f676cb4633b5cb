"""Times by several clocks on one."""

from __future__ import annotations

import numpy as np

from mpkir.runtime.shared_clock import shared_times


def test_clocks_of_other_origins_and_rates():
    """Three workers' clocks, one of them past its largest value between looks, tell the same
    moments alike; before the first look and behind the last, too."""
    moments = np.array([50, 1_000, 501_000, 777_777, 1_001_000, 1_400_000], np.int64)
    looked = np.array([1_000, 501_000, 1_001_000], np.int64)
    begin = 2**32 - 600_000  # the shared clock begins anew between looks, too
    origins, rates = [17, 2**32 - 900_000, 2**31], [1.755, 1.755, 1.2]

    def cycles(at: np.ndarray, worker: int) -> np.ndarray:
        return ((origins[worker] + at * rates[worker]).astype(np.int64) % 2**32).astype(np.uint32)

    looks = np.stack(
        [
            np.column_stack([cycles(looked, k), ((begin + looked) % 2**32).astype(np.uint32)])
            for k in range(3)
        ]
    )
    times = np.stack([cycles(moments, k) for k in range(3)])
    worker = np.repeat(np.arange(3)[:, None], len(moments), axis=1)
    found = shared_times(times, worker, looks)
    assert np.abs(found - found[0, 0] - (moments - moments[0])).max() <= 2
    looks[0, 1:] = 0  # one look only: as fast as the others are
    looks[1, 1] = 0
    looks[2] = looks[1]
    again = shared_times(times[:2], worker[:2], looks)
    assert np.abs(again - again[0, 0] - (moments - moments[0])).max() <= 3


def test_a_shared_clock_stays():
    """Without looks times are nanoseconds already, modulo 2^32."""
    times = np.array([[0, 2**32 - 5], [3, 10]], np.uint32)
    found = shared_times(times, np.zeros_like(times), np.zeros((2, 4, 2), np.uint32))
    assert (found - found[0, 1]).tolist()[1] == [8, 15]
