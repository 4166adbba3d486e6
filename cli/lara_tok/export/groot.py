"""`lara-tok export groot`: latent actions for GR00T's loader, as `lapa_action` in a LeRobotDataset v2.x."""

from __future__ import annotations

from typing import Annotated

from typer import Argument

from lara_tok._app import panels
from lara_tok.export import _options as options


@options.export_options(options.ExportOptions)
def export_groot(
    tokens: options.TokensArgument,
    source: Annotated[
        str, Argument(metavar="SOURCE", help="The LeRobotDataset v2.0 or v2.1 that was given to encode, a folder.")
    ],
    *,
    out: options.OutOption,
    action_horizon: Annotated[int, panels.output(metavar="N", help="The trainer's action horizon.")] = 16,
    max_action_dim: Annotated[int, panels.output(metavar="N", help="The trainer's max_action_dim.")] = 32,
    scale: Annotated[
        float | None,
        panels.output(
            metavar="DIVISOR",
            help="Divisor of z. Default: its largest magnitude. Use the same for all datasets of a mixture.",
        ),
    ] = None,
    export: options.Export,
) -> None:
    """Write a LeRobotDataset with lapa_action for GR00T's loader.

    Its instructions have <LAPA> in them. The table needs latents: lara-tok encode --with latents. Videos are
    hard-linked. Run the same command again to continue after a stop.

    Example: lara-tok export groot tokens.parquet gr1/ --out gr1-latent
    """
    export("data files", tokens, source, out, action_horizon=action_horizon, max_action_dim=max_action_dim, scale=scale)
