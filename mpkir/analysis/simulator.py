"""Plays a schedule against a machine model: when each task runs, and what it waits for.

Every worker has a loader, which streams the weights of its list through the ring ahead of every
event, compute warps, and a publisher. Loaders share the memory: with N bytes asked for and not
landed the memory gives B N / (N^3 + (B L)^3)^(1/3), where B is its bandwidth and L its latency,
which joins Little's law for few bytes with B for many; each stream gets its part of N. All else is
a sum of constants of the machine and waits for events, so the only clock is the memory's: between
two of its completions a worker is played as far as what is known lets it run (a task's times are
numbers in the future). Steps follow each other as in one launch; the last one is reported.

Readers of a flagged buffer wait, once they have begun, until all that they read is written: each
group of readers of a box has a counter of its own here, whose hop is that of a flag, of an exchange
buffer that of a peer. All ranks are taken to run alike, so one of them is played.

Tasks without a worker are given out when their event fires, each to who is free first; this worker
is taken as free when what it is known to do is done.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from enum import IntEnum
from heapq import heappop, heappush

import numpy as np
from xdsl.dialects.builtin import ModuleOp

from mpkir.analysis.exchange_times import flag_time
from mpkir.analysis.families import Ints
from mpkir.analysis.plan import Plan, plan_of
from mpkir.analysis.task_times import KILO, Floats, times_of, total_bytes
from mpkir.dialects import event
from mpkir.errors import MpkirError
from mpkir.machine import Machine

QUANTUM = 4
"""Stages that the loader takes together: finer changes times by less than 1 %."""


class Cause(IntEnum):
    """What a task's start waited for last."""

    WORKER = 0
    """The task before it on its worker."""
    EVENT = 1


@dataclass(frozen=True, eq=False)
class Simulation:
    """One step as played. Arrays are [tasks] in linear order; microseconds from the step's begin,
    which is the end of the step before.
    """

    plan: Plan
    worker: Ints
    """Who ran each task."""
    ready: Floats
    """When the task's event was seen."""
    start: Floats
    """When the worker began it: it had nothing else to do, and the event was seen."""
    end: Floats
    """When its results and its signal were written."""
    starved: Floats
    """Of the time between, how long it waited for weights to land."""
    busy: Floats
    """Of the time between, how long the worker's compute warps worked."""
    cause: Ints
    before: Ints
    """The task that `cause` names; -1 for none in this step."""
    step: float
    """Time of the step."""

    @property
    def floor(self) -> float:
        """Time of the step's bytes at the machine's bandwidth."""
        bandwidth = self.plan.machine.memory_bandwidth * KILO
        return total_bytes(self.plan.costs) / bandwidth


def simulate(
    module: ModuleOp, machine: Machine, *, position: int | None = None, steps: int = 2
) -> Simulation:
    """Play a scheduled module; `position` as for `plan_of`. Raises MpkirError if it blocks."""
    return play(plan_of(module, machine, position), steps)


def play(plan: Plan, steps: int = 2) -> Simulation:
    """Play a plan for some steps; the last is reported."""
    run = _Run(plan, steps)
    run.run()
    last, tasks = steps - 1, plan.graph.tasks
    end = np.array(run.end)
    begin = float(end[(last - 1) * tasks : last * tasks].max(initial=0.0)) if last else 0.0

    def column(values: list[float]) -> Floats:
        return np.array(values[last * tasks :], np.float64)

    before = np.array(run.before[last * tasks :], np.int64) - last * tasks
    return Simulation(
        plan,
        np.array(run.ran_on[last * tasks :], np.int64),
        column(run.ready) - begin,
        column(run.start) - begin,
        end[last * tasks :] - begin,
        column(run.starved),
        column(run.busy),
        np.array(run.cause[last * tasks :], np.int64),
        np.where(before >= 0, before, -1),
        float(end[last * tasks :].max(initial=begin)) - begin,
    )


@dataclass(eq=False)
class _Worker:
    """Where one worker stands; times are of its compute warps unless they say otherwise."""

    free: int
    """Slots of the ring that nobody has asked to fill."""
    place: int = 0
    """Tasks done, over all steps."""
    begun: bool = False
    """The present task has started."""
    now: float = 0.0
    ready: float = 0.0
    """The dispatcher has seen the events of all tasks up to the present one."""
    run: tuple[int, int] = (-1, -1)
    """Step and family of the run of streaming tasks under way."""
    run_ready: float = 0.0
    """What `ready` was at its start."""
    published: float = 0.0
    chunk: int = 0
    """Of the present task, the next to multiply."""
    cold: float = 0.0
    """Fetching instructions, spread over the present task's chunks."""
    starved: float = 0.0
    waiting: bool = False
    """For weights to land or its own reads from DRAM."""
    asked: bool = False
    """It has begun to read from DRAM what its present task needs."""
    reads_done: float = -1.0
    landed: list[float] = field(default_factory=list[float])
    used: int = 0
    """Chunks multiplied, over all steps."""
    released: list[tuple[float, int]] = field(default_factory=list[tuple[float, int]])
    """When ring slots were given back, and how many."""
    loading: int = 0
    """The chunk to load next, over all steps."""
    freed: int = 0
    """Entries of `released` that the loader has seen."""
    blocked: bool = False
    loader_time: float = 0.0
    code: OrderedDict[tuple[object, ...], float] = field(
        default_factory=OrderedDict[tuple[object, ...], float]
    )
    """Bodies whose instructions are at hand, the one used last at the end."""
    code_bytes: float = 0.0


class _Run:
    """The clock of the memory, and every worker."""

    def __init__(self, plan: Plan, steps: int) -> None:
        self.steps, self.plan, self.machine = steps, plan, plan.machine
        self.timing = plan.machine.timing
        self.tasks, self.counters = plan.graph.tasks, len(plan.graph.arrivals)
        self.looks: list[list[int]] = [[] for _ in range(self.tasks)]
        """Counters of flags that each task waits for."""
        self.marks: list[list[int]] = [[] for _ in range(self.tasks)]
        """Those that it raises."""
        arrivals = plan.graph.arrivals.tolist() + self._read_flags()
        self.counters = len(arrivals)
        self._read_tasks()
        self._cut_chunks()
        self.workers = [_Worker(plan.ring.slots) for _ in range(plan.workers)]
        total = steps * self.tasks
        self.ready, self.start, self.end = [0.0] * total, [0.0] * total, [0.0] * total
        self.starved, self.busy = [0.0] * total, [0.0] * total
        self.cause, self.before, self.ran_on = [0] * total, [-1] * total, [-1] * total
        self.arrived: list[list[tuple[float, int]]] = [[] for _ in range(steps * self.counters)]
        self.missing: list[int] = arrivals * steps
        self.fired = [-1.0] * (steps * self.counters)
        self.last_signaller = [-1] * (steps * self.counters)
        self.latest = [0.0] * (steps * self.counters)
        """The last end of a task that has raised a counter of flags."""
        self.blocked: dict[int, list[int]] = {}
        hops = plan.machine.hops
        hop = {
            event.Handoff.LOCAL: hops.local,
            event.Handoff.COUNTER: hops.counter,
            event.Handoff.FLAG: hops.flag,
            event.Handoff.PEER: hops.peer,
        }
        self.hop = [hop[handoff] for handoff in plan.graph.handoffs]
        self.hop += [
            flag_time(flag, plan.ranks, plan.machine)
            for flag in plan.graph.flags
            for _ in range(flag.groups.count)
        ]
        fenced = (event.Handoff.COUNTER, event.Handoff.PEER)
        self.fences = [handoff in fenced for handoff in plan.graph.handoffs]
        # The memory: streams by the virtual time at which they end, a heap of wake-ups.
        self.time, self.virtual, self.asked, self.rate = 0.0, 0.0, 0.0, 0.0
        self.slow = 1.0
        """How much longer the memory takes to answer than when it is idle."""
        self.streams: list[tuple[float, int, int, float, int]] = []
        self.wakes: list[tuple[float, int, int, float]] = []
        self.sequence = 0
        self.bandwidth = plan.machine.memory_bandwidth * KILO
        self.idle_bytes = self.bandwidth * self.timing.dram_latency
        self.knee = self.idle_bytes**3
        self.least_rate = self.bandwidth / (2 * self.idle_bytes)
        # What a task that reads past the ring has asked for and not got: a stage, or what keeps the
        # memory just busy where there is no ring.
        has_ring = plan.machine.streams
        self.own_reads = plan.ring.slot_bytes if has_ring else self.idle_bytes / plan.workers

    def _read_flags(self) -> list[int]:
        """Counters for the flags, behind the graph's; how many tasks raise each."""
        arrivals: list[int] = []
        for flag in self.plan.graph.flags:
            groups, first = flag.groups, self.counters + len(arrivals)
            counts = np.bincount(groups.source_group, minlength=groups.count)
            arrivals += counts.tolist()
            begin = int(self.plan.graph.offsets[flag.earlier.number])
            sources: list[int] = (groups.source + begin).tolist()
            for task, group in zip(sources, groups.source_group.tolist(), strict=True):
                self.marks[task].append(first + group)
            begin = int(self.plan.graph.offsets[flag.later.number])
            targets: list[int] = (groups.target + begin).tolist()
            for task, group in zip(targets, groups.target_group.tolist(), strict=True):
                if counts[group]:
                    self.looks[task].append(first + group)
        return arrivals

    def _read_tasks(self) -> None:
        plan = self.plan
        times = [times_of(cost, plan.machine) for cost in plan.costs]
        sizes = [family.size for family in plan.graph.families]
        self.family: list[int] = np.repeat(np.arange(len(sizes)), sizes).tolist()
        self.work: list[float] = [x for each in times for x in each.work.tolist()]
        self.dram: list[float] = [x for each in times for x in each.dram.tolist()]
        self.does_stream = [each.streams for each in times]
        self.look = [each.look for each in times]
        self.prepare = [each.prepare for each in times]
        self.again = [each.again for each in times]
        self.inputs = [each.inputs for each in times]
        self.code = [each.code for each in times]
        self.body = [each.body for each in times]
        executed = plan.executed
        self.wait: list[int] = executed.wait.tolist()
        self.lag: list[int] = executed.lag.tolist()
        self.signal: list[int] = executed.signal.tolist()
        self.amount: list[int] = executed.amount.tolist()
        placed = np.flatnonzero(plan.worker >= 0)
        order = placed[np.lexsort((plan.slot[placed], plan.worker[placed]))]
        counts = np.bincount(plan.worker[placed], minlength=plan.workers)
        self.lists: list[list[int]] = [
            each.tolist() for each in np.split(order, np.cumsum(counts)[:-1])
        ]
        self.released_by: dict[int, list[int]] = {}
        for each in np.flatnonzero(plan.worker < 0).tolist():
            self.released_by.setdefault(self.wait[each], []).append(each)

    def _cut_chunks(self) -> None:
        """What each loader loads in a step, in order: (bytes, stages, bytes in flight)."""
        ring, costs = self.plan.ring, self.plan.costs
        none = np.zeros(0, np.int64)
        stages: list[int] = np.concatenate([none, *(c.stages for c in costs)]).tolist()
        streamed: list[int] = np.concatenate([none, *(c.streamed for c in costs)]).tolist()
        quantum = max(1, min(QUANTUM, ring.slots // 2))
        self.chunks_of = [-(-n // quantum) for n in stages]
        self.chunks: list[list[tuple[float, int, float]]] = []
        for tasks in self.lists:
            chunks: list[tuple[float, int, float]] = []
            for each in tasks:
                if not stages[each]:
                    continue
                size = streamed[each] / stages[each]
                for left in range(stages[each], 0, -quantum):
                    count = min(quantum, left)
                    chunks.append((size * count, count, size * ring.in_flight))
            self.chunks.append(chunks)

    # ---- the clock ----

    def run(self) -> None:
        """Play everything. Raises MpkirError if tasks wait for ever."""
        for worker in range(len(self.workers)):
            self.load(worker)
            self.advance(worker)
        streams, wakes = self.streams, self.wakes
        while streams or wakes:
            ends = float("inf")
            if streams:
                ends = self.time + max(0.0, streams[0][0] - self.virtual) / self.rate
            if wakes and wakes[0][0] <= ends:
                time, _, worker, size = heappop(wakes)
                self.move(time)
                self.begin_stream(worker, size)
            else:
                self.move(ends)
                _, _, worker, asked, is_load = heappop(streams)
                self.ask(-asked)
                self.landed(worker, is_load)
        self.check_done()

    def check_done(self) -> None:
        for state, tasks in zip(self.workers, self.lists, strict=True):
            if state.place < self.steps * len(tasks):
                stuck = self.family[tasks[state.place % len(tasks)]]
                raise MpkirError(
                    "the schedule blocks: a task waits for ever",
                    where=f"@{self.plan.graph.families[stuck].name}",
                    hint="mpk-verify-schedule says for what",
                )

    def move(self, time: float) -> None:
        """Let the memory work until then."""
        if time > self.time:
            self.virtual += (time - self.time) * self.rate
            self.time = time

    def ask(self, size: float) -> None:
        """So many bytes more (or fewer) are in flight."""
        self.asked = max(0.0, self.asked + size) if self.streams or size > 0 else 0.0
        in_all = (self.asked**3 + self.knee) ** (1 / 3)
        self.rate = self.bandwidth / in_all
        self.slow = in_all / self.idle_bytes

    def begin_stream(self, worker: int, size: float) -> None:
        """A loader's next chunk, or (size > 0) a task's own reads, go to the memory."""
        self.sequence += 1
        is_load = int(size == 0)
        asked = min(size, self.own_reads)
        if is_load:
            chunks = self.chunks[worker]
            size, _, asked = chunks[self.workers[worker].loading % len(chunks)]
        ends = self.virtual + size / asked
        heappush(self.streams, (ends, self.sequence, worker, asked, is_load))
        self.ask(asked)

    def wake(self, time: float, worker: int, size: float) -> None:
        """Begin a stream then, or now if that is past."""
        if time > self.time:
            self.sequence += 1
            heappush(self.wakes, (time, self.sequence, worker, size))
        else:
            self.begin_stream(worker, size)

    def landed(self, worker: int, is_load: int) -> None:
        """What a worker asked for has come."""
        state = self.workers[worker]
        if is_load:
            state.landed.append(self.time)
            state.loading += 1
            self.load(worker)
        else:
            state.reads_done = self.time
        if state.waiting:
            state.waiting = False
            self.advance(worker)

    def load(self, worker: int) -> None:
        """Let a loader ask for its next chunk as soon as the ring has room."""
        state, chunks = self.workers[worker], self.chunks[worker]
        if not chunks or state.loading >= self.steps * len(chunks):
            return
        stages = chunks[state.loading % len(chunks)][1]
        while state.free < stages:
            if state.freed == len(state.released):
                state.blocked = True
                return
            state.loader_time, slots = state.released[state.freed]
            state.freed += 1
            state.free += slots
        state.free -= stages
        self.wake(state.loader_time, worker, 0.0)

    # ---- tasks ----

    def advance(self, worker: int) -> None:
        """Play a worker, and those that its signals let go, as far as all is known."""
        todo = [worker]
        while todo:
            self.advance_one(todo.pop(), todo)

    def advance_one(self, worker: int, todo: list[int]) -> None:
        state, tasks = self.workers[worker], self.lists[worker]
        total = self.steps * len(tasks)
        while state.place < total:
            step, at = divmod(state.place, len(tasks))
            each = tasks[at]
            index = step * self.tasks + each
            if not state.begun:
                self.ask_early(worker, each)
                if not self.see_event(worker, each, index):
                    return
                self.begin(worker, each, index)
            if self.does_stream[self.family[each]]:
                if not self.multiply(worker, each, index):
                    return
            elif not self.work_through(worker, each, index):
                return
            state.begun = False
            state.place += 1
            self.raise_counter(each, index, todo)

    def ask_early(self, worker: int, each: int) -> None:
        """A task that only looks for marks asks for its cache's rows before."""
        state = self.workers[worker]
        if self.dram[each] > 0 and self.looks[each] and self.wait[each] < 0 and not state.asked:
            state.asked = True
            self.wake(max(state.now, state.published), worker, self.dram[each])

    def see_event(self, worker: int, each: int, index: int) -> bool:
        """The dispatcher's part, and looking for flags; False if something has not come."""
        state, counter, lag = self.workers[worker], self.wait[each], self.lag[each]
        step = index // self.tasks
        for flag in self.looks[each]:
            if self.fired[step * self.counters + flag] < 0:
                self.blocked.setdefault(step * self.counters + flag, []).append(worker)
                return False
        self.cause[index] = Cause.WORKER
        if counter >= 0 and step >= lag:
            key = (step - lag) * self.counters + counter
            fired = self.fired[key]
            if fired < 0:
                self.blocked.setdefault(key, []).append(worker)
                return False
            seen = max(fired + self.hop[counter], state.ready + self.timing.l2_latency)
            state.ready = seen
            if seen > state.now:
                self.cause[index], self.before[index] = Cause.EVENT, self.last_signaller[key]
        for flag in self.looks[each]:
            key = step * self.counters + flag
            seen = self.fired[key] + self.hop[flag]
            if seen > max(state.ready, state.now):
                self.cause[index], self.before[index] = Cause.EVENT, self.last_signaller[key]
            state.ready = max(state.ready, seen)
        return True

    def begin(self, worker: int, each: int, index: int) -> None:
        """The task's start, at the head of its worker's list."""
        state, family = self.workers[worker], self.family[each]
        run = (index // self.tasks, family) if self.does_stream[family] else (-1, -1)
        previous, seen = state.run[1], state.run_ready
        is_new = run != state.run or run[1] < 0
        free = max(state.now, state.published) if is_new else state.now
        if state.ready <= free:
            self.cause[index] = Cause.WORKER
        if self.cause[index] == Cause.WORKER and state.place:
            tasks = self.lists[worker]
            step, at = divmod(state.place - 1, len(tasks))
            self.before[index] = step * self.tasks + tasks[at]
        state.now = max(state.ready, free)
        self.ready[index], self.start[index] = state.ready, state.now
        if is_new:
            state.now = max(state.ready, free + self.look[family])
        self.ran_on[index] = worker
        state.begun, state.run, state.starved = True, run, 0.0
        state.run_ready = state.ready
        state.cold = self.fetch_code(state, family) if is_new else 0.0
        if is_new:
            is_held = (
                previous >= 0
                and seen == state.ready
                and self.inputs[family] == self.inputs[previous]
            )
            state.now += self.again[family] if is_held else self.prepare[family]
        if self.dram[each] > 0 and not state.asked:
            self.wake(state.now, worker, self.dram[each])
        state.asked = False

    def fetch_code(self, state: _Worker, family: int) -> float:
        """How long a body's instructions take to come; none if they are at hand."""
        size, body = self.code[family], self.body[family]
        if body in state.code:
            state.code.move_to_end(body)
            return 0.0
        state.code[body] = size
        state.code_bytes += size
        while state.code_bytes > self.timing.code_cache and len(state.code) > 1:
            state.code_bytes -= state.code.popitem(last=False)[1]
        return size / (self.timing.code_bandwidth * KILO)

    def multiply(self, worker: int, each: int, index: int) -> bool:
        """A streaming task's stages and results; False if some stages have not landed."""
        state, chunks = self.workers[worker], self.chunks[worker]
        count = self.chunks_of[each]
        work = (self.work[each] + state.cold) / count if count else 0.0
        while state.chunk < count:
            if state.used == len(state.landed):
                state.waiting = True
                return False
            landed = state.landed[state.used]
            if landed > state.now:
                state.starved += landed - state.now
                state.now = landed
            state.now += work
            state.released.append((state.now, chunks[state.used % len(chunks)][1]))
            state.used += 1
            state.chunk += 1
            if state.blocked:
                state.blocked = False
                self.load(worker)
        state.chunk = 0
        self.starved[index] = state.starved
        self.busy[index] = state.now - self.start[index] - state.starved
        publish = self.timing.publish + self.release(each)
        state.published = max(state.now, state.published) + publish
        self.end[index] = state.published
        return True

    def work_through(self, worker: int, each: int, index: int) -> bool:
        """A task that does not stream; False if what it reads from DRAM has not come."""
        state = self.workers[worker]
        done = state.now + state.cold + self.work[each]
        if self.dram[each] > 0:
            if state.reads_done < 0:
                state.waiting = True
                return False
            self.starved[index] = max(0.0, state.reads_done - done)
            done = max(done, state.reads_done)
            state.reads_done = -1.0
        state.now = done + self.release(each)
        self.busy[index] = state.now - self.start[index] - self.starved[index]
        self.end[index] = state.now
        return True

    def release(self, each: int) -> float:
        """From results to the signal's leaving; a mark that the data carries leaves with them."""
        counter = self.signal[each]
        return self.timing.release * self.slow if counter >= 0 and self.fences[counter] else 0.0

    def raise_counter(self, each: int, index: int, todo: list[int]) -> None:
        """Signal and mark; when that is the last arrival, let go who waits."""
        counter = self.signal[each]
        step = index // self.tasks
        for flag in self.marks[each]:
            key = step * self.counters + flag
            self.missing[key] -= 1
            if self.end[index] >= self.latest[key]:
                self.latest[key], self.last_signaller[key] = self.end[index], index
            if not self.missing[key]:
                self.fired[key] = self.latest[key]
                todo += self.blocked.pop(key, ())
        if counter < 0:
            return
        key = index // self.tasks * self.counters + counter
        arrived = self.arrived[key]
        arrived.append((self.end[index], index))
        self.missing[key] -= self.amount[each]
        if self.missing[key]:
            return
        arrived.sort()
        fired = 0.0
        for time, _ in arrived:
            fired = (time if time > fired else fired) + self.timing.arrival
        self.fired[key] = fired
        self.last_signaller[key] = arrived[-1][1]
        self.arrived[key] = []
        todo += self.blocked.pop(key, ())
        for released in self.released_by.get(counter, ()):
            self.give_out(released, key, todo)

    def give_out(self, each: int, key: int, todo: list[int]) -> None:
        """Run a task without a worker on whoever is free first."""
        step = key // self.counters
        index = step * self.tasks + each
        free = [max(state.now, state.published) for state in self.workers]
        worker = min(range(len(free)), key=free.__getitem__)
        state, family = self.workers[worker], self.family[each]
        self.ready[index] = self.fired[key] + self.hop[key % self.counters]
        start = max(self.ready[index], free[worker])
        cold = self.fetch_code(state, family)
        reads = self.dram[each] / (self.own_reads * max(self.rate, self.least_rate))
        work = max(cold + self.work[each], reads) + self.prepare[family]
        self.start[index], self.ran_on[index] = start, worker
        self.busy[index] = work + self.release(each)
        self.end[index] = state.now = start + self.busy[index]
        self.cause[index] = Cause.EVENT if start > free[worker] else Cause.WORKER
        self.before[index] = self.last_signaller[key]
        state.run = (-1, -1)
        self.raise_counter(each, index, todo)
