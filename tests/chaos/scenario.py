"""`Scenario`: one disturbance and its verdict. The rule: equal bytes or a clear refusal; nothing mixed, nothing silent.

After every disturbance the same command is run again, until it says that all is done. Then the result has the bytes of
an undisturbed run, and no process and no scratch file is left. A run that cannot go on says so in one line: it exits
with 2, or with 1 and names what failed.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from chaos.driver import Driver, Hook
from chaos.works import Bench, Work
from fuzz.forked import Finished
from fuzz.outcome import violations

_TRIES = 4  # of a command until it is done: each kill, refusal or failed item costs one


@dataclass(slots=True)
class Case:
    """State of a scenario while it runs.

    Attributes:
        folder: in which the commands run; empty at first.
        ends: how each run ended, for the table.
        faults: what must not be; empty where all is well.
    """

    bench: Bench
    folder: Path
    ends: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    @property
    def log(self) -> Path:
        """What the commands printed, beside `folder`."""
        return self.folder.with_name(f"{self.folder.name}.log")

    def start(self, work: Work, hook: Hook | None = None, *, again: bool = False) -> Driver:
        """Start a work's command."""
        return Driver([*work.command, *(work.again if again else ())], self.folder, hook)

    def finish(self, driver: Driver) -> Finished:
        """Wait for a command; its traceback, hang or orphans are faults."""
        done = driver.wait()
        with self.log.open("a") as log:
            log.write(f"{done.output}\nexit code {done.code}\n")
        self.ends.append(
            "hang" if done.code is None else f"signal {-done.code}" if done.code < 0 else f"exit {done.code}"
        )
        # A killed process may die of its signal; any other end is judged as that of every input.
        faults = violations(done)
        if done.code is not None and (done.code < 0 or done.code == 143):
            faults.pop("crash", None)
        self.faults += [f"{name}: {text}" for name, text in faults.items()]
        if left := driver.orphans():
            self.faults.append(f"{left} orphan processes")
        return done

    def check_partial(self, work: Work, *expected: dict[str, str]) -> None:
        """What stands under the output's name after a kill has to be whole; a folder that trains may be growing."""
        found = work.result(self.folder)
        if found and not work.again and found not in (expected or (self.bench.results[work.name],)):
            self.faults.append(f"an unfinished {work.out} stands under its name")

    def complete(self, work: Work, expected: dict[str, str] | None = None) -> None:
        """Run the command until it is done, then compare the result and look for what is left."""
        for _ in range(_TRIES):
            if work.again and self.ends[-1] == "exit 0":  # a training that is done is not begun again
                break
            done = self.finish(self.start(work, again=self._has_state(work)))
            if done.code == 0:
                break
            if done.code == 2 and ".job" in done.output and "elete" in done.output:
                # A refusal that names the job folder, and says to delete it: so do it.
                for state in self.folder.glob("*.job"):
                    shutil.rmtree(state)
        else:
            self.faults.append(f"not done after {_TRIES} runs: {done.output.strip()[-300:]}")
            return
        if work.result(self.folder) != (expected or self.bench.results[work.name]):
            self.faults.append("exit 0, and other bytes than an undisturbed run")
        self._check_scratch(work)

    def _has_state(self, work: Work) -> bool:
        return any((self.folder / work.out).glob("checkpoints/checkpoint-*/trainer_state.json"))

    def _check_scratch(self, work: Work) -> None:
        left = [path.name for path in (self.folder / "tmp").iterdir() if not path.name.startswith(("torch", "pymp"))]
        left += [path.name for path in self.folder.iterdir() if path.name not in ("tmp", work.out)]
        if left:
            self.faults.append(f"scratch is left: {', '.join(sorted(left)[:5])}")


@dataclass(frozen=True, slots=True)
class Scenario:
    """One disturbance.

    Attributes:
        group: its row of the table.
        run: disturbs and checks.
    """

    group: str
    name: str
    run: Callable[[Case], None]
