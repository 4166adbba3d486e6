"""`lara-tok decode`: a picture of the futures that codes predict."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from typer import Argument

from lara_tok._app import panels
from lara_tok._app.overwrite import OverwriteOption, check_free
from lara_tok._common import JsonOption, emit, quantity, say
from lara_tok._source import FromOption


def decode(
    tokens: Annotated[str, Argument(metavar="TABLE", help="tokens.parquet, or a folder of shards.")],
    source: Annotated[list[str], Argument(metavar="SOURCE", help="The SOURCE that was given to encode.")],
    out: Annotated[
        str,
        panels.output(metavar="FILE", help="An image (futures.png), animation (futures.gif) or video (futures.mp4)."),
    ],
    episode: Annotated[
        str | None, panels.pairs(metavar="NAME", help="The episode to draw. Default: the first.")
    ] = None,
    camera: Annotated[
        str | None, panels.pairs(metavar="NAME", help="One of the table's cameras. Default: the first.")
    ] = None,
    stride: Annotated[
        str | None, panels.pairs(metavar="0.6s|5f", help="One of the table's strides. Default: the first.")
    ] = None,
    frames: Annotated[
        str | None,
        panels.pairs(
            metavar="0,5,10",
            help="First frames of the pairs to draw: 0,5,10 or start:stop:step. Default: evenly spaced.",
        ),
    ] = None,
    model: Annotated[
        str | None, panels.model(metavar="CHECKPOINT", help="The checkpoint. Default: the one that made the table.")
    ] = None,
    from_: FromOption = None,
    overwrite: OverwriteOption = False,
    json_: JsonOption = False,
) -> None:
    """Draw the futures that codes predict beside the true ones.

    A row of the picture is frame t, the true future frame, and the one that the decoder predicts from frame t and the
    codes. The gain over copying says how good that is: 1 is perfect, 0 no better than showing frame t again.

    Example: lara-tok decode tokens.parquet videos/ --out futures.png
    """
    check_free([Path(out)], overwrite=overwrite)
    from lara_tokenizer.encode import draw_predictions

    result = draw_predictions(
        tokens,
        source,
        out,
        episode=episode,
        camera=camera,
        stride=stride,
        frames=None if frames is None else _parse_frames(frames),
        model=model,
        from_list=from_,
    )
    emit(result, json_, _render)


def _parse_frames(text: str) -> list[int]:
    """Parse '0,5,10' or 'start:stop:step'."""
    try:
        if ":" in text:
            start, stop, step = ([int(part) if part else None for part in text.split(":")] + [None])[:3]
            if stop is None:
                raise ValueError
            return list(range(start or 0, stop, step or 1))
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"frames {text!r}: takes frame indices, 0,5,10, or start:stop:step, 0:50:5") from None


def _render(result: dict[str, Any]) -> None:
    where = ", ".join(filter(None, (result["episode"], result["camera"], f"stride {result['stride']}")))
    say(f"{result['out']}: {quantity(len(result['frames']), 'pair')} of {where}")
    gain = result["gain_over_copying"]
    meaning = "nothing changes in these pairs" if gain is None else f"{gain:+.2f} (1 perfect, 0 no better than frame t)"
    say(f"  gain over copying  {meaning}")
