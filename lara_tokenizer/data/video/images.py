"""Episodes stored as folders of numbered images."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path

from lara_tokenizer.data.columns import natural_key
from lara_tokenizer.data.episode import CameraReaders, FrameReader
from lara_tokenizer.data.video.media import EncodedImagesReader
from lara_tokenizer.errors import VideoDecodeError

IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")


def is_numbered_image(name: str) -> bool:
    """Whether a file name looks like one image of a numbered sequence.

    >>> is_numbered_image("img_0012.png"), is_numbered_image("cover.png"), is_numbered_image("0012.txt")
    (True, False, False)
    """
    path = Path(name)
    return path.suffix.lower() in IMAGE_SUFFIXES and any(c.isdigit() for c in path.stem)


def missing_number(names: Sequence[str]) -> str:
    """Message about the first gap in a sequence of numbered names in natural order; "" where there is none.

    Numbers may increase in steps of any constant size. Gaps without a common step (time stamps, for instance) are not
    reported.

    >>> missing_number(["f_1.png", "f_2.png", "f_4.png"]), missing_number(["f_0.png", "f_5.png", "f_10.png"])
    ('no number 3 between f_2.png and f_4.png', '')
    """
    columns = list(zip(*(re.findall(r"\d+", name) for name in names), strict=False))
    counted = [[int(number) for number in column] for column in columns if len(set(column)) > 1]
    # With several changing numbers in the names it is unknown which one counts the frames.
    if len(counted) != 1:
        return ""
    gaps = [later - earlier for earlier, later in pairwise(counted[0])]
    step = min(gaps)
    if step < 1 or any(gap % step for gap in gaps):
        return ""
    i = next((i for i, gap in enumerate(gaps) if gap != step), None)
    return "" if i is None else f"no number {counted[0][i] + step} between {names[i]} and {names[i + 1]}"


class ImageFolderReader(CameraReaders):
    """A `FrameReader` for one folder of numbered images, in natural order, at `fps` frames per second.

    With NaN for `fps` the episode must set a rate.

    >>> ImageFolderReader("run1", fps=10).frames("", [0]).shape  # doctest: +SKIP
    (1, 256, 320, 3)
    """

    def __init__(self, folder: str | Path, fps: float = math.nan) -> None:
        super().__init__()
        self.folder = Path(folder)
        self.fps = fps

    def open_camera(self, camera: str) -> FrameReader:
        """List the folder. Raises VideoDecodeError where it holds no sequence, or several, or one with a gap."""
        try:
            names = [entry.name for entry in self.folder.iterdir() if is_numbered_image(entry.name)]
        except OSError as error:
            raise VideoDecodeError(self.folder, f"cannot be listed ({error.strerror})") from error
        names = sorted((name for name in names if not name.startswith(".")), key=natural_key)
        # Several name patterns are several sequences (rgb_001.png beside depth_001.png), not one longer video.
        patterns = sorted({re.sub(r"\d+", "*", name) for name in names})
        if len(patterns) != 1:
            found = f"several sequences ({', '.join(patterns[:4])})" if patterns else "no numbered images"
            raise VideoDecodeError(self.folder, f"{found}; an episode is one folder with one sequence")
        if missing := missing_number(names):
            raise VideoDecodeError(self.folder, f"{missing}: later frames would have wrong times")
        read = partial(_read_file, self.folder, names)
        return EncodedImagesReader(self.folder, len(names), names.__getitem__, read, self.fps)


def _read_file(folder: Path, names: Sequence[str], i: int) -> bytes:
    return (folder / names[i]).read_bytes()
