"""What formats with a line a pair share: train.jsonl in shuffled order, and the first frame of each pair as a picture.

<out>/
    train.jsonl
    images/<episode>/img_00012.jpg      see `pictures`
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from lara_tokenizer.export.folder import ExportFolder
from lara_tokenizer.export.instructions import instructions
from lara_tokenizer.export.matching import Matched
from lara_tokenizer.export.pictures import (
    PictureTask,
    check_picture_folders,
    part_of,
    picture_folder,
    write_pictures,
)
from lara_tokenizer.export.shuffle import write_shuffled
from lara_tokenizer.export.vision_codes import VisionCodes
from lara_tokenizer.table.reader import TokenSequence

LINES = "train.jsonl"

# Lines of the wanted pairs of a track, in the order of frames, given the instruction of each of its rows.
LinesOfTrack = Callable[[TokenSequence, Sequence[str]], Iterator[bytes]]
# Called with how much is done and how much there is to do: pictures written and pictures tokenized, each of them where
# that is asked for; else lines.
Progress = Callable[[int, int], object]


def check_pair_lines(matched: Matched, instruction: str | None, seed: int) -> int:
    """What can be refused before anything is written; returns the length of the longest instruction in characters.

    Raises:
        ValueError: a negative seed; two cameras whose pictures would have the same names; an episode without
            instruction where none is given for those.
    """
    if seed < 0:
        raise ValueError(f"seed {seed}: takes 0 or more")
    check_picture_folders(matched.wanted)
    texts = (instructions(episode, track, instruction) for episode, track in matched.sequences("text"))
    return max(len(text) for of_track in texts for text in set(of_track))


def write_pair_lines(
    folder: ExportFolder,
    matched: Matched,
    lines_of: LinesOfTrack,
    *,
    instruction: str | None,
    seed: int,
    images: bool,
    workers: int | None,
    progress: Progress | None,
    vision: VisionCodes | None = None,
) -> None:
    """Write train.jsonl, and before it the pictures where they are asked for.

    Args:
        lines_of: each line with its newline.
        instruction: for episodes without one.
        workers: processes that write pictures, as in `write_pictures`.
        vision: codes of the pictures that `lines_of` asks for; made before the lines, and removed behind them.
    """
    if not folder.is_done(LINES):
        total, rounds = matched.total_wanted, images + (vision is not None)
        show = None if progress is None else _Counted(progress, total * max(1, rounds))
        if images:
            write_pictures(_first_frames(matched, folder, show), folder, workers, show)
        if vision is not None:
            vision.write(matched, images, show)
        lines = _lines(matched, lines_of, instruction, None if rounds else show)
        write_shuffled(lines, total, folder.path / LINES, seed)
        folder.mark_done(LINES)
    if vision is not None:
        vision.remove()


def _lines(
    matched: Matched, lines_of: LinesOfTrack, instruction: str | None, show: Callable[[int], object] | None
) -> Iterator[bytes]:
    for episode, track in matched.sequences("codes", "text"):
        yield from lines_of(track, instructions(episode, track, instruction))
        if show is not None:
            show(int(track.selected.sum()))


def _first_frames(
    matched: Matched, folder: ExportFolder, show: Callable[[int], object] | None
) -> Iterator[PictureTask]:
    """The pictures of each track; those of an earlier run are only counted."""
    for episode, track in matched.sequences():
        if not track.selected.any():
            continue
        where = folder.path / picture_folder(track.episode, track.camera)
        task = PictureTask(episode, track.camera, track.frames[track.selected], where)
        if not folder.is_done(part_of(task)):
            yield task
        elif show is not None:
            show(len(task.frames))


class _Counted:
    """From how many more, to how many of all."""

    def __init__(self, progress: Progress, total: int) -> None:
        self._progress, self._total, self._done = progress, total, 0

    def __call__(self, more: int) -> None:
        self._done += more
        self._progress(self._done, self._total)
