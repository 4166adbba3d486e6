"""Videos of roll-outs: the frames of the codes, the content of the file."""

from __future__ import annotations

import numpy as np
import pytest
from lara_policy.rollout.episode import EpisodeResult, Recording
from lara_policy.rollout.video import (
    GREEN,
    HEIGHT,
    HELD_SECONDS,
    IMAGE_SIDE,
    MARGIN,
    WIDTH,
    ChunkCodes,
    LatentCodes,
    code_colour,
    draw_step,
    video_path,
    write_rollout_video,
)

RESULT = EpisodeResult("metaworld:push-v3", 0, 9, 2, 9)


@pytest.fixture
def recording(moving_square) -> Recording:
    return Recording("observation.images.corner2", list(moving_square(10)), [0, 8])


def test_codes_are_those_of_the_two_frames_that_were_seen(tiny_model, tiny_processor, recording):
    frames = recording.frames  # the tiny model's stride is 0.5 s, 5 frames at 10 a second
    now, later = LatentCodes(tiny_model, tiny_processor).of(frames, recording.chunk_starts, fps=10)
    expected = tiny_model.encode(**tiny_processor([frames[0]], [frames[5]])).codes[0].tolist()
    assert now == ChunkCodes(0, 5, tuple(expected))
    assert later == ChunkCodes(8, 13, None)  # frame 13 was never seen


def test_the_video_has_every_image_and_holds_the_last(tmp_path, tiny_model, tiny_processor, recording, decode_all):
    paths = [tmp_path / name for name in ("one.mp4", "two.mp4")]
    for path in paths:
        codes = LatentCodes(tiny_model, tiny_processor)
        write_rollout_video(path, RESULT, recording, text="push it", fps=10, max_steps=40, codes=codes)
    frames = decode_all(paths[0])
    assert frames.shape == (10 + round(HELD_SECONDS * 10), HEIGHT, WIDTH, 3)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert sorted(tmp_path.iterdir()) == sorted(paths)


def test_each_image_shows_only_what_is_known_at_its_step(recording):
    chunks = [ChunkCodes(0, 5, (3, 9)), ChunkCodes(8, 13, None)]

    def shows(step: int, colour: tuple[int, int, int]) -> bool:
        drawn = draw_step(step, RESULT, recording, "push it", 40, chunks)
        return bool((drawn == colour).all(-1).any())

    assert shows(0, code_colour(3))
    assert shows(0, code_colour(9))
    assert not shows(8, GREEN)
    assert shows(9, GREEN)


def test_the_camera_fills_its_square_whatever_its_shape(recording):
    recording.frames[0] = np.full((30, 40, 3), 200, np.uint8)
    drawn = draw_step(0, RESULT, recording, "push it " * 30, 40, [])
    square = drawn[MARGIN : MARGIN + IMAGE_SIDE, MARGIN : MARGIN + IMAGE_SIDE]
    assert (square == 200).all(-1).mean() == pytest.approx(0.75)


def test_a_video_is_named_after_its_environment_and_episode():
    assert video_path("v", "libero:spatial/3", 12).name == "libero-spatial-3-012.mp4"
