"""`lara-tok rollout`: run a policy in simulators and count its successes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from rich.table import Table
from typer import Argument, Exit

from lara_tok._app import panels
from lara_tok._app.overwrite import OverwriteOption, check_free
from lara_tok._common import JsonOption, console, emit, progress_bar, say


def rollout(
    policy: Annotated[
        Path, Argument(metavar="POLICY", help="The policy's folder, as in OUT/policy of `lara-tok refine`.")
    ],
    env: Annotated[
        list[str],
        panels.source(
            metavar="SIMULATOR:TASK",
            help="SIMULATOR:TASK, e.g. metaworld:drawer-open-v3 or libero:spatial/0 (a task by index or name). Several "
            "tasks: metaworld:train, unseen or all; libero:spatial, object, goal or 10, ten tasks each. Repeatable.",
        ),
    ],
    episodes: Annotated[int, panels.source(metavar="N", help="Episodes in each environment.")] = 50,
    seed: Annotated[
        int,
        panels.source(
            metavar="N",
            help="Random seed of initial states and of the policy's noise; no state occurs in demonstrations.",
        ),
    ] = 0,
    embodiment: Annotated[
        str | None, panels.model(metavar="NAME", help="The robot that acts, if the policy has several.")
    ] = None,
    executed_steps: Annotated[
        int | None,
        panels.model(
            metavar="N", help="Actions executed per predicted chunk (n_action_steps). Default: the policy's own."
        ),
    ] = None,
    max_steps: Annotated[
        int | None,
        panels.source(metavar="N", help="Most steps of an episode. Default: the simulator's; 200 for Meta-World."),
    ] = None,
    workers: Annotated[int | None, panels.speed(metavar="N", help="Worker processes. Default: one per core.")] = None,
    out: Annotated[
        Path | None,
        panels.output(
            metavar="FOLDER", help="Folder that records each episode as it ends; a second run continues there."
        ),
    ] = None,
    videos: Annotated[
        Path | None, panels.output(metavar="FOLDER", help="Folder for videos of the first episodes.")
    ] = None,
    video_episodes: Annotated[int, panels.output(metavar="N", help="Videos per environment.")] = 2,
    tokenizer: Annotated[
        str | None,
        panels.output(
            metavar="CHECKPOINT", help="Draw this checkpoint's codes into the videos: 'lara-lam' or a folder."
        ),
    ] = None,
    overwrite: OverwriteOption = False,
    json: JsonOption = False,
) -> None:
    """Run a policy in simulators and report its success rates.

    Intervals are Wilson's, 95 %. Equal commands give equal results, to the byte. Two policies with the same seed
    get the same initial states, none of which occurs in demonstrations of `lara-tok simulate`. Meta-World needs the
    extra sim, LIBERO the extra libero.

    Example: lara-tok rollout policy/ --env metaworld:drawer-open-v3 --episodes 50 --videos rollouts/
    """
    from lara_policy.rollout import rollout as roll_out

    if tokenizer is not None and videos is None:
        raise ValueError("--tokenizer draws codes into videos: give their folder, --videos DIR")
    # Of episodes that are in --out already, videos are not written again.
    if videos is not None and not (out is not None and out.exists()):
        check_free(sorted(videos.glob("*.mp4")), overwrite=overwrite)
    with progress_bar("episodes") as progress:
        result = roll_out(
            policy,
            environments=env,
            episodes=episodes,
            seed=seed,
            embodiment=embodiment,
            executed_steps=executed_steps,
            max_steps=max_steps,
            workers=workers,
            out=out,
            videos=videos,
            video_episodes=video_episodes,
            tokenizer=tokenizer,
            progress=progress,
        )
    if videos is not None:
        say(f"videos written to {videos}", err=True)
    emit(result, json, _render)
    if result["broken"]:
        raise Exit(1)


def _render(result: dict[str, Any]) -> None:
    table = Table("environment", "success", "mean step", title=f"{result['policy']}, seed {result['seed']}")
    for environment in result["environments"]:
        _add(table, environment["environment"], environment)
        for stage, counts in environment["stages"].items():
            table.add_row(f"  reached {stage}", counts["reached"]["text"])
            table.add_row("    of those, success", counts["success_given_reached"]["text"])
    if len(result["environments"]) > 1:
        table.add_section()
        _add(table, "all", result["all"])
    console.print(table)
    for name, episode, reason in result["broken"]:
        say(f"broken, counted as no success: {name} episode {episode}: {reason}", err=True)


def _add(table: Table, name: str, summary: dict[str, Any]) -> None:
    step = summary["mean_success_step"]
    table.add_row(name, summary["success"]["text"], "-" if step is None else f"{step:.0f}")
