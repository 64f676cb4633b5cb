"""Plays the workers of a plan, each as far as what is known lets it run."""

from __future__ import annotations

import numpy as np
from xdsl.dialects.builtin import ModuleOp

from mpkir.analysis.plan import Plan, plan_of
from mpkir.analysis.simulator.events import Events
from mpkir.analysis.simulator.memory import Memory, Reads, Stream
from mpkir.analysis.simulator.simulation import Cause, Simulation
from mpkir.analysis.simulator.tasks import Tasks
from mpkir.analysis.simulator.worker import Worker
from mpkir.analysis.task_times import ROWS_AHEAD, Floats
from mpkir.errors import MpkirError
from mpkir.machine import Machine


def simulate(
    module: ModuleOp, machine: Machine, *, position: int | None = None, steps: int = 2
) -> Simulation:
    """Play a scheduled module; `position` as for `plan_of`. Raises MpkirError if it blocks."""
    return play(plan_of(module, machine, position), steps)


def play(plan: Plan, steps: int = 2) -> Simulation:
    """Play a plan for some steps; the last is reported."""
    player = _Player(plan, steps)
    player.run()
    last, tasks = steps - 1, plan.graph.tasks
    end = np.array(player.end)
    begin = float(end[(last - 1) * tasks : last * tasks].max(initial=0.0)) if last else 0.0

    def column(values: list[float]) -> Floats:
        return np.array(values[last * tasks :], np.float64)

    before = np.array(player.before[last * tasks :], np.int64) - last * tasks
    return Simulation(
        plan,
        np.array(player.ran_on[last * tasks :], np.int64),
        column(player.ready) - begin,
        column(player.start) - begin,
        end[last * tasks :] - begin,
        column(player.starved),
        column(player.busy),
        np.array(player.cause[last * tasks :], np.int64),
        np.where(before >= 0, before, -1),
        float(end[last * tasks :].max(initial=begin)) - begin,
    )


class _Player:
    """All workers, and what is known of each task of each step. Of a task, `each` is its number in
    a step and `index` that over all steps."""

    def __init__(self, plan: Plan, steps: int) -> None:
        self.steps, self.plan, self.timing = steps, plan, plan.machine.timing
        self.tasks = Tasks(plan)
        self.events = Events(plan, self.tasks.arrivals, steps)
        self.memory = Memory(plan)
        self.workers = [Worker(plan.ring.slots) for _ in range(plan.workers)]
        total = steps * self.tasks.count
        self.ready, self.start, self.end = [0.0] * total, [0.0] * total, [0.0] * total
        self.starved, self.busy = [0.0] * total, [0.0] * total
        self.cause, self.before, self.ran_on = [0] * total, [-1] * total, [-1] * total

    # ---- what lands, and the loaders ----

    def run(self) -> None:
        """Play everything. Raises MpkirError if tasks wait for ever."""
        for worker in range(len(self.workers)):
            self.load(worker)
            self.advance(worker)
        while (stream := self.memory.next_landed()) is not None:
            self.landed(stream)
        self.check_done()

    def check_done(self) -> None:
        for state, tasks in zip(self.workers, self.tasks.lists, strict=True):
            if state.place < self.steps * len(tasks):
                stuck = self.tasks.family[tasks[state.place % len(tasks)]]
                raise MpkirError(
                    "the schedule blocks: a task waits for ever",
                    where=f"@{self.plan.graph.families[stuck].name}",
                    hint="mpk-verify-schedule says for what",
                )

    def landed(self, stream: Stream) -> None:
        """What a worker asked for has come."""
        worker = stream.worker
        state = self.workers[worker]
        match stream.reads:
            case Reads.STAGES:
                state.landed.append(self.memory.time)
                state.loading += 1
                self.load(worker)
            case Reads.OWN:
                state.reads_done = self.memory.time
                state.reading -= 1
            case Reads.BESIDE:
                return
        if state.waiting:
            state.waiting = False
            self.advance(worker)

    def load(self, worker: int) -> None:
        """Let a loader ask for its next chunk as soon as the ring has room."""
        state, chunks = self.workers[worker], self.tasks.chunks[worker]
        if not chunks or state.loading >= self.steps * len(chunks):
            return
        size, stages, asked = chunks[state.loading % len(chunks)]
        if state.take_slots(stages):
            self.memory.load(state.loader_time, worker, size, asked)

    # ---- tasks ----

    def advance(self, worker: int) -> None:
        """Play a worker, and those that its signals let go, as far as all is known."""
        todo = [worker]
        while todo:
            self.advance_one(todo.pop(), todo)

    def advance_one(self, worker: int, todo: list[int]) -> None:
        state, tasks = self.workers[worker], self.tasks.lists[worker]
        total = self.steps * len(tasks)
        while state.place < total:
            step, at = divmod(state.place, len(tasks))
            each = tasks[at]
            index = step * self.tasks.count + each
            if not state.begun:
                self.ask_early(worker, each)
                if not self.see_event(worker, each, index):
                    return
                self.begin(worker, each, index)
            if self.tasks.does_stream[self.tasks.family[each]]:
                if not self.multiply(worker, each, index):
                    return
            elif not self.work_through(worker, each, index):
                return
            state.begun = False
            state.place += 1
            self.raise_counters(each, index, todo)

    def ask_early(self, worker: int, each: int) -> None:
        """A task that only looks for marks asks for its cache's first rows before."""
        state, tasks = self.workers[worker], self.tasks
        if tasks.dram[each] > 0 and tasks.looks[each] and tasks.wait[each] < 0 and not state.asked:
            state.asked = min(tasks.dram[each], ROWS_AHEAD)
            self.read(worker, max(state.now, state.published), state.asked, state.asked)

    def see_event(self, worker: int, each: int, index: int) -> bool:
        """The dispatcher's part, and looking for flags; False if something has not come."""
        state, events = self.workers[worker], self.events
        counter, lag, looks = self.tasks.wait[each], self.tasks.lag[each], self.tasks.looks[each]
        step = index // self.tasks.count
        for flag in looks:
            if events.fired[step * events.count + flag] < 0:
                events.block(worker, step * events.count + flag)
                return False
        self.cause[index] = Cause.WORKER
        if counter >= 0 and step >= lag:
            key = (step - lag) * events.count + counter
            fired = events.fired[key]
            if fired < 0:
                events.block(worker, key)
                return False
            seen = max(fired + events.hop[counter], state.ready + self.timing.l2_latency)
            state.ready = seen
            if seen > state.now:
                self.cause[index], self.before[index] = Cause.EVENT, events.last_signaller[key]
        for flag in looks:
            key = step * events.count + flag
            seen = events.fired[key] + events.hop[flag]
            if seen > max(state.ready, state.now):
                self.cause[index], self.before[index] = Cause.EVENT, events.last_signaller[key]
            state.ready = max(state.ready, seen)
        return True

    def begin(self, worker: int, each: int, index: int) -> None:
        """The task's start, at the head of its worker's list."""
        state, tasks = self.workers[worker], self.tasks
        family = tasks.family[each]
        run = (index // tasks.count, family) if tasks.does_stream[family] else (-1, -1)
        previous, seen = state.run[1], state.run_ready
        is_new = run != state.run or run[1] < 0
        free = max(state.now, state.published) if is_new else state.now
        if state.ready <= free:
            self.cause[index] = Cause.WORKER
        if self.cause[index] == Cause.WORKER and state.place:
            mine = tasks.lists[worker]
            step, at = divmod(state.place - 1, len(mine))
            self.before[index] = step * tasks.count + mine[at]
        state.now = max(state.ready, free)
        self.ready[index], self.start[index] = state.ready, state.now
        if is_new:
            state.now = max(state.ready, free + tasks.look[family])
        self.ran_on[index] = worker
        state.begun, state.run, state.starved = True, run, 0.0
        state.run_ready = state.ready
        state.cold = self.fetch_code(state, family) if is_new else 0.0
        if is_new:
            is_held = (
                previous >= 0
                and seen == state.ready
                and tasks.inputs[family] == tasks.inputs[previous]
            )
            state.lead = tasks.again[family] if is_held else tasks.prepare[family]
            if not is_held:
                self.read_input(worker, family)
        if tasks.dram[each] > state.asked:
            self.read(worker, state.now, tasks.dram[each] - state.asked)
        state.asked = 0.0

    def read(self, worker: int, time: float, size: float, asked: float = 0.0) -> None:
        """Let a worker's task read what it waits for."""
        self.workers[worker].reading += 1
        self.memory.read(time, worker, size, asked)

    def read_input(self, worker: int, family: int) -> None:
        """What a streaming task multiplies comes from L2 the way that its weights come."""
        now, share = self.workers[worker].now, self.timing.l2_share
        first, rest = self.tasks.input_first[family], self.tasks.input_rest[family]
        if first:
            self.read(worker, now, share * first, first)
        if rest:
            self.memory.read_beside(now, worker, share * rest, first)

    def fetch_code(self, state: Worker, family: int) -> float:
        return state.fetch_code(self.tasks.body[family], self.tasks.code[family], self.timing)

    def multiply(self, worker: int, each: int, index: int) -> bool:
        """A streaming task's stages and results; False if some stages have not landed."""
        state, chunks = self.workers[worker], self.tasks.chunks[worker]
        if state.reading:
            state.waiting = True
            return False
        if state.lead is not None:
            state.now = max(state.now, state.reads_done) + state.lead
            state.lead = None
        count = self.tasks.chunks_of[each]
        work = (self.tasks.work[each] + state.cold) / count if count else 0.0
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
        state.published = state.now + self.release(each)
        self.end[index] = state.published
        return True

    def work_through(self, worker: int, each: int, index: int) -> bool:
        """A task that does not stream; False if what it reads from DRAM, or joins, has not come."""
        state, events = self.workers[worker], self.events
        first = index // self.tasks.count * events.count
        for flag in self.tasks.joins[each]:
            if events.fired[first + flag] < 0:
                events.block(worker, first + flag)
                return False
        merge = self.tasks.merge[self.tasks.family[each]] if self.tasks.joins[each] else 0.0
        done = state.now + state.cold + self.tasks.work[each] - merge
        if self.tasks.dram[each] > 0:
            if state.reading:
                state.waiting = True
                return False
            self.starved[index] = max(0.0, state.reads_done - done)
            done = max(done, state.reads_done)
        # A task that joins has gone through its own rows meanwhile.
        own = done
        for flag in self.tasks.joins[each]:
            seen = events.fired[first + flag] + events.hop[flag]
            if seen > done:
                done = seen
                self.cause[index] = Cause.EVENT
                self.before[index] = events.last_signaller[first + flag]
        state.now = done + merge + self.release(each)
        self.busy[index] = state.now - self.start[index] - self.starved[index] - (done - own)
        self.end[index] = state.now
        return True

    # ---- signals ----

    def release(self, each: int) -> float:
        """From results to the signal's leaving; a mark that the data carries leaves with them."""
        counter = self.tasks.signal[each]
        is_fenced = counter >= 0 and self.events.fences[counter]
        return self.timing.release * self.memory.slow if is_fenced else 0.0

    def raise_counters(self, each: int, index: int, todo: list[int]) -> None:
        """Signal and mark; when that is the last arrival, let go who waits."""
        tasks, events, end = self.tasks, self.events, self.end[index]
        first = index // tasks.count * events.count
        for flag in tasks.marks[each]:
            if events.mark(first + flag, index, end):
                todo += events.let_go(first + flag)
        counter = tasks.signal[each]
        if counter < 0 or not events.signal(first + counter, index, end, tasks.amount[each]):
            return
        todo += events.let_go(first + counter)
        for released in tasks.released_by.get(counter, ()):
            self.give_out(released, first + counter, todo)

    def give_out(self, each: int, key: int, todo: list[int]) -> None:
        """Run a task without a worker on whoever is free first: who is done first with what it is
        known to do."""
        tasks, events = self.tasks, self.events
        index = key // events.count * tasks.count + each
        free = [max(state.now, state.published) for state in self.workers]
        worker = min(range(len(free)), key=free.__getitem__)
        state, family = self.workers[worker], tasks.family[each]
        self.ready[index] = events.fired[key] + events.hop[key % events.count]
        start = max(self.ready[index], free[worker])
        cold = self.fetch_code(state, family)
        work = max(cold + tasks.work[each], self.memory.guess(tasks.dram[each]))
        work += tasks.prepare[family]
        self.start[index], self.ran_on[index] = start, worker
        self.busy[index] = work + self.release(each)
        self.end[index] = state.now = start + self.busy[index]
        self.cause[index] = Cause.EVENT if start > free[worker] else Cause.WORKER
        self.before[index] = events.last_signaller[key]
        state.run = (-1, -1)
        self.raise_counters(each, index, todo)
