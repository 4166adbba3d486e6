"""A recording for the viewer of Rerun: a clip's pictures, codes, motion and margin on the time of its video.

    /<episode>/<camera>/frame                  pictures, JPEG
    /<episode>/<camera>/codes/<position>       one number per moment, at frame t
    /<episode>/<camera>/motion, margin, text

Each clip has a tab of its own: all begin at 0 s.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lara_tokenizer.view.clips import Clip

APPLICATION = "lara-tokenizer"
LONGEST_SIDE, JPEG_QUALITY = 640, 85  # pixels of a picture


def write_recording(file: Path, clips: Sequence[Clip], progress: Callable[[int, int], None]) -> None:
    """Write the recording of some clips. Raises EpisodeReadError."""
    import rerun
    import rerun.blueprint as blueprint

    tabs = blueprint.Tabs(*(_tab(blueprint, clip) for clip in clips))
    total, done = sum(len(clip.pictures) for clip in clips), 0
    with rerun.RecordingStream(APPLICATION) as recording:
        recording.save(file, default_blueprint=blueprint.Blueprint(tabs, collapse_panels=True))
        for clip in clips:
            _log_numbers(rerun, recording, clip)
            for _ in _log_pictures(rerun, recording, clip):
                done += 1
                progress(done, total)
        recording.flush()
        recording.disconnect()


def entity(clip: Clip, *parts: str) -> list[str]:
    """The path of one of a clip's streams; an episode's "/" separates parts of it."""
    return [part for part in (*clip.episode.id.split("/"), clip.camera, *parts) if part]


def _log_numbers(rerun: Any, recording: Any, clip: Clip) -> None:
    streams: dict[tuple[str, ...], np.ndarray] = {("motion",): clip.motions, ("margin",): clip.margins}
    streams |= {("codes", str(position)): column for position, column in enumerate(clip.codes.T)}
    for parts, values in streams.items():
        known = np.isfinite(values)
        times = [
            rerun.TimeColumn("time", duration=clip.times[known]),
            rerun.TimeColumn("frame", sequence=clip.frames[known]),
        ]
        scalars = rerun.Scalars.columns(scalars=values[known].astype(np.float64))
        recording.send_columns(_path(rerun, clip, *parts), times, scalars)
    if clip.text:
        recording.log(_path(rerun, clip, "text"), rerun.TextDocument(clip.text), static=True)


def _log_pictures(rerun: Any, recording: Any, clip: Clip) -> Iterator[None]:
    images = clip.images(LONGEST_SIDE, "JPEG", quality=JPEG_QUALITY)
    for frame, seconds, image in zip(clip.pictures, clip.picture_times, images, strict=True):
        recording.set_time("time", duration=float(seconds))
        recording.set_time("frame", sequence=int(frame))
        recording.log(_path(rerun, clip, "frame"), rerun.EncodedImage(contents=image, media_type="image/jpeg"))
        yield


def _tab(blueprint: Any, clip: Clip) -> Any:
    """The picture beside the curves."""
    import rerun

    curves = [
        blueprint.TimeSeriesView(origin=_path(rerun, clip, name), name=name) for name in ("codes", "motion", "margin")
    ]
    picture = blueprint.Spatial2DView(origin=_path(rerun, clip, "frame"), name="frame")
    return blueprint.Horizontal(picture, blueprint.Vertical(*curves, row_shares=[2, 1, 1]), name=clip.name)


def _path(rerun: Any, clip: Clip, *parts: str) -> str:
    return rerun.new_entity_path(entity(clip, *parts))
