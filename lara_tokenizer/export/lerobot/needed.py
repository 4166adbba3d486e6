"""Names of the files without which a LeRobotDataset is not whole: its metadata, its rows, and its cameras' videos."""

from __future__ import annotations

import re
import string
from collections.abc import Mapping
from itertools import repeat
from pathlib import Path

from lara_tokenizer.data.lerobot.info import EPISODES_V2, EPISODES_V3, INFO, TASKS_V2, TASKS_V3, LeRobotInfo
from lara_tokenizer.export.lerobot.files import LOOP

# As templates, whose fields stand for a part of one name.
_METADATA = (
    *(INFO, EPISODES_V2, TASKS_V2, TASKS_V3, f"{EPISODES_V3}{{chunk}}/{{file}}"),
    *("meta/stats.json", "meta/episodes_stats.jsonl"),
)
_ROWS = "data/"  # all of it: LeRobot loads every file there
_INDEX = r"[0-9]+"


def check_needed(root: Path, info: LeRobotInfo, left_out: Mapping[str, str]) -> None:
    """Check that nothing needed is among the names, of files or folders, that a copy leaves out.

    Args:
        left_out: names with the reason.

    Raises ValueError for the first one that is needed.
    """
    fields = {"video_key": "|".join(map(re.escape, info.features)), "chunk": ".*", "file": ".*"}
    video = info.content.get("video_path")
    templates = [*_METADATA, *([video] if isinstance(video, str) else [])]
    for name, reason in sorted(left_out.items()):
        if reason == LOOP:  # all files of such a folder are carried under names of their own
            continue
        is_rows = f"{name}/".startswith(_ROWS)
        if is_rows or any(may_name(template, name, fields) for template in templates):
            raise ValueError(
                f"{root.name}: {name} is {reason}, and the dataset needs it. Export a copy that has files in place of "
                f"its links: cp -rL {root} COPY"
            )


def may_name(template: str, name: str, fields: Mapping[str, str]) -> bool:
    """Whether a template can give a file name, or the name of a folder of such files.

    Args:
        fields: regular expressions of fields that are not an index.

    >>> template = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
    >>> [may_name(template, name, {"video_key": "top"}) for name in ("videos/top/chunk-000", "videos/all", "videos")]
    [True, False, True]
    """
    parts, patterns = name.split("/"), template.split("/")
    return len(parts) <= len(patterns) and all(map(_may_be, parts, patterns, repeat(fields)))


def _may_be(part: str, template: str, fields: Mapping[str, str]) -> bool:
    try:
        parsed = list(string.Formatter().parse(template))
    except ValueError:  # a template that cannot be used is refused where its file is read
        return False
    patterns = (re.escape(text) + (f"(?:{fields.get(name, _INDEX)})" if name else "") for text, name, *_ in parsed)
    return re.fullmatch("".join(patterns), part) is not None
