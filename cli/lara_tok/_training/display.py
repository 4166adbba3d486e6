"""`RunDisplay`: a live bar on a terminal; elsewhere lines, at each log and at least every half a minute."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path

from rich.progress import BarColumn, Progress, TextColumn

from lara_tok._common import console_err, say

SILENCE = 30.0  # seconds, at most, without a terminal
WINDOW = 60.0  # seconds of the past that rate and remaining time are those of
DOING = {
    "": "reading the source",
    "frames": "decoding camera sequences",
    "features": "computing features of frames",
    "start": "finding initial values",
}


class RunDisplay:
    """The `progress` of a run, as a context.

    Args:
        out: the run's folder.
        measures: labels of a log's line, and their keys in the log.
        batch_size: samples of a step.
        unit: of these samples.
    """

    def __init__(self, out: Path, measures: Mapping[str, str], batch_size: int, unit: str = "pairs") -> None:
        self.out = out
        self.measures = measures
        self.batch_size = batch_size
        self.unit = unit
        self.phase, self.done, self.total, self.loss = "", 0, 0, float("nan")
        self.steps: deque[tuple[float, int]] = deque()  # times, and the steps done by then
        self.printed = time.monotonic()
        self.ended = threading.Event()
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[state]}"))
        self.bar = Progress(*columns, console=console_err, transient=True, disable=not console_err.is_terminal)
        self.task = self.bar.add_task(DOING[""], total=None, state="")

    def __enter__(self) -> RunDisplay:
        self.bar.start()
        if self.bar.disable:
            threading.Thread(target=self._break_silence, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *of_error: object) -> None:
        self.ended.set()
        self.bar.stop()
        if kind is None or not self.steps:
            return
        if (self.out / "curves.png").exists():
            say(f"curves so far: {self.out / 'curves.png'}", err=True)
        if issubclass(kind, KeyboardInterrupt):
            say("interrupted: the same command with --resume continues from the last checkpoint", err=True)

    def __call__(self, phase: str, done: int, total: int, logs: dict[str, float]) -> None:
        """Show where the run is; see `lara_tokenizer.train.watch.Progress`."""
        logged = phase == "steps" and "loss" in logs
        self.phase, self.done, self.total = "step" if phase == "steps" else phase, done, total
        self.loss = logs.get("loss", self.loss)
        if phase == "step":
            self.steps.append((time.monotonic(), done))
            while self.steps[-1][0] - self.steps[0][0] > WINDOW:
                self.steps.popleft()
        self.bar.update(
            self.task,
            description=DOING.get(self.phase, "training"),
            completed=done,
            total=total or None,
            state=self.state(),
        )
        if logged:
            shown = [f"{label} {figure(logs[key])}" for label, key in self.measures.items() if key in logs]
            self._print(f"step {done} of {total}  {'  '.join(shown)}")

    def state(self) -> str:
        """The place in the run, and for steps loss, rate and remaining time: "step 7 of 9  loss 0.12  80 pairs/s"."""
        if self.phase != "step":
            return f"{self.done} of {self.total}" if self.total and self.phase != "start" else ""
        return "  ".join((f"step {self.done} of {self.total}", f"loss {figure(self.loss)}", *self._pace()))

    def _pace(self) -> tuple[str, ...]:
        """Rate and remaining time, once there are two times to tell them by."""
        if len(self.steps) < 2 or self.steps[-1][1] <= self.steps[0][1]:
            return ()
        (begin, first), (end, last) = self.steps[0], self.steps[-1]
        rate = (last - first) / max(end - begin, 1e-9)
        return f"{rate * self.batch_size:,.0f} {self.unit}/s", f"{duration((self.total - self.done) / rate)} left"

    def _break_silence(self) -> None:
        while not self.ended.wait(max(0.1, self.printed + SILENCE - time.monotonic())):
            if time.monotonic() - self.printed >= SILENCE:
                state = self.state()
                self._print(state if self.phase == "step" else f"{DOING[self.phase]} {state}".strip())

    def _print(self, line: str) -> None:
        self.printed = time.monotonic()
        console_err.print(line, highlight=False, soft_wrap=True)


def figure(value: float) -> str:
    """A measure in few characters: three digits of large and of small ones, two decimals between.

    >>> figure(0.000243), figure(-0.0701), figure(8.87), figure(1234.5), figure(0.00512)
    ('0.00', '-0.07', '8.87', '1234', '0.005')
    """
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3f}" if 0.0005 < abs(value) < 0.02 else f"{value:.2f}"


def duration(seconds: float) -> str:
    """A time in its two largest units.

    >>> duration(7.4), duration(250), duration(3 * 3600 + 1500)
    ('7 s', '4 min 10 s', '3 h 25 min')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, of_hour = divmod(minutes, 60)
    return f"{hours:,} h {of_hour} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
