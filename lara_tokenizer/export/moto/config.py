"""What a Moto dataset of ours says of itself: to Moto, to the wrapper, and to people."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from lara_tokenizer.export.moto_plan import Plan
from lara_tokenizer.export.moto_video import video_name

SPLIT = "train"
_RESIZED = (224, 224)  # a mixture resizes all frames to this


def lmdb_dir(plan: Plan) -> str:
    """Below the export's folder; the LMDB of the split is a folder in it."""
    return f"lmdb/{plan.name}"


def video_dir(plan: Plan) -> str:
    """Below the export's folder. Moto looks for a set that it does not know under "image"."""
    return f"video/{plan.name}/image"


def meta(plan: Plan) -> dict[str, Any]:
    """`latent_motion_meta`: where the codes come from."""
    tokens = plan.matched.tokens
    return {
        "skip_frame": plan.skip_frame,
        "stride": tokens.stride,
        "per_latent_motion_len": tokens.num_latents,
        "latent_motion_codebook_size": tokens.codebook_size,
        "camera": plan.camera,
        "weights_sha256": tokens.metadata["model"]["weights_sha256"],
        "tokens": tokens.metadata,
    }


def data_config(plan: Plan) -> dict[str, Any]:
    """What Moto's `load_dataset` takes."""
    place = {"lmdb_dir": lmdb_dir(plan)}
    if plan.style != "calvin":
        place["video_dir"] = video_dir(plan)
    if plan.style != "oxe":
        return {"data_type": plan.style, **place, "rgb_shape": list(plan.size), "skip_frame": plan.skip_frame}
    # Only in a mixture are frames resized.
    member = {"data_type": "oxe", "data_name": plan.name, "weight": 1, **place}
    return {
        "data_type": "mix",
        "rgb_shape": list(_RESIZED),
        "skip_frame": plan.skip_frame,
        "weighted": False,
        "sub_data_configs": [member],
    }


def settings(plan: Plan) -> dict[str, Any]:
    tokens = plan.matched.tokens
    return {
        "data_config": "data_config.yaml",
        "skip_frame": plan.skip_frame,
        "per_latent_motion_len": tokens.num_latents,
        "latent_motion_codebook_size": tokens.codebook_size,
    }


def notes(plan: Plan) -> list[str]:
    notes = [
        "Moto's trainer tokenizes frames after a random shift; these codes are of the frames as they are.",
        "Train on them with lara_tokenizer.export.moto_wrapper: Moto's own code reads this dataset, not the codes.",
        "There is no val split: Moto takes the first 95 % of the steps to train and the rest to evaluate.",
    ]
    if not plan.video:
        notes.append(
            f"No videos were written: data_config.yaml looks in {video_dir(plan)} for those of an earlier export of "
            "the same episodes (compare episodes.jsonl)."
        )
    if plan.has_actions:
        notes.append("Actions are as recorded; Moto expects the gripper in -1 to 1 (rt1: clipped to it).")
    else:
        notes.append("There are no actions: set act_pred to false.")
    return notes


def video_metadata(plan: Plan) -> dict[str, Any]:
    """The index of the videos that are long enough for a pair. Moto reads two entries of each, the wrapper a third."""
    videos = [
        [video_name(number, SPLIT), frames, first]
        for number, (frames, first) in enumerate(zip(plan.num_frames.values(), plan.first_steps, strict=True))
        if frames > plan.skip_frame
    ]
    return {SPLIT: {"total_frames": sum(frames for _, frames, _ in videos), "videos": videos}}


def episode_lines(plan: Plan) -> Iterator[str]:
    """Which episode of the source each one is, a JSON object a line."""
    rows = zip(plan.num_frames.items(), plan.first_steps, strict=True)
    for number, ((episode, frames), first) in enumerate(rows):
        yield json.dumps({"episode": number, "id": episode, "frames": frames, "first_step": first}) + "\n"
