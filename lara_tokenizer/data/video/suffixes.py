"""File name suffixes of video: containers that are read, and raw streams, which state no times."""

from __future__ import annotations

# Containers that carry time stamps; those of camcorders and phones are MPEG-PS, MPEG-TS, MP4 or AVI by another name.
VIDEO_SUFFIXES = (
    ".3g2", ".3gp", ".asf", ".avi", ".divx", ".dv", ".f4v", ".flv", ".gif", ".ivf", ".m2t", ".m2ts", ".m4v", ".mkv",
    ".mod", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".mxf", ".ogm", ".ogv", ".qt", ".tod", ".ts", ".vob", ".webm",
    ".wmv", ".y4m",
)  # fmt: skip

# Streams of a codec without a container: decoders invent 25 frames per second for most of them.
RAW_SUFFIXES = (
    ".264", ".265", ".avc", ".h264", ".h265", ".hevc", ".m1v", ".m2v", ".mjpeg", ".mjpg", ".mpv", ".obu",
)  # fmt: skip

# Recordings that a folder's listing names in a note and does not read: raw streams, which need a rate; low-resolution
# copies beside the film; two fisheye or cube pictures in one file; codecs of cinema cameras.
UNREAD_SUFFIXES = (
    *RAW_SUFFIXES, ".360", ".amv", ".braw", ".crm", ".insv", ".lrv", ".mk3d", ".nut", ".r3d", ".rm", ".rmvb", ".svo",
    ".svo2", ".wtv",
)  # fmt: skip
