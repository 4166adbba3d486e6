"""Is it the video that the table was made from? A few pairs are decoded, and their change compared with the table's.

Episodes, lengths and times can agree by chance, for clips of one recorder say. Pillow resizes as the processor did, to
a grey level, without torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from lara_tokenizer.data import Episode
from lara_tokenizer.errors import EpisodeReadError
from lara_tokenizer.table.reader import TokenSequence

_PAIRS = 8  # at least half as many are compared, of as many tracks
# What another release of a decoder may change. Pillow's resize in place of torch's changes less than 0.0001.
_ABSOLUTE, _RELATIVE = 0.002, 0.02
_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


@dataclass(frozen=True, slots=True)
class Pair:
    """Two frames of an episode, and by how much their pixels differ on average, 0 to 1, as the table says."""

    episode: str
    camera: str
    frame: int
    future: int
    motion: float


@dataclass(slots=True)
class PairSample:
    """Of some tracks, evenly spread over all that are added, the pair that moves most."""

    pairs: list[Pair] = field(default_factory=list)
    _seen: int = 0
    _every: int = 1

    def add(self, track: TokenSequence) -> None:
        if self._seen % self._every == 0 and np.isfinite(track.motions).any():
            row = int(np.nanargmax(track.motions))
            motion = float(track.motions[row])
            pair = Pair(track.episode, track.camera, int(track.frames[row]), int(track.futures[row]), motion)
            self.pairs.append(pair)
            if len(self.pairs) > _PAIRS:
                self.pairs = self.pairs[::2]
                self._every *= 2
        self._seen += 1


def check_pixels(pairs: list[Pair], episodes: Mapping[str, Episode], frames: Mapping[str, Any] | None) -> None:
    """Compare the pairs with the source.

    Args:
        frames: what the processor makes of a frame, of the table's metadata; None, of an older table, checks nothing.

    Raises:
        ValueError: a pair moves more, or less, than the table says.
    """
    if frames is None or not frames["antialias"]:  # Pillow knows no resize without
        return
    for pair in pairs:
        episode = episodes[pair.episode]
        try:
            both = episode.frames(pair.camera, [pair.frame, pair.future])
        except EpisodeReadError as error:
            raise ValueError(f"episode {pair.episode!r} cannot be read: {error}") from error
        finally:
            episode.close()
        before, after = (_resized(pixels, frames).astype(np.int16) for pixels in both)
        motion = float(np.abs(after - before).mean() / 255)
        if abs(motion - pair.motion) > _ABSOLUTE + _RELATIVE * pair.motion:
            raise ValueError(
                f"episode {pair.episode!r}: from frame {pair.frame} to {pair.future} pixels change by {motion:.3f} on "
                f"average in the source, by {pair.motion:.3f} in the table: another video. Encode again, or name the "
                "right source."
            )


def _resized(pixels: np.ndarray, frames: Mapping[str, Any]) -> np.ndarray:
    height, width = frames["size"]["height"], frames["size"]["width"]
    image = Image.fromarray(pixels)
    if frames["crop"] == "center":
        across, down = (
            min(image.width, image.height * width // height),
            min(image.height, image.width * height // width),
        )
        left, top = (image.width - across) // 2, (image.height - down) // 2
        image = image.crop((left, top, left + max(1, across), top + max(1, down)))
    return np.asarray(image.resize((width, height), _FILTERS[frames["resample"]]))
