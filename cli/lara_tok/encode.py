"""`lara-tok encode`: video to a token table."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from threading import current_thread, main_thread
from typing import TYPE_CHECKING, Annotated, Any

from rich.progress import BarColumn, Progress, TaskID, TextColumn
from typer import Context, Exit

from lara_tok._app import job_file, panels
from lara_tok._common import (
    MIN_MOTION_HELP,
    JsonOption,
    ModelOption,
    codes_line,
    console_err,
    emit,
    quantity,
    render_health,
    say,
)
from lara_tok._source import SourceArgument, load, source_options
from lara_tokenizer.errors import EpisodeReadError

if TYPE_CHECKING:
    from lara_tokenizer.encode import Progress as RunState

_LINES = 20  # of failures, or notes; --json and OUT.failed.jsonl have all


@source_options()
def encode(
    source: SourceArgument = None,
    *,
    out: Annotated[
        str, panels.output(metavar="TABLE", help="The table: a file, tokens.parquet, or a folder of shards, tokens/.")
    ],
    model: ModelOption = "lara-lam",
    stride: Annotated[
        list[str] | None,
        panels.pairs(
            metavar="0.6s|5f",
            help="Distance between the frames of a pair: 0.6s or 5f. Repeatable. Default: the model's own.",
        ),
    ] = None,
    every: Annotated[
        str,
        panels.pairs(
            metavar="0.5s|2f",
            help="Distance between the first frames of pairs: 1f is every frame, 0.5s two per second.",
        ),
    ] = "1f",
    load_options: dict[str, Any],
    shard: Annotated[
        str | None,
        panels.source(
            metavar="I/N",
            help="Encode one of N equal parts: 0/N to N-1/N, or auto in a Slurm array. Join with tokens merge.",
        ),
    ] = None,
    min_motion: Annotated[float, panels.pairs(metavar="0..1", help=MIN_MOTION_HELP)] = 0.0,
    with_: Annotated[
        list[str] | None,
        panels.output(
            "--with", metavar="COLUMNS", help="Extra columns: latents, actions, text. Separated by commas, or repeated."
        ),
    ] = None,
    keep_tail: Annotated[
        bool,
        panels.pairs("--keep-tail", help="Keep pairs that reach past the end, as rows with valid = false."),
    ] = False,
    dtype: Annotated[str, panels.model(metavar="TYPE", help="float32, bfloat16 or float16.")] = "float32",
    device: Annotated[
        str | None, panels.model(metavar="cpu|cuda", help="cpu or cuda. Default: a GPU if there is one.")
    ] = None,
    batch_size: Annotated[
        int, panels.speed(metavar="N", min=1, help="Frames, and pairs, per forward pass of the model.")
    ] = 64,
    workers: Annotated[
        int | None,
        panels.speed(
            metavar="N", min=0, help="Worker processes. Default: by cores and memory. 0: none, all in this process."
        ),
    ] = None,
    on_error: Annotated[
        str,
        panels.output(metavar="skip|fail", help="skip: list a failed episode and continue; fail: stop at the first."),
    ] = "skip",
    dry_run: Annotated[
        bool, panels.output("--dry-run", help="Count episodes and pairs, estimate the time, write nothing.")
    ] = False,
    config: job_file.ConfigOption = None,
    print_config: job_file.PrintConfigOption = False,
    json_: JsonOption = False,
    context: Context,
) -> None:
    """Encode video into a table of latent action codes.

    Run the same command again to continue after a stop, or to retry failed episodes.
    Exit code: 0 all done, 1 some episodes failed (listed in OUT.failed.jsonl), 2 usage or refusal, 130 Ctrl-C,
    143 SIGTERM, 129 SIGHUP.

    The format of SOURCE is detected: video files, folders, globs, LeRobotDataset, RLDS, Hugging Face datasets,
    WebDataset tars, Something-Something v2. Explicit prefixes: lerobot:..., rlds:..., datasets:..., webdataset:...,
    ssv2:..., video:..., list:clips.csv. On the Hub: lerobot:user/name, datasets:user/name.

    Examples:

      lara-tok encode videos/ --out tokens.parquet

      lara-tok encode lerobot:lerobot/pusht --with actions,text --out pusht/

      lara-tok encode ego4d/ --segment 10s --min-motion 0.01 --out tokens/

      lara-tok encode videos/ --stride 0.3s --stride 0.6s --out tokens/

      lara-tok encode --config job.yaml
    """
    if print_config:
        job_file.print_job(context)
        return
    from lara_tokenizer.encode import check_options

    options: dict[str, Any] = {
        "strides": stride,
        "every": every,
        "columns": [name.strip() for text in with_ or () for name in text.split(",")],
        "keep_tail": keep_tail,
        "min_motion": min_motion,
        "dtype": dtype,
        "device": device,
        "batch_size": batch_size,
        "workers": workers,
    }
    check_options(model, out=None if dry_run else out, on_error=on_error, **options)
    episodes = load(source or (), shard=shard, **load_options)
    from lara_tokenizer.encode import encode_dataset, estimate_dataset

    if dry_run:
        estimate = estimate_dataset(episodes, model, **options).to_dict()
        emit(estimate, json_, _render_estimate)
        raise Exit(1 if estimate["failed"] else 0)
    with _Live() as live, stoppable():
        try:
            summary = encode_dataset(episodes, model, out=out, on_error=on_error, progress=live.show, **options)
        except EpisodeReadError as error:
            say(f"error: {error}", "stopped at the first failure; the same command retries it and continues", err=True)
            raise Exit(1) from error
        except KeyboardInterrupt as stop:
            say(f"interrupted: {live.done}; no finished work is lost, the same command continues from there", err=True)
            raise Exit(exit_code(stop)) from None
    emit(summary.to_dict(), json_, _render_summary)
    if shard and not json_:
        all_shards = re.sub(r"\d{5}(-of-\d+[^/]*)$", r"*\1", summary.out)
        say(f"  when all shards are there: lara-tok tokens merge {all_shards} --out {out}")
    raise Exit(1 if summary.failed else 0)


class Terminated(KeyboardInterrupt):
    """SIGTERM or SIGHUP, which end a command as Ctrl-C does."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


@contextmanager
def stoppable() -> Iterator[None]:
    """Raise `Terminated` in the block on SIGTERM (`kill`, a batch system) and SIGHUP (a closed terminal).

    By default they end the process at once, its workers later. A signal that is ignored, as by nohup, stays ignored.
    """

    def stop(number: int, _: object) -> None:
        for each in before:
            signal.signal(each, signal.SIG_IGN)  # once is enough: the workers are being ended
        raise Terminated(number)

    before = {}
    for each in (signal.SIGTERM, getattr(signal, "SIGHUP", None)):
        # Python delivers signals to the main thread only.
        if each is not None and current_thread() is main_thread() and signal.getsignal(each) == signal.SIG_DFL:
            before[each] = signal.signal(each, stop)
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def exit_code(stop: KeyboardInterrupt) -> int:
    """128 plus the number of the signal, as a shell counts: 130 for Ctrl-C."""
    return 128 + (stop.number if isinstance(stop, Terminated) else signal.SIGINT)


class _Live(AbstractContextManager["_Live"]):
    """Progress on stderr: a bar on a terminal; elsewhere only a line if the job is resumed."""

    def __init__(self) -> None:
        self.done = "no episode was started"
        self._bar: Progress | None = None
        self._task = TaskID(0)

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def show(self, state: RunState) -> None:
        if self._bar is None:
            self._bar = self._begin(state)
        ended = state.episodes_done + len(state.failed)
        self.done = f"{state.episodes_done} of {state.episodes} episodes are done"
        if state.episodes_too_short:
            self.done += f", {state.episodes_too_short} of them too short for a pair"
        text = "loading the model"
        if state.frames or ended > state.episodes_resumed:
            text = f"{ended:,} of {state.episodes:,} episodes, {state.pairs_per_second:,.0f} pairs/s"
        if state.remaining_seconds is not None:
            text += f", {_duration(state.remaining_seconds)} left"
        if state.failed:
            text += f", {len(state.failed):,} failed"
        self._bar.update(self._task, completed=ended, description=text)

    def _begin(self, state: RunState) -> Progress:
        if state.is_resumed:
            say(f"resuming: {state.episodes_resumed} of {state.episodes} episodes were done before", err=True)
        bar = Progress(
            BarColumn(),
            TextColumn("{task.description}", markup=False),
            console=console_err,
            transient=True,
            disable=not console_err.is_terminal,
        )
        self._task = bar.add_task("loading the model", total=state.episodes)
        bar.start()
        return bar


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def _line(name: str, text: str) -> None:
    say(f"  {name:15}{text}")


def _lines(name: str, lines: list[str]) -> None:
    for text in lines[:_LINES]:
        _line(name, text)
    if len(lines) > _LINES:
        _line("", f"and {len(lines) - _LINES:,} more")


def notes_by_kind(notes: Mapping[str, Sequence[str]]) -> list[str]:
    """The notes of episodes, those that differ in numbers alone as one.

    >>> notes_by_kind({"a.mp4": ["3 frames repeated"], "b.mp4": ["5 frames repeated", "no end"]})
    ['a.mp4: 3 frames repeated (and so 1 more episode)', 'b.mp4: no end']
    """
    kinds: dict[str, list[str]] = {}
    for episode, of_episode in notes.items():
        for note in of_episode:
            kinds.setdefault(re.sub(r"\d[\d.,]*", "0", note), []).append(f"{episode}: {note}")
    more = {kind: f" (and so {quantity(len(lines) - 1, 'more episode')})" for kind, lines in kinds.items()}
    return [lines[0] + (more[kind] if len(lines) > 1 else "") for kind, lines in kinds.items()]


def _render_failed(result: dict[str, Any]) -> None:
    _lines("failed", [f"{episode}: {reason}" for episode, reason in result["failed"].items()])


def _render_summary(result: dict[str, Any]) -> None:
    if result["failed"] and len(result["failed"]) == result["episodes"]:
        failed = "the episode" if result["episodes"] == 1 else f"all {result['episodes']:,} episodes"
        say(f"no table written: {failed} failed")
        _render_failed(result)
        return
    head = f"{result['out']}: {quantity(sum(result['pairs'].values()), 'pair')}"
    head += f" of {quantity(result['encoded'], 'episode')}"
    if result["already_complete"]:
        head += " (complete already, nothing to do)"
    say(head)
    for stride, count in result["pairs"].items():
        _line(f"stride {stride}", f"{count:,} pairs")
    if not result["already_complete"]:
        spent = f"{result['decode_seconds']:.1f} s decoding, {result['model_seconds']:.1f} s model"
        _line("time", f"{spent} (all workers and runs), {result['wall_seconds']:.1f} s this run")
    for stride, count in result["short"].items():
        _line("too short", f"{quantity(count, 'episode')} for stride {stride}")
    _lines("note", notes_by_kind(result["notes"]))
    _render_failed(result)
    if result["codes_used"] is not None:
        _line("codes", codes_line(result, result["codebook_size"]))
    # A stride that the model does not know was said before the job began.
    render_health(result, _line, said=("untrained_stride",))


def _render_estimate(result: dict[str, Any]) -> None:
    say(f"{quantity(result['episodes'], 'episode')}, {quantity(sum(result['pairs'].values()), 'pair')}")
    for stride, count in result["pairs"].items():
        _line(f"stride {stride}", f"{count:,} pairs")
    if result["seconds"] is not None:
        _line("time", f"about {_duration(result['seconds'])} with {result['workers']} workers, by a short probe")
    if result["too_short"]:
        _line("too short", quantity(len(result["too_short"]), "episode"))
    _render_failed(result)
