"""A table of tokens as a dataset of Moto-GPT: its LMDB, its videos, and the codes beside them.

<out>/lmdb/<name>/train/data.mdb            see `moto_lmdb`
<out>/video/<name>/image/                   see `moto_video`; not for style calvin, whose pictures lie in the LMDB
      train_eps_00000000.mp4
      video_metadata.json                   {"train": {"total_frames": n, "videos": [[file, frames, first step], ...]}}
<out>/data_config.yaml                      what Moto's `load_dataset` takes; paths as seen from <out>
<out>/episodes.jsonl                        which episode of the source each one is
<out>/export_manifest.json

Formats as TencentARC/Moto at 4471f76 reads them (common/data/{data_utils,datasets}.py).
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Unpack

import numpy as np
import yaml
from PIL import Image

from lara_tokenizer.data import Episode
from lara_tokenizer.export.folder import ExportFolder, export_folder, remove_unfinished
from lara_tokenizer.export.instructions import instructions
from lara_tokenizer.export.manifest import ExportSummary, export_job, finished_export, summary_of, write_manifest
from lara_tokenizer.export.matching import Source, match_source
from lara_tokenizer.export.moto_config import (
    SPLIT,
    data_config,
    episode_lines,
    lmdb_dir,
    meta,
    notes,
    settings,
    video_dir,
    video_metadata,
)
from lara_tokenizer.export.moto_lmdb import Steps, need_lmdb, write_lmdb
from lara_tokenizer.export.moto_plan import (
    Plan,
    actions_of,
    check_actions,
    check_options,
    check_sizes,
    check_tracks,
)
from lara_tokenizer.export.moto_video import VideoTask, video_name, write_videos
from lara_tokenizer.export.pictures import IMAGES, PictureTask, frame_file, picture_folder, write_pictures
from lara_tokenizer.table.reader import SelectOptions, TokenSequence, TokenTable

_LMDB = "lmdb"  # the part of the export that is remembered once it is whole

# (episodes that are written, all of them): first of their frames, then of the LMDB
Progress = Callable[[int, int], object]


def export_moto(
    tokens: str | os.PathLike[str],
    source: Source,
    out: str | os.PathLike[str],
    *,
    style: str = "oxe",
    name: str = "lara",
    instruction: str | None = None,
    actions: bool = True,
    video: bool = True,
    from_list: str | os.PathLike[str] | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
    **select: Unpack[SelectOptions],
) -> ExportSummary:
    """Write a table of tokens as a dataset that Moto-GPT reads; see `moto_wrapper` for training on the codes.

    Args:
        tokens: the table.
        source: the video it was made from.
        out: a new folder. A call that was cut short is continued by the same call.
        style: "oxe", "rt1" or "calvin": which of Moto's dataset classes is to read it.
        name: of the dataset, a folder's name. Keep off names of Open X-Embodiment sets: Moto multiplies the gap of a
            pair for those that it knows.
        instruction: for episodes that have none.
        actions: write the source's, which must have 7 numbers: position, rotation, gripper.
        video: write the frames too. Without, the videos of an earlier export of the same episodes serve.
        from_list: the list of clips, where the table was made from one.
        workers: processes that decode video; None takes one a core, 0 none but this one.
        progress: called as files are finished.
        select: which rows; see `TokenTable.open`.

    Raises:
        ValueError: table and source do not match, the gap of the pairs varies, actions are not 7 wide, or see
            `TokenTable.open`; before anything is written.
        ImportError: the lmdb package is not installed.
        EpisodeReadError: an episode cannot be read.

    >>> export_moto("tokens.parquet", "videos/", "for-moto", instruction="pick up the can").settings  # doctest: +SKIP
    {'data_config': 'data_config.yaml', 'skip_frame': 3, 'per_latent_motion_len': 8, ...}
    """
    check_options(style, name, actions, video)
    need_lmdb()
    opened = TokenTable.open(tokens, **select)
    opened.require("codes", "latent_motion_ids")
    if len(opened.cameras) > 1:
        raise ValueError(f"cameras {', '.join(opened.cameras)}: Moto has one a dataset. Choose with --camera.")
    job = export_job("moto", opened, style=style, name=name, instruction=instruction, actions=actions, video=video)
    if (finished := finished_export(Path(out), job)) is not None:
        return finished
    matched = match_source(opened, source, from_list, out)
    plan = Plan(
        matched=matched,
        style=style,
        name=name,
        video=video,
        instruction=instruction,
        camera=opened.cameras[0],
        skip_frame=check_tracks(matched, style, instruction),
        has_actions=actions and check_actions(matched, style),
        size=check_sizes(matched, every=video and style != "oxe"),
    )
    summary = summary_of("moto", Path(out), matched, settings=settings(plan), notes=notes(plan))
    with export_folder(out, job) as folder:
        _write(plan, folder, workers, progress)
        write_manifest(folder.path, job, summary)
    return summary


def _write(plan: Plan, folder: ExportFolder, workers: int | None, progress: Progress | None) -> None:
    if plan.style != "calvin" and plan.video:
        _write_videos(plan, folder, workers, progress)
    if not folder.is_done(_LMDB):
        if plan.style == "calvin":
            _write_pictures(plan, folder, workers, progress)
        write_lmdb(folder.path / lmdb_dir(plan) / SPLIT, _episodes(plan, folder.path, progress), meta(plan))
        folder.mark_done(_LMDB)
    remove_unfinished(folder.path / IMAGES)  # they are in the LMDB now
    if plan.style != "calvin":
        index = folder.path / video_dir(plan) / "video_metadata.json"
        index.parent.mkdir(parents=True, exist_ok=True)
        index.write_text(json.dumps(video_metadata(plan)) + "\n", encoding="utf-8")
    config = yaml.safe_dump(data_config(plan), sort_keys=False)
    (folder.path / "data_config.yaml").write_text(config, encoding="utf-8")
    with (folder.path / "episodes.jsonl").open("w", encoding="utf-8") as stream:
        stream.writelines(episode_lines(plan))


def _write_pictures(plan: Plan, folder: ExportFolder, workers: int | None, progress: Progress | None) -> None:
    one_more = _counter(plan, progress)
    tasks = (
        PictureTask(
            plan.matched.episodes[episode],
            plan.camera,
            np.arange(frames),
            folder.path / picture_folder(episode, plan.camera),
        )
        for episode, frames in plan.num_frames.items()
    )
    write_pictures(tasks, folder, workers, lambda pictures: one_more())


def _write_videos(plan: Plan, folder: ExportFolder, workers: int | None, progress: Progress | None) -> None:
    tasks = (
        VideoTask(
            plan.matched.episodes[episode],
            plan.camera,
            frames,
            folder.path / video_dir(plan) / video_name(number, SPLIT),
            None if plan.style == "oxe" else plan.size,
        )
        for number, (episode, frames) in enumerate(plan.num_frames.items())
    )
    write_videos(tasks, folder, workers, _counter(plan, progress))


def _counter(plan: Plan, progress: Progress | None) -> Callable[[], None]:
    """A function to be called for each episode that is done."""
    numbers = count(1)

    def one_more() -> None:
        if progress is not None:
            progress(next(numbers), len(plan.matched.episodes))

    return one_more


def _episodes(plan: Plan, folder: Path, progress: Progress | None) -> Iterator[Steps]:
    """Every frame of every episode, labelled or not."""
    num_frames, one_more = plan.num_frames, _counter(plan, progress)
    for episode, track in plan.matched.sequences("codes", "text"):
        assert track.codes is not None
        frames = num_frames[episode.id]
        codes = np.full((frames, track.codes.shape[1]), -1, np.int16)
        valid = np.zeros(frames, bool)
        labelled = track.frames[track.selected]
        codes[labelled], valid[labelled] = track.codes[track.selected], True
        yield Steps(
            codes=codes,
            valid=valid,
            texts=_texts(episode, track, frames, plan.instruction),
            actions=actions_of(episode, frames) if plan.has_actions else None,
            pictures=_picture_files(folder, episode, plan, frames) if plan.style == "calvin" else None,
        )
        one_more()


def _texts(episode: Episode, track: TokenSequence, frames: int, default: str | None) -> list[str]:
    """The instruction of each frame; one without a row has that of the row before."""
    texts = instructions(episode, track, default)
    if len(set(texts)) == 1:
        return texts[:1] * frames
    rows = np.maximum(np.searchsorted(track.frames, np.arange(frames), side="right") - 1, 0)
    return [texts[row] for row in rows.tolist()]


def _picture_files(folder: Path, episode: Episode, plan: Plan, frames: int) -> list[Path]:
    files = [folder / picture_folder(episode.id, plan.camera) / frame_file(frame) for frame in range(frames)]
    with Image.open(files[0]) as image:
        width, height = image.size
    assert (height, width) == plan.size
    return files
