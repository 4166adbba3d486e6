"""Names of numbered images: which of their numbers counts the frames, and where a folder holds several sequences."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from lara_tokenizer.data.episode import natural_key

IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")

# A date with a time of day, or seconds with a fraction (1305031102.175304), is one number: the time of a frame.
_NUMBER = re.compile(
    r"(?:19|20)\d\d[-_.]?(?:0[1-9]|1[0-2])[-_.]?(?:0[1-9]|[12]\d|3[01])[-_.T ]{0,2}(?:[01]\d|2[0-3])[-_.:h]?[0-5]\d"
    r"[-_.:m]?[0-5]\d(?:[-_.]?\d+)?(?!\d)|[0-9]{9,}\.[0-9]+|[0-9]+"
)
# Words before a number that tell what it counts.
_FRAMES = ("f", "frame", "frames", "step", "t", "time", "ts")
_CAMERAS = ("c", "cam", "camera", "view", "eye", "sensor", "lens")
_EPISODES = (
    "e",
    "ep",
    "episode",
    "traj",
    "trajectory",
    "demo",
    "run",
    "seq",
    "sequence",
    "clip",
    "scene",
    "trial",
    "video",
)


@dataclass(frozen=True, slots=True)
class ImageSequence:
    """The images whose names have the text `before` ahead of their last changing number, and `after` behind it."""

    before: str
    after: str

    def contains(self, name: str) -> bool:
        """Whether an image belongs to the sequence.

        >>> ImageSequence("ep1_", ".png").contains("ep1_0001.png"), ImageSequence("ep1_", ".png").contains("ep12_1.png")
        (True, False)
        """
        middle = name.removeprefix(self.before).removesuffix(self.after)
        return name == self.before + middle + self.after and _NUMBER.fullmatch(middle) is not None

    @property
    def name(self) -> str:
        """A name for the sequence, without the frame's number: "ep1" for ep1_frame_0001.png."""
        words = re.split(r"[-_. ]+", self.before)
        while len(words) > 1 and (not words[-1] or words[-1].lower() in (*_FRAMES, "img", "image", "rgb")):
            words.pop()
        return self.before[: self.before.rindex(words[-1]) + len(words[-1])] if words[-1] else self.before


def is_numbered_image(name: str) -> bool:
    """Whether a file name looks like one image of a numbered sequence.

    >>> is_numbered_image("img_0012.png"), is_numbered_image("cover.png"), is_numbered_image("0012.txt")
    (True, False, False)
    """
    path = Path(name)
    return path.suffix.lower() in IMAGE_SUFFIXES and any(c.isdecimal() and c.isascii() for c in path.stem)


def numbered_images(names: Iterable[str]) -> list[str]:
    """The numbered images among the names in a folder, in natural order; hidden files are left out."""
    return sorted((name for name in names if is_numbered_image(name) and not name.startswith(".")), key=natural_key)


def missing_number(names: Sequence[str]) -> str:
    """Message about the first gap in a sequence of numbered names in natural order; "" where there is none.

    Numbers may increase in steps of any constant size. Gaps without a common step (time stamps, for instance) are not
    reported.

    >>> missing_number(["f_1.png", "f_2.png", "f_4.png"]), missing_number(["f_0.png", "f_5.png", "f_10.png"])
    ('no number 3 between f_2.png and f_4.png', '')
    """
    columns = list(zip(*(_NUMBER.findall(name) for name in names), strict=False))
    changing = [column for column in columns if len(set(column)) > 1]
    # Of several changing numbers, the first counts the frames if no two names share it; else it is unknown which does.
    if not changing or (len(changing) > 1 and len(set(changing[0])) < len(names)):
        return ""
    if not all(number.isdecimal() for number in changing[0]):
        return ""
    counted = [int(number) for number in changing[0]]
    gaps = [later - earlier for earlier, later in pairwise(counted)]
    step = min(gaps)
    if step < 1 or any(gap % step for gap in gaps):
        return ""
    i = next((i for i, gap in enumerate(gaps) if gap != step), None)
    return "" if i is None else f"no number {counted[i] + step} between {names[i]} and {names[i + 1]}"


def several_sequences(names: Sequence[str]) -> str:
    """The reason why numbered images, in natural order, are not one sequence; "" for one sequence.

    Several name patterns are several sequences (rgb_001.png beside depth_001.png). So are several changing numbers
    unless the first of them differs in every name: it counts the frames then, whatever follows it (a time, say).

    >>> several_sequences(["1_0.png", "1_1.png", "2_0.png"])
    'several sequences (1_0.png, 1_1.png, 2_0.png)'
    >>> several_sequences(["1_1700.png", "2_1733.png", "3_1766.png"])
    ''
    """
    patterns = sorted({_NUMBER.sub("*", name) for name in names})
    if len(patterns) != 1:
        return f"several sequences ({', '.join(patterns[:4])})" if patterns else "no numbered images"
    if not (changing := _changing(names)):
        return ""
    first, spans = changing[0], list(_NUMBER.finditer(names[0]))
    is_one = len(changing) == 1 or len({_NUMBER.findall(name)[first] for name in names}) == len(names)
    if first < len(spans) - 1 and _word_before(names[0], spans[first].start()) in (*_EPISODES, *_CAMERAS):
        is_one = False  # ep1_0001.png, ep2_0001.png: one frame of each
    return "" if is_one else f"several sequences ({', '.join(names[:3])})"


def split_sequences(names: Sequence[str]) -> list[ImageSequence]:
    """The sequences that numbered images, in natural order, certainly consist of; none where that is not certain.

    All but the last changing number tell the sequence, if the last one counts evenly in each of them, is not that of a
    camera, and no earlier one is that of a frame.

    >>> [part.name for part in split_sequences(["ep1_f0.png", "ep1_f1.png", "ep2_f0.png", "ep2_f1.png"])]
    ['ep1', 'ep2']
    >>> split_sequences(["frame1_cam1.png", "frame1_cam2.png", "frame2_cam1.png", "frame2_cam2.png"])
    []
    """
    if not several_sequences(names) or len({_NUMBER.sub("*", name) for name in names}) != 1:
        return []
    *outer, last = _changing(names)
    if not outer:
        return []
    spans = list(_NUMBER.finditer(names[0]))
    words = [_word_before(names[0], span.start()) for span in spans]
    if words[last] in _CAMERAS or (words[last] not in _FRAMES and any(words[i] in _FRAMES for i in outer)):
        return []
    # Without a word, the number with more digits counts the frames: 0001_1.png, 0001_2.png are two cameras.
    if words[last] not in _FRAMES and any(len(spans[i][0]) > len(spans[last][0]) and not words[i] for i in outer):
        return []
    sequences: dict[ImageSequence, list[str]] = {}
    for name in names:
        span = list(_NUMBER.finditer(name))[last]
        sequences.setdefault(ImageSequence(name[: span.start()], name[span.end() :]), []).append(span[0])
    counts = [_counts_evenly(numbers) for numbers in sequences.values()]
    return list(sequences) if None not in counts and any(counts) else []


def sequences_in(folder: Path) -> list[ImageSequence]:
    """The sequences that a folder's images certainly consist of, as `split_sequences`; none if it is unreadable."""
    try:
        return split_sequences(numbered_images(os.listdir(folder)))
    except OSError:
        return []


def _changing(names: Sequence[str]) -> list[int]:
    """The positions of the numbers that are not the same in all names; all names have one pattern."""
    return [i for i, column in enumerate(zip(*map(_NUMBER.findall, names), strict=True)) if len(set(column)) > 1]


def _word_before(name: str, position: int) -> str:
    """The letters before a number, past one separator: "frame" of img_frame_0001.png."""
    match = re.search(r"([^\W\d_]*)[-_. ]?$", name[:position])
    return match[1].lower() if match is not None else ""


def _counts_evenly(numbers: Sequence[str]) -> bool | None:
    """Whether numbers in rising order count frames: mostly in one step. False for a single one, None where they do not.

    A gap or two are allowed: that sequence then fails alone, and names the missing image.
    """
    if not all(number.isdecimal() for number in numbers):
        return None
    gaps = [int(later) - int(earlier) for earlier, later in pairwise(numbers)]
    if not gaps:
        return False
    step = min(gaps)
    return True if step > 0 and 2 * gaps.count(step) >= len(gaps) and not any(gap % step for gap in gaps) else None
