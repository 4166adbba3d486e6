"""`export_moto`: a token table as a dataset of Moto-GPT, that is its LMDB, its videos, and the codes beside them.

<out>/lmdb/<name>/train/data.mdb            see `lmdb`
<out>/video/<name>/image/                   see `video`; not for style calvin, whose images are in the LMDB
      train_eps_00000000.mp4
      video_metadata.json                   {"train": {"total_frames": n, "videos": [[file, frames, first step], ...]}}
<out>/data_config.yaml                      for Moto's `load_dataset`; paths relative to <out>
<out>/episodes.jsonl                        the source's episode for each of Moto's
<out>/export_manifest.json

Formats as TencentARC/Moto at 4471f76 reads them (common/data/{data_utils,datasets}.py).
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Unpack

import numpy as np
import yaml

from lara_tokenizer.export.images import IMAGES, ImageTask, frame_file, image_folder, write_images
from lara_tokenizer.export.job import ExportFolder, ExportJob, ExportSummary, Progress, counter
from lara_tokenizer.export.moto.lmdb import DATABASE, EpisodeSteps, require_lmdb, write_lmdb
from lara_tokenizer.export.moto.plan import SPLIT, MotoPlan, check_options, frame_texts, read_actions, video_name
from lara_tokenizer.export.moto.video import VideoTask, write_video
from lara_tokenizer.table.reader import SelectOptions, TokenTable
from lara_tokenizer.table.source import Source

_LMDB = "lmdb"  # the part of the export that is recorded once it is complete


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
    """Write a token table as a dataset that Moto-GPT reads; see `moto_wrapper` for training on the codes.

    Args:
        tokens: the table.
        source: the video it was made from.
        out: a new folder. The same call again continues an interrupted export.
        style: "oxe", "rt1" or "calvin": the dataset class of Moto that is to read it.
        name: of the dataset, a folder's name. Avoid names of Open X-Embodiment sets: Moto multiplies the gap of a pair
            for those that it knows.
        instruction: for episodes without one.
        actions: write the source's actions, which must have 7 numbers: position, rotation, gripper.
        video: write the frames too. Without, use the videos of an earlier export of the same episodes.
        from_list: the list of clips, if the table was made from one.
        workers: processes that decode video; None uses one per core, 0 none but this one.
        progress: called with (episodes done, of all), first for their frames, then for the LMDB.
        select: stride, camera and thresholds, see `TokenTable.open`.

    Raises:
        ValueError: before anything is written, if table and source do not match, the gap of the pairs varies, or
            actions are not 7 wide.
        ImportError: the lmdb package is not installed.
        EpisodeReadError: an episode cannot be read.

    >>> export_moto("tokens.parquet", "videos/", "for-moto", instruction="pick up the can").settings  # doctest: +SKIP
    {'data_config': 'data_config.yaml', 'skip_frame': 3, 'per_latent_motion_len': 8, ...}
    """
    check_options(style, name, actions, video)
    require_lmdb()
    table = TokenTable.open(tokens, **select)
    table.require("codes", "latent_motion_ids")
    if len(table.cameras) > 1:
        raise ValueError(f"cameras {', '.join(table.cameras)}: Moto has one per dataset. Choose with --camera.")
    options = {"style": style, "name": name, "instruction": instruction, "actions": actions, "video": video}
    job = ExportJob("moto", table, out, options)
    plan_of = partial(MotoPlan.of, style=style, name=name, video=video, instruction=instruction, actions=actions)
    if (finished := job.finished(source, from_list, lambda matched: _files(plan_of(matched)))) is not None:
        return finished
    matched = job.match(source, from_list)
    plan = plan_of(matched)
    summary = job.summarize(matched, plan.settings(), plan.notes())
    with job.folder(summary) as folder:
        _write(plan, folder, workers, progress)
    return summary


def _write(plan: MotoPlan, folder: ExportFolder, workers: int | None, progress: Progress | None) -> None:
    show = counter(progress, len(plan.num_frames))
    if plan.style != "calvin" and plan.video:
        folder.run_tasks(write_video, _video_tasks(plan, folder.path), workers, lambda task: show(1))
    database = folder.path / plan.lmdb_dir / SPLIT
    if not folder.is_done(_LMDB, [database / DATABASE]):
        if plan.style == "calvin":
            folder.run_tasks(write_images, _image_tasks(plan, folder.path), workers, lambda task: show(1))
        write_lmdb(database, _episodes(plan, folder.path, progress), plan.lmdb_meta())
        folder.mark_done(_LMDB, [database / DATABASE])
    shutil.rmtree(folder.path / IMAGES, ignore_errors=True)  # they are in the LMDB now
    if plan.style != "calvin":
        index = folder.path / plan.video_dir / "video_metadata.json"
        index.parent.mkdir(parents=True, exist_ok=True)
        index.write_text(json.dumps(plan.video_metadata()) + "\n", encoding="utf-8")
    config = yaml.safe_dump(plan.data_config(), sort_keys=False)
    (folder.path / "data_config.yaml").write_text(config, encoding="utf-8")
    with (folder.path / "episodes.jsonl").open("w", encoding="utf-8") as stream:
        stream.writelines(plan.episode_lines())


def _files(plan: MotoPlan) -> Iterator[str]:
    """Names of the files of an export."""
    yield from ("data_config.yaml", "episodes.jsonl", f"{plan.lmdb_dir}/{SPLIT}/{DATABASE}")
    if plan.style != "calvin":
        yield f"{plan.video_dir}/video_metadata.json"
        if plan.video:
            yield from (f"{plan.video_dir}/{video_name(index)}" for index in range(len(plan.num_frames)))


def _image_tasks(plan: MotoPlan, path: Path) -> Iterator[ImageTask]:
    for episode, frames in plan.num_frames.items():
        folder = path / image_folder(episode, plan.camera)
        yield ImageTask(plan.matched.episodes[episode], plan.camera, np.arange(frames), folder)


def _video_tasks(plan: MotoPlan, path: Path) -> Iterator[VideoTask]:
    folder = path / plan.video_dir
    for index, (episode, frames) in enumerate(plan.num_frames.items()):
        yield VideoTask(
            plan.matched.episodes[episode],
            plan.camera,
            frames,
            folder / video_name(index),
            None if plan.style == "oxe" else plan.size,
        )


def _episodes(plan: MotoPlan, folder: Path, progress: Progress | None) -> Iterator[EpisodeSteps]:
    """Every frame of every episode, labelled or not."""
    num_frames, show = plan.num_frames, counter(progress, len(plan.num_frames))
    for episode, sequence in plan.matched.sequences("codes", "text"):
        assert sequence.codes is not None
        frames = num_frames[episode.id]
        codes = np.full((frames, sequence.codes.shape[1]), -1, np.int16)
        valid = np.zeros(frames, bool)
        images = folder / image_folder(episode.id, plan.camera)
        labelled = sequence.frames[sequence.selected]
        codes[labelled] = sequence.codes[sequence.selected]
        valid[labelled] = True
        yield EpisodeSteps(
            codes=codes,
            valid=valid,
            texts=frame_texts(episode, sequence, frames, plan.instruction),
            actions=read_actions(episode, frames) if plan.has_actions else None,
            images=[images / frame_file(frame) for frame in range(frames)] if plan.style == "calvin" else None,
        )
        show(1)
