"""Roll-out videos: the camera's image, the progress of the episode, and the latent codes of each executed chunk.

A chunk's codes are those of frame t, at which it was predicted, and frame t + C, which was observed later; C is the
tokenizer's own stride. If the episode ends before frame t + C there are none: the last frame never replaces it.
"""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from lara_policy.rollout.episode import EpisodeResult, Recording
from lara_tokenizer._files import replace
from lara_tokenizer.data.lerobot.writer import encode_video
from lara_tokenizer.data.stride import Stride

WIDTH, IMAGE_SIDE, MARGIN = 720, 416, 20
PANEL_LEFT = 2 * MARGIN + IMAGE_SIDE  # the panel of text and codes, right of the image
PANEL_WIDTH = WIDTH - PANEL_LEFT - MARGIN
TILE_WIDTH, TILE_HEIGHT, TILES_PER_ROW, GAP = 56, 40, 4, 6
TIMELINE_HEIGHT = 48  # the strip at the bottom: one column per chunk, one row per code
HEIGHT = 3 * MARGIN + IMAGE_SIDE + TIMELINE_HEIGHT
HELD_SECONDS = 1.5  # the last image stays, to show the result

_font = ImageFont.load_default  # by size in pixels

BACKGROUND, FAINT, GREY, WHITE = (20, 23, 28), (52, 58, 68), (150, 158, 170), (240, 243, 247)
GREEN, RED = (76, 195, 120), (224, 88, 88)


@dataclass(frozen=True, slots=True)
class ChunkCodes:
    """The codes of one executed chunk, predicted at frame `start`."""

    start: int
    future: int
    codes: tuple[int, ...] | None  # None if frame `future` was never observed


class LatentCodes:
    """Encodes recorded frames with a tokenizer.

    >>> LatentCodes.from_pretrained("lara-lam").of(frames, starts=[0, 8], fps=10)  # doctest: +SKIP
    [ChunkCodes(start=0, future=5, codes=(17, 4, ...)), ChunkCodes(start=8, future=13, codes=None)]
    """

    def __init__(self, model: Any, processor: Any) -> None:
        self._model = model
        self._processor = processor
        self._stride = Stride.parse(model.config.strides[0])

    @classmethod
    def from_pretrained(cls, name: str) -> LatentCodes:
        """Load "lara-lam" or a checkpoint's folder. Raises ValueError for a damaged one."""
        from lara_tokenizer.checkpoint import load_checkpoint

        return cls(*load_checkpoint(name))

    def of(self, frames: Sequence[np.ndarray], starts: Sequence[int], fps: float) -> list[ChunkCodes]:
        """Codes of the pairs that begin at `starts`; frames are uint8 (H, W, 3).

        Raises:
            ValueError: the tokenizer's bottleneck is continuous: there are no codes to draw.
        """
        import torch

        stride = self._stride.frames_at(fps)
        observed = [start for start in starts if start + stride < len(frames)]
        codes: dict[int, tuple[int, ...]] = {}
        if observed:
            now, future = ([frames[start + offset] for start in observed] for offset in (0, stride))
            pairs = self._processor(now, future, return_tensors="pt")
            with torch.inference_mode():
                encoded = self._model.encode(**pairs).codes
            if encoded is None:
                raise ValueError("videos: this tokenizer's bottleneck is continuous, there are no codes to draw")
            codes = {start: tuple(row) for start, row in zip(observed, encoded.tolist(), strict=True)}
        return [ChunkCodes(start, start + stride, codes.get(start)) for start in starts]


def video_path(folder: str | Path, environment: str, episode: int) -> Path:
    """The path of an episode's video.

    >>> video_path("videos", "libero:spatial/3", 0).name
    'libero-spatial-3-000.mp4'
    """
    return Path(folder) / f"{environment.replace(':', '-').replace('/', '-')}-{episode:03d}.mp4"


def write_rollout_video(
    path: Path,
    result: EpisodeResult,
    recording: Recording,
    *,
    text: str,
    fps: float,
    max_steps: int,
    codes: LatentCodes | None = None,
) -> None:
    """Draw an episode and write it as H.264, whole or not at all.

    `text` is the instruction, `max_steps` the length limit of the episode, `fps` in steps per second. With `codes` the
    latent codes of its chunks are drawn, too.
    """
    chunks = [] if codes is None else codes.of(recording.frames, recording.chunk_starts, fps)
    images = [draw_step(step, result, recording, text, max_steps, chunks) for step in range(len(recording.frames))]
    images += images[-1:] * round(HELD_SECONDS * fps)
    path.parent.mkdir(parents=True, exist_ok=True)
    # The suffix stays .mp4, from which the encoder derives the container format.
    unfinished = path.with_suffix(".unfinished.mp4")
    encode_video(unfinished, np.stack(images), fps)
    replace(unfinished, path)


def draw_step(
    step: int, result: EpisodeResult, recording: Recording, text: str, max_steps: int, chunks: Sequence[ChunkCodes]
) -> np.ndarray:
    """One image of the video, uint8 (HEIGHT, WIDTH, 3): the frame after `step` steps, and what is known then."""
    canvas = Image.new("RGB", (WIDTH, HEIGHT), BACKGROUND)
    draw = ImageDraw.Draw(canvas)
    canvas.paste(_fit_square(recording.frames[step]), (MARGIN, MARGIN))
    y = _draw_lines(draw, MARGIN, text, 21, WHITE, max_lines=4, line_height=26)
    y = _draw_lines(draw, y + 4, f"{result.environment}, episode {result.episode}", 12, GREY, 2, 16) + 14
    _draw_progress(draw, y, step, result, max_steps)
    current = next((chunk for chunk in reversed(chunks) if chunk.start <= step), None)
    if current is not None:
        _draw_codes(draw, current)
    _draw_timeline(draw, step, len(recording.frames) - 1, recording.chunk_starts, chunks)
    return np.asarray(canvas)


def _fit_square(frame: np.ndarray) -> Image.Image:
    """The frame, centered in a square and as large as fits."""
    height, width = frame.shape[:2]
    scale = IMAGE_SIDE / max(height, width)
    image = Image.fromarray(frame).resize((round(width * scale), round(height * scale)), Image.Resampling.BICUBIC)
    square = Image.new("RGB", (IMAGE_SIDE, IMAGE_SIDE), FAINT)
    square.paste(image, ((IMAGE_SIDE - image.width) // 2, (IMAGE_SIDE - image.height) // 2))
    return square


def _draw_lines(
    draw: ImageDraw.ImageDraw,
    y: int,
    text: str,
    size: int,
    colour: tuple[int, int, int],
    max_lines: int,
    line_height: int,
) -> int:
    """Draw text in the panel, wrapped at words; returns the y below it."""
    lines: list[str] = []
    font = _font(size)
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and draw.textlength(longer, font) <= PANEL_WIDTH:
            lines[-1] = longer
        else:
            lines.append(word)
    for line in lines[:max_lines]:
        draw.text((PANEL_LEFT, y), line, colour, font)
        y += line_height
    return y


def _draw_progress(draw: ImageDraw.ImageDraw, y: int, step: int, result: EpisodeResult, max_steps: int) -> None:
    """The step, success, and the stages reached so far."""
    draw.text((PANEL_LEFT, y), f"step {step} / {max_steps}", WHITE, _font(15))
    done, success = step == result.steps, result.success_step is not None and step >= result.success_step
    label, colour = ("success", GREEN) if success else ("no success", RED) if done else ("under way", FAINT)
    width = round(draw.textlength(label, _font(15))) + 24
    draw.rounded_rectangle((PANEL_LEFT, y + 26, PANEL_LEFT + width, y + 52), 13, colour)
    text_colour = BACKGROUND if success or done else WHITE
    draw.text((PANEL_LEFT + width / 2, y + 39), label, text_colour, _font(15), anchor="mm")
    y += 68
    for stage, first in result.stages.items():
        reached = first is not None and step >= first
        draw.ellipse((PANEL_LEFT + 1, y + 3, PANEL_LEFT + 12, y + 14), GREEN if reached else FAINT)
        draw.text((PANEL_LEFT + 22, y), stage.replace("_", " "), WHITE if reached else GREY, _font(14))
        y += 22


def _draw_codes(draw: ImageDraw.ImageDraw, chunk: ChunkCodes) -> None:
    """The codes as coloured tiles, at the bottom of the panel; empty tiles without codes."""
    codes: Sequence[int | None] = chunk.codes or (None,) * TILES_PER_ROW
    rows = -(-len(codes) // TILES_PER_ROW)
    top = MARGIN + IMAGE_SIDE - rows * (TILE_HEIGHT + GAP) + GAP
    label = f"codes of frames {chunk.start} and {chunk.future}"
    if chunk.codes is None:
        label = f"no codes: it ended before frame {chunk.future}"
    draw.text((PANEL_LEFT, top - 22), label, GREY, _font(13))
    for index, code in enumerate(codes):
        row, column = divmod(index, TILES_PER_ROW)
        left, upper = PANEL_LEFT + column * (TILE_WIDTH + GAP), top + row * (TILE_HEIGHT + GAP)
        box = (left, upper, left + TILE_WIDTH, upper + TILE_HEIGHT)
        if code is None:
            draw.rounded_rectangle(box, 5, None, FAINT)
            continue
        draw.rounded_rectangle(box, 5, code_colour(code))
        center = (left + TILE_WIDTH / 2, upper + TILE_HEIGHT / 2)
        draw.text(center, str(code), BACKGROUND, _font(18), anchor="mm")


def _draw_timeline(
    draw: ImageDraw.ImageDraw, step: int, steps: int, starts: Sequence[int], chunks: Sequence[ChunkCodes]
) -> None:
    """The whole episode from left to right: one column per chunk, coloured up to now, and a marker at this step."""
    left, right, top = MARGIN, WIDTH - MARGIN, 2 * MARGIN + IMAGE_SIDE
    per_step = (right - left) / max(steps, 1)
    codes = {chunk.start: chunk.codes or () for chunk in chunks if chunk.start <= step}
    for start, end in zip(starts, [*starts[1:], steps], strict=True):
        box = (left + start * per_step, top, left + end * per_step - 2, top + TIMELINE_HEIGHT)
        draw.rectangle(box, FAINT)
        column = codes.get(start, ())
        for row, code in enumerate(column):
            height = TIMELINE_HEIGHT / len(column)
            draw.rectangle((box[0], top + row * height, box[2], top + (row + 1) * height - 1), code_colour(code))
    now = left + step * per_step
    draw.rectangle((now - 1, top - 5, now + 1, top + TIMELINE_HEIGHT + 5), WHITE)


def code_colour(code: int) -> tuple[int, int, int]:
    """A colour per code: hues at multiples of the golden ratio, so that successive codes differ.

    >>> code_colour(0), code_colour(1)
    ((235, 117, 117), (117, 152, 235))
    """
    red, green, blue = colorsys.hsv_to_rgb(code * 0.6180339887 % 1, 0.5, 0.92)
    return round(255 * red), round(255 * green), round(255 * blue)
