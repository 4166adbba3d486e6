"""How every command that reads episodes is told which: shared options, and what was found."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Unpack

import typer

from lara_tok._common import console_err

if TYPE_CHECKING:
    from lara_tokenizer.data import Episodes, LoadOptions

SourceArgument = Annotated[list[str] | None, typer.Argument(help="What to read; the text above says what there is.")]
FpsOption = Annotated[
    list[str] | None,
    typer.Option(help="The true frame rate, where files state a wrong one or none: 3, or 'rt1_*=3'. Repeatable."),
]
CameraOption = Annotated[
    list[str] | None,
    typer.Option(help="A dataset's camera: its name, the name's last part, or all. Repeatable. Default: the first."),
]
SplitOption = Annotated[str | None, typer.Option(help="One split of a dataset. Default: all.")]
SubsetOption = Annotated[str | None, typer.Option(help="The subset (configuration) of a Hugging Face dataset.")]
StreamingOption = Annotated[
    bool, typer.Option("--streaming", help="Fetch from a Hugging Face dataset only what is read.")
]
EpisodesOption = Annotated[
    str | None, typer.Option(help="Which episodes, by the dataset's numbers: 0,7,10:20 (20 excluded).")
]
TaskOption = Annotated[
    list[str] | None, typer.Option(help="Episodes whose instruction holds this text, or fits this glob. Repeatable.")
]
SegmentOption = Annotated[str | None, typer.Option(help="Cut long recordings into episodes of so many seconds: 10s.")]
FromOption = Annotated[
    str | None,
    typer.Option("--from", help="A list of clips: .txt, or .csv with path, start, end (seconds), label."),
]
DecoderOption = Annotated[str, typer.Option(help="pyav, decord or torchcodec.")]


def load(source: Sequence[str], **options: Unpack[LoadOptions]) -> Episodes:
    """`load_episodes`, which says on stderr what the sources were taken for."""
    from lara_tokenizer.data import load_episodes

    episodes = load_episodes(source, **options)
    for found in episodes.sources:
        console_err.print(str(found), markup=False, highlight=False, soft_wrap=True)
    return episodes


def parse_fps(texts: list[str]) -> float | dict[str, float] | None:
    """'3' for all, 'glob=3' for some."""
    rates: dict[str, float] = {}
    for text in texts:
        pattern, _, number = text.rpartition("=")
        try:
            rate = float(number)
        except ValueError:
            raise ValueError(f"fps {text!r}: takes frames per second, 3, or a glob and a rate, 'rt1_*=3'") from None
        if (pattern or "*") in rates:
            raise ValueError(f"fps {text!r}: {pattern or 'a rate for all'} was given twice")
        rates[pattern or "*"] = rate
    if list(rates) == ["*"]:
        return rates["*"]
    return rates or None
