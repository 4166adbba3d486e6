"""Videos of roll-outs: what the camera saw, how far the episode is, and the latent codes of each executed chunk.

The codes are those of frame t, at which the chunk was predicted, and frame t + C, which was really seen later; C is
the tokenizer's own stride. Where an episode ends before frame t + C there are none: the last frame never stands in.
"""

from __future__ import annotations

import colorsys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from lara_policy.rollout.episode import EpisodeResult, Recording
from PIL import Image, ImageDraw, ImageFont

from lara_tokenizer.data.lerobot_writer import encode_video
from lara_tokenizer.data.stride import Stride

WIDTH, PICTURE, MARGIN = 720, 416, 20
PANEL_LEFT = 2 * MARGIN + PICTURE
PANEL_WIDTH = WIDTH - PANEL_LEFT - MARGIN
TILE_WIDTH, TILE_HEIGHT, TILES_IN_A_ROW, GAP = 56, 40, 4, 6
ROLL_HEIGHT = 48  # of the strip below: a column a chunk, a row a code
HEIGHT = 3 * MARGIN + PICTURE + ROLL_HEIGHT
HELD_SECONDS = 1.5  # the last picture stays, so that one sees how it ended

BACKGROUND, FAINT, GREY, WHITE = (20, 23, 28), (52, 58, 68), (150, 158, 170), (240, 243, 247)
GREEN, RED = (76, 195, 120), (224, 88, 88)


@dataclass(frozen=True, slots=True)
class ChunkCodes:
    """The codes of one executed chunk; `codes` is None where frame `future` was never seen."""

    start: int
    future: int
    codes: tuple[int, ...] | None


class LatentCodes:
    """Asks a tokenizer for the codes of what was seen.

    >>> LatentCodes.from_pretrained("lara-lam").of(frames, starts=[0, 8], fps=10)  # doctest: +SKIP
    [ChunkCodes(start=0, future=5, codes=(17, 4, ...)), ChunkCodes(start=8, future=13, codes=None)]
    """

    def __init__(self, model: Any, processor: Any) -> None:
        self._model, self._processor = model, processor
        self._stride = Stride.parse(model.config.strides[0])

    @classmethod
    def from_pretrained(cls, name: str) -> LatentCodes:
        """Load "lara-lam" or a checkpoint's folder."""
        from lara_tokenizer.model import LatentActionProcessor, load_model

        return cls(load_model(name).eval(), LatentActionProcessor.from_pretrained(name))

    def of(self, frames: Sequence[np.ndarray], starts: Sequence[int], fps: float) -> list[ChunkCodes]:
        """The codes of the pairs that begin at `starts`, frames being uint8 (H, W, 3) at `fps` a second.

        Raises:
            ValueError: the tokenizer's bottleneck is continuous: there are no codes to draw.
        """
        import torch

        gap = self._stride.frames_at(fps)
        seen = [start for start in starts if start + gap < len(frames)]
        codes: dict[int, tuple[int, ...]] = {}
        if seen:
            pairs = self._processor(
                [frames[start] for start in seen], [frames[start + gap] for start in seen], return_tensors="pt"
            )
            with torch.inference_mode():
                found = self._model.encode(**pairs).codes
            if found is None:
                raise ValueError("videos: this tokenizer's bottleneck is continuous, there are no codes to draw")
            codes = {start: tuple(row) for start, row in zip(seen, found.tolist(), strict=True)}
        return [ChunkCodes(start, start + gap, codes.get(start)) for start in starts]


def video_path(folder: str | Path, environment: str, episode: int) -> Path:
    """Where the video of an episode goes.

    >>> video_path("videos", "libero:spatial/3", 0).name
    'libero-spatial-3-000.mp4'
    """
    return Path(folder) / f"{environment.replace(':', '-').replace('/', '-')}-{episode:03d}.mp4"


def write_rollout_video(
    path: Path,
    played: EpisodeResult,
    recording: Recording,
    *,
    text: str,
    fps: float,
    max_steps: int,
    codes: LatentCodes | None = None,
) -> None:
    """Draw an episode and write it as H.264, whole or not at all.

    Args:
        path: The file; its folder is made where it is absent.
        played: What came of the episode.
        recording: What the camera saw.
        text: The instruction.
        fps: Steps a second.
        max_steps: The longest the episode might have been.
        codes: Whose codes to draw; None for none.
    """
    chunks = [] if codes is None else codes.of(recording.frames, recording.chunk_starts, fps)
    pictures = [draw_step(step, played, recording, text, max_steps, chunks) for step in range(len(recording.frames))]
    pictures += pictures[-1:] * round(HELD_SECONDS * fps)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".unfinished.mp4")
    encode_video(unfinished, np.stack(pictures), fps)
    unfinished.replace(path)


def draw_step(
    step: int, played: EpisodeResult, recording: Recording, text: str, max_steps: int, chunks: Sequence[ChunkCodes]
) -> np.ndarray:
    """One picture of the video, uint8 (HEIGHT, WIDTH, 3): what was seen after `step` steps, and what is known then."""
    canvas = Image.new("RGB", (WIDTH, HEIGHT), BACKGROUND)
    draw = ImageDraw.Draw(canvas)
    canvas.paste(_fitted(recording.frames[step]), (MARGIN, MARGIN))
    y = _draw_heading(draw, text, f"{played.environment}, episode {played.episode}")
    y = _draw_progress(draw, y, step, played, max_steps)
    _draw_stages(draw, y, step, played.stages)
    current = next((chunk for chunk in reversed(chunks) if chunk.start <= step), None)
    if current is not None:
        _draw_codes(draw, current)
    _draw_roll(draw, step, len(recording.frames) - 1, recording.chunk_starts, chunks)
    return np.asarray(canvas)


def _fitted(frame: np.ndarray) -> Image.Image:
    """The frame in the middle of a square, as large as it may be."""
    height, width = frame.shape[:2]
    scale = PICTURE / max(height, width)
    picture = Image.fromarray(frame).resize((round(width * scale), round(height * scale)), Image.Resampling.BICUBIC)
    square = Image.new("RGB", (PICTURE, PICTURE), FAINT)
    square.paste(picture, ((PICTURE - picture.width) // 2, (PICTURE - picture.height) // 2))
    return square


def _font(size: int) -> Any:
    return ImageFont.load_default(size)


def _draw_heading(draw: ImageDraw.ImageDraw, text: str, name: str) -> int:
    """The instruction and the environment; returns where the next part begins."""
    y, font = MARGIN, _font(21)
    for line in _wrapped(draw, text, font)[:4]:
        draw.text((PANEL_LEFT, y), line, WHITE, font)
        y += 26
    small = _font(12)
    for line in _wrapped(draw, name, small)[:2]:
        draw.text((PANEL_LEFT, y + 4), line, GREY, small)
        y += 16
    return y + 18


def _wrapped(draw: ImageDraw.ImageDraw, text: str, font: Any) -> list[str]:
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and draw.textlength(longer, font) <= PANEL_WIDTH:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def _draw_progress(draw: ImageDraw.ImageDraw, y: int, step: int, played: EpisodeResult, max_steps: int) -> int:
    draw.text((PANEL_LEFT, y), f"step {step} / {max_steps}", WHITE, _font(15))
    done, won = step == played.steps, played.success_step is not None and step >= played.success_step
    words, colour = ("success", GREEN) if won else ("no success", RED) if done else ("under way", FAINT)
    width = round(draw.textlength(words, _font(15))) + 24
    draw.rounded_rectangle((PANEL_LEFT, y + 26, PANEL_LEFT + width, y + 52), 13, colour)
    draw.text((PANEL_LEFT + width / 2, y + 39), words, BACKGROUND if won or done else WHITE, _font(15), anchor="mm")
    return y + 68


def _draw_stages(draw: ImageDraw.ImageDraw, y: int, step: int, stages: Mapping[str, int | None]) -> None:
    for stage, first in stages.items():
        reached = first is not None and step >= first
        draw.ellipse((PANEL_LEFT + 1, y + 3, PANEL_LEFT + 12, y + 14), GREEN if reached else FAINT)
        draw.text((PANEL_LEFT + 22, y), stage.replace("_", " "), WHITE if reached else GREY, _font(14))
        y += 22


def _draw_codes(draw: ImageDraw.ImageDraw, chunk: ChunkCodes) -> None:
    """The codes as coloured tiles, at the foot of the panel."""
    count = len(chunk.codes) if chunk.codes is not None else TILES_IN_A_ROW
    rows = -(-count // TILES_IN_A_ROW)
    top = MARGIN + PICTURE - rows * (TILE_HEIGHT + GAP) + GAP
    if chunk.codes is None:
        draw.text((PANEL_LEFT, top - 22), f"no codes: it ended before frame {chunk.future}", GREY, _font(13))
    else:
        draw.text((PANEL_LEFT, top - 22), f"codes of frames {chunk.start} and {chunk.future}", GREY, _font(13))
    for place in range(count):
        row, column = divmod(place, TILES_IN_A_ROW)
        left, upper = PANEL_LEFT + column * (TILE_WIDTH + GAP), top + row * (TILE_HEIGHT + GAP)
        box = (left, upper, left + TILE_WIDTH, upper + TILE_HEIGHT)
        if chunk.codes is None:
            draw.rounded_rectangle(box, 5, None, FAINT)
            continue
        draw.rounded_rectangle(box, 5, code_colour(chunk.codes[place]))
        middle = (left + TILE_WIDTH / 2, upper + TILE_HEIGHT / 2)
        draw.text(middle, str(chunk.codes[place]), BACKGROUND, _font(18), anchor="mm")


def _draw_roll(
    draw: ImageDraw.ImageDraw, step: int, steps: int, starts: Sequence[int], chunks: Sequence[ChunkCodes]
) -> None:
    """The strip below: the episode from left to right, a column a chunk, coloured up to now; a line where we are."""
    left, right, top = MARGIN, WIDTH - MARGIN, 2 * MARGIN + PICTURE
    per_step = (right - left) / max(steps, 1)
    codes = {chunk.start: chunk.codes for chunk in chunks}
    for start, end in zip(starts, [*starts[1:], steps], strict=True):
        box = (left + start * per_step, top, left + end * per_step - 2, top + ROLL_HEIGHT)
        draw.rectangle(box, FAINT)
        column = codes.get(start)
        if column is None or start > step:
            continue
        height = ROLL_HEIGHT / len(column)
        for row, code in enumerate(column):
            draw.rectangle((box[0], top + row * height, box[2], top + (row + 1) * height - 1), code_colour(code))
    now = left + step * per_step
    draw.rectangle((now - 1, top - 5, now + 1, top + ROLL_HEIGHT + 5), WHITE)


def code_colour(code: int) -> tuple[int, int, int]:
    """A colour of its own for each code: hues by the golden ratio, so that neighbours differ.

    >>> code_colour(0), code_colour(1)
    ((235, 117, 117), (117, 151, 235))
    """
    red, green, blue = colorsys.hsv_to_rgb(code * 0.6180339887 % 1, 0.5, 0.92)
    return round(255 * red), round(255 * green), round(255 * blue)
