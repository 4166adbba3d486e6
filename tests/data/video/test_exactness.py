"""Frames in any order are those of one plain decode, whatever the codec, the container and its key flags say.

A small part of `tests/video_matrix.py`, which tries every pair.
"""

import pytest
from video_files import numbered, write_clip
from video_flags import flag_keys
from video_matrix import EQUAL, decode_plainly, is_installed, verdict

CLIPS = [
    ("h264", "b_frames", "mp4", ""),
    ("h264", "open_gop", "mkv", ""),
    ("h264", "b_frames", "avi", ""),
    ("hevc", "open_gop", "ts", ""),
    ("vp8", "plain", "webm", ""),
    ("av1", "plain", "mp4", ""),
    ("mpeg1", "open_gop", "mpg", ""),
    ("mpeg4", "b_frames", "wmv", ""),
    ("h263", "plain", "avi", ""),
    ("mjpeg", "plain", "avi", ""),
    ("prores", "plain", "mov", ""),
    ("h264", "b_frames", "frag.mp4", "all"),
    ("hevc", "plain", "mkv", "all"),
    ("hevc", "open_gop", "mov", "some"),
    ("vp9", "plain", "webm", "all"),
    ("mpeg2", "open_gop", "mp4", "all"),
    ("mpeg2", "b_frames", "ts", "all"),
    ("mpeg4", "b_frames", "mp4", "all"),
    ("mpeg4", "plain", "frag.mp4", "all"),
    ("wmv2", "plain", "wmv", "some"),
    ("msmpeg4v3", "plain", "avi", "all"),
    ("msmpeg4v3", "plain", "mkv", "first"),
    ("flv1", "plain", "flv", "all"),
    ("ffv1", "plain", "mp4", "some"),
]


@pytest.fixture(scope="module", params=CLIPS, ids="-".join)
def clip(request, tmp_path_factory):
    """A clip of 30 frames with a key frame every 8, and its frames: codec, variant, container and lie of its flags."""
    codec, variant, container, lie = request.param
    path = write_clip(tmp_path_factory.mktemp("clip") / f"clip.{container}", codec, numbered(30), variant=variant)
    if lie:
        flag_keys(path, lie)
    return path, decode_plainly(path)


def test_pyav_gives_each_frame(clip):
    path, expected = clip
    assert verdict(path, "pyav", expected) == EQUAL


@pytest.mark.parametrize("decoder", ["torchcodec", "decord"])
def test_other_decoders_give_each_frame_or_refuse(clip, decoder):
    path, expected = clip
    if not is_installed(decoder):
        pytest.skip(f"{decoder} is not installed")
    assert verdict(path, decoder, expected).partition(":")[0] in (EQUAL, "refused")
