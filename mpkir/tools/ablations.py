"""What `mpk bench --ablate` can change: one choice at a time, each beside the default in one run.

A line of TABLE says how the program is compiled otherwise and what to expect of it on a GPU; what
was found stands in docs/performance.md.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from mpkir.errors import MpkirError
from mpkir.variant import Variant


@dataclass(frozen=True)
class Ablation:
    """A variant of the compilation to measure."""

    name: str
    """As given: "in-flight=4"."""
    what: str
    """What it does otherwise, one line."""
    expected: str
    """Of a step's time, by what reason."""
    variant: Variant


DEFAULT = Ablation("", "what ships", "", Variant())


@dataclass(frozen=True)
class Switch:
    """A line of the table: an ablation, or one for each number N."""

    name: str
    what: str
    expected: str
    variant: Callable[[int], Variant]
    takes_number: bool = True

    @property
    def form(self) -> str:
        """How it is written."""
        return f"{self.name}=N" if self.takes_number else self.name

    def ablation(self, given: str, number: int) -> Ablation:
        """It with its number."""
        variant = self.variant(number)
        named = replace(variant, name=given)
        return Ablation(given, self.what, self.expected, named)


def _machine(field: str) -> Callable[[int], Variant]:
    return lambda number: Variant(machine=((field, number),))


def _fixed(variant: Variant) -> Callable[[int], Variant]:
    return lambda number: variant


TABLE: tuple[Switch, ...] = (
    Switch(
        "in-flight",
        "at most N stages of weights asked for and not landed",
        "3-4 % slower with the whole ring in flight: polls wait behind weights in the memory's "
        "queues; slower below 32 KB, too",
        _machine("ring.in_flight"),
    ),
    Switch(
        "pace",
        "clock cycles from stage to stage while the ring is nearly full; 0: as fast as it goes",
        "5 % slower without where a model is small: the stream then runs just when everybody polls",
        _machine("ring.pace"),
    ),
    Switch(
        "ahead",
        "at most N stages behind a full ring are asked for into L2, where layers wait longer than "
        "the ring holds; 0: none",
        "0: 1.5 % slower with 16 sequences, 0.2 % for 8B of weights: the memory has nothing to do",
        _machine("ring.ahead"),
    ),
    Switch(
        "ahead-rows",
        "so with N rows of x and more; 0: with none",
        "8: half a per cent slower with 8 sequences",
        _machine("ring.ahead_rows"),
    ),
    Switch(
        "ahead-below",
        "N = 1: with fewer rows of x, too, whatever a step waits for; 0: never",
        "1: 1 % slower with 2 and 4 sequences, polls wait behind what nobody needs yet",
        lambda number: Variant(machine=(("ring.ahead_below", float(number)),)),
    ),
    Switch(
        "long-from",
        "the position from which caches are long and the stream leaves them time; 0: none",
        "0: 1 % slower at position 1,000",
        _machine("ring.long_from"),
    ),
    Switch(
        "ease",
        "the ring counts as nearly full with at most N slots free",
        "a few per cent either way",
        _machine("ring.ease"),
    ),
    Switch(
        "slots",
        "a ring of N stages: how far the loader runs ahead",
        "slower the fewer there are: the stream stops at every dependency",
        _machine("ring.slots"),
    ),
    Switch(
        "slot-bytes",
        "stages of at most N bytes",
        "nothing from 8 to 32 KB with as many bytes in flight",
        _machine("ring.slot_bytes"),
    ),
    Switch(
        "attention-chunk",
        "cache rows that one task of a split attention reads",
        "smaller is better at long context until merging costs more; little at short context",
        lambda number: Variant(
            machine=(("tiles.attention_chunk", number), ("tiles.attention_bytes", 0))
        ),
    ),
    Switch(
        "argmax-chunks",
        "parts that the argmax over the vocabulary is cut in",
        "one end of a step, a microsecond or two",
        _machine("tiles.argmax_chunks"),
    ),
    Switch(
        "best-of",
        "a linear keeps the best of every N features for the argmax; 0: it reads all of them again",
        "0: 1 us a step slower, with 8 sequences 3, with 16 6: as many bytes more to read at its "
        "end",
        _machine("tiles.argmax_best_of"),
    ),
    Switch(
        "merged-at-once",
        "one task merges up to N of these candidates, of all rows, not joined in parts before",
        "one hop less at the end of a step, for 12 bytes a candidate that one worker then reads",
        _machine("tiles.argmax_at_once"),
    ),
    Switch(
        "task-overhead",
        "one more task of a linear counts as N bytes of weights: fewer make smaller tasks",
        "smaller tasks end together, larger ones begin less often: half a per cent either way",
        _machine("tiles.task_overhead"),
    ),
    Switch(
        "max-rows",
        "most output features of one task of a linear",
        "small tasks balance better and start more often: a few per cent either way",
        _machine("tiles.max_rows"),
    ),
    Switch(
        "no-run-ahead",
        "a ring that holds no more than what is in flight, so the loader stays at its task",
        "10-25 % slower: the stream stops and starts again at every dependency",
        _fixed(Variant(machine=(("ring.slots", 3), ("ring.in_flight", 2)))),
        takes_number=False,
    ),
    Switch(
        "counters",
        "every activation is handed over by a counter, none by tagged elements",
        "10-25 % slower: a counter is two dependent round trips, a release and an acquire",
        _fixed(Variant(machine=(("handoffs", ("counter",)),))),
        takes_number=False,
    ),
    Switch(
        "weights-stay",
        "weights with the usual L2 policy, not first out",
        "caches and norm weights leave L2: a microsecond in some stages of a layer",
        _fixed(Variant(macros=("MPK_WEIGHTS_STAY",))),
        takes_number=False,
    ),
    Switch(
        "cache-ahead",
        "N bytes of a task's cache rows are asked for into L2 before it starts; 0: none",
        "0: 4-8 % slower at position 1,000 and after, rows come from DRAM behind the weights",
        lambda number: Variant(macros=(f"MPK_CACHE_AHEAD {number}",)),
    ),
    Switch(
        "attention-shuffles",
        "rows of a bf16 cache through dots by shuffles, not through tensor cores",
        "0.3-0.5 us more a layer: several times the instructions between q and the sums",
        _fixed(Variant(macros=("MPK_ATTENTION_SHUFFLES",))),
        takes_number=False,
    ),
    Switch(
        "rounds-ahead",
        "the publisher awaits, norms and turns queries, keys and values where one warp has them in "
        "N goes, while the compute warps fetch rows of the cache; 0: these do so themselves",
        "0: an attention that waits looks at its queries a microsecond later; with many goes one "
        "warp takes longer than eight",
        lambda number: Variant(macros=(f"MPK_ROUNDS_AHEAD {number}",)),
    ),
    Switch(
        "sums-apart",
        "two buffers of sums, and beside them what cooperative bodies need",
        "of 8 tokens and more a ring of 2 slots less, 1 % slower",
        _fixed(Variant(macros=("MPK_SUMS_APART",))),
        takes_number=False,
    ),
    Switch(
        "ring-caches",
        "N = 1: rows of caches come through the ring, which is ahead of q; 0: attention reads them "
        "out of L2",
        "1: q is seen earlier, as nothing queues before it, and a task's further rows are there; a "
        "microsecond or two a layer at position 1,000, for as many slots less of weights",
        lambda number: Variant(machine=(("ring.caches", bool(number)),)),
    ),
    Switch(
        "registers-from",
        "of N rows of x on, or where x comes in passes, compute warps have 208 registers, not 168, "
        "which the others give them at the start; 0: never",
        "1 % where a kernel would spill: Qwen3-32B, 8 sequences; slower where it would not",
        _machine("ring.registers_from"),
    ),
    Switch(
        "attention-merges",
        "blocks of N cache rows; tasks of their own join a head's chunks, not the first chunk's",
        "one hop more a layer, 2 us; with small blocks at long positions nothing",
        lambda number: Variant(
            machine=(
                ("tiles.attention_joins", False),
                ("tiles.attention_chunk", number),
                ("tiles.attention_bytes", 0),
            )
        ),
    ),
    Switch(
        "brief-from",
        "of N tokens on bf16 activations are words of 2 bytes with one bit of the step's number, "
        "not of 4 with 16",
        "below 3 tokens nothing, or 1 % slower; with 8, 10 % faster: half the bytes to poll",
        lambda number: Variant(options=(("mpk-lay-out-flags", "brief_bf16_from", number),)),
    ),
    Switch(
        "apart",
        "tasks that write at most N elements of what all poll, and less than a line, have lines of "
        "their own; 0: none has",
        "0.1-0.4 us a hop slower with 0; with 24 and more fewer tasks share a line, and more is "
        "polled",
        lambda number: Variant(options=(("mpk-lay-out-flags", "apart_up_to", number),)),
    ),
    Switch(
        "no-panels",
        "of 3 tokens and more activations lie token after token, not in panels of a few columns",
        "0.5-0.8 us a hop slower with 8 sequences: a warp that polls asks for 8 lines at a time",
        _fixed(Variant(options=(("mpk-lay-out-flags", "panels", False),))),
        takes_number=False,
    ),
    Switch(
        "no-planes",
        "of 3 tokens and more the residual stream lies as f32, not as two planes of bf16, what "
        "rounding leaves and what it loses",
        "1 us a hop slower with 8 sequences: products poll both halves of what they round",
        _fixed(Variant(options=(("mpk-lay-out-flags", "planes", False),))),
        takes_number=False,
    ),
    Switch(
        "no-join",
        "queries, keys and values are products of their own",
        "a start of a stage more a layer where layers are small; nothing for 8B of weights",
        _fixed(Variant(machine=(("tiles.joined_bytes", 0),))),
        takes_number=False,
    ),
    Switch(
        "bf16-residual",
        "the residual stream in the model's type, not fp32",
        "under 1 % faster, and the logits less exact",
        _fixed(Variant(without=("mpk-widen-activations",))),
        takes_number=False,
    ),
    Switch(
        "unpacked",
        "weights lie as the model has them, read row by row without tensor cores",
        "10 % slower and more: conversions and sums take longer than the stream",
        _fixed(
            Variant(
                machine=(
                    ("ring.packed", False),
                    ("tiles.row_multiple", 1),
                    ("tiles.max_rows", 32),
                )
            )
        ),
        takes_number=False,
    ),
    Switch(
        "shots",
        "sums over ranks: 1: each rank adds all of it, 2: each a part, which it then sends to all",
        "2: one hop between ranks more for each sum, which 8 KB do not win back",
        # Every collective costs the same, or else gathers would take the place of dearer sums.
        lambda number: Variant(
            options=(("mpk-shard", "shots", number), ("mpk-shard", "exchange_us", 2.0))
        ),
    ),
    Switch(
        "checked",
        "every lane arrives at barriers, as racecheck wants it",
        "slightly slower: more arrivals",
        _fixed(Variant(macros=("MPK_CHECKED",))),
        takes_number=False,
    ),
    Switch(
        "policy-list",
        "tasks go to workers by critical path, not round robin",
        "5 % slower: balance that does not respect the stream's order",
        _fixed(Variant(options=(("mpk-schedule-tasks", "policy", "list"),))),
        takes_number=False,
    ),
    Switch(
        "per-operator",
        "the same bodies as one kernel for each operator, in a graph with programmatic dependent "
        "launch",
        "10 % slower for 1B of weights, 30 % for 0.6B: the stream stops at every operator",
        _fixed(Variant(machine=(("launch", "per-operator"),))),
        takes_number=False,
    ),
)


def ablation_named(name: str) -> Ablation:
    """The ablation that `name` says: "unpacked", "in-flight=4", or several at once, the last of
    which counts where they differ: "in-flight=4+slots=10". Raises MpkirError."""
    first, *others = (_one_named(each.strip()) for each in name.split("+"))
    for other in others:
        variant = replace(other.variant.over(first.variant), name=name)
        both = f"{first.what}; {other.what}", f"{first.expected}; {other.expected}"
        first = Ablation(name, *both, variant)
    return first


def _one_named(name: str) -> Ablation:
    word, equals, number = name.partition("=")
    for switch in TABLE:
        if switch.name != word:
            continue
        if bool(equals) != switch.takes_number or (equals and not number.isdecimal()):
            raise MpkirError(f"{name!r} is no ablation", hint=f"write {switch.form}")
        return switch.ablation(name, int(number) if number else 0)
    raise MpkirError(
        f"no ablation is called {word!r}",
        hint=f"choose of {', '.join(each.form for each in TABLE)}",
    )


def ablations_named(given: Sequence[str]) -> tuple[Ablation, ...]:
    """The ablations of a comma-separated list, or several, each once. Raises MpkirError."""
    each = [name.strip() for text in given for name in text.split(",")]
    return tuple(ablation_named(name) for name in dict.fromkeys(filter(None, each)))
