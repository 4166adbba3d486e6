"""`view_tokens`: a table's video with its codes running beside it, as a page or as a recording for Rerun."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lara_tokenizer._files import replace
from lara_tokenizer.errors import missing_extra

if TYPE_CHECKING:
    from lara_tokenizer.export.source_match import MatchedSource
    from lara_tokenizer.table.reader import TokenTable
    from lara_tokenizer.table.source import Source
    from lara_tokenizer.view.clips import Clip
    from lara_tokenizer.view.selection import Selection

# Frames that a view holds: a page of 2,000 has 8 to 16 MB, and a browser holds all of it in memory.
MOST_PICTURES = {".html": 2_000, ".rrd": 20_000}

Progress = Callable[[int, int], None]


@dataclass(slots=True)
class ViewSummary:
    """The result of a view.

    Attributes:
        out: the file.
        bytes: its size.
        episodes: count of episodes that it shows.
        moments: count of pairs that it shows, of all episodes and cameras.
        notes: sentences on what it leaves out.
    """

    out: str
    bytes: int
    episodes: int
    moments: int
    notes: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """The attributes as JSON-native values."""
        return asdict(self)


def view_tokens(
    tokens: str | os.PathLike[str],
    source: Source,
    out: str | os.PathLike[str],
    *,
    stride: str | None = None,
    cameras: str | Sequence[str] = (),
    episodes: str | None = None,
    from_list: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> ViewSummary:
    """Show a table's video and codes together.

    Args:
        tokens: the table, file or folder.
        source: the video it was made from, which is checked.
        out: a page, view.html, which needs nothing else and makes no request; or a recording for the viewer of Rerun,
            tokens.rrd. A page holds at most 2,000 frames, a recording 20,000.
        stride: one of the table's strides; may be omitted if there is only one.
        cameras: some of the table's cameras, or "all"; may be omitted if there is only one.
        episodes: by index in the dataset (in the table, where the dataset has none): "0,7,10:20". Default: the first
            that fit.
        from_list: the list of clips, if the table was made from one.
        progress: called with the count of frames that are done, and of all.

    Raises:
        ValueError: another suffix of `out`, a choice that the table does not have, a table without codes, or a source
            that is not the table's.
        ImportError: Rerun is not installed, for an .rrd.

    >>> view_tokens("tokens.parquet", "videos/", "view.html").moments  # doctest: +SKIP
    89
    """
    file = Path(out)
    kind = file.suffix.lower()
    if kind not in MOST_PICTURES:
        raise ValueError(f"out {str(out)!r}: takes a page, view.html, or a recording for Rerun, tokens.rrd")
    if kind == ".rrd" and find_spec("rerun") is None:
        raise missing_extra("a recording for Rerun (.rrd)", "rerun")
    # Loaded only now: a wrong suffix is told at once.
    from lara_tokenizer.export.source_match import match_source
    from lara_tokenizer.table.reader import TokenTable
    from lara_tokenizer.view.selection import select_episodes

    table = TokenTable.open(tokens, stride=stride, cameras=cameras)
    if table.codebook_size is None:
        raise ValueError(f"{table.path}: made by a continuous bottleneck; it has no codes to show")
    selection = select_episodes(table, episodes, MOST_PICTURES[kind])
    # Only what is shown is read, and compared with the source.
    table.episodes = frozenset(selection.episodes)
    clips = list(_clips(match_source(table, source, from_list), selection))
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_name(f"{file.name}.tmp")
    try:
        _write(kind, unfinished, clips, table, selection.notes, progress or (lambda done, total: None))
        replace(unfinished, file)
    finally:
        unfinished.unlink(missing_ok=True)
    return ViewSummary(
        out=str(file),
        bytes=file.stat().st_size,
        episodes=len({clip.episode.id for clip in clips}),
        moments=sum(len(clip.frames) for clip in clips),
        notes=selection.notes,
    )


def _clips(matched: MatchedSource, selection: Selection) -> Iterator[Clip]:
    from lara_tokenizer.view.clips import Clip
    from lara_tokenizer.view.selection import fitting_rows

    for episode, sequence in matched.sequences("codes", "text"):
        rows = fitting_rows(sequence, selection.most_pictures)
        if not len(rows):
            continue
        clip = Clip.of(episode, sequence, rows)
        if len(rows) < clip.of_all:
            selection.notes.append(
                f"{clip.name}: the first {len(rows):,} of {clip.of_all:,} moments are shown: "
                f"{selection.most_pictures:,} frames fit. Encode with a larger --every to see more of it."
            )
        yield clip


def _write(kind: str, file: Path, clips: list[Clip], table: TokenTable, notes: list[str], progress: Progress) -> None:
    """Write a page or a recording, whose module is loaded only now."""
    if kind == ".html":
        from lara_tokenizer.view.page import write_page

        write_page(file, clips, table, notes, progress)
    else:
        from lara_tokenizer.view.recording import write_recording

        write_recording(file, clips, progress)
