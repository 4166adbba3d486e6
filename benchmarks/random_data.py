"""Random token tables, clips and LeRobot datasets: input for benchmarks that measure something other than the model."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lara_tokenizer.table.schema import FORMAT_VERSION, token_schema
from lara_tokenizer.table.write import OutputPath, write_tokens

STRIDE = 5  # frames from the first frame of a pair to the second


def write_clip(file: Path, frames: Iterable[np.ndarray], size: tuple[int, int], fps: int, **options: str) -> Path:
    """Encode uint8 (H, W, 3) RGB frames as H.264 while they are made. size: width, height. options: of libx264."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(file), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps), options=options)
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    return file


def join_clips(clips: Sequence[Path], file: Path) -> Path:
    """Write the packets of several clips of equal format, end to end, without encoding them again."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(clips[0])) as first, av.open(str(file), "w") as target:
        stream = target.add_stream_from_template(first.streams.video[0])
        start = 0
        for clip in clips:
            with av.open(str(clip)) as source:
                # The last packet is empty, and with B-frames the one before it is not the last frame.
                packets = [packet for packet in source.demux(source.streams.video[0]) if packet.size]
                length = max(packet.pts + packet.duration for packet in packets)
                for packet in packets:
                    packet.pts += start
                    packet.dts += start
                    packet.stream = stream
                    target.mux(packet)
                start += length
    return file


@dataclass(frozen=True)
class RandomTokens:
    """A generator of token tables with random codes. `columns` are optional ones: latents, text."""

    num_latents: int
    codebook_dim: int
    codebook_size: int
    columns: tuple[str, ...] = ()

    @property
    def schema(self) -> pa.Schema:
        return token_schema(self.num_latents, self.codebook_dim, self.codebook_size, self.columns)

    def rows(
        self,
        rng: np.random.Generator,
        length: int,
        fps: float,
        *,
        episode: str,
        episode_index: int | None = None,
        camera: str = "",
        text: str = "",
        codes: np.ndarray | None = None,
    ) -> pa.Table:
        """The rows of one episode; pairs whose future frame is past the end are invalid.

        codes: int16 (length, N); None draws them.
        """
        schema = self.schema
        frames = np.arange(length, dtype=np.int32)
        valid = frames + STRIDE < length
        if codes is None:
            codes = rng.integers(0, self.codebook_size, (length, self.num_latents)).astype(np.int16)
        codes[~valid] = -1  # as encode fills rows without a future frame
        columns: dict[str, Any] = {
            "episode": pa.array([episode] * length).dictionary_encode(),
            "episode_index": pa.array([episode_index] * length, pa.int64()),
            "camera": pa.array([camera] * length).dictionary_encode(),
            "stride": pa.array([f"{STRIDE}f"] * length).dictionary_encode(),
            "frame_index": frames,
            "future_frame_index": np.where(valid, frames + STRIDE, -1).astype(np.int32),
            "timestamp": frames / fps,
            "future_timestamp": pa.array((frames + STRIDE) / fps, mask=~valid),
            "codes": pa.FixedSizeListArray.from_arrays(codes.reshape(-1), type=schema.field("codes").type),
            "valid": valid,
            "text": pa.array([text] * length).dictionary_encode(),
        }
        if "latents" in self.columns:
            latents = rng.standard_normal((length, self.num_latents * self.codebook_dim)).astype(np.float16)
            latents[~valid] = np.nan
            columns["latents"] = pa.FixedSizeListArray.from_arrays(
                latents.reshape(-1), type=schema.field("latents").type
            )
        columns["code_margin"] = pa.array(rng.random(length, np.float32), mask=~valid)
        columns["motion"] = pa.array(rng.random(length, np.float32), mask=~valid)
        return pa.table([columns[name] for name in schema.names], schema=schema)

    def write(
        self,
        file: Path,
        tables: Iterable[pa.Table],
        *,
        model: Mapping[str, Any] | None = None,
        camera: str | None = None,
    ) -> Path:
        """Write the rows of episodes as a token table. model: identity of the checkpoint that the codes belong to."""
        identity = model or {"id": "random", "revision": None, "weights_sha256": {}}
        sizes = {"num_latents": self.num_latents, "codebook_dim": self.codebook_dim}
        metadata = {
            "format_version": FORMAT_VERSION,
            "model": {**identity, **sizes, "codebook_size": self.codebook_size},
            "strides": [f"{STRIDE}f"],
            "every": "1f",
            "columns": list(self.columns),
            "keep_tail": True,
            "min_motion": 0.0,
            "source": [],
            "load": {"decoder": "pyav"} | ({} if camera is None else {"cameras": [camera]}),
            "episodes": {"count": 0, "ids_sha256": "", "failed": 0},
        }
        # One file whatever the number of rows: only a folder of shards depends on it.
        write_tokens(tables, self.schema, metadata, OutputPath.parse(file), file.parent, 0)
        return file


def write_lerobot(
    root: Path,
    fps: int,
    lengths: Sequence[int],
    features: Mapping[str, Any],
    tasks: Sequence[str],
    columns: Callable[[int, int], Mapping[str, Any]],
) -> Path:
    """Write a LeRobotDataset v2.1 without video files.

    Args:
        lengths: frames of each episode; episode e does task e modulo their count.
        features: of info.json, without those of the columns that every dataset has.
        columns: episode index and length -> the columns of its parquet file besides those.
    """
    integer = {"dtype": "int64", "shape": [1], "names": None}
    standard = {
        "timestamp": {"dtype": "float32", "shape": [1], "names": None},
        **dict.fromkeys(("frame_index", "episode_index", "index", "task_index"), integer),
    }
    info = {
        "codebase_version": "v2.1",
        "fps": fps,
        "total_episodes": len(lengths),
        "total_frames": sum(lengths),
        "total_tasks": len(tasks),
        "chunks_size": 1000,
        "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        "video_path": "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
        "features": {**features, **standard},
    }
    start = 0
    for episode, length in enumerate(lengths):
        frames = np.arange(length)
        table = {
            **columns(episode, length),
            "timestamp": (frames / fps).astype(np.float32),
            "frame_index": frames,
            "episode_index": np.full(length, episode),
            "index": start + frames,
            "task_index": np.full(length, episode % len(tasks)),
        }
        start += length
        file = root / info["data_path"].format(episode_chunk=episode // 1000, episode_index=episode)
        file.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(table), file)
    episodes = [
        {"episode_index": episode, "tasks": [tasks[episode % len(tasks)]], "length": length}
        for episode, length in enumerate(lengths)
    ]
    meta = root / "meta"
    meta.mkdir(exist_ok=True)
    (meta / "info.json").write_text(json.dumps(info))
    write_jsonl(meta / "tasks.jsonl", [{"task_index": index, "task": task} for index, task in enumerate(tasks)])
    write_jsonl(meta / "episodes.jsonl", episodes)
    write_jsonl(meta / "episodes_stats.jsonl", [{"episode_index": e, "stats": {}} for e in range(len(lengths))])
    return root


def write_jsonl(file: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    """One JSON object per line."""
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
