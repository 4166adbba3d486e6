"""`lara-tok train`: stage 1, training of a latent action model on video."""

from __future__ import annotations

from typing import Any

from lara_tok._common import JsonOption, emit
from lara_tok._source import SourceArgument, load, source_options
from lara_tok._training import options as training
from lara_tok._training.closing import render, with_next
from lara_tok._training.display import RunDisplay

MEASURES = {
    "loss": "loss",
    "codes": "heldout_perplexity",
    "spread": "heldout_spread",
    "rank": "heldout_effective_rank",
    "gain": "heldout_gain_over_copying",
    "z gain": "heldout_z_gain",
}


@source_options(without=("decoder",), limit=training.LimitOption)
@training.recipe_options
def train(
    source: SourceArgument = None,
    *,
    recipe: training.RecipeOption = None,
    out: training.OutOption = None,
    frames: training.FramesOption = None,
    load_options: dict[str, Any],
    overrides: dict[str, Any],
    resume: training.ResumeOption = False,
    report_to: training.ReportOption = None,
    dry_run: training.DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Train a latent action model on video (stage 1).

    SOURCE is detected as by `lara-tok encode`: video files, folders, globs, LeRobotDataset, RLDS, Hugging Face
    datasets, WebDataset tars, Something-Something v2. Several datasets are sampled equally often. Without SOURCE the
    recipe's sources are used. Training stops with an error if z or the codebook collapses.

    Examples:

      lara-tok train videos/ --recipe lam_sim --out runs/lam

      lara-tok train lerobot:lerobot/pusht rlds:bridge --camera all --out runs/two
    """
    from lara_tokenizer.train import Recipe
    from lara_tokenizer.train.watch.trackers import check_tracker

    # First, as what follows imports torch: a mistake in the recipe is reported at once.
    chosen = (Recipe.load(recipe) if recipe else Recipe()).override(**overrides)
    check_tracker(report_to)
    from lara_tokenizer.train import plan_training, train_latent_action_model

    if dry_run:
        emit(plan_training(chosen), as_json, render)
        return
    from_list = load_options.get("from_list")
    out = training.require_source_and_out(source or from_list or chosen.sources, out)
    sources = source or (() if from_list else chosen.sources)
    with RunDisplay(out, MEASURES, chosen.training.batch_size) as display:
        episodes = load(sources, **load_options)
        summary = train_latent_action_model(
            episodes, chosen, out=out, frames=frames, resume=resume, progress=display, tracker=report_to
        )
    emit(with_next(summary, out, out, sources, load_options), as_json, render)
