"""Exact frames from video files, image sequences and encoded bytes.

`packets` lists the frames of a video without decoding: `bitstream` tells from which packets decoding can start, `times`
mends time stamps and decodes what they leave in doubt. `gop_decoder` decodes the groups of pictures that contain
requested frames, `display` puts them upright, and `reader` combines all into `VideoReader`. `decord_reader` and
`torchcodec_reader` take pixels from other libraries and check them (`pixel_reader`), `backends` chooses a reader.
`media` opens videos, parts of files and remote files, `images` reads sequences of encoded images.

The names below load on first use: a source is often looked for before any video is read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lara_tokenizer._lazy import lazy

if TYPE_CHECKING:
    from lara_tokenizer.data.video.backends import SharedVideo, open_video_file, video_reader_class
    from lara_tokenizer.data.video.images import EncodedImagesReader, ImageFolderReader
    from lara_tokenizer.data.video.media import FileSlice, RemoteFile
    from lara_tokenizer.data.video.numbered import IMAGE_SUFFIXES, is_numbered_image, missing_number
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

_HOME = {
    "IMAGE_SUFFIXES": "numbered",
    "VIDEO_SUFFIXES": "suffixes",
    "EncodedImagesReader": "images",
    "FileSlice": "media",
    "ImageFolderReader": "images",
    "RemoteFile": "media",
    "SharedVideo": "backends",
    "VideoReader": "reader",
    "is_numbered_image": "numbered",
    "missing_number": "numbered",
    "open_video_file": "backends",
    "video_reader_class": "backends",
}

__getattr__, __dir__ = lazy(__name__, _HOME)
