"""Options of the commands that read episodes, and the note on stderr of what was found."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from inspect import Parameter, Signature, signature
from typing import TYPE_CHECKING, Annotated, Any, Unpack

import typer

from lara_tok._common import say

if TYPE_CHECKING:
    from lara_tokenizer.data import Episodes, LoadOptions

SourceArgument = Annotated[list[str] | None, typer.Argument(help="Data to read, see above.")]
FpsOption = Annotated[
    list[str] | None,
    typer.Option(help="True frame rate, where files state a wrong one or none: 3, or 'rt1_*=3'. Repeatable."),
]
CameraOption = Annotated[
    list[str] | None,
    typer.Option(help="A dataset's camera: its name, the name's last part, or all. Repeatable. Default: the first."),
]
SplitOption = Annotated[str | None, typer.Option(help="One split of a dataset. Default: all.")]
SubsetOption = Annotated[str | None, typer.Option(help="The subset (configuration) of a Hugging Face dataset.")]
StreamingOption = Annotated[
    bool, typer.Option("--streaming", help="Download only the parts of a Hugging Face dataset that are read.")
]
EpisodesOption = Annotated[str | None, typer.Option(help="Episodes by the dataset's indices: 0,7,10:20 (20 excluded).")]
TaskOption = Annotated[
    list[str] | None,
    typer.Option(help="Episodes whose instruction contains this text or matches this glob. Repeatable."),
]
SegmentOption = Annotated[str | None, typer.Option(help="Cut long recordings into episodes of this many seconds: 10s.")]
FromOption = Annotated[
    str | None,
    typer.Option("--from", help="A list of clips: .txt, or .csv with path, start, end (seconds), label."),
]
DecoderOption = Annotated[str, typer.Option(help="pyav, decord or torchcodec.")]
LimitOption = Annotated[int | None, typer.Option(min=1, help="Read the first episodes only.")]


def source_options(*, camera: Any = CameraOption, decoder: bool = True) -> Callable[[Callable[..., None]], Any]:
    """Decorator: add the options of `load_episodes` to a command, which gets them as its argument `load_options`.

    Typer reads a command's options from its signature, so they are inserted there, in the place of `load_options`.

    Args:
        camera: type of the option --camera, for a command with another default.
        decoder: whether the command has --decoder.
    """
    options = signature(_load_options, eval_str=True).parameters
    shared = {name: option for name, option in options.items() if decoder or name != "decoder"}
    shared["camera"] = shared["camera"].replace(annotation=camera)

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @wraps(command)
        def run(**arguments: Any) -> None:
            load_options = _load_options(**{name: arguments.pop(name) for name in shared})
            command(**arguments, load_options=load_options)

        parameters: list[Parameter] = []
        for name, parameter in signature(command, eval_str=True).parameters.items():
            parameters += shared.values() if name == "load_options" else [parameter]
        run.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return run

    return decorate


def _load_options(
    *,
    fps: FpsOption = None,
    camera: CameraOption = None,
    split: SplitOption = None,
    subset: SubsetOption = None,
    streaming: StreamingOption = False,
    episodes: EpisodesOption = None,
    task: TaskOption = None,
    segment: SegmentOption = None,
    from_: FromOption = None,
    decoder: DecoderOption = "pyav",
    limit: LimitOption = None,
) -> dict[str, Any]:
    """The keywords of `load_episodes` from the options of a command."""
    return {
        "fps": parse_fps(fps or []),
        "decoder": decoder,
        "limit": limit,
        "cameras": camera or (),
        "split": split,
        "subset": subset,
        "streaming": streaming,
        "episodes": episodes,
        "tasks": task or (),
        "segment": segment,
        "from_list": from_,
    }


def load(source: Sequence[str], **options: Unpack[LoadOptions]) -> Episodes:
    """`load_episodes`, with a line on stderr for each source that was found."""
    from lara_tokenizer.data import load_episodes

    episodes = load_episodes(source, **options)
    for found in episodes.sources:
        say(str(found), err=True)
    return episodes


def parse_fps(texts: list[str]) -> float | dict[str, float] | None:
    """Parse '3' as the rate of all episodes, 'glob=3' as that of some."""
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
