"""`lara-tok refine`: joint training of tokenizer and policy (stages 2 and 3)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from typer import Argument

from lara_tok import _training as training
from lara_tok._app import panels
from lara_tok._common import JsonOption, emit
from lara_tok._source import AllCamerasOption, load, source_options

RECIPES = (".yaml", ".yml")
MEASURES = {  # label of a progress line -> key of the log
    "loss": "loss",
    "action": "heldout_action",
    "codes": "heldout_codes",
    "alignment": "heldout_alignment",
    "centered cosine": "heldout_alignment_centered_cosine",
    "perplexity": "heldout_perplexity",
    "spread": "heldout_spread",
    "z gain": "heldout_z_gain",
}


@source_options(without=("camera", "subset", "streaming", "segment", "from_", "decoder"), limit=training.LimitOption)
@training.recipe_options
def refine(
    recipe_and_sources: Annotated[
        list[str] | None,
        Argument(metavar="RECIPE|SOURCE", help="An optional recipe (.yaml) first, then sources with actions."),
    ] = None,
    *,
    out: Annotated[
        Path | None, panels.output(metavar="FOLDER", help="Folder for the policy, the tokenizer and the log.")
    ] = None,
    mode: Annotated[
        str | None,
        panels.training(
            metavar="MODE",
            help="joint; dit-only: the policy alone; frozen-lam or frozen-policy: the other one is trained; codes: "
            "predict a table's codes. Overrides the recipe.",
        ),
    ] = None,
    tokenizer: Annotated[
        str | None,
        panels.model(
            metavar="CHECKPOINT", help="'lara-lam' (bundled), a local folder or a Hub id. Overrides the recipe."
        ),
    ] = None,
    policy: Annotated[
        str | None, panels.model(metavar="FOLDER", help="Start from this policy (stage 3). Default: a new one.")
    ] = None,
    pretrain: Annotated[
        Path | None,
        panels.training(metavar="TABLE", help="A token table: first train the policy to predict its codes."),
    ] = None,
    lam_camera: Annotated[
        str | None, panels.source(metavar="NAME", help="Camera of the tokenizer; default: the first.")
    ] = None,
    camera: AllCamerasOption = None,
    frames: training.FramesOption = None,
    load_options: dict[str, Any],
    overrides: dict[str, Any],
    resume: training.ResumeOption = False,
    no_stop: Annotated[
        bool, panels.training("--no-stop", help="Warn instead of stopping if the tokenizer collapses.")
    ] = False,
    dry_run: training.DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Train tokenizer and policy together by the LARA loss (2, 3).

    Set w1, w2 and layer in the recipe: docs/policy.md. Sources are those of `lara-tok encode`, with actions. OUT/policy
    is for `lara-tok rollout`, OUT/tokenizer for `lara-tok encode --model`. With --pretrain the policy first learns to
    predict the codes of a table from all its episodes, then also actions from the episodes that have them.

    Examples:

      lara-tok refine hub_configs/training/metaworld.yaml demos/ --out runs/lara

      lara-tok refine demos/ --mode dit-only --out runs/plain

      lara-tok refine --pretrain tokens.parquet videos/ --out runs/pretrained
    """
    from dataclasses import replace

    from lara_policy.refine import RefineRecipe, plan_refinement
    from lara_policy.refine import refine as train_jointly

    sources = list(recipe_and_sources or ())
    path = sources.pop(0) if sources and sources[0].endswith(RECIPES) else None
    recipe = RefineRecipe.load(path) if path else RefineRecipe()
    recipe = recipe.override(mode=mode, lam_camera=lam_camera, **overrides)
    recipe = replace(recipe, tokenizer=tokenizer or recipe.tokenizer)
    if dry_run:
        emit(plan_refinement(recipe), as_json, _render)
        return
    out = training.require_source_and_out(sources or recipe.sources, out)
    loaded = load(sources or recipe.sources, cameras=camera or "all", **load_options)
    common: dict[str, Any] = {"out": out, "policy": policy, "frames": frames, "resume": resume}
    common["progress"] = training.progress_printer(MEASURES)
    if pretrain is not None:
        from lara_policy.refine.refine import pretrain as train_from_codes

        summary = train_from_codes(pretrain, loaded, recipe, **common)
    else:
        summary = train_jointly(loaded, recipe, **common, stop=not no_stop)
    emit({**summary, "out": str(out)}, as_json, _render)


def _render(result: dict[str, Any]) -> None:
    for name, value in result.items():
        if not isinstance(value, dict):
            training.print_figure(name, value)
