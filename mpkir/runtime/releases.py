"""Dynamic tasks of a table: which event releases which, and when all of a step are done.

Functions of the arrays of `mpkir.runtime.table.Table`; what the queues rely on is in
docs/scheduling.md.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Ints: TypeAlias = npt.NDArray[np.int32]
Marks: TypeAlias = npt.NDArray[np.bool_]


def released_by(waits: Ints, events: int, first: int) -> Ints:
    """Event k releases tasks[result[k] : result[k + 1]]; [e + 1].

    waits: the events that the dynamic tasks wait for, rising; first: number of the first of them
    """
    return (first + np.searchsorted(waits, np.arange(events + 1))).astype(np.int32)


def release_arrivals(signals: Ints, waits: Ints, events: Ints) -> Ints:
    """Arrivals of the event that each task signals, where dynamic tasks wait for it; else 0.

    signals: the event that each task signals or -1; waits: those that dynamic tasks wait for
    """
    releasing = np.zeros(len(events) + 1, np.int32)
    releasing[waits] = 1
    return (np.append(events, 0) * releasing)[signals].astype(np.int32)


def last_event(waits: Ints, lags: Ints, signals: Ints, workers: Ints, events: int) -> int | None:
    """The event after which all dynamic tasks of a step are done, and before which none of the next
    step's is released; None if there is no such event.

    waits, lags, signals: of all tasks; workers: offsets of their lists, what follows is dynamic
    """
    dynamic = slice(int(workers[-1]), None)
    for event in np.unique(waits[(waits >= 0) & (lags == 1)]).tolist():
        before = _leading_to(event, waits, lags, signals, workers, events)
        after = _following(event, waits, lags, signals, workers, events)
        if before[signals[dynamic]].all() and after[waits[dynamic]].all():
            return event
    return None


def _leading_to(
    last: int, waits: Ints, lags: Ints, signals: Ints, workers: Ints, events: int
) -> Marks:
    """Of each event, whether it has fired in a step before `last` fires in it; [e]."""
    same_step = (waits >= 0) & (lags == 0)
    found = np.zeros(events, bool)
    found[last] = True
    while True:
        # Who signals has run all that stands before it in its worker's list.
        useful = _from_the_end((signals >= 0) & found[signals], workers)
        more = found.copy()
        more[waits[same_step & useful]] = True
        if (more == found).all():
            return found
        found = more


def _following(
    last: int, waits: Ints, lags: Ints, signals: Ints, workers: Ints, events: int
) -> Marks:
    """Of each event, whether `last` has fired in the step before when it fires; [e]."""
    found = np.zeros(events, bool)
    while True:
        behind = (waits >= 0) & np.where(lags == 1, waits == last, found[waits])
        useful = _from_the_begin(behind, workers)
        more = found.copy()
        more[signals[useful & (signals >= 0)]] = True
        if (more == found).all():
            return found
        found = more


def _from_the_begin(marked: Marks, workers: Ints) -> Marks:
    """Tasks that are marked or stand in a list behind one that is."""
    placed = marked[: workers[-1]]
    before = np.concatenate([[0], np.cumsum(placed)])
    begins = np.repeat(before[workers[:-1]], np.diff(workers))
    return np.concatenate([before[1:] > begins, marked[workers[-1] :]])


def _from_the_end(marked: Marks, workers: Ints) -> Marks:
    """Tasks that are marked or stand in a list before one that is."""
    placed = marked[: workers[-1]]
    before = np.concatenate([[0], np.cumsum(placed)])
    ends = np.repeat(before[workers[1:]], np.diff(workers))
    return np.concatenate([ends > before[:-1], marked[workers[-1] :]])
