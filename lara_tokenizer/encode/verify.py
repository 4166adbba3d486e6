"""Does a table hold what its source and its model give? Encodes whole units again and compares (`lara-tok verify`)."""

from __future__ import annotations

import math
import os
import random
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from lara_tokenizer.encode.engines import running
from lara_tokenizer.encode.plan import Unit, split_units
from lara_tokenizer.encode.prepare import prepared
from lara_tokenizer.encode.tasks import Encoded, Failed, Planned, PlanTask, TaskQueue, UnitTask
from lara_tokenizer.errors import JobMismatchError
from lara_tokenizer.table.metadata import read_metadata, token_files
from lara_tokenizer.table.reader import iter_tables
from lara_tokenizer.table.schema import KEY
from lara_tokenizer.table.source import Source, check_revisions, recorded_load_options
from lara_tokenizer.table.statistics import codes_array

# Rows that are named in the report; all are counted.
_NAMED_ROWS = 100


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What was compared and what differs.

    `differences` names at most 100 rows by (episode, camera, stride, frame_index), with the codes of the table and
    those of now; None where one of them has no such row. `unreadable` gives reasons by episode.
    """

    units: int  # in the table
    units_checked: int
    rows_checked: int
    rows_differing: int
    differences: list[dict[str, Any]]
    unreadable: dict[str, str]

    @property
    def is_equal(self) -> bool:
        """Nothing differs, and all could be read."""
        return not self.rows_differing and not self.unreadable

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        return {**asdict(self), "is_equal": self.is_equal}


def verify_tokens(
    tokens: str | os.PathLike[str],
    source: Source,
    *,
    sample: float = 0.01,
    model: str | os.PathLike[str] | None = None,
    device: str | None = None,
    workers: int | None = None,
    from_list: str | os.PathLike[str] | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> VerifyReport:
    """Encode a sample of a table's units again, with the options in its metadata, and compare the codes.

    Args:
        tokens: the table, file or folder.
        source: the video it was made from, as given to `encode_dataset`.
        sample: share of the units to check, above 0 to 1; at least one unit. The same share picks the same units.
        model: where the checkpoint lies; default: the id in the metadata.
        device: default: the type of device that the table was made on.
        workers: as in `encode_dataset`.
        from_list: the list of clips, where the table was made from one.
        progress: called with the number of units checked, and to be checked.

    Raises:
        JobMismatchError: the checkpoint's weights are not those that made the table.
        ValueError: the table is not ours, or an episode of it is not in the source.
    """
    path, metadata = Path(tokens), read_metadata(os.fspath(tokens))
    if not 0 < sample <= 1:
        raise ValueError(f"sample {sample}: takes a share above 0 and at most 1, e.g. 0.01 for 1 %")
    if metadata["model"]["codebook_size"] is None:
        raise ValueError(f"{path}: made by a continuous bottleneck; it has no codes to compare")
    with prepared(
        source,
        model or metadata["model"]["id"],
        None,
        load=recorded_load_options(metadata, source, from_list),
        device=device or metadata["device"],
        dtype=metadata["dtype"],
        **{name: metadata[name] for name in ("strides", "every", "keep_tail", "min_motion", "batch_size")},
    ) as preparation:
        check_revisions(metadata, preparation.sources)
        made_by, found = metadata["model"]["weights_sha256"], preparation.checkpoint.weights_sha256
        if made_by != found:
            raise JobMismatchError(
                f"{path} was made by weights {_short(made_by)}, {preparation.checkpoint.id!r} has {_short(found)}: "
                "their codes cannot be compared. Pass the right checkpoint with --model."
            )
        units = _units(path)
        if missing := sorted({unit.episode for unit in units} - set(preparation.episodes)):
            raise ValueError(f"episode {missing[0]!r} of {path} is not in the source ({len(missing)} missing)")
        chosen = random.Random(0).sample(units, max(1, math.ceil(sample * len(units)))) if units else []
        # A table without its idle pairs does not show where the units were cut: the episodes are planned again.
        episodes = [preparation.episodes[name] for name in sorted({unit.episode for unit in chosen})]
        tasks = TaskQueue(PlanTask(episode) for episode in episodes)
        results: list[_UnitResult] = []
        unreadable: dict[str, str] = {}
        with running(preparation.engine(workers, len(chosen))) as engine:
            for event in engine.run(tasks):
                match event:
                    case Planned(plan):
                        episode = preparation.episodes[plan.episode]
                        tasks.add(UnitTask(episode, unit) for unit in plan.units if _holds_any(unit, chosen))
                        continue
                    case Encoded(unit=unit, rows=rows):
                        results.append(_compare(unit, _stored_rows(path, unit), pa.ipc.open_stream(rows).read_all()))
                    case Failed(episode, reason):
                        unreadable[episode] = reason
                        tasks.drop(episode)
                    case _:
                        continue
                if progress is not None:
                    progress(len(results), len(chosen))
    differences = [row for result in results for row in result.differences]
    differences.sort(key=lambda row: tuple(row[name] for name in KEY))
    return VerifyReport(
        units=len(units),
        units_checked=len(results),
        rows_checked=sum(result.rows for result in results),
        rows_differing=len(differences),
        differences=differences[:_NAMED_ROWS],
        unreadable=unreadable,
    )


@dataclass(frozen=True, slots=True)
class _UnitResult:
    rows: int
    differences: list[dict[str, Any]]


def _holds_any(unit: Unit, chosen: list[Unit]) -> bool:
    """Whether some of the chosen units' rows may be of this one."""
    return any(
        (each.episode, each.camera) == (unit.episode, unit.camera)
        and each.first <= unit.last
        and unit.first <= each.last
        for each in chosen
    )


def _short(weights: dict[str, str]) -> str:
    return ", ".join(f"{name} {digest[:12]}" for name, digest in sorted(weights.items()))


def _units(path: Path) -> list[Unit]:
    """The units that the table's rows came from, or, where idle pairs were left out, about as many."""
    anchors: dict[tuple[str, str], list[np.ndarray]] = {}
    for table in iter_tables(path, ["episode", "camera", "frame_index"]):
        plain = table.cast(pa.schema([("episode", pa.string()), ("camera", pa.string()), ("frame_index", pa.int32())]))
        for group in plain.group_by(["episode", "camera"]).aggregate([("frame_index", "distinct")]).to_pylist():
            key = group["episode"], group["camera"]
            anchors.setdefault(key, []).append(np.array(group["frame_index_distinct"]))
    return [
        unit
        for (episode, camera), parts in sorted(anchors.items())
        for unit in split_units(episode, camera, np.concatenate(parts))
    ]


def _stored_rows(path: Path, unit: Unit) -> pa.Table:
    """The table's rows of one unit."""
    files = token_files(path)
    codes = pq.read_schema(files[0]).field("codes")
    # Names as plain text: then the files' statistics tell which row groups to read.
    schema = pa.schema([(name, pa.string()) for name in KEY[:3]] + [("frame_index", pa.int32()), codes])
    here = (
        (pc.field("episode") == unit.episode)
        & (pc.field("camera") == unit.camera)
        & (pc.field("frame_index") >= unit.first)
        & (pc.field("frame_index") <= unit.last)
    )
    return ds.dataset([str(file) for file in files], schema=schema).to_table(filter=here)


def _compare(unit: Unit, stored: pa.Table, encoded: pa.Table) -> _UnitResult:
    before, now = _codes_by_key(stored), _codes_by_key(encoded)
    differing = [
        {
            "episode": unit.episode,
            "camera": unit.camera,
            "stride": stride,
            "frame_index": frame,
            "codes": before.get((stride, frame)),
            "codes_now": now.get((stride, frame)),
        }
        for stride, frame in sorted({*before, *now})
        if before.get((stride, frame)) != now.get((stride, frame))
    ]
    return _UnitResult(len(before), differing)


def _codes_by_key(table: pa.Table) -> dict[tuple[str, int], list[int]]:
    keys = zip(table["stride"].to_pylist(), table["frame_index"].to_pylist(), strict=True)
    return dict(zip(keys, codes_array(table).tolist(), strict=True))
