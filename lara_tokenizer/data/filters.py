"""Which episodes of a source are wanted: by number, and by instruction."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from fnmatch import fnmatchcase

from lara_tokenizer.data.episode import Episode
from lara_tokenizer.errors import LaraTokenizerError

logger = logging.getLogger(__name__)


def filtered(episodes: Sequence[Episode], numbers: str | Sequence[int] | None, tasks: Sequence[str]) -> list[Episode]:
    """Those with one of the `numbers` ("0,7,10:20") and with one of the `tasks` in their text; all where none is given.

    Raises ValueError where a number or all the tasks match nothing.
    """
    kept = list(episodes)
    if numbers is not None:
        wanted = parse_numbers(numbers) if isinstance(numbers, str) else [range(i, i + 1) for i in numbers]
        by_number = [(place if each.index is None else each.index, each) for place, each in enumerate(kept)]
        there = {number for number, _ in by_number}
        for part in wanted:
            if not (part.start in there or any(number in part for number in there)):
                asked = f"{part.start}" if len(part) == 1 else f"{part.start}:{part.stop}"
                raise ValueError(
                    f"episodes {asked}: not in the source, which has {len(there)} ({min(there)} to {max(there)})"
                )
        singles = {part.start for part in wanted if len(part) == 1}
        ranges = [part for part in wanted if len(part) > 1]
        kept = [each for number, each in by_number if number in singles or any(number in part for part in ranges)]
    if tasks:
        texts = {each.id: _instruction(each) for each in kept}
        kept = [each for each in kept if any(_fits(texts[each.id], task) for task in tasks)]
        if not kept:
            some = sorted({text for text in texts.values() if text})
            there_are = f"There are: {', '.join(map(repr, some[:5]))}{', ...' if len(some) > 5 else ''}"
            raise ValueError(f"task {tasks[0]!r}: no episode has it. {there_are if some else 'None has a text'}")
    return kept


def parse_numbers(text: str) -> list[range]:
    """ "0,7,10:20" as ranges. Raises ValueError for anything else.

    >>> parse_numbers("0,7,10:20")
    [range(0, 1), range(7, 8), range(10, 20)]
    """
    parts = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)(?::(\d+))?\s*", part)
        if match is None or (match[2] is not None and int(match[2]) <= int(match[1])):
            raise ValueError(f"episodes {text!r}: takes numbers and ranges, such as '0,7,10:20' (20 excluded)")
        parts.append(range(int(match[1]), int(match[2] or int(match[1]) + 1)))
    return parts


def _instruction(episode: Episode) -> str:
    """The episode's text; read from its data where the listing did not have it."""
    if episode.text is None and "text" in episode.offers:
        try:
            texts = episode.signals().texts or ()
            episode.text = "; ".join(dict.fromkeys(texts)) or None
        except (LaraTokenizerError, OSError) as error:
            logger.warning("task: %s has no text that could be read, and is left out (%s)", episode.id, error)
        finally:
            episode.close()
    return episode.text or ""


def _fits(text: str, task: str) -> bool:
    text, task = text.lower(), task.lower()
    return fnmatchcase(text, task) if any(letter in task for letter in "*?[") else task in text
