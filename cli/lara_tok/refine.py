"""`lara-tok refine`: joint training of tokenizer and policy (stages 2 and 3)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from lara_tok._app import panels
from lara_tok._common import JsonOption, emit
from lara_tok._source import AllCamerasOption, SourceArgument, load, source_options
from lara_tok._training import options as training
from lara_tok._training.closing import render, with_next
from lara_tok._training.display import RunDisplay

RECIPES = (".yaml", ".yml")  # a recipe as the first SOURCE needs no --recipe
MEASURES = {  # label of a progress line -> key of the log
    "loss": "loss",
    "action": "heldout_action",
    "code loss": "heldout_codes",
    "cosine": "heldout_alignment_centered_cosine",
    "codes": "heldout_perplexity",
    "spread": "heldout_spread",
    "z gain": "heldout_z_gain",
}


@source_options(without=("camera", "subset", "streaming", "segment", "from_", "decoder"), limit=training.LimitOption)
@training.recipe_options
def refine(
    source: SourceArgument = None,
    *,
    recipe: training.RecipeOption = None,
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
    report_to: training.ReportOption = None,
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

      lara-tok refine demos/ --recipe metaworld --out runs/lara

      lara-tok refine demos/ --mode dit-only --out runs/plain

      lara-tok refine --pretrain tokens.parquet videos/ --out runs/pretrained
    """
    from dataclasses import replace

    from lara_tokenizer.train.watch.trackers import check_tracker

    check_tracker(report_to)
    from lara_policy.refine import RefineRecipe, plan_refinement
    from lara_policy.refine import refine as train_jointly

    if recipe is None and source and source[0].endswith(RECIPES):
        recipe, source = source[0], source[1:]
    chosen = (RefineRecipe.load(recipe) if recipe else RefineRecipe()).override(
        mode=mode, lam_camera=lam_camera, **overrides
    )
    chosen = replace(chosen, tokenizer=tokenizer or chosen.tokenizer)
    if dry_run:
        emit(plan_refinement(chosen), as_json, render)
        return
    out = training.require_source_and_out(source or chosen.sources, out)
    sources, load_options["cameras"] = source or chosen.sources, camera or "all"
    common: dict[str, Any] = {"out": out, "policy": policy, "frames": frames, "resume": resume, "tracker": report_to}
    with RunDisplay(out, MEASURES, chosen.training.batch_size, "samples") as display:
        loaded = load(sources, **load_options)
        common["progress"] = display
        if pretrain is not None:
            from lara_policy.refine.refine import pretrain as train_from_codes

            summary = train_from_codes(pretrain, loaded, chosen, **common)
        else:
            summary = train_jointly(loaded, chosen, **common, stop=not no_stop)
    if "verdict" in summary:
        summary = with_next(summary, out, out / "tokenizer", sources, load_options)
    emit({**summary, "out": str(out), "curves": str(out / "curves.png")}, as_json, render)
