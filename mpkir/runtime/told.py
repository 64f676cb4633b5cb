"""What a kernel tells the host while it runs, in memory of the host's."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence

import torch

from mpkir.runtime.launch import Answer

_LOOKS = 2048
"""Looks at a word, 0.1 ms of them, between two questions whether it can still change: to ask the
driver takes longer than a look."""


class Told:
    """How a launch ended, and each token as soon as it is chosen.

    The kernel writes a word for each place of each sequence, with the number of the step that said
    what stands there (`tell_tokens` of include/mpk/argmax.cuh). So nothing is reset between
    launches, and nothing is lost however late the host looks.

    shape   of the program's token sequences, [places] or [sequences, places]; () where it has none
    """

    def __init__(self, shape: Sequence[int] = ()) -> None:
        self.sequences = shape[0] if len(shape) == 2 else len(shape)
        self.places = shape[-1] if shape else 0
        # Pinned memory has the same address on the GPU. The first word is the answer.
        count = self.sequences * self.places
        self._memory = torch.zeros(1 + count, dtype=torch.int64).pin_memory()
        self.answer = Answer.from_address(self._memory.data_ptr())
        self._words = (ctypes.c_uint64 * count).from_address(self._memory.data_ptr() + 8)

    @property
    def answer_address(self) -> int:
        """Where the kernel says how the launch ended."""
        return self._memory.data_ptr()

    @property
    def words_address(self) -> int:
        """Where the kernel says tokens; 0 where there are no sequences."""
        return self._memory.data_ptr() + 8 if self.places else 0

    def tokens(self, place: int, tag: int, is_over: Callable[[], bool]) -> list[int] | None:
        """What the step with this number put at a place of each sequence, once it has.

        is_over   whether no step will say anything any more

        None if the launch ended before that step.
        """
        found: list[int] = []
        for at in range(place, len(self._words), self.places):
            word = self._await(at, tag, is_over)
            if word is None:
                return None
            token = word & 0xFFFFFFFF
            found.append(token - (token >> 31 << 32))
        return found

    def _await(self, at: int, tag: int, is_over: Callable[[], bool]) -> int | None:
        words = self._words
        while True:
            for _ in range(_LOOKS):
                word = words[at]
                if word >> 32 == tag:
                    return word
            if is_over():
                # What came before the end may have come since the last look.
                word = words[at]
                return word if word >> 32 == tag else None

    def forget(self) -> None:
        """Forget all tokens: the numbers of steps begin anew."""
        self._memory[1:] = 0
