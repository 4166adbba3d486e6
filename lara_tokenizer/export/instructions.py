"""What was to be done in an episode, in words: from the table, else from the source."""

from __future__ import annotations

from lara_tokenizer.data import Episode
from lara_tokenizer.table.reader import TokenSequence


def instructions(episode: Episode, track: TokenSequence, default: str | None = None) -> list[str]:
    """The instruction of each row of a track.

    Args:
        default: for rows without one; None refuses them.

    Raises:
        ValueError: neither the table nor the source has an instruction, and there is no default.
    """
    known = track.texts or [None] * len(track.frames)
    texts = [text or episode.text or default for text in known]
    if None in texts:
        raise ValueError(
            f"episode {track.episode!r} has no instruction, in the table or in the source. Give one for all that have "
            "none (--instruction), or encode a source that has texts."
        )
    return [text for text in texts if text is not None]
