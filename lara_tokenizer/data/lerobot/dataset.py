"""Listing of LeRobotDataset v2.0, v2.1 and v3.0, from a folder or the Hub. Reads metadata only.

Entries of the metadata without a file are reported in notes and ignored.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import replace
from pathlib import Path

from lara_tokenizer._parse import read_json
from lara_tokenizer.data.dataset_files import DatasetFiles, LocalFiles, open_hub
from lara_tokenizer.data.episode import ACTIONS, STATES, Episode, SignalNames, first_of
from lara_tokenizer.data.lerobot.entries import EpisodeEntry, read_entries
from lara_tokenizer.data.lerobot.info import EPISODES_V3, INFO, LeRobotInfo, whole_number
from lara_tokenizer.data.lerobot.reader import LeRobotReader
from lara_tokenizer.data.lerobot.rows import DataRows, column_names, data_files, moved_episodes
from lara_tokenizer.data.lerobot.spans import VideoSpan, lay_out
from lara_tokenizer.data.listing import DEFAULT_OPTIONS, Listing, ListOptions, choose_cameras, last_part
from lara_tokenizer.data.video import VIDEO_SUFFIXES
from lara_tokenizer.errors import EpisodeReadError, first_line

_SAMPLED_FILES = 8  # of rows, whose columns are looked at
KNOWN_VERSIONS = ("v2.0", "v2.1", "v3.0")
LOOKED_FOR = f"{INFO} (LeRobotDataset)"


def detect(folder: Path, names: Set[str]) -> bool:
    """Whether a folder holds a LeRobotDataset."""
    return "meta" in names and (folder / INFO).is_file()


def list_episodes(source: str, options: ListOptions = DEFAULT_OPTIONS) -> Listing:
    """List the episodes of a folder, or of "user/name" on the Hub, of which only metadata is downloaded now.

    Cameras are feature keys; by default the first one that has files is taken. Ids are "episode_000000" and so on.
    Raises ValueError for a source that is not such a dataset, is empty, or lacks a camera.

    >>> list_episodes("demos").episodes[0].id  # doctest: +SKIP
    'episode_000000'
    """
    folder = Path(source)
    files: DatasetFiles
    if folder.is_dir():
        local = LocalFiles(str(folder.absolute()))
        files, names, name, revision = local, local.names(), folder.absolute().name, None
    else:
        hub, names = open_hub(source)
        files, name, revision = hub, hub.repo_id, hub.revision
    try:
        return _Dataset(files, names, name).list_episodes(options, revision)
    except (KeyError, IndexError, TypeError, AttributeError, ArithmeticError) as error:
        # Metadata is often written by custom scripts, so any of its fields may have a wrong type.
        raise ValueError(f"{name}: its metadata is invalid ({type(error).__name__}: {first_line(error)})") from error


class _Dataset:
    """The opened metadata of one dataset."""

    def __init__(self, files: DatasetFiles, names: set[str], name: str) -> None:
        self.files = files
        self.names = names
        self.name = name
        self.notes: list[str] = []
        self._stored: frozenset[str] | None = None
        if INFO not in names:
            raise ValueError(f"{name}: not a LeRobotDataset: {INFO} is missing")
        try:
            self.info = LeRobotInfo.check(read_json(files.path(INFO), INFO))
        except EpisodeReadError as error:
            raise ValueError(f"{name}: {error}") from error
        except (OSError, ValueError) as error:
            reason = first_line(error).removeprefix(f"{INFO}: ")
            raise ValueError(f"{name}: not a LeRobotDataset: {INFO}: {reason}") from error
        self.version = self.info.version
        if not self.info.is_supported:
            remedy = "It is newer than this program" if self.info.is_newer else "Convert it with lerobot"
            raise ValueError(f"{name}: a LeRobotDataset {self.version}; v2.0, v2.1 and v3.0 are read. {remedy}")
        if self.version not in KNOWN_VERSIONS:
            self.notes.append(f"version {self.version} is read as {'v3.0' if self.info.is_v3 else 'v2.1'}")

    def list_episodes(self, options: ListOptions, revision: str | None) -> Listing:
        entries = self._entries()
        self._check_totals(entries)
        cameras = self._cameras(entries, options.cameras)
        columns = self._signal_columns(entries)
        column_of = dict(columns)
        names = SignalNames(*(self.info.names_of(column_of.get(signal, "")) for signal in ("actions", "states")))
        spans = {camera: self._spans(camera, entries) for camera in cameras}
        moved = self._moved(entries)
        episodes = []
        for i, each in enumerate(entries):
            file = moved.get(each.episode_index, self.info.data_file(each.entry))
            rows = DataRows(file, self.info.is_v3, columns, each.episode_index, each.length, self.info.fps, each.tasks)
            used = (INFO, each.file, *([self.info.tasks_file] if self.info.tasks_file in self.names else []))
            reader = LeRobotReader(
                self.files, {camera: spans[camera][i] for camera in cameras}, rows, used, options.decoder, names
            )
            episodes.append(
                Episode(
                    id=f"episode_{each.episode_index:06d}",
                    reader=reader,
                    cameras=cameras,
                    index=each.episode_index,
                    text="; ".join(each.tasks) or None,
                    available_signals=tuple(signal for signal, _ in columns),
                )
            )
        return Listing(f"LeRobotDataset {self.version}", self.name, episodes, self.notes, revision)

    def _entries(self) -> list[EpisodeEntry]:
        """The episodes by index. Raises ValueError where there is none."""
        try:
            entries, notes = read_entries(self.files, self.names, self.info.is_v3)
        except (EpisodeReadError, OSError) as error:
            raise ValueError(f"{self.name}: a LeRobotDataset {self.version}, but {error}") from error
        self.notes += notes
        if not entries:
            reason = f" ({'; '.join(self.notes)})" if self.notes else ""
            raise ValueError(
                f"{self.name}: a LeRobotDataset {self.version} without an episode{reason}; is it finished?"
            )
        return entries

    def _check_totals(self, entries: Sequence[EpisodeEntry]) -> None:
        counted = (("episodes", len(entries)), ("frames", sum(each.length for each in entries)))
        for kind, count in counted:
            promised = self.info.content.get(f"total_{kind}", count)
            if promised != count and whole_number(promised) != count:
                self.notes.append(f"{INFO} promises {promised!r:.40} {kind}, {count} are listed")

    def _cameras(self, entries: Sequence[EpisodeEntry], requested: Sequence[str]) -> tuple[str, ...]:
        """The cameras to read. Masks and depth maps are stored like cameras; they are read only when named."""
        existing, absent = [], []
        columns = self._columns(entries)
        for key in self.info.cameras():
            if self._has_files(key, entries, columns):
                existing.append(key)
                continue
            if key in requested or last_part(key) in requested:
                raise ValueError(f"{self.name}: camera {key!r} is named in {INFO}, but there are no files of it")
            absent.append(f"{INFO} names camera {key!r}, but there are no files of it")
        self.notes += absent
        if not existing:
            reason = "; ".join(absent) or f"no feature in {INFO} has the dtype 'video' or 'image'"
            raise ValueError(f"{self.name}: it has no camera: {reason}")
        for key in sorted(_filmed(self.names) - self.info.features.keys()):
            self.notes.append(f"there are videos of {key!r}, which {INFO} does not name; they are not read")
        cameras, notes = choose_cameras(existing, requested, self.name, is_color=self.info.is_color)
        self.notes += notes
        for camera in cameras:
            if not self.info.is_color(camera) and (pixels := self.info.deep_pixels(camera)):
                raise ValueError(
                    f"{self.name}: camera {camera!r} is no colour video and has {pixels} pixels; 8 bits per channel "
                    "are read"
                )
        return cameras

    def _has_files(self, camera: str, entries: Sequence[EpisodeEntry], columns: Set[str] | None) -> bool:
        spans = (self.info.video_span(camera, each.entry) for each in entries)
        in_rows = columns is None or camera in columns
        return any(in_rows if span is None else span.problem or span.file in self.names for span in spans)

    def _spans(self, camera: str, entries: Sequence[EpisodeEntry]) -> Sequence[VideoSpan | None]:
        """The frames of each episode, in the order of `entries`; None for images in the rows."""
        spans = [self.info.video_span(camera, each.entry) for each in entries]
        videos = [span for span in spans if span is not None]
        if not videos:
            return spans
        placed = lay_out(videos, [each.length for each in entries], self.info.fps)
        return placed if self.info.is_color(camera) else [replace(span, is_color=False) for span in placed]

    def _columns(self, entries: Sequence[EpisodeEntry]) -> frozenset[str] | None:
        """Columns of some files of rows; None where they are not here, or one cannot be read.

        A converter may have added a column on its way, so the first file does not speak for all.
        """
        if self._stored is None:
            step = max(1, len(entries) // _SAMPLED_FILES)
            sampled = {self.info.data_file(each.entry) for each in [*entries[::step], entries[-1]]} & self.names
            paths = [self.files.local(file) for file in sampled]
            try:
                columns = [name for path in paths if path is not None for name in column_names(path)]
            except EpisodeReadError:
                columns = []
            self._stored = frozenset(columns)
        return self._stored or None

    def _signal_columns(self, entries: Sequence[EpisodeEntry]) -> tuple[tuple[str, str], ...]:
        """The column of each available signal, as (signal, column)."""
        stored = self._columns(entries)
        chosen = []
        for signal, names in (("actions", ACTIONS), ("states", STATES), ("text", ("task_index",))):
            column = first_of(names, self.info.features)
            if stored is not None and column not in stored:
                if column is not None:
                    self.notes.append(f"{INFO} names the column {column!r}, but the rows have none")
                column = first_of(names, stored)
                if column is not None and signal != "text":
                    self.notes.append(f"column {column!r} is not named in {INFO}, and is read")
            if column is not None and signal == "text" and self.info.tasks_file not in self.names:
                self.notes.append(f"{self.info.tasks_file} is missing: the rows' {column} has no texts")
            elif column is not None:
                chosen.append((signal, column))
        return tuple(chosen)

    def _moved(self, entries: Sequence[EpisodeEntry]) -> dict[int, str]:
        """The file with the rows of each episode that the metadata looks for in another one.

        Footers are not fetched from the Hub: a reader looks when the rows of an episode are not where they should be.
        """
        if not self.info.is_v3 or not isinstance(self.files, LocalFiles):
            return {}
        named = {each.episode_index: self.info.data_file(each.entry) for each in entries}
        moved = {}
        first = ""
        for episode, file, actual in moved_episodes(self.files, data_files(self.names), named):
            moved[episode] = actual
            elsewhere = f"not in {file}" if file else "and the metadata names none"
            first = first or f"those of episode {episode} are in {actual}, {elsewhere}"
        if moved:
            are = "the rows of 1 episode are" if len(moved) == 1 else f"the rows of {len(moved):,} episodes are"
            self.notes.append(f"{are} in another file than {EPISODES_V3} says, and were found: {first}")
        return moved


def _filmed(names: Set[str]) -> set[str]:
    """Camera keys by the folders of videos: videos/KEY/chunk-000/... in v3.0, videos/chunk-000/KEY/... in v2.x."""
    keys = set()
    for name in names:
        top, _, rest = name.partition("/")
        if top == "videos" and name.endswith(VIDEO_SUFFIXES):
            folders = [folder for folder in rest.split("/")[:-1] if not folder.startswith("chunk-")]
            keys.update(folders if len(folders) == 1 else [])
    return keys
