"""A folder of numbered images is an episode."""

import pickle
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from lara_tokenizer.data import ImageFolderReader
from lara_tokenizer.data.video.images import decode_image
from lara_tokenizer.data.video.numbered import missing_number
from lara_tokenizer.errors import VideoDecodeError


@pytest.fixture
def folder(tmp_path, numbered_frames):
    folder = tmp_path / "run1"
    folder.mkdir()
    for t, pixels in enumerate(numbered_frames(12)):
        Image.fromarray(pixels).save(folder / f"img_{t}.png")
    return folder


def test_images_come_in_the_order_of_their_numbers(folder, numbered_frames):
    reader = ImageFolderReader(folder, fps=4)
    assert reader.index().timestamps.tolist() == [t / 4 for t in range(12)]
    np.testing.assert_array_equal(reader.frames("", range(12)), numbered_frames(12))
    np.testing.assert_array_equal(reader.frames("", [10, 2, 2]), numbered_frames(12)[[10, 2, 2]])
    assert reader.frames("", []).shape == (0, 48, 64, 3)


def test_other_files_in_the_folder_are_left_alone(folder, numbered_frames):
    (folder / "notes_1.txt").write_text("x")
    (folder / "._img_3.png").write_bytes(b"x")
    Image.new("RGB", (5, 5)).save(folder / "cover.png")
    assert ImageFolderReader(folder, fps=4).index().num_frames == 12


def test_an_image_of_another_size_is_named_with_both_sizes(folder):
    Image.new("RGB", (32, 48)).save(folder / "img_7.png")
    reader = ImageFolderReader(folder, fps=4)
    assert reader.frames("", [0, 6]).shape == (2, 48, 64, 3)
    with pytest.raises(VideoDecodeError, match=r"img_7\.png is 32x48, the first image 64x48"):
        reader.frames("", [7])


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "1"])
def test_every_8_bit_kind_of_image_becomes_rgb(folder, mode):
    Image.fromarray(np.full((48, 64, 3), 255, np.uint8)).convert(mode).save(folder / "img_0.png")
    assert (ImageFolderReader(folder, fps=4).frames("", [0]) == 255).all()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: path.write_bytes(b""), "img_5.png cannot be read"),
        (lambda path: path.write_bytes(path.read_bytes()[:60]), "img_5.png cannot be read"),
        (lambda path: path.unlink(), "img_5.png cannot be read"),
        (lambda path: Image.fromarray(np.zeros((48, 64), np.uint16)).save(path), "img_5.png has I;16 pixels"),
    ],
)
def test_an_unreadable_image_is_named(folder, spoil, message):
    reader = ImageFolderReader(folder, fps=4)
    reader.index()
    spoil(folder / "img_5.png")
    with pytest.raises(VideoDecodeError, match=message):
        reader.frames("", [4, 5])


@pytest.mark.parametrize("size", [(50_000, 30_000), (9_000, 9_000)])
@pytest.mark.parametrize("kind", ["png", "gif", "bmp", "ppm"])
def test_a_picture_that_promises_too_many_pixels_is_refused_by_its_header(size, kind):
    width, height = size
    start = {
        "png": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0),
        "gif": b"GIF89a" + struct.pack("<HHBBB", width, height, 0, 0, 0) + b"," + struct.pack("<HHHHB", 0, 0, *size, 0),
        "bmp": b"BM" + struct.pack("<IIIIiiHHIIIIII", 54, 0, 54, 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0),
        "ppm": b"P6 %d %d 255\n" % size,
    }[kind]
    if kind == "png":
        start += struct.pack(">I", zlib.crc32(start[12:])) + b"\0\0\0\0IDAT"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(VideoDecodeError, match=r"x cannot be read|x has 9000x9000 pixels; up to 67,108,864"):
            decode_image(start + bytes(100), "x")


def test_two_sequences_in_one_folder_are_refused(folder):
    Image.new("RGB", (64, 48)).save(folder / "depth_0.png")
    with pytest.raises(VideoDecodeError, match=r"several sequences \(depth_\*.png, img_\*.png\)"):
        ImageFolderReader(folder, fps=4).index()


def test_an_empty_or_missing_folder_says_so(tmp_path):
    with pytest.raises(VideoDecodeError, match="no numbered images"):
        ImageFolderReader(tmp_path, fps=4).index()
    with pytest.raises(VideoDecodeError, match="cannot be listed"):
        ImageFolderReader(tmp_path / "gone", fps=4).index()


def test_an_index_outside_the_sequence_is_refused(folder):
    with pytest.raises(IndexError, match="it has 0 to 11"):
        ImageFolderReader(folder, fps=4).frames("", [12])


def test_the_reader_travels_to_another_process(folder):
    reader = ImageFolderReader(folder, fps=4)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(reader)).frames("", [3]), reader.frames("", [3]))


def test_a_missing_image_is_named_and_even_steps_are_none(tmp_path):
    for n in (0, 1, 2, 4, 5):
        Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / f"img_{n}.png")
    with pytest.raises(VideoDecodeError, match=r"no number 3 between img_2.png and img_4.png: later frames"):
        ImageFolderReader(tmp_path, fps=10).index()
    (tmp_path / "img_1.png").unlink()
    (tmp_path / "img_5.png").unlink()
    assert ImageFolderReader(tmp_path, fps=10).index().num_frames == 3  # 0, 2, 4


@pytest.mark.parametrize(
    ("names", "missing"),
    [
        (["a_3_1.png", "a_3_2.png", "a_3_5.png"], "no number 3 between a_3_2.png and a_3_5.png"),
        (["1000.png", "1033.png", "1067.png"], ""),  # time stamps
        (["7.png"], ""),
        (["e1_f1.png", "e2_f9.png"], ""),  # two numbers change
        (["08.png", "09.png", "10.png", "12.png"], "no number 11 between 10.png and 12.png"),
    ],
)
def test_what_is_missing_in_a_sequence(names, missing):
    assert missing_number(names) == missing
