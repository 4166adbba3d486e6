"""`verify_tokens`: encode a sample of a table's units again and compare the codes (`lara-tok verify`)."""

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

from lara_tokenizer.encode.engines import running
from lara_tokenizer.encode.job import EncodeJob, open_job
from lara_tokenizer.encode.plan import EpisodePlan, Unit, split_units
from lara_tokenizer.encode.tasks import Encoded, Failure, PlanTask, TaskQueue, UnitTask
from lara_tokenizer.table.metadata import read_metadata
from lara_tokenizer.table.parquet import table_rows, table_schema, token_files
from lara_tokenizer.table.reader import iter_tables
from lara_tokenizer.table.schema import KEY, to_arrow, to_names, to_numpy
from lara_tokenizer.table.source import Source, recorded_load_options
from lara_tokenizer.table.statistics import codes_array

# Rows named in the report; all are counted.
_NAMED_ROWS = 100
# A table of so many rows is read from its start for each unit; of a larger one only the row groups that may hold it.
_READ_WHOLE = 2**18
_RECORDED_OPTIONS = ("strides", "every", "keep_tail", "min_motion", "batch_size", "dtype")


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """Result of `verify_tokens`.

    Attributes:
        units, units_checked: units of the table, and those that were encoded again.
        rows_checked, rows_differing: rows of these units, and those whose codes differ or that one side lacks.
        differences: the first 100 of them: episode, camera, stride, frame_index, "codes" of the table and "codes_now";
            None where there is no such row.
        unreadable: reasons by episode.
    """

    units: int
    units_checked: int
    rows_checked: int
    rows_differing: int
    differences: list[dict[str, Any]]
    unreadable: dict[str, str]

    @property
    def is_equal(self) -> bool:
        """True if nothing differs, and all could be read."""
        return not self.rows_differing and not self.unreadable

    def to_dict(self) -> dict[str, Any]:
        """The fields and `is_equal` as JSON-native values."""
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
        model: the checkpoint; default: the id in the metadata.
        device: default: the type of device that the table was made on.
        workers: as in `encode_dataset`.
        from_list: the list of clips, if the table was made from one.
        progress: called with the number of units checked, and to be checked.

    Raises:
        JobMismatchError: the checkpoint's weights are not those that made the table.
        ValueError: it is not a token table, has no codes, or an episode of it is not in the source.
    """
    path, metadata = Path(tokens), read_metadata(os.fspath(tokens))
    if not 0 < sample <= 1:
        raise ValueError(f"sample {sample}: takes a share above 0 and at most 1, e.g. 0.01 for 1 %")
    if metadata["model"]["codebook_size"] is None:
        raise ValueError(f"{path}: made by a continuous bottleneck; it has no codes to compare")
    options: dict[str, Any] = {name: metadata[name] for name in _RECORDED_OPTIONS}
    options |= recorded_load_options(metadata, source, from_list)
    options |= {"device": device or metadata["device"], "workers": workers}
    with open_job(source, model or metadata["model"]["id"], **options) as job:
        job.check_made(path, metadata)
        units = _units(path)
        if missing := sorted({unit.episode for unit in units} - set(job.episodes)):
            raise ValueError(f"episode {missing[0]!r} of {path} is not in the source ({len(missing)} missing)")
        # A fixed seed: a repeated check samples the same rows.
        chosen = random.Random(0).sample(units, max(1, math.ceil(sample * len(units)))) if units else []
        results, unreadable = _encode_again(path, job, chosen, progress)
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
    """Number of rows of a unit in the table, and those that differ."""

    rows: int
    differences: list[dict[str, Any]]


def _encode_again(
    path: Path, job: EncodeJob, chosen: list[Unit], progress: Callable[[int, int], object] | None
) -> tuple[list[_UnitResult], dict[str, str]]:
    """Encode the chosen units and compare each with the table; the second result has the reasons of failures."""
    # A table made with min_motion does not show where its units were cut, so the episodes are planned again.
    episodes = [job.episodes[name] for name in sorted({unit.episode for unit in chosen})]
    tasks = TaskQueue(PlanTask(episode) for episode in episodes)
    results: list[_UnitResult] = []
    unreadable: dict[str, str] = {}
    with running(job.engine(len(chosen))) as engine:
        for event in engine.run(tasks):
            match event:
                case EpisodePlan(name, planned, files=files):
                    overlapping = (unit for unit in planned if _overlaps_any(unit, chosen))
                    tasks.add(UnitTask(job.episodes[name], unit, files) for unit in overlapping)
                    continue
                case Encoded(unit=unit, rows=rows):
                    results.append(_compare(unit, _stored_rows(path, unit), pa.ipc.open_stream(rows).read_all()))
                case Failure(name, reason):
                    unreadable[name] = reason
                    tasks.cancel(name)
                case _:
                    continue
            if progress is not None:
                progress(len(results), len(chosen))
    return results, unreadable


def _overlaps_any(unit: Unit, chosen: list[Unit]) -> bool:
    return any(
        (each.episode, each.camera) == (unit.episode, unit.camera)
        and each.first <= unit.last
        and unit.first <= each.last
        for each in chosen
    )


def _units(path: Path) -> list[Unit]:
    """The units that the table's rows came from or, if pairs below min_motion were left out, about as many."""
    anchors: dict[tuple[str, str], list[np.ndarray]] = {}
    for table in iter_tables(path, ["episode", "camera", "frame_index"]):
        names = [table[name].cast(pa.string()).combine_chunks().dictionary_encode() for name in ("episode", "camera")]
        episodes, cameras = (to_numpy(name.indices).astype(np.int64) for name in names)
        # One number for each anchor: sorted, those of an episode and camera are in a row.
        group = episodes * len(names[1].dictionary) + cameras
        keys = np.unique(group << 32 | to_numpy(table["frame_index"]))
        groups, starts = np.unique(keys >> 32, return_index=True)
        frames = np.split(keys & 0xFFFF_FFFF, starts[1:])
        episode_names, camera_names = (name.dictionary.to_pylist() for name in names)
        for number, part in zip(groups.tolist(), frames, strict=True):
            episode, camera = divmod(number, len(camera_names))
            anchors.setdefault((episode_names[episode], camera_names[camera]), []).append(part)
    return [
        unit
        for (episode, camera), parts in sorted(anchors.items())
        for unit in split_units(episode, camera, np.concatenate(parts))
    ]


def _stored_rows(path: Path, unit: Unit) -> pa.Table:
    """The table's rows of one unit."""
    if table_rows(path) <= _READ_WHOLE:
        return pa.concat_tables(_rows_of(table, unit) for table in iter_tables(path, [*KEY, "codes"]))
    import pyarrow.dataset as ds  # only now: it imports pandas, where that is installed

    files = token_files(path)
    codes = table_schema(files[0]).field("codes")
    # Names as plain strings, so that the parquet statistics can exclude row groups.
    schema = pa.schema([(name, pa.string()) for name in KEY[:3]] + [("frame_index", pa.int32()), codes])
    of_unit = (
        (pc.field("episode") == unit.episode)
        & (pc.field("camera") == unit.camera)
        & (pc.field("frame_index") >= unit.first)
        & (pc.field("frame_index") <= unit.last)
    )
    return ds.dataset([str(file) for file in files], schema=schema).to_table(filter=of_unit)


def _rows_of(table: pa.Table, unit: Unit) -> pa.Table:
    frames = to_numpy(table["frame_index"])
    rows = table.filter(to_arrow((frames >= unit.first) & (frames <= unit.last)))
    for name, value in (("episode", unit.episode), ("camera", unit.camera)):
        rows = rows.filter(pc.is_in(rows[name].cast(pa.string()), value_set=to_names([value])))
    return rows


def _compare(unit: Unit, stored: pa.Table, encoded: pa.Table) -> _UnitResult:
    # Rows are matched by key, so a missing or additional row is a difference too.
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
