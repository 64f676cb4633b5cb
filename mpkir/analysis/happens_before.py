"""What must have happened before each task of a scheduled module, whatever the timing.

A wait needs all arrivals of its counter in a step, so what happens before a task does not depend on
who came first. It is found by running the schedule once for two steps with vector clocks: component
w of a task's clock counts the tasks of worker w that are done when it starts, itself included.
Steps after the second repeat it.

Dynamic tasks have no worker, hence no program order. Those of a family with the same waits and
signals are done, for all who can tell, at once: when the counters that they signal have fired.
They make one *group*. Groups of which each is done before the next begins share a component (a
chain), so that the clocks of a model stay as wide as its layers are, not as long.

Ranks are all alike, so one stands for all, and a clock has two halves: what is done of the own
rank's workers, and what is done of those of every rank. Only hand-offs between ranks, by `peer`
events and flagged exchange buffers, pass something on from the first half to the second: whoever
waits for them waits for the same tasks of all ranks. What is done everywhere is done here.

Of a value that ranks scatter, a reader looks at its own rank's part only, so that it knows nothing
of a task that has written another's. All ranks' readers together know it. A program that scatters
gives clocks a third part, what is done of every rank's workers when the task is, on *all* ranks;
hand-offs between ranks pass that on to the other two.

Two relations are told apart where hand-offs by flags are about. *Done before*: the earlier task has
read and computed, which is what a write must know before it destroys an operand. *Seen by*: all
that the earlier task wrote is visible. A flag is the data itself, with no release and no acquire:
it carries the first relation on, and of the second only its own elements. So it is with flagged
buffers; who has seen a part of what a task writes has waited for it, but does not know it done.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mpkir.analysis.families import Ints
from mpkir.analysis.schedule import Edge, Schedule, schedule_error
from mpkir.analysis.seen_parts import SeenInParts, seen_in_parts_of
from mpkir.dialects.event import Handoff

Clocks = npt.NDArray[np.int32]

STEPS = 2


@dataclass(frozen=True, eq=False)
class HappensBefore:
    """Vector clocks of two consecutive steps."""

    schedule: Schedule
    clocks: Clocks
    """[step, task, component]: how many tasks of a worker, or groups of a chain, of both steps, are
    done before a task ends. Of several ranks: of a worker of the own rank, then of every rank;
    where values are scattered, then of every rank when the task ends on all."""
    fired: Clocks
    """[step, counter, component]: the same for when all signals of a counter have come."""
    component: Ints
    """[step, task]: in which component of clocks a task is counted."""
    position: Ints
    """[step, task]: what that component has to reach."""

    def ordered(
        self, earlier: Ints, later: Ints, step: int = 0, everywhere: bool = False
    ) -> npt.NDArray[np.bool_]:
        """For pairs of tasks, the earlier ones in step 0, whether they happen in that order, on
        one rank or `everywhere`: the earlier one of every rank before the later one of any.
        """
        seen = self.clocks[step, later, self.places(earlier, everywhere)]
        return seen >= self.position[0, earlier]

    def places(self, tasks: Ints, everywhere: bool) -> Ints:
        """The components of clocks that count these tasks of step 0."""
        on_all = everywhere and self.schedule.ranks > 1
        return self.component[0, tasks] + (self.schedule.workers if on_all else 0)

    def needed(self, tasks: Ints, everywhere: bool = False) -> Ints:
        """The least clock of who comes after all of these tasks of step 0."""
        wanted = np.zeros(self.clocks.shape[2], np.int64)
        np.maximum.at(wanted, self.places(tasks, everywhere), self.position[0, tasks])
        return wanted

    def follows(self, tasks: Ints, everywhere: bool = False) -> npt.NDArray[np.bool_]:
        """For each task whether it starts in step 1 only when all of these of step 0 are done."""
        return (self.clocks[1] >= self.needed(tasks, everywhere)).all(axis=1)


def happens_before(schedule: Schedule, *, through_flags: bool = True) -> HappensBefore:
    """Run two steps: what is done before what, or, not through flags, what is seen by whom.

    Raises MpkirError if a counter gets more or fewer signals a step than it expects, or if some
    task waits for ever.
    """
    _check_counts(schedule)
    return _Run(schedule, through_flags).run()


def _check_counts(schedule: Schedule) -> None:
    signals = np.bincount(schedule.all_signals.counter, minlength=len(schedule.counters))
    wrong = np.flatnonzero(signals != schedule.arrivals)
    if not len(wrong):
        return
    at = int(wrong[0])
    name, wanted = schedule.counters[at], int(schedule.arrivals[at])
    sources, waiting = schedule.all_signals.of(at), schedule.all_waits.of(at)
    who = f", the last of them {schedule.describe(int(sources[-1]))}" if len(sources) else ""
    waits = f"; {schedule.describe(int(waiting[0]))} waits for it" if len(waiting) else ""
    missing = f"{wanted - len(sources)} more signals of {name} are missing"
    extra = f"{len(sources) - wanted} signals of {name} are too many: it fires before all have come"
    raise schedule_error(
        f"{name} expects {wanted} arrivals a step, but {len(sources)} tasks signal it{who}{waits}",
        missing if len(sources) < wanted else extra,
    )


@dataclass(frozen=True, eq=False)
class _Group:
    """Dynamic tasks with the same waits and signals, in one step."""

    step: int
    tasks: Ints
    waits: list[tuple[int, int]]
    signals: list[tuple[int, int]]


class _Run:
    """Everybody playing. Actors are the workers, then the groups; a blocked one waits in the list
    of its counter."""

    def __init__(self, schedule: Schedule, through_flags: bool) -> None:
        tasks, workers = schedule.tasks, schedule.workers
        self.schedule = schedule
        self.joins = [through_flags or h is not Handoff.FLAG for h in schedule.handoffs]
        self.crosses = [schedule.ranks > 1 and h is Handoff.PEER for h in schedule.handoffs]
        """Whether who waits for a counter waits for the tasks of every rank."""
        self.scatters = [False] * len(self.crosses)
        """Whether they do so on all ranks together, each for some of the tasks."""
        self.waits = _per_task(schedule, schedule.waits)
        self.signals = _per_task(schedule, schedule.signals)
        self.sources: list[Ints] = []
        """Who writes what each group of readers of a flagged buffer looks at: such a group has two
        counters of its own behind the schedule's, as if there were any."""
        self.buffers: list[str] = []
        self.seen = SeenInParts()
        """Whose flagged elements several readers see together."""
        self.open: dict[tuple[int, int], set[int]] = {}
        """For (step, counter): tasks of which those before it have seen a part, not yet all."""
        self.add_flags(through_flags)
        counters = len(schedule.counters) + len(self.sources)
        self.signallers: list[list[int]] = [[] for _ in schedule.counters]
        for task, signals in enumerate(_per_task(schedule, schedule.signals)):
            for counter, _ in signals:
                self.signallers[counter].append(task)
        self.groups = self.all_groups()
        self.parts = 3 if any(self.scatters) else min(2, schedule.ranks)
        width = self.parts * workers
        self.clocks = np.zeros((STEPS, tasks, width), np.int32)
        self.fired = np.zeros((STEPS, counters, width), np.int32)
        self.component = np.tile(schedule.worker, (STEPS, 1))
        lengths = np.array([len(tasks) for tasks in schedule.lists], np.int64)
        steps = np.arange(STEPS)[:, None]
        self.position = schedule.slot + 1 + steps * lengths[schedule.worker]
        arrivals = [*schedule.arrivals.tolist(), *map(len, self.sources)]
        self.missing = [arrivals.copy() for _ in range(STEPS)]
        self.blocked: dict[tuple[int, int], list[int]] = {}
        self.lists: list[list[int]] = [each.tolist() for each in schedule.lists]
        self.place = [0] * workers
        self.clock = np.zeros((workers, width), np.int32)
        self.chains: list[int] = []
        """How many groups each chain has; its component is that many after the workers'."""
        self.waiting = set(range(workers, workers + len(self.groups)))
        """Groups that have not run."""

    def add_flags(self, joins: bool) -> None:
        """Let readers of flagged buffers wait for the writers; `joins`: and know by that what the
        tasks have read of which they have seen every element.
        """
        schedule, counter = self.schedule, len(self.schedule.counters)
        for flag in schedule.flags:
            groups = flag.groups
            first, begin = (schedule.tasks_of(f).start for f in (flag.earlier, flag.later))
            for is_whole in (True, False):
                rows = groups.whole == is_whole
                if not rows.any():
                    continue
                order = np.argsort(groups.source_group[rows], kind="stable")
                source = groups.source[rows][order] + first
                found, at = np.unique(groups.source_group[rows][order], return_index=True)
                counters: dict[int, int] = {}
                for group, sources in zip(found.tolist(), np.split(source, at[1:]), strict=True):
                    counters[group] = counter
                    for task in sources.tolist():
                        self.signals[task] = [*self.signals[task], (counter, 0)]
                    self.sources.append(sources)
                    self.buffers.append(flag.buffer.sym.data)
                    self.joins.append(joins and is_whole)
                    self.crosses.append(flag.crosses_ranks and not flag.is_scattered)
                    self.scatters.append(flag.is_scattered)
                    counter += 1
                targets = (groups.target + begin).tolist()
                for task, group in zip(targets, groups.target_group.tolist(), strict=True):
                    if group in counters:
                        self.waits[task] = [*self.waits[task], (counters[group], 0)]

        if joins:
            self.seen = seen_in_parts_of(schedule)

    def add_seen_in_parts(self, step: int, counter: int) -> None:
        """Who waits for a counter knows the tasks to be done of which those before it have seen all
        together.
        """
        if not self.seen.readers or not self.joins[counter]:
            return
        own = len(self.schedule.counters)
        if counter < own:
            frontier = self.signallers[counter]
        else:
            frontier = self.sources[counter - own].tolist()
        clock = self.fired[step, counter]
        open: set[int] = set()
        while frontier:
            open = self.not_known(step, open | self.partly_seen(step, frontier), clock)
            frontier = [
                task
                for task in sorted(open)
                if any(self.is_before(step, task, clock, part) for part in range(self.parts))
            ]
            open -= set(frontier)
            for task in frontier:
                np.maximum(clock, self.learnt(step, task, clock), out=clock)
        if open:
            self.open[step, counter] = open

    def partly_seen(self, step: int, tasks: Sequence[int]) -> set[int]:
        """The tasks of whose flagged elements these, or who signalled what these waited for, have
        seen a part."""
        found = {task for reader in tasks for task in self.seen.parts_of.get(reader, ())}
        counters = {counter for task in tasks for counter, lag in self.waits[task] if not lag}
        return found.union(*(self.open.get((step, counter), ()) for counter in counters))

    def not_known(self, step: int, tasks: set[int], clock: Clocks) -> set[int]:
        """Of some tasks those that a clock, of one rank, does not count as done."""
        if self.parts > 1 or not tasks:
            return tasks
        each = np.fromiter(tasks, np.int64, len(tasks))
        return set(each[clock[self.component[step, each]] < self.position[step, each]].tolist())

    def is_before(self, step: int, task: int, clock: Clocks, part: int) -> bool:
        """Whether all who have seen a part of what a task flags are done by then: says a part of
        the clock."""
        if part >= self.parts:
            return False
        counted = clock[part * self.schedule.workers :]
        return any(
            bool((counted[self.component[step, each]] >= self.position[step, each]).all())
            for each in self.seen.readers[task]
        )

    def learnt(self, step: int, task: int, clock: Clocks) -> Clocks:
        """What follows if those are done who have seen a part of what a task flags, where a clock
        says so.
        """
        known = self.clocks[step, task]
        own = self.is_before(step, task, clock, 0)
        if self.is_before(step, task, clock, 1) or (own and task in self.seen.everywhere):
            return self.on_all_ranks(known)
        return known if own and task not in self.seen.together else self.on_all_together(known)

    def on_all_ranks(self, clock: Clocks) -> Clocks:
        """What is known to be done when a task with this clock is, on every rank."""
        workers = self.schedule.workers
        together = clock[2 * workers :] if self.parts == 3 else clock[:workers]
        return np.tile(together, self.parts)

    def on_all_together(self, clock: Clocks) -> Clocks:
        """What all ranks together know to be done when each knows that of some tasks with this
        clock, and all ranks of every such task."""
        result = np.zeros_like(clock)
        result[2 * self.schedule.workers :] = clock[2 * self.schedule.workers :]
        return result

    def name(self, counter: int) -> str:
        """What a task waits for, for messages."""
        own = len(self.schedule.counters)
        if counter < own:
            return self.schedule.counters[counter]
        return f"elements of {self.buffers[counter - own]!r}"

    def all_groups(self) -> list[_Group]:
        """The groups of dynamic tasks, in linear order."""
        result: list[_Group] = []
        for step in range(STEPS):
            for family in self.schedule.families:
                if family.op.dynamic is None:
                    continue
                alike: dict[str, list[int]] = {}
                for task in self.schedule.tasks_of(family):
                    alike.setdefault(f"{self.waits[task]}{self.signals[task]}", []).append(task)
                for tasks in alike.values():
                    waits, signals = self.waits[tasks[0]], self.signals[tasks[0]]
                    result.append(_Group(step, np.array(tasks), waits, signals))
        return result

    def run(self) -> HappensBefore:
        ready = list(range(self.schedule.workers + len(self.groups)))
        while ready:
            actor = ready.pop()
            if actor < self.schedule.workers:
                self.advance(actor, ready)
            else:
                self.release(actor, ready)
        self.check_finished()
        return HappensBefore(self.schedule, self.clocks, self.fired, self.component, self.position)

    def advance(self, worker: int, ready: list[int]) -> None:
        """Run one worker until it has to wait."""
        tasks = self.lists[worker]
        while self.place[worker] < STEPS * len(tasks):
            step, slot = divmod(self.place[worker], len(tasks))
            task = tasks[slot]
            clock = self.clock[worker]
            if not self.acquire(worker, step, self.waits[task], clock):
                return
            self.place[worker] += 1
            clock[worker] = self.place[worker]
            if self.parts == 3:
                clock[2 * self.schedule.workers + worker] = self.place[worker]
            self.clocks[step, task] = clock
            self.signal(step, self.signals[task], 1, clock, ready)

    def release(self, actor: int, ready: list[int]) -> None:
        """Run a group of dynamic tasks if it may run."""
        group = self.groups[actor - self.schedule.workers]
        clock = np.zeros(self.clock.shape[1], np.int32)
        if not self.acquire(actor, group.step, group.waits, clock):
            return
        self.waiting.discard(actor)
        self.clocks[group.step, group.tasks] = clock
        component = self.chain_after(clock)
        position = self.chains[component - self.schedule.workers]
        self.component[group.step, group.tasks] = component
        self.position[group.step, group.tasks] = position
        clock = np.pad(clock, (0, self.clock.shape[1] - len(clock)))
        clock[component] = position
        self.signal(group.step, group.signals, len(group.tasks), clock, ready)

    def chain_after(self, clock: Clocks) -> int:
        """The component of a chain whose last group is done by then, with one group more."""
        workers = self.schedule.workers
        for chain, length in enumerate(self.chains):
            if clock[workers + chain] >= length:
                self.chains[chain] += 1
                return workers + chain
        self.chains.append(1)
        if workers + len(self.chains) > self.clock.shape[1]:
            more = max(8, len(self.chains))
            self.clocks, self.fired = (
                np.pad(each, ((0, 0), (0, 0), (0, more))) for each in (self.clocks, self.fired)
            )
            self.clock = np.pad(self.clock, ((0, 0), (0, more)))
        return workers + len(self.chains) - 1

    def acquire(self, actor: int, step: int, waits: list[tuple[int, int]], clock: Clocks) -> bool:
        """Join what has happened before these waits, or block."""
        for counter, lag in waits:
            if step < lag:
                continue
            if self.missing[step - lag][counter] > 0:
                self.blocked.setdefault((step - lag, counter), []).append(actor)
                return False
            if self.joins[counter]:
                np.maximum(clock, self.fired[step - lag, counter], out=clock)
        return True

    def signal(
        self, step: int, signals: list[tuple[int, int]], times: int, clock: Clocks, ready: list[int]
    ) -> None:
        """Raise counters; who waited for one that has fired is ready."""
        for counter, _ in signals:
            known = clock
            if self.crosses[counter]:
                known = self.on_all_ranks(clock)
            elif self.scatters[counter]:
                known = self.on_all_together(clock)
            np.maximum(self.fired[step, counter], known, out=self.fired[step, counter])
            self.missing[step][counter] -= times
            if not self.missing[step][counter]:
                self.add_seen_in_parts(step, counter)
                ready += self.blocked.pop((step, counter), ())

    def check_finished(self) -> None:
        """Raise MpkirError if somebody waits for ever: of those the first in linear order."""
        stuck = [
            (*divmod(place, len(tasks)), worker)
            for worker, (place, tasks) in enumerate(zip(self.place, self.lists, strict=True))
            if place < STEPS * len(tasks)
        ]
        heads = [(step, self.lists[worker][slot]) for step, slot, worker in stuck]
        groups = [self.groups[actor - self.schedule.workers] for actor in self.waiting]
        heads += [(group.step, int(group.tasks[0])) for group in groups]
        if heads:
            raise self.deadlock(*min(heads))

    def deadlock(self, step: int, task: int) -> Exception:
        """What to say about a task that waits for ever."""
        schedule = self.schedule
        name = schedule.describe(task)
        text = f"deadlock: {name} waits for ever"
        seen: set[tuple[int, int]] = set()
        source = task
        while (step, task) not in seen and len(seen) < 4:
            seen.add((step, task))
            at, counter = next(
                (step - lag, c)
                for c, lag in self.waits[task]
                if step >= lag and self.missing[step - lag][c] > 0
            )
            source = self.absent(at, counter)
            step, head = self.behind(at, source)
            verb = "waits" if counter < len(schedule.counters) else "wait"
            text += f" for {self.name(counter)}, which {verb} for "
            text += schedule.describe(source)
            if head != source:
                text += (
                    f" on worker {schedule.worker[source]}, which stands behind "
                    f"{schedule.describe(head)}"
                )
            if step != at:
                text += " of the step before"
            text += ", which waits"
            task = head
        return schedule_error(
            text.removesuffix(", which waits"),
            f"the edge from {schedule.label(source)} closes a circle: place it before, or let its "
            "signal go to another event",
        )

    def absent(self, step: int, counter: int) -> int:
        """A task that should signal a counter in a step and has not run."""
        own = len(self.schedule.counters)
        if counter < own:
            tasks = self.schedule.all_signals.of(counter).tolist()
        else:
            tasks = self.sources[counter - own].tolist()
        return next(task for task in tasks if not self.has_run(step, task))

    def has_run(self, step: int, task: int) -> bool:
        worker = int(self.schedule.worker[task])
        if worker >= 0:
            return bool(self.position[step, task] <= self.place[worker])
        groups = (self.groups[actor - self.schedule.workers] for actor in self.waiting)
        return not any(group.step == step and task in group.tasks for group in groups)

    def behind(self, step: int, task: int) -> tuple[int, int]:
        """What keeps a task from running: itself, or the task that its worker is at."""
        worker = int(self.schedule.worker[task])
        if worker < 0:
            return step, task
        at, slot = divmod(self.place[worker], len(self.lists[worker]))
        return at, self.lists[worker][slot]


def _per_task(schedule: Schedule, edges: list[list[Edge]]) -> list[list[tuple[int, int]]]:
    """For each task its counters with their lags."""
    result: list[list[tuple[int, int]]] = []
    for family, each in zip(schedule.families, edges, strict=True):
        if len(each) == 1:
            shared = {c: [(c, each[0].lag)] for c in np.unique(each[0].counter).tolist()}
            result += [shared[counter] for counter in each[0].counter.tolist()]
        else:
            columns = [[(c, edge.lag) for c in edge.counter.tolist()] for edge in each]
            result += [list(row) for row in zip(*columns, strict=True)] or [
                [] for _ in range(family.size)
            ]
    return result
