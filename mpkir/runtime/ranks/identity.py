"""Which process a rank is, told to the others, and whether that process is still there."""

from __future__ import annotations

import json
import os
import socket
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Identity:
    """One rank's process.

    host      for messages
    machine   equal for processes that see each other under /proc: the host's boot, and the
              namespace of process ids; "" where that cannot be told
    started   clock ticks from the boot to the process's start: ids are used again
    """

    rank: int
    pid: int
    host: str
    machine: str
    started: int

    @staticmethod
    def own(rank: int) -> Identity:
        """This process."""
        pid = os.getpid()
        return Identity(rank, pid, socket.gethostname(), _machine(), _started(pid) or 0)

    def to_text(self) -> str:
        return json.dumps(vars(self))

    @staticmethod
    def from_text(text: str | bytes) -> Identity:
        return Identity(**json.loads(text))

    def is_gone(self, seen_from: Identity) -> bool:
        """Whether the process is known to have ended; False where nobody can tell."""
        if not self.machine or self.machine != seen_from.machine:
            return False
        return _started(self.pid) != self.started

    def __str__(self) -> str:
        return f"rank {self.rank} (process {self.pid} on {self.host})"


def _machine() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _started(pid: int) -> int | None:
    """When a process began; None if there is none of this id, or only what a dead one left."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # The name of the program, in parentheses, may hold anything.
    state, *numbers = text.rpartition(")")[2].split()
    return None if state in "ZX" else int(numbers[18])
