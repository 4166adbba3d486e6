"""Options of the commands that read episodes, and the note on stderr of the sources."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument

from lara_tok._app import panels
from lara_tok._common import KEYWORDS, declared_options, insert_options, say

if TYPE_CHECKING:
    from lara_tokenizer.data import Episodes

SourceArgument = Annotated[
    list[str] | None,
    Argument(metavar="SOURCE", help="Data to read: files, folders, globs or datasets. See above."),
]
AllCamerasOption = Annotated[
    list[str] | None,
    panels.source(
        metavar="NAME",
        help="A dataset's camera: its name, or the name's last part (for LeRobot the key, or e.g. wrist). Repeatable. "
        "Default: all.",
    ),
]
FromOption = Annotated[
    str | None,
    panels.source(
        "--from",
        metavar="LIST",
        help="A list of clips: .txt, or .csv with path (relative to SOURCE or the list), start, end (seconds), label.",
    ),
]

LIMIT_HELP = "Read only the first N episodes."


class SourceOptions:
    """The options of `load_episodes`."""

    fps: Annotated[
        list[str] | None,
        panels.source(
            metavar="[GLOB=]FPS",
            help="Frame rate of files that record none or a wrong one: 3, or for some episodes 'rt1_*=3'. Repeatable.",
        ),
    ] = None
    camera: Annotated[
        list[str] | None,
        panels.source(
            metavar="NAME|all",
            help="A dataset's camera: its name, the name's last part (for LeRobot the key, or e.g. wrist), or all. "
            "Repeatable. Default: the first.",
        ),
    ] = None
    split: Annotated[
        str | None, panels.source(metavar="NAME", help="Read only this split of a dataset. Default: all.")
    ] = None
    subset: Annotated[
        str | None, panels.source(metavar="NAME", help="The subset (configuration) of a Hugging Face dataset.")
    ] = None
    streaming: Annotated[
        bool,
        panels.source("--streaming", help="Download only the parts of a Hugging Face dataset that are read."),
    ] = False
    episodes: Annotated[
        str | None,
        panels.source(
            metavar="0,7,10:20", help="Read only these episodes, by index in the dataset: 0,7,10:20 (20 excluded)."
        ),
    ] = None
    task: Annotated[
        list[str] | None,
        panels.source(
            metavar="TEXT|GLOB",
            help="Read only episodes whose instruction contains this text or matches this glob. Repeatable.",
        ),
    ] = None
    segment: Annotated[
        str | None, panels.source(metavar="10s", help="Cut long recordings into episodes of this many seconds: 10s.")
    ] = None
    from_: FromOption = None
    decoder: Annotated[
        str, panels.speed(metavar="NAME", help="pyav, decord or torchcodec; decord and torchcodec are extras.")
    ] = "pyav"
    limit: Annotated[int | None, panels.source(metavar="N", min=1, help=LIMIT_HELP)] = None


def source_options(*, without: Collection[str] = (), **types: Any) -> Callable[[Callable[..., None]], Any]:
    """Decorator: add `SourceOptions` to a command, which gets them as its argument `load_options`, for `load`.

    Args:
        without: options that the command lacks.
        types: other types of some options, for a command with another default or help.
    """
    options = {name: option for name, option in declared_options(SourceOptions).items() if name not in without}
    options |= {name: options[name].replace(annotation=annotation) for name, annotation in types.items()}
    return lambda command: insert_options(command, "load_options", options)


def load(source: Sequence[str], *, fps: Sequence[str] = (), **options: Any) -> Episodes:
    """`load_episodes` with `load_options`, and a line on stderr for each source."""
    from lara_tokenizer.data import load_episodes

    episodes = load_episodes(source, fps=parse_fps(fps), **options)
    for info in episodes.sources:
        say(str(info), err=True)
    return episodes


def parse_fps(options: Sequence[str]) -> float | dict[str, float] | None:
    """Parse '3' as the rate of all episodes, 'glob=3' as that of some."""
    rates: dict[str, float] = {}
    for text in options:
        pattern, _, rate = text.rpartition("=")
        try:
            value = float(rate)
        except ValueError:
            raise ValueError(f"fps {text!r}: takes frames per second, 3, or a glob and a rate, 'rt1_*=3'") from None
        if (pattern or "*") in rates:
            raise ValueError(f"fps {text!r}: {pattern or 'a rate for all'} was given twice")
        rates[pattern or "*"] = value
    if list(rates) == ["*"]:
        return rates["*"]
    return rates or None


def as_arguments(load_options: Mapping[str, Any]) -> list[str]:
    """The command line that gives these `load_options`, without those that are defaults.

    >>> as_arguments({"cameras": ["top"], "from_list": "clips.csv", "streaming": True, "decoder": "pyav", "limit": 3})
    ['--camera', 'top', '--from', 'clips.csv', '--streaming', '--limit', '3']
    """
    singular = {keyword: option for option, keyword in KEYWORDS.items()}
    words: list[str] = []
    for keyword, value in load_options.items():
        option = f"--{singular.get(keyword, keyword).rstrip('_')}"
        if value is True:
            words.append(option)
        elif value and value != getattr(SourceOptions, keyword, None):
            values = value if isinstance(value, list | tuple) else [value]
            words += [word for each in values for word in (option, str(each))]
    return words
