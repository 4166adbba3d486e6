"""Fixtures: copies of videos with other packets, and videos whose container flags every packet as a key frame."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import av
import pytest


@pytest.fixture(scope="session")
def rewrite() -> Callable[..., Path]:
    """rewrite(source, target, change, **options) -> target: a stream copy; `change(number, packet)` edits packets."""

    def copy(source: Path, target: Path, change: Callable[[int, av.Packet], object], **options: str) -> Path:
        with av.open(str(source)) as reader, av.open(str(target), "w", options=options) as writer:
            video = reader.streams.video[0]
            stream = writer.add_stream_from_template(video)
            # All at once: a packet keeps its bytes, but not its place, while others are read.
            packets = [packet for packet in reader.demux(video) if packet.size]
            for number, packet in enumerate(packets):
                change(number, packet)
                packet.stream = stream
                writer.mux(packet)
        return target

    return copy


@pytest.fixture(scope="session")
def flag_all(rewrite) -> Callable[[Path, Path], Path]:
    """flag_all(source, target) -> target: a copy in which every packet is flagged as a key frame."""
    return lambda source, target: rewrite(source, target, lambda _, packet: setattr(packet, "is_keyframe", True))
