"""`lara-tok train`: stage 1, a latent action model from video."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from lara_tok._common import JsonOption, console, console_err, emit
from lara_tok._source import (
    CameraOption,
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


def train(
    source: SourceArgument = None,
    recipe: Annotated[Path | None, typer.Option(help="A YAML file, see hub_configs/training; or all defaults.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for checkpoint and log.")] = None,
    frames: Annotated[Path | None, typer.Option(help="Folder of decoded frames, to share between runs.")] = None,
    fps: FpsOption = None,
    camera: CameraOption = None,
    split: SplitOption = None,
    subset: SubsetOption = None,
    streaming: StreamingOption = False,
    episodes: EpisodesOption = None,
    task: TaskOption = None,
    segment: SegmentOption = None,
    from_: FromOption = None,
    limit: Annotated[int | None, typer.Option(help="Use at most this many episodes.")] = None,
    steps: Annotated[int | None, typer.Option(help="Instead of the recipe's.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Instead of the recipe's.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Instead of the recipe's.")] = None,
    precision: Annotated[str | None, typer.Option(help="fp32 or bf16, instead of the recipe's.")] = None,
    workers: Annotated[int | None, typer.Option(help="Loader processes, instead of the recipe's.")] = None,
    seed: Annotated[int | None, typer.Option(help="Instead of the recipe's.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint in OUT.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be trained; needs no data.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Train a latent action model on video (stage 1).

    SOURCE is what `lara-tok encode` reads: video files, folders, globs, LeRobotDataset, RLDS, Hugging Face datasets,
    WebDataset tars, Something-Something v2. Of several datasets each is drawn equally often. Without SOURCE the
    recipe's sources are taken.

    Examples:

      lara-tok train videos/ --recipe hub_configs/training/lam.yaml --out runs/lam

      lara-tok train lerobot:lerobot/pusht rlds:bridge --camera all --out runs/two
    """
    from lara_tokenizer.train import Recipe, plan_training, train_latent_action_model

    chosen = (Recipe.load(recipe) if recipe else Recipe()).override(
        steps=steps,
        batch_size=batch_size,
        learning_rate=learning_rate,
        precision=precision,
        workers=workers,
        seed=seed,
    )
    if dry_run:
        emit(plan_training(chosen), as_json, _render)
        return
    if not (source or from_ or chosen.sources) or out is None:
        raise ValueError("training needs SOURCE and --out; with --dry-run neither.")
    found = load(
        source or (() if from_ else chosen.sources),
        fps=parse_fps(fps or []),
        cameras=camera or (),
        split=split,
        subset=subset,
        streaming=streaming,
        episodes=episodes,
        tasks=task or (),
        segment=segment,
        from_list=from_,
        limit=limit,
    )
    summary = train_latent_action_model(found, chosen, out=out, frames=frames, resume=resume, progress=_progress)
    emit({**summary, "out": str(out)}, as_json, _render)


def _progress(phase: str, done: int, total: int, logs: dict[str, float]) -> None:
    if phase == "frames":
        if done % 100 == 0 or done == total:
            console_err.print(f"decoded {done} of {total} streams", highlight=False)
        return
    if "loss" not in logs:
        return
    shown = {
        "loss": logs["loss"],
        "perplexity": logs["heldout_perplexity"],
        "a position": logs["heldout_perplexity_per_position"],
        "spread": logs["heldout_spread"],
        "rank": logs["heldout_effective_rank"],
        "gain": logs["heldout_gain_over_copying"],
        "z gain": logs["heldout_z_gain"],
    }
    text = "  ".join(f"{name} {value:.3g}" for name, value in shown.items())
    console_err.print(f"step {done} of {total}  {text}", highlight=False)


def _render(result: dict[str, Any]) -> None:
    for name, value in result.items():
        if name == "datasets":
            for dataset, counts in value.items():
                shown = f"{counts['episodes']:,} episodes, {counts['pairs']:,} pairs at {', '.join(counts['strides'])}"
                console.print(f"{dataset or 'source':38} {shown}", highlight=False, markup=False)
            continue
        shown = f"{value:,}" if isinstance(value, int) else f"{value:.4g}" if isinstance(value, float) else value
        console.print(f"{name.replace('_', ' '):38} {shown}", highlight=False)
