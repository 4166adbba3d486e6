"""Exact frames from video files, image sequences and encoded bytes.

`packets` lists the frames of a video without decoding: `bitstream` tells from which packets decoding can start, `times`
mends time stamps and decodes what they leave in doubt. `gop_decoder` decodes the groups of pictures that contain
requested frames, `display` puts them upright, and `reader` combines all into `VideoReader`. `decord_reader` and
`torchcodec_reader` take pixels from other libraries and check them (`pixel_reader`), `backends` chooses a reader.
`media` opens videos, parts of files and remote files, `images` reads sequences of encoded images.
"""

from __future__ import annotations

from lara_tokenizer.data.video.backends import SharedVideo, open_video_file, video_reader_class
from lara_tokenizer.data.video.images import (
    IMAGE_SUFFIXES,
    EncodedImagesReader,
    ImageFolderReader,
    is_numbered_image,
    missing_number,
)
from lara_tokenizer.data.video.media import FileSlice, RemoteFile
from lara_tokenizer.data.video.reader import VideoReader
from lara_tokenizer.data.video.suffixes import VIDEO_SUFFIXES

__all__ = [
    "IMAGE_SUFFIXES",
    "VIDEO_SUFFIXES",
    "EncodedImagesReader",
    "FileSlice",
    "ImageFolderReader",
    "RemoteFile",
    "SharedVideo",
    "VideoReader",
    "is_numbered_image",
    "missing_number",
    "open_video_file",
    "video_reader_class",
]
