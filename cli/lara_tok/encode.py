"""`lara-tok encode`: video to a table of latent action codes."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from lara_tok._common import JsonOption, ModelOption, console, console_err, emit
from lara_tok._health import render_health
from lara_tok._source import (
    CameraOption,
    DecoderOption,
    EpisodesOption,
    FpsOption,
    FromOption,
    SegmentOption,
    SourceArgument,
    SplitOption,
    StreamingOption,
    SubsetOption,
    TaskOption,
    load,
    parse_fps,
)
from lara_tokenizer.errors import EpisodeReadError

if TYPE_CHECKING:
    from lara_tokenizer.encode import Progress as RunState

_LINES = 20  # of failures, or notes; --json and OUT.failed.jsonl have them all


def encode(
    source: SourceArgument = None,
    *,
    out: Annotated[str, typer.Option(help="tokens.parquet for one file, tokens/ for a folder of shards.")],
    model: ModelOption = "lara-lam",
    stride: Annotated[
        list[str] | None,
        typer.Option(help="Gap between the frames of a pair: 0.6s or 5f. Repeatable. Default: the model's own."),
    ] = None,
    every: Annotated[str, typer.Option(help="Which frames start a pair: 1f is every frame, 0.5s two a second.")] = "1f",
    fps: FpsOption = None,
    camera: CameraOption = None,
    split: SplitOption = None,
    subset: SubsetOption = None,
    streaming: StreamingOption = False,
    episodes: EpisodesOption = None,
    task: TaskOption = None,
    segment: SegmentOption = None,
    from_: FromOption = None,
    min_motion: Annotated[
        float, typer.Option(help="Leave out idle pairs, whose pixels change by less (0 to 1): 0.01.")
    ] = 0.0,
    with_: Annotated[
        list[str] | None, typer.Option("--with", help="Extra columns: latents, actions, text. Commas or repeated.")
    ] = None,
    keep_tail: Annotated[
        bool, typer.Option("--keep-tail", help="Keep pairs that reach past the end, as rows with valid = false.")
    ] = False,
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "float32",
    device: Annotated[str | None, typer.Option(help="cpu or cuda. Default: a GPU where there is one.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Frames, and pairs, a call of the model.")] = 64,
    workers: Annotated[
        int | None, typer.Option(min=0, help="Processes. Default: by cores and memory. 0: none but this one.")
    ] = None,
    decoder: DecoderOption = "pyav",
    on_error: Annotated[str, typer.Option(help="skip an episode that fails, or fail.")] = "skip",
    limit: Annotated[int | None, typer.Option(min=1, help="Encode the first episodes only.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Count episodes and pairs, estimate the time, write nothing.")
    ] = False,
    json_: JsonOption = False,
) -> None:
    """Turn video into a table of latent action codes.

    Run the same command again to go on after a stop, or to try failed episodes again.
    Exit code: 0 all done, 1 some episodes failed (listed in OUT.failed.jsonl), 2 usage or refusal.

    SOURCE is looked at and said: video files, folders, globs, LeRobotDataset, RLDS, Hugging Face datasets, WebDataset
    tars, Something-Something v2. To say it outright: lerobot:..., rlds:..., datasets:..., webdataset:..., ssv2:...,
    video:..., list:clips.csv. On the Hub: lerobot:user/name, datasets:user/name.

    Examples:

      lara-tok encode videos/ --out tokens.parquet

      lara-tok encode lerobot:lerobot/pusht --camera all --with actions,text --out tokens.parquet

      lara-tok encode ego4d/ --segment 10s --min-motion 0.01 --every 0.2s --out tokens/

      lara-tok encode videos/ --out tokens/ --stride 0.3s --stride 0.6s --fps 'rt1_*=3' --with latents
    """
    from lara_tokenizer.encode import encode_dataset, estimate_dataset

    found = load(
        source or (),
        fps=parse_fps(fps or []),
        decoder=decoder,
        limit=limit,
        cameras=camera or (),
        split=split,
        subset=subset,
        streaming=streaming,
        episodes=episodes,
        tasks=task or (),
        segment=segment,
        from_list=from_,
    )
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
    if dry_run:
        estimate = estimate_dataset(found, model, **options).to_dict()
        emit(estimate, json_, _render_estimate)
        raise typer.Exit(1 if estimate["failed"] else 0)
    with _Live() as live:
        try:
            summary = encode_dataset(found, model, out=out, on_error=on_error, progress=live.show, **options)
        except EpisodeReadError as error:
            _say(f"error: {error}\nstopped at the first failure; the same command tries it again and goes on")
            raise typer.Exit(1) from error
        except KeyboardInterrupt:
            _say(f"interrupted: {live.done}; nothing done is lost, the same command goes on from there")
            raise typer.Exit(130) from None
    emit(summary.to_dict(), json_, _render_summary)
    raise typer.Exit(1 if summary.failed else 0)


class _Live(AbstractContextManager):
    """Progress on stderr: a moving line on a terminal, nothing but the fact of going on elsewhere."""

    def __init__(self) -> None:
        self.done = "no episode was begun"
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
            _say(f"going on: {state.episodes_resumed} of {state.episodes} episodes were done before")
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


def _say(text: str) -> None:
    console_err.print(text, markup=False, highlight=False, soft_wrap=True)


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def _line(name: str, text: str) -> None:
    console.print(f"  {name:15}{text}", markup=False, highlight=False, soft_wrap=True)


def _render_summary(result: dict[str, Any]) -> None:
    pairs = sum(result["pairs"].values())
    head = f"{result['out']}: {pairs:,} pairs of {result['encoded']:,} episodes"
    if result["already_complete"]:
        head += " (complete already, nothing to do)"
    console.print(head, markup=False, highlight=False, soft_wrap=True)
    for stride, count in result["pairs"].items():
        _line(f"stride {stride}", f"{count:,} pairs")
    if not result["already_complete"]:
        spent = f"{result['decode_seconds']:.1f} s decoding, {result['model_seconds']:.1f} s model"
        _line("time", f"{spent} (all workers and runs), {result['wall_seconds']:.1f} s this run")
    _render_misses(result)
    if result["codes_used"] is not None:
        text = f"{result['codes_used']} of {result['codebook_size']} used, perplexity {result['perplexity']:.1f}"
        _line("codes", f"{text} pooled, {result['mean_position_perplexity']:.1f} a position")
    render_health(result, _line)


def _render_misses(result: dict[str, Any]) -> None:
    for stride, count in result["short"].items():
        _line("too short", f"{count:,} episodes for stride {stride}")
    _some("note", [f"{episode}: {'; '.join(notes)}" for episode, notes in result["notes"].items()])
    _render_failed(result["failed"])


def _render_failed(failed: dict[str, str]) -> None:
    _some("failed", [f"{episode}: {reason}" for episode, reason in failed.items()])


def _some(name: str, texts: list[str]) -> None:
    for text in texts[:_LINES]:
        _line(name, text)
    if len(texts) > _LINES:
        _line("", f"and {len(texts) - _LINES:,} more")


def _render_estimate(result: dict[str, Any]) -> None:
    pairs = sum(result["pairs"].values())
    console.print(f"{result['episodes']:,} episodes, {pairs:,} pairs", highlight=False)
    for stride, count in result["pairs"].items():
        _line(f"stride {stride}", f"{count:,} pairs")
    if result["seconds"] is not None:
        _line("time", f"about {_duration(result['seconds'])} with {result['workers']} workers, by a short probe")
    if result["too_short"]:
        _line("too short", f"{len(result['too_short']):,} episodes")
    _render_failed(result["failed"])
