"""The metadata of a LeRobotDataset with columns added: info.json, and statistics where the dataset has them.

v3.0  meta/stats.json, and stats/<feature>/<statistic> in meta/episodes/*/*.parquet
v2.1  meta/episodes_stats.jsonl
v2.0  meta/stats.json
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from lara_tokenizer.export.lerobot_folder import EPISODES_V3, INFO, LeRobotFolder, batches
from lara_tokenizer.export.lerobot_rows import Features, with_hf_features
from lara_tokenizer.export.lerobot_statistics import ALL, BASIC, StoredStatistics, statistic_type

STATS, EPISODES_STATS = "meta/stats.json", "meta/episodes_stats.jsonl"


def statistics_files(dataset: LeRobotFolder) -> list[str]:
    """The files of a dataset that hold statistics; one that it lacks is not begun, as it would miss all else."""
    return sorted(name for name in dataset.names if name in (STATS, EPISODES_STATS) or _has_statistics(dataset, name))


def _has_statistics(dataset: LeRobotFolder, name: str) -> bool:
    if not (dataset.version == "v3.0" and name.startswith(EPISODES_V3) and name.endswith(".parquet")):
        return False
    return any(column.startswith("stats/") for column in pq.read_schema(dataset.root / name).names)


def write_info(dataset: LeRobotFolder, target: Path, features: Features, **changed: Any) -> None:
    """info.json with the features at the end."""
    info = dataset.info | {"features": {**dataset.info["features"], **features}} | changed
    write_json(target / INFO, info)


def write_statistics(dataset: LeRobotFolder, target: Path, statistics: StoredStatistics) -> None:
    """Every file that `statistics_files` names."""
    for name in statistics_files(dataset):
        source = dataset.root / name
        if name == STATS:
            said = json.loads(source.read_text(encoding="utf-8"))
            write_json(target / name, said | statistics.total())
        elif name == EPISODES_STATS:
            write_lines(target / name, _with_statistics(source, statistics))
        else:
            _write_episodes(source, target / name, statistics)


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a file with a JSON object a line."""
    with path.open(encoding="utf-8") as stream:
        for line in stream:
            if line.strip():
                yield json.loads(line)


def write_lines(path: Path, entries: Iterator[dict[str, Any]]) -> None:
    """A file with a JSON object a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as stream:
        for entry in entries:
            stream.write(json.dumps(entry, ensure_ascii=False) + "\n")


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Indented as LeRobot does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=4, ensure_ascii=False), encoding="utf-8")


def _with_statistics(source: Path, statistics: StoredStatistics) -> Iterator[dict[str, Any]]:
    for entry in read_lines(source):
        added = statistics.of(int(entry["episode_index"]))
        of_features = {feature: {name: found[name] for name in BASIC} for feature, found in added.items()}
        yield entry | {"stats": entry["stats"] | of_features}


def _write_episodes(source: Path, target: Path, statistics: StoredStatistics) -> None:
    """Rows of meta/episodes with their statistics at the end."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with pq.ParquetFile(source) as parquet:
        schema = parquet.schema_arrow
        features = list(statistics.of(_first_episode(parquet)))
        new = [(feature, name) for feature in features for name in ALL]
        fields = [pa.field(f"stats/{feature}/{name}", statistic_type(name)) for feature, name in new]
        added = {field.name: _hf_statistic(field.type) for field in fields}
        schema = pa.schema([*schema, *fields], metadata=with_hf_features(schema.metadata, added))
        with pq.ParquetWriter(target, schema) as writer:
            for batch in batches(parquet):
                found = [statistics.of(episode) for episode in batch.column("episode_index").to_pylist()]
                arrays = _columns(found, new)
                writer.write_batch(pa.record_batch([*batch.columns, *arrays], schema=schema))


def _columns(found: Sequence[dict[str, dict[str, list[float]]]], new: Sequence[tuple[str, str]]) -> list[pa.Array]:
    return [pa.array([each[feature][name] for each in found], statistic_type(name)) for feature, name in new]


def _first_episode(parquet: pq.ParquetFile) -> int:
    return next(batches(parquet, ["episode_index"])).column("episode_index")[0].as_py()


def _hf_statistic(kind: pa.DataType) -> dict[str, Any]:
    dtype = "int64" if kind.value_type == pa.int64() else "float64"
    return {"feature": {"dtype": dtype, "_type": "Value"}, "_type": "Sequence"}
