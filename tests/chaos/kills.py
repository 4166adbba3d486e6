"""Kills: of the driver at random moments and at named points of each command, and of worker processes."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from functools import partial
from random import Random

from chaos.driver import kill_at, run_real
from chaos.scenario import Case, Scenario

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)

# Function, call, and whether the kill comes after it: the moments between two states on disk.
ENCODE_POINTS = (
    ("lara_tokenizer.encode.store:Store.__init__", 1, True),
    ("lara_tokenizer.encode.store:Store.commit", 2, False),
    ("lara_tokenizer.encode.store:Store.commit", 4, True),
    ("lara_tokenizer.encode.store:Store.commit", 9, True),
    ("lara_tokenizer.encode.dataset:write_tokens", 1, False),
    ("lara_tokenizer.table.write:_write_file", 1, True),
    ("os:replace", 1, False),
    ("os:replace", 1, True),
    ("os:fsync", 1, True),
    ("lara_tokenizer.encode.store:Store.discard", 1, False),
    ("os:unlink", 2, True),
    ("os:rmdir", 1, True),
)
FOLDER_POINTS = (("os:replace", 1, False), ("os:replace", 1, True), ("os:fsync", 1, False), ("os:fsync", 2, True))
EXPORT_POINTS = (("os:replace", 1, True), ("os:replace", 2, False), ("os:fsync", 2, True))
TRAIN_POINTS = (("torch:save", 3, False), ("torch:save", 4, True), ("transformers:Trainer._save_checkpoint", 2, True))
RANDOM_KILLS = {"encode": 5, "encode by 2 workers": 4, "lerobot": 2, "webdataset": 2, "moto": 2, "train": 2}


def kills(rng: Random) -> Iterator[Scenario]:
    """About fifty kills."""
    number = 0
    for work, points in (
        ("encode", ENCODE_POINTS),
        ("encode folder", FOLDER_POINTS),
        *((name, EXPORT_POINTS) for name in ("univla", "webdataset", "lerobot", "groot", "moto")),
        ("train", TRAIN_POINTS),
    ):
        for point, call, after in points:
            sent = SIGNALS[number % 3] if work.startswith("encode") else signal.SIGKILL
            number += 1
            name = f"{sent.name} {'after' if after else 'before'} call {call} of {point}"
            yield Scenario(f"{work}: killed at a point", name, partial(_at_point, work, point, call, sent, after))
    for work, count in RANDOM_KILLS.items():
        for _ in range(count):
            share, sent = rng.random(), rng.choice(SIGNALS)
            yield Scenario(
                f"{work}: killed at random", f"{sent.name} at {share:.0%}", partial(_at_random, work, share, sent)
            )
    for share in (0.5, 0.9):
        yield Scenario("lara-tok program: killed", f"SIGTERM at {share:.0%}", partial(_program, share))
    yield Scenario("worker killed", "at start", partial(_worker, at_start=True))
    yield Scenario("worker killed", "at work", partial(_worker, at_start=False))


def _at_point(name: str, point: str, call: int, sent: int, after: bool, case: Case) -> None:
    work = case.bench.works[name]
    done = case.finish(case.start(work, kill_at(point, call, sent, after=after)))
    if done.code == 0:
        case.faults.append("the point was not reached: no kill was tried")
    case.check_partial(work)
    case.complete(work)


def _at_random(name: str, share: float, sent: int, case: Case) -> None:
    work = case.bench.works[name]
    driver = case.start(work)
    driver.signal_after(share * case.bench.seconds[name], sent)
    case.finish(driver)
    case.check_partial(work)
    case.complete(work)


def _program(share: float, case: Case) -> None:
    work = case.bench.works["encode by 2 workers"]
    code = run_real(work.command, case.folder, share * case.bench.seconds[work.name], signal.SIGTERM)
    case.ends.append(f"exit {code}")
    case.check_partial(work)
    case.complete(work)


def _worker(case: Case, *, at_start: bool) -> None:
    """A worker's death costs at most its episode, and that only until the next run."""
    work = case.bench.works["encode by 2 workers"]
    driver = case.start(work)
    if not at_start:
        driver.signal_after(0.6 * case.bench.seconds[work.name], 0)
    if not driver.kill_worker(20):
        case.ends.append("no worker")
    done = case.finish(driver)
    if at_start and done.code != 0:
        case.faults.append(f"a worker killed at start was not replaced: {done.output.strip()[-200:]}")
    case.complete(work)
