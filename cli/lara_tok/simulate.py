"""`lara-tok simulate`: demonstrations of scripted experts, as a LeRobotDataset."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Exit

from lara_tok._app import panels
from lara_tok._common import JsonOption, console, console_err, emit, progress_bar


def simulate(
    simulator: Annotated[str, Argument(metavar="SIMULATOR", help="The simulator: metaworld.")],
    out: Annotated[Path, panels.output(metavar="FOLDER", help="Folder for the dataset, a LeRobotDataset v3.0.")],
    task: Annotated[
        list[str] | None,
        panels.source(metavar="NAME", help="A task, e.g. push-v3, or all, train, unseen. Repeatable. Default: all."),
    ] = None,
    episodes: Annotated[int, panels.source(metavar="N", help="Episodes per task.")] = 10,
    camera: Annotated[
        list[str] | None,
        panels.source(metavar="NAME", help="A camera of the scene. Repeatable. Default: corner2 and corner."),
    ] = None,
    size: Annotated[int, panels.source(metavar="PIXELS", help="Side of the images in pixels.")] = 128,
    action_noise: Annotated[
        float,
        panels.source(metavar="STD", help="Standard deviation of the noise on the actions of every second episode."),
    ] = 0.0,
    seed: Annotated[
        int,
        panels.source(
            metavar="N", help="Random seed of placements and noise; datasets with different seeds share no episode."
        ),
    ] = 0,
    workers: Annotated[int | None, panels.speed(metavar="N", help="Worker processes. Default: one per core.")] = None,
    json: JsonOption = False,
) -> None:
    """Record demonstrations of scripted experts in a simulator.

    The dataset has video, actions, states and arm masks. The experts move about eight times faster than real arms,
    so the recorded 10 fps are nominal. A second run with the same options continues where the first stopped.

    Example: lara-tok simulate metaworld --out demos/ --task drawer-open-v3 --task push-v3 --episodes 20
    """
    from lara_policy.simulation import simulate_metaworld
    from lara_policy.simulation.metaworld.dataset import DEFAULT_CAMERAS

    if simulator != "metaworld":
        raise ValueError(f"unknown simulator {simulator!r}: there is metaworld")
    with progress_bar("episodes") as progress:
        result = simulate_metaworld(
            out,
            tasks=task or ("all",),
            episodes=episodes,
            cameras=camera or DEFAULT_CAMERAS,
            size=size,
            action_noise=action_noise,
            seed=seed,
            workers=workers,
            progress=progress,
        )
    emit(result, json, _render)
    if result["failed"]:
        raise Exit(1)


def _render(result: dict[str, Any]) -> None:
    console.print(
        f"{result['out']}: {result['episodes']} episodes of {result['tasks']} tasks, {result['frames']} frames, "
        f"{result['successes']} successful, {result['video_bytes'] / 1e6:.1f} MB of video"
    )
    for task, episode, reason in result["failed"]:
        console_err.print(f"failed: {task} episode {episode}: {reason}")
