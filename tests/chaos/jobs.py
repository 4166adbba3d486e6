"""Jobs that are not what they were: a damaged database, a source that was replaced, a second run."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from random import Random

from chaos.driver import act_at, kill_at
from chaos.scenario import Case, Scenario
from chaos.works import LENGTH, Work
from fuzz.byte_mutations import flip_bits, truncate, zero_run
from fuzz.clips import plain_clip
from fuzz.forked import run_command
from fuzz.video import rows_by_episode

_COMMIT = "lara_tokenizer.encode.store:Store.commit"
_MIDWAY = 21  # commits, heartbeats among them: all short clips and the first unit of the long one are done
# Commits of a run, each after the event of its kind: a clip is planned, read, encoded in part.
_MOMENTS = (
    ("clip 1.mp4", 2),
    ("clip 1.mp4", 5),
    ("clip 1.mp4", 7),
    ("long.mkv", 5),
    ("long.mkv", 17),
    ("long.mkv", 21),
)
Damage = Callable[[Random, Path], None]


def damaged_jobs(rng: Random) -> Iterator[Scenario]:
    """A job that was killed, its database damaged, and the same command again."""
    # Ctrl-C leaves all in the database, a kill leaves it in the write-ahead log.
    kinds: tuple[tuple[str, int, Damage], ...] = (
        ("bits flipped in the database", 8, lambda rng, job: _edit(rng, job / "units.sqlite", flip_bits)),
        ("database cut off", 3, lambda rng, job: _edit(rng, job / "units.sqlite", truncate)),
        ("a page of zeros", 3, lambda rng, job: _edit(rng, job / "units.sqlite", zero_run)),
        ("bits flipped in the log", 3, lambda rng, job: _edit(rng, job / "units.sqlite-wal", flip_bits)),
        ("log deleted", 1, lambda rng, job: (job / "units.sqlite-wal").unlink(missing_ok=True)),
        ("log cut off", 1, lambda rng, job: _edit(rng, job / "units.sqlite-wal", truncate)),
        ("an empty folder", 1, lambda rng, job: [path.unlink() for path in job.iterdir()]),
        ("another file", 1, lambda rng, job: (job / "units.sqlite").write_bytes(b"no database")),
    )
    for name, count, damage in kinds:
        for k in range(count):
            sent = signal.SIGKILL if "log" in name else signal.SIGINT
            yield Scenario("job damaged", f"{name} {k + 1}", partial(_damaged, rng.random(), sent, damage))


def replaced_sources() -> Iterator[Scenario]:
    """A clip that is another one when the job goes on, or while it is read."""
    for name, length in (("a clip of equal length", LENGTH), ("a longer clip", 2 * LENGTH), ("a shorter clip", 5)):
        yield Scenario("source replaced", f"between two runs: {name}", partial(_replaced_between, length))
    yield Scenario("source replaced", "between two runs: a clip is gone", partial(_replaced_between, 0))
    for name, call in _MOMENTS:
        yield Scenario("source replaced", f"{name} at commit {call} of a run", partial(_replaced_during, name, call))


def second_runs() -> Iterator[Scenario]:
    """The same command twice at the same time."""
    yield Scenario("two runs", "encode", partial(_second_run, "encode by 2 workers"))


def _edit(rng: Random, file: Path, change: Callable[[Random, bytes], bytes]) -> None:
    if file.exists() and file.stat().st_size:
        file.write_bytes(change(rng, file.read_bytes()))


def _damaged(seed: float, sent: int, damage: Damage, case: Case) -> None:
    work = case.bench.works["encode"]
    case.finish(case.start(work, kill_at(_COMMIT, _MIDWAY, sent, after=True)))
    damage(Random(seed), case.folder / "t.parquet.job")
    case.complete(work)


def _with_own_clips(case: Case) -> tuple[Work, Path]:
    """The work "encode" of a copy of the clips that may be changed."""
    clips = case.folder.with_name(f"{case.folder.name}-source") / "clips"
    shutil.copytree(case.bench.clips, clips)
    return Work("encode", case.bench.encode(0, clips), "t.parquet"), clips


def _expected(case: Case, clips: Path) -> Path:
    """The table of an undisturbed run over the clips as they are now."""
    folder = clips.parent / "expected"
    folder.mkdir()
    done = run_command(case.bench.encode(0, clips), folder)
    assert done.code == 0, done.output
    return folder / "t.parquet"


def _replaced_between(length: int, case: Case) -> None:
    work, clips = _with_own_clips(case)
    case.finish(case.start(work, kill_at(_COMMIT, _MIDWAY, signal.SIGKILL, after=True)))
    _replace(clips / "clip 1.mp4", length)
    _replace(clips / "long.mkv", length)
    case.complete(work, work.result(_expected(case, clips).parent))
    shutil.rmtree(clips.parent)


def _replaced_during(name: str, call: int, case: Case) -> None:
    """Each episode's rows are those of the old or of the new clip, or its failure is reported."""
    work, clips = _with_own_clips(case)
    before = rows_by_episode(case.bench.folder / "clean/encode/t.parquet")
    hook = partial(act_at, _COMMIT, call, partial(_replace, clips / name, LENGTH), after=True)
    done = case.finish(case.start(work, hook))
    expected = _expected(case, clips)
    now, rows = rows_by_episode(expected), rows_by_episode(case.folder / "t.parquet")
    mixed = [each for each, table in rows.items() if table not in (before.get(each), now.get(each))]
    missing = [each for each in before if each not in rows]
    if mixed or (missing and done.code == 0):
        case.faults.append(f"mixed: {mixed}, missing without a word: {missing}")
    if done.code != 0:
        case.complete(work, work.result(expected.parent))
    shutil.rmtree(clips.parent)


def _replace(clip: Path, length: int) -> None:
    """Another clip under the same name; none for no frames. The time of change is kept, as `cp -p` and rsync do."""
    times = clip.stat()
    clip.unlink()
    if length:
        plain_clip(clip, length, 40)
        os.utime(clip, ns=(times.st_atime_ns, times.st_mtime_ns))


def _second_run(name: str, case: Case) -> None:
    work = case.bench.works[name]
    first = case.start(work)
    first.signal_after(0.4 * case.bench.seconds[name], 0)
    second = case.finish(case.start(work))
    if second.code != 2 or "in use by another run" not in second.output:
        case.faults.append(f"the second run was not refused: exit {second.code} {second.output.strip()[-200:]}")
    case.finish(first)
    case.complete(work)
