"""Worker processes may crash, hang and exhaust memory, and the driver may be killed."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from multiprocessing import Pipe
from pathlib import Path
from threading import Thread

import psutil
import pytest
import torch

from lara_tokenizer import Episode, encode_dataset
from lara_tokenizer.data import VideoReader
from lara_tokenizer.encode import engines
from lara_tokenizer.encode.engines import LocalEngine, running
from lara_tokenizer.encode.job import open_job
from lara_tokenizer.encode.options import EncodeOptions
from lara_tokenizer.encode.plan import EpisodePlan
from lara_tokenizer.encode.pool import WorkerDied, WorkerLimits, WorkerProcess, can_fork, launch, process, worker
from lara_tokenizer.encode.pool.worker import Worker, load_runner
from lara_tokenizer.encode.tasks import (
    Encoded,
    Failure,
    FrameChunk,
    Heartbeat,
    PlanTask,
    TaskQueue,
    UnitTask,
    WorkerSetup,
)
from lara_tokenizer.errors import LaraTokenizerError
from lara_tokenizer.table import read_tokens

# Instead of `worker.prepare`: workers without a model, which do what the episode's id says.
IMPOSTOR = """
import pickle, signal
from lara_tokenizer.encode.plan import EpisodePlan
from lara_tokenizer.encode.tasks import Failure, Heartbeat, Refusal

def is_first(folder, what):
    try:
        os.close(os.open(folder / what, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True

def prepare(pickled):
    folder = pickle.loads(pickled).folder
    if folder.name == "killed-always" or folder.name == "killed-once" and is_first(folder, "start"):
        os.kill(os.getpid(), signal.SIGKILL)
    return lambda connection: work(folder, connection)

def work(folder, connection):
    refused = {"broken": Failure("", "the weights are gone"), "damaged": Refusal("config.json has no 'size'")}
    connection.send(refused.get(folder.name, Heartbeat(0)))
    while True:
        wish = connection.recv().episode.id
        connection.send(Heartbeat(1))
        if wish == "abort":
            print("terminate called after throwing an instance of 'std::bad_alloc'", file=sys.stderr, flush=True)
            os.abort()
        if wish == "exit":
            sys.exit(3)
        if wish == "die once" and is_first(folder, "death"):
            os.kill(os.getpid(), signal.SIGKILL)
        if wish == "kill the server" and is_first(folder, "murder"):
            os.kill(os.getppid(), signal.SIGKILL)
            time.sleep(60)
        if wish == "write nonsense":
            connection.send_bytes(b"no pickle")
        if wish == "hang":
            time.sleep(60)
        if wish == "eat":
            hoard = bytearray(os.urandom(1)) * 300_000_000
            time.sleep(60)
        if wish == "slow":
            for _ in range(8):
                time.sleep(0.1)
                connection.send(Heartbeat(1))
        connection.send(Failure("", "bad frame") if wish == "bad" else EpisodePlan(wish, (), {}, 0))
"""
LIMITS = WorkerLimits(seconds=2.0, memory=250_000_000)


@pytest.fixture
def impostors(monkeypatch, request):
    """Workers without a model, started as on this system, or as a test says."""
    if hasattr(request, "param"):
        monkeypatch.setattr(engines, "can_fork", lambda: request.param == "forked")
    monkeypatch.setattr(launch, "IMPORT_WORKER", IMPOSTOR)
    monkeypatch.setattr(process, "_TICK", 0.05)
    # Starting takes longer than these tests let a task take.
    wait_ready = WorkerProcess.wait_ready

    def patiently(process):
        process._limits = replace(LIMITS, seconds=60.0)
        wait_ready(process)
        process._limits = LIMITS

    monkeypatch.setattr(WorkerProcess, "wait_ready", patiently)


def setup(folder="intact"):
    return WorkerSetup(Path(folder), EncodeOptions(("1f",), 4, 8, 16))


def tasks_for(*ids):
    return TaskQueue(PlanTask(Episode(name, VideoReader(name))) for name in ids)


def test_a_worker_s_death_fails_its_episode_only(impostors):
    wishes = ["abort", "a", "hang", "b", "eat", "c", "exit", "d", "bad", "slow"]
    with running(LocalEngine(setup(), 2, limits=LIMITS)) as engine:
        events = list(engine.run(tasks_for(*wishes)))
    failed = {event.episode: event.reason for event in events if isinstance(event, Failure)}
    assert {event.episode for event in events if isinstance(event, EpisodePlan)} == {"a", "b", "c", "d", "slow"}
    assert failed == {
        "abort": "the worker process died (SIGABRT): terminate called after throwing an instance of 'std::bad_alloc'",
        "hang": "no progress for 2 s",
        "eat": failed["eat"],
        "exit": "the worker process died (exit code 3)",
        "bad": "bad frame",
    }
    assert "of memory, more than its share of 0.2 GB" in failed["eat"]


class Unpicklable(VideoReader):
    """A reader that cannot be sent, or cannot be received."""

    def __reduce__(self):
        if str(self.path) == "sent":
            raise RuntimeError("it holds a lock")
        return (int, ("no number",))


@pytest.mark.parametrize("impostors", ["forked", "fresh interpreters"] if can_fork() else ["fresh"], indirect=True)
def test_a_death_is_forgiven_once_and_what_cannot_be_read_is_a_failure(impostors, tmp_path):
    episodes = [Episode(name, VideoReader(name)) for name in ("die once", "write nonsense", "a")]
    episodes += [Episode(name, Unpicklable(name)) for name in ("sent", "b")]
    with running(LocalEngine(setup(tmp_path), 1, limits=LIMITS)) as engine:
        events = list(engine.run(TaskQueue(map(PlanTask, episodes[:-1]))))
        engine._processes[0]._process.kill()  # while it has nothing to do: that counts for nobody
        engine._processes[0]._process.wait(20)
        events += engine.run(tasks_for("c"))
    failed = {event.episode: event.reason for event in events if isinstance(event, Failure)}
    assert {event.episode for event in events if isinstance(event, EpisodePlan)} == {"die once", "a", "c"}
    assert list(failed) == ["write nonsense", "sent"]
    assert failed["write nonsense"].startswith("the worker process sent what cannot be read")
    assert failed["sent"] == "the episode cannot be sent to a worker process (RuntimeError: it holds a lock)"


def test_an_episode_that_cannot_be_unpickled_is_a_failure(tiny_checkpoint, monkeypatch):
    """Of a real worker's loop, in this process."""
    monkeypatch.setattr(worker.torch, "set_num_threads", lambda _: None)
    here, there = Pipe()
    work = worker.prepare(pickle.dumps(WorkerSetup(tiny_checkpoint, EncodeOptions(("1f",), 4, 8, 16), encodes=False)))
    for name in ("received", "received"):
        here.send(PlanTask(Episode(name, Unpicklable(name))))
    thread = Thread(target=work, args=(there,))
    thread.start()
    assert [here.recv() for _ in range(3)] == [Heartbeat(0)] + [
        Failure(
            "", "the episode cannot be sent to a worker process (invalid literal for int() with base 10: 'no number')"
        )
    ] * 2
    here.close()
    thread.join(10)
    there.close()
    assert not thread.is_alive()


def test_a_worker_that_is_killed_while_it_starts_is_replaced(impostors, tmp_path):
    (tmp_path / "killed-once").mkdir()
    with running(LocalEngine(setup(tmp_path / "killed-once"), 2, limits=LIMITS)) as engine:
        assert [type(event) for event in engine.run(tasks_for("a"))].count(EpisodePlan) == 1
    with (
        pytest.raises(LaraTokenizerError, match=r"could not start: the worker process died \(SIGKILL\)"),
        running(LocalEngine(setup("killed-always"), 1, limits=LIMITS)),
    ):
        pass


# A driver whose workers are busy: one imports, one holds the interpreter's lock for good.
DRIVER = """
import sys, time
from lara_tokenizer.encode.pool import ForkServer, WorkerLimits, WorkerProcess, can_fork, launch
busy = ("time.sleep(60)", "sum(range(10**12))")
for work in busy:
    launch.IMPORT_WORKER = f"def prepare(_):\\n    {work}\\n"
    process = WorkerProcess(None, WorkerLimits.fair(2))
    process.start()
    print(process._process.pid, flush=True)
if can_fork():
    launch.IMPORT_WORKER = f"def prepare(_):\\n    return work\\ndef work(_):\\n    {work}\\n"
    forked = WorkerProcess(None, WorkerLimits.fair(2), ForkServer(None))
    forked.start()
    print(server := forked._process.pid)
    while forked._process.pid == server:
        time.sleep(0.01)
    print(forked._process.pid, flush=True)
time.sleep(60)
"""


def test_workers_end_with_a_driver_that_is_killed_whatever_they_do():
    with subprocess.Popen([sys.executable, "-c", DRIVER], stdout=subprocess.PIPE, text=True) as driver:
        workers = [psutil.Process(int(driver.stdout.readline())) for _ in range(4 if can_fork() else 2)]
        assert all(each.is_running() for each in workers)
        driver.kill()
    _, alive = psutil.wait_procs(workers, timeout=20)
    assert not alive


@pytest.mark.skipif(not can_fork(), reason="there is no server that forks workers")
def test_the_end_of_the_server_ends_its_workers_and_costs_no_episode(impostors, tmp_path):
    with running(LocalEngine(setup(tmp_path), 2, limits=replace(LIMITS, seconds=60.0))) as engine:
        events = list(engine.run(tasks_for("kill the server", "slow", "a", "b")))
    assert {event.episode for event in events if isinstance(event, EpisodePlan)} == {
        "kill the server",
        "slow",
        "a",
        "b",
    }
    assert not any(isinstance(event, Failure) for event in events)


def test_a_checkpoint_that_cannot_be_loaded_is_a_value_error(impostors):
    with (
        pytest.raises(ValueError, match=r"^config.json has no 'size'$"),
        running(LocalEngine(setup("damaged"), 1, limits=LIMITS)),
    ):
        pass


def test_a_worker_that_cannot_start_ends_the_job_with_the_reason(impostors):
    with (
        pytest.raises(LaraTokenizerError, match="could not start: the weights are gone"),
        running(LocalEngine(setup("broken"), 1, limits=LIMITS)),
    ):
        pass


def test_closing_kills_workers_in_the_middle_of_a_task(impostors):
    with running(LocalEngine(setup(), 1, limits=replace(LIMITS, seconds=60))) as engine:
        next(engine.run(tasks_for("hang", "a")))
        process = engine._processes[0]._process
    assert process.poll() is not None
    with pytest.raises(WorkerDied):
        engine._processes[0].start()


class InlineProcess:
    """A worker process that decodes in this process."""

    def __init__(self, setup, limits, server):
        self._worker = Worker(setup, None)

    def ask(self, task):
        messages = []
        self._worker.answer(task, messages.append)
        yield from messages

    def start(self):
        pass

    wait_ready = kill = close = start


def test_decoding_workers_and_a_model_in_the_driver_give_the_same_rows(clips, tiny_checkpoint, monkeypatch, tmp_path):
    """The data path of a GPU, on the CPU."""
    monkeypatch.setattr(engines, "WorkerProcess", InlineProcess)
    (tmp_path / "bad.mp4").write_bytes(b"")
    sources = [clips / "a.mp4", clips / "b" / "left.mp4", tmp_path / "bad.mp4"]
    with open_job(sources, tiny_checkpoint, strides=["0.5s"]) as job:
        here = WorkerSetup(tiny_checkpoint, job.options)
        engine = LocalEngine(replace(here, encodes=False), 2, lambda: load_runner(here))
        tasks = TaskQueue(PlanTask(episode) for episode in job.episodes.values())
        counts = Counter()
        rows = {}
        with running(engine):
            for event in engine.run(tasks):
                counts[type(event)] += 1
                if isinstance(event, EpisodePlan):
                    episode = job.episodes[event.episode]
                    tasks.add(UnitTask(episode, unit) for unit in event.units)
                if isinstance(event, Encoded):
                    rows[event.unit.episode] = event.rows
        assert (counts[EpisodePlan], counts[Encoded], counts[Failure]) == (2, 2, 1)
        assert counts[Heartbeat] > 0
        alone = Worker(here, load_runner(here))
        for name, blob in rows.items():
            events = []
            alone.answer(PlanTask(job.episodes[name]), events.append)
            (unit,) = events[-1].units
            alone.answer(UnitTask(job.episodes[name], unit), events.append)
            assert events[-1].rows == blob


def test_latents_that_are_not_finite_fail_their_episode_and_frames_do_not_mix(clips, tiny_checkpoint, monkeypatch):
    monkeypatch.setattr(engines, "WorkerProcess", InlineProcess)
    with open_job([clips / "a.mp4"], tiny_checkpoint, strides=["1f"], batch_size=2) as job:
        here = WorkerSetup(tiny_checkpoint, job.options)
        runner, calls = load_runner(here), []
        encode = runner.model._quantize

        def broken_once(latents):
            calls.append(latents)
            return encode(latents * torch.nan if len(calls) == 1 else latents)

        monkeypatch.setattr(runner.model, "_quantize", broken_once)
        engine = LocalEngine(replace(here, encodes=False), 1, lambda: runner)
        (episode,) = job.episodes.values()
        tasks, events = TaskQueue([PlanTask(episode)]), []
        with running(engine):
            for event in engine.run(tasks):
                events.append(event)
                if isinstance(event, EpisodePlan):
                    tasks.add(UnitTask(episode, unit) for unit in (*event.units, *event.units))
        failed, encoded = (next(each for each in events if isinstance(each, kind)) for kind in (Failure, Encoded))
        assert failed.reason.startswith("latents are not finite in float32")
        alone = []
        Worker(here, load_runner(here)).answer(UnitTask(episode, encoded.unit), alone.append)
        assert encoded.rows == alone[-1].rows


def test_a_decoding_worker_ends_with_its_seconds(clips, tiny_checkpoint):
    with open_job(clips / "a.mp4", tiny_checkpoint, strides=["0.5s"]) as job:
        worker = Worker(WorkerSetup(tiny_checkpoint, job.options, encodes=False), None)
        messages = []
        (episode,) = job.episodes.values()
        worker.answer(PlanTask(episode), messages.append)
        worker.answer(UnitTask(episode, messages[0].units[0]), messages.append)
        assert isinstance(messages[-1], FrameChunk)
        assert messages[-1].decode_seconds > 0


# One interpreter that forks: importing torch once for four runs. Three runs kill themselves: after the first and
# the second unit are committed, and just before the finished table is renamed.
KILLS = """
import json, os, signal, sys
import lara_tokenizer.table.write as write
from lara_tokenizer import Episode, encode_dataset
from lara_tokenizer.data import VideoReader
from lara_tokenizer.encode.store import Store

source, model, out = sys.argv[1:]

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

def run(when):
    process = os.fork()
    if process == 0:
        if when == "rename":
            write.os.replace = die
        progress = None if when == "rename" else lambda state: state.episodes_done == when and die()
        encode_dataset(source, model, out=out, strides="0.5s", workers=0, progress=progress)
        os._exit(0)
    return os.waitpid(process, 0)[1], os.path.exists(out)

print(json.dumps([run(1), run(2), run("rename")]))
"""


def test_three_kills_and_two_workers_give_the_bytes_of_one_undisturbed_run(
    tmp_path, moving_square, write_video, tiny_checkpoint
):
    source = tmp_path / "clips"
    for name in "abc":
        write_video(source / f"{name}.mp4", moving_square(20, seed=ord(name)))
    encode_dataset(source, tiny_checkpoint, out=tmp_path / "whole.parquet", strides="0.5s", workers=0)
    out = tmp_path / "killed.parquet"
    killed = subprocess.run(
        [sys.executable, "-c", KILLS, str(source), str(tiny_checkpoint), str(out)], capture_output=True, text=True
    )
    assert json.loads(killed.stdout.splitlines()[-1]) == [[9, False]] * 3, killed.stderr
    summary = encode_dataset(source, tiny_checkpoint, out=out, strides="0.5s", workers=2)
    assert summary.resumed == 3
    assert out.read_bytes() == (tmp_path / "whole.parquet").read_bytes()
    encode_dataset(source, tiny_checkpoint, out=tmp_path / "two.parquet", strides="0.5s", workers=2)
    assert (tmp_path / "two.parquet").read_bytes() == (tmp_path / "whole.parquet").read_bytes()


def test_an_abort_of_decord_costs_one_clip(tmp_path, moving_square, write_video, tiny_checkpoint, monkeypatch):
    pytest.importorskip("decord")
    monkeypatch.setattr(engines, "_DEATHS", 1)  # another start of a worker would take seconds
    good = write_video(tmp_path / "clips" / "good.mp4", moving_square(20)).read_bytes()
    at = good.index(b"stts") + 12
    (tmp_path / "clips" / "aborts.mp4").write_bytes(good[:at] + (2**31 - 1).to_bytes(4, "big") + good[at + 4 :])
    summary = encode_dataset(
        tmp_path / "clips", tiny_checkpoint, out=tmp_path / "t.parquet", strides="0.5s", workers=1, decoder="decord"
    )
    assert list(summary.failed) == ["aborts.mp4"]
    assert "the worker process died (SIGABRT)" in summary.failed["aborts.mp4"]
    assert read_tokens(tmp_path / "t.parquet").num_rows == 15


def test_datasets_with_every_option_give_the_same_bytes_for_any_workers_and_kills(
    tmp_path, moving_square, write_lerobot, tiny_checkpoint
):
    clips = [moving_square(20 + 3 * e, seed=e, step=e) for e in range(4)]  # the first one stands still
    cameras = {"observation.images.top": clips, "observation.images.wrist": clips}
    root = write_lerobot(tmp_path / "set", cameras)
    options = {
        "strides": ["0.5s", "2f"],
        "columns": ["actions", "latents", "text"],
        "min_motion": 0.005,
        "cameras": "all",
        "segment": "1s",
    }
    contents = []
    for workers in (0, 1, 2):
        out = tmp_path / f"{workers}.parquet"
        encode_dataset(root, tiny_checkpoint, out=out, workers=workers, **options)
        contents.append(out.read_bytes())
    assert contents[0] == contents[1] == contents[2]

    def stop(state):
        if state.frames > 60:
            raise KeyboardInterrupt

    out = tmp_path / "stopped.parquet"
    with pytest.raises(KeyboardInterrupt):
        encode_dataset(root, tiny_checkpoint, out=out, workers=0, progress=stop, **options)
    summary = encode_dataset(root, tiny_checkpoint, out=out, workers=2, **options)
    assert summary.resumed > 0
    assert out.read_bytes() == contents[0]
