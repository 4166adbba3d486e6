"""`lara-tok view`: a table's video with its codes running beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from typer import Exit

from lara_tok._app import panels
from lara_tok._app.overwrite import OverwriteOption, check_free
from lara_tok._common import JsonOption, emit, progress_bar, quantity, say
from lara_tok._source import FromOption
from lara_tok.encode import exit_code, stoppable
from lara_tok.export._options import SourceArgument, TokensArgument


def view(
    tokens: TokensArgument,
    source: SourceArgument,
    out: Annotated[
        str, panels.output(metavar="FILE", help="A page (view.html), or a recording for Rerun (tokens.rrd).")
    ],
    episodes: Annotated[
        str | None,
        panels.pairs(
            metavar="0,7,10:20",
            help="Show these episodes, by index in the dataset, or in the table of other files: 0,7,10:20 (20 "
            "excluded). Default: the first that fit.",
        ),
    ] = None,
    stride: Annotated[
        str | None, panels.pairs(metavar="0.6s|5f", help="One of the table's strides. Default: its only one.")
    ] = None,
    camera: Annotated[
        list[str] | None,
        panels.pairs(metavar="NAME|all", help="One of the table's cameras, or all. Repeatable. Default: its only one."),
    ] = None,
    from_: FromOption = None,
    overwrite: OverwriteOption = False,
    json_: JsonOption = False,
) -> None:
    """Show the video with its codes running beside it.

    The page is one file, which needs no network: the video, a timeline of the codes of each position, curves of motion
    and margin, and for each moment those with the nearest codes. It holds at most 2,000 frames; a recording for the
    viewer of Rerun (pip install 'lara-tokenizer[rerun]') holds 20,000.

    Examples:

      lara-tok view tokens.parquet videos/ --out view.html

      lara-tok view tokens.parquet demos --episodes 0,7 --out tokens.rrd
    """
    from lara_tokenizer.view import view_tokens

    check_free([Path(out)], overwrite=overwrite)
    try:
        with stoppable(), progress_bar("frames") as progress:
            summary = view_tokens(
                tokens,
                source,
                out,
                stride=stride,
                cameras=camera or (),
                episodes=episodes,
                from_list=from_,
                progress=progress,
            )
    except KeyboardInterrupt as stop:
        say("interrupted: nothing was written", err=True)
        raise Exit(exit_code(stop)) from None
    emit(summary.to_dict(), json_, _render)


def _render(result: dict[str, Any]) -> None:
    shown = f"{quantity(result['moments'], 'moment')} of {quantity(result['episodes'], 'episode')}"
    say(f"{result['out']}: {shown}, {result['bytes'] / 1e6:.1f} MB")
    for note in result["notes"]:
        say(f"  note: {note}")
