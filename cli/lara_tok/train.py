"""`lara-tok train`: stage 1, training of a latent action model on video."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from lara_tok._common import JsonOption, console, emit
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
from lara_tok._training import (
    BatchSizeOption,
    DryRunOption,
    FramesOption,
    LearningRateOption,
    LimitOption,
    PrecisionOption,
    ResumeOption,
    SeedOption,
    StepsOption,
    WorkersOption,
    print_figure,
    progress_printer,
)

MEASURES = {
    "loss": "loss",
    "perplexity": "heldout_perplexity",
    "per position": "heldout_perplexity_per_position",
    "spread": "heldout_spread",
    "rank": "heldout_effective_rank",
    "gain": "heldout_gain_over_copying",
    "z gain": "heldout_z_gain",
}


def train(
    source: SourceArgument = None,
    recipe: Annotated[
        Path | None, typer.Option(help="A YAML file, see hub_configs/training. Default: all default options.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for checkpoint and log.")] = None,
    frames: FramesOption = None,
    fps: FpsOption = None,
    camera: CameraOption = None,
    split: SplitOption = None,
    subset: SubsetOption = None,
    streaming: StreamingOption = False,
    episodes: EpisodesOption = None,
    task: TaskOption = None,
    segment: SegmentOption = None,
    from_: FromOption = None,
    limit: LimitOption = None,
    steps: StepsOption = None,
    batch_size: BatchSizeOption = None,
    learning_rate: LearningRateOption = None,
    precision: PrecisionOption = None,
    workers: WorkersOption = None,
    seed: SeedOption = None,
    resume: ResumeOption = False,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Train a latent action model on video (stage 1).

    SOURCE is detected as by `lara-tok encode`: video files, folders, globs, LeRobotDataset, RLDS, Hugging Face
    datasets, WebDataset tars, Something-Something v2. Several datasets are sampled equally often. Without SOURCE the
    recipe's sources are used.

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
    progress = progress_printer(MEASURES)
    summary = train_latent_action_model(found, chosen, out=out, frames=frames, resume=resume, progress=progress)
    emit({**summary, "out": str(out)}, as_json, _render)


def _render(result: dict[str, Any]) -> None:
    for name, value in result.items():
        if name == "datasets":
            for dataset, counts in value.items():
                shown = f"{counts['episodes']:,} episodes, {counts['pairs']:,} pairs at {', '.join(counts['strides'])}"
                console.print(f"{dataset or 'source':38} {shown}", highlight=False, markup=False)
        else:
            print_figure(name, value)
