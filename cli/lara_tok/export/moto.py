"""`lara-tok export moto`: a dataset of Moto-GPT that contains the codes."""

from __future__ import annotations

from typing import Annotated

from lara_tok._app import panels
from lara_tok.export import _options as options


@options.export_options(options.VideoOptions)
def export_moto(
    tokens: options.TokensArgument,
    source: options.SourceArgument,
    *,
    out: options.OutOption,
    style: Annotated[
        str, panels.output(metavar="oxe|rt1|calvin", help="Moto's dataset class that will read it: oxe, rt1 or calvin.")
    ] = "oxe",
    name: Annotated[
        str, panels.output(metavar="NAME", help="Name of the dataset; avoid names of Open X-Embodiment sets.")
    ] = "lara",
    instruction: options.InstructionOption = None,
    actions: Annotated[bool, panels.output(help="Write the source's actions, which must have 7 dimensions.")] = True,
    video: Annotated[bool, panels.output(help="Write the frames too, or use those of an earlier export.")] = True,
    export: options.Export,
) -> None:
    """Write a dataset for Moto-GPT, with the codes of each frame.

    The codes lie beside its LMDB and videos. Moto itself tokenizes while it trains; to train on these codes, see
    lara_tokenizer.export.moto_wrapper. Run the same command again to continue after a stop.

    Example: lara-tok export moto tokens.parquet videos/ --out for-moto/ --instruction "pick up the can"
    """
    export(
        "episodes", tokens, source, out, style=style, name=name, instruction=instruction, actions=actions, video=video
    )
