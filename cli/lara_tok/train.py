"""`lara-tok train`: stage 1, training of a latent action model on video."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from lara_tok import _training as training
from lara_tok._app import panels
from lara_tok._common import JsonOption, console, emit
from lara_tok._source import SourceArgument, load, source_options

MEASURES = {
    "loss": "loss",
    "perplexity": "heldout_perplexity",
    "per position": "heldout_perplexity_per_position",
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
    recipe: Annotated[
        Path | None,
        panels.training(
            metavar="RECIPE.yaml",
            help="A YAML file, see hub_configs/training. Default: built-in defaults (not lam.yaml).",
        ),
    ] = None,
    out: Annotated[Path | None, panels.output(metavar="FOLDER", help="Folder for the checkpoint and the log.")] = None,
    frames: training.FramesOption = None,
    load_options: dict[str, Any],
    overrides: dict[str, Any],
    resume: training.ResumeOption = False,
    dry_run: training.DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Train a latent action model on video (stage 1).

    SOURCE is detected as by `lara-tok encode`: video files, folders, globs, LeRobotDataset, RLDS, Hugging Face
    datasets, WebDataset tars, Something-Something v2. Several datasets are sampled equally often. Without SOURCE the
    recipe's sources are used. Training stops with an error if z or the codebook collapses.

    Examples:

      lara-tok train videos/ --recipe my-recipe.yaml --out runs/lam

      lara-tok train lerobot:lerobot/pusht rlds:bridge --camera all --out runs/two
    """
    from lara_tokenizer.train import Recipe

    # First, as what follows imports torch: a mistake in the recipe is reported at once.
    chosen = (Recipe.load(recipe) if recipe else Recipe()).override(**overrides)
    from lara_tokenizer.train import plan_training, train_latent_action_model

    if dry_run:
        emit(plan_training(chosen), as_json, _render)
        return
    from_list = load_options.get("from_list")
    out = training.require_source_and_out(source or from_list or chosen.sources, out)
    episodes = load(source or (() if from_list else chosen.sources), **load_options)
    progress = training.progress_printer(MEASURES)
    summary = train_latent_action_model(episodes, chosen, out=out, frames=frames, resume=resume, progress=progress)
    emit({**summary, "out": str(out)}, as_json, _render)


def _render(result: dict[str, Any]) -> None:
    for name, value in result.items():
        if name == "datasets":
            for dataset, counts in value.items():
                shown = f"{counts['episodes']:,} episodes, {counts['pairs']:,} pairs at {', '.join(counts['strides'])}"
                console.print(f"{dataset or 'source':38} {shown}", highlight=False, markup=False)
        else:
            training.print_figure(name, value)
