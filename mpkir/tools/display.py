"""How the command line shows a compilation: one line for each stage, with its time."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.status import Status

from mpkir.progress import Progress


class StageDisplay:
    """A spinner for the stage that runs, a line for each that is done; on a terminal or in a log.

    ```python
    with StageDisplay() as display:
        compile(..., progress=display.progress)
    ```
    """

    def __init__(self, console: Console | None = None) -> None:
        self.console = Console(stderr=True) if console is None else console
        self.progress = Progress(self._begin, self._end)
        self._status: Status | None = None

    def __enter__(self) -> StageDisplay:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._clear()

    def _begin(self, stage: str) -> None:
        self._clear()
        if self.console.is_terminal:
            self._status = self.console.status(f"{stage} ..")
            self._status.start()

    def _end(self, stage: str, seconds: float) -> None:
        self._clear()
        self.console.print(f"  [green]done[/] {stage:<22} {seconds:7.2f} s", highlight=False)

    def note(self, text: str) -> None:
        """Show a fact about what has been compiled."""
        self.console.print(f"  {text}", highlight=False)

    def _clear(self) -> None:
        if self._status is not None:
            self._status.stop()
            self._status = None
