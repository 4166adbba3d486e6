"""Listing of WebDataset tars on this disk: each sample with a video or with numbered frames is an episode.

    000012.mp4  000012.json              a video, and metadata: "fps", a text, "actions"
    000012.top.mp4  000012.wrist.mp4     the cameras top and wrist
    000012.0000.jpg  000012.0001.jpg     frames
    000012.txt  000012.actions.npy       an instruction; actions, one row per frame

Tars are listed by their headers and read by random access, so that an interrupted encoding can resume at any episode.
"""

from __future__ import annotations

import glob
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence, Set
from itertools import islice
from pathlib import Path

from lara_tokenizer.data.episode import ACTIONS, SIGNALS, STATES, Episode, first_of, natural_key
from lara_tokenizer.data.folders import LeftOut, find_paths
from lara_tokenizer.data.listing import DEFAULT_OPTIONS, Listing, ListOptions, choose_cameras
from lara_tokenizer.data.webdataset.reader import WebDatasetReader, camera_of, cameras_of, json_text, signal_members
from lara_tokenizer.data.webdataset.tar import Sample, TarSamples
from lara_tokenizer.errors import EpisodeReadError

LOOKED_FOR = "*.tar with videos or frames (WebDataset)"

# Texts and metadata up to this size are read while listing; larger ones (actions as JSON) when they are needed.
_SMALL = 64 * 1024
_MOST_TARS = 1_000_000  # of a range in braces
_FIRST_SAMPLES = 8  # examined by `detect`


def detect(folder: Path, names: Set[str]) -> bool:
    """Whether a folder holds tars, and a sample at the start of the first has a video or numbered frames."""
    first = min((name for name in names if name.endswith(".tar")), default=None, key=natural_key)
    if first is None:
        return False
    try:
        return any(cameras_of(sample) for sample in islice(TarSamples(folder / first), _FIRST_SAMPLES))
    except OSError:
        return False


def list_episodes(source: str, options: ListOptions = DEFAULT_OPTIONS) -> Listing:
    """List the samples of a tar, of the tars in a folder, or of those that a glob or braces name.

    Ids are "tar/key". Reads the tars' headers, and texts and .json of up to 64 KiB. A damaged sample is listed, and
    raises EpisodeReadError when it is read; a tar that is cut off gives the samples before the cut, and a note.

    Raises ValueError where there is no such tar, no sample with a video or frames, or no such camera; and for sources
    without random access: commands (pipe:), URLs, compressed tars.

    >>> list_episodes("shards/train-{000000..000011}.tar").episodes[0].id  # doctest: +SKIP
    'train-000000/000000'
    """
    tars = _find_tars(source)
    contents = _TarContents(tars)
    if not contents.samples:
        raise ValueError(f"{source}: {contents.explain_empty()}")
    cameras, notes = choose_cameras(contents.cameras(), options.cameras, source)
    episodes = list(_make_episodes(contents.samples, cameras, options))
    for camera in cameras if "all" not in options.cameras else ():
        lacking = sum(camera not in cameras_of(sample) for _, _, sample in contents.samples)
        if lacking:
            notes.append(f"{lacking} of {len(episodes)} samples have no camera {camera!r}: they will fail")
    return Listing("WebDataset", _name(source, tars), episodes, [*contents.notes, *notes])


def _name(source: str, tars: Sequence[str]) -> str:
    if os.path.isdir(source):
        return Path(os.path.abspath(source)).name
    return Path(tars[0]).stem if len(tars) == 1 else _common_folder(tars).name


class _TarContents:
    """The samples of several tars that have videos or frames."""

    def __init__(self, tars: Sequence[str]) -> None:
        self.samples: list[tuple[str, str, Sample]] = []  # (episode id, tar, sample)
        self.notes: list[str] = []
        self._others: Counter[str] = Counter()  # extensions of samples without videos or frames
        common = _common_folder(tars)
        seen: Counter[str] = Counter()
        for tar in tars:
            shard = Path(tar).relative_to(common).with_suffix("").as_posix()
            for sample in self._read(tar):
                name = f"{shard}/{sample.key}"
                seen[name] += 1
                self.samples.append((name if seen[name] == 1 else f"{name}#{seen[name]}", tar, sample))
        if repeated := [name for name, count in seen.items() if count > 1]:
            self.notes.append(
                f"{len(repeated)} keys come more than once in a tar ({repeated[0]} ...); later ones are called "
                f"{repeated[0]}#2 and so on"
            )
        if self._others and self.samples:
            count = self._others.total()
            self.notes.append(f"{count} samples have neither a video nor numbered frames and are left out")

    def cameras(self) -> list[str]:
        """All cameras, in order of first appearance."""
        return list(dict.fromkeys(camera for _, _, sample in self.samples for camera in cameras_of(sample)))

    def explain_empty(self) -> str:
        """Reason why there is no sample, for an error."""
        extensions = ", ".join(f".{each}" for each, _ in self._others.most_common(4))
        contents = f"its samples hold {extensions}" if extensions else "no sample in it"
        notes = f" ({'; '.join(self.notes)})" if self.notes else ""
        return (
            f"{contents}{notes}. A sample that is an episode has a video (key.mp4, key.top.mp4) or numbered frames "
            "(key.0000.jpg, key.top.0000.jpg)"
        )

    def _read(self, tar: str) -> Iterator[Sample]:
        samples = TarSamples(tar)
        try:
            for sample in samples:
                if any(camera_of(extension) for extension in sample.members):
                    yield sample
                else:
                    self._others[", .".join(sample.members)] += 1
        except OSError as error:
            samples.note = f"cannot be read ({error.strerror})"
        if samples.note:
            self.notes.append(f"{Path(tar).name}: {samples.note}")


def _make_episodes(
    samples: Sequence[tuple[str, str, Sample]], cameras: Sequence[str], options: ListOptions
) -> Iterator[Episode]:
    # Of .json files too large to read each while listing only the first is read: its signals are assumed for all.
    signals_of_large: set[str] | None = None
    for episode_id, tar, sample in samples:
        existing = cameras_of(sample) if "all" in options.cameras else cameras
        chosen = tuple(camera for camera in cameras if camera in existing)
        reader = WebDatasetReader(tar, sample, chosen, options.decoder)
        signals = set(signal_members(sample))
        sizes = [sample.members[each].size for each in ("json", "txt") if each in sample.members]
        text = None
        try:
            if max(sizes, default=0) <= _SMALL:
                text = reader.text()
                signals |= _json_signals(reader)
            else:
                if signals_of_large is None:
                    signals_of_large = _json_signals(reader)
                signals |= signals_of_large
        except EpisodeReadError:
            pass  # reading the episode will raise it again
        reader.close()
        available = tuple(signal for signal in SIGNALS if signal in signals)
        yield Episode(episode_id, reader, chosen, text=text, available_signals=available)


def _json_signals(reader: WebDatasetReader) -> set[str]:
    """The signals in a sample's .json. Raises EpisodeReadError."""
    metadata = reader.metadata()
    values = {"actions": first_of(ACTIONS, metadata), "states": first_of(STATES, metadata), "text": json_text(metadata)}
    return {signal for signal, value in values.items() if value is not None}


def _find_tars(source: str) -> list[str]:
    """Absolute paths in natural order. Raises ValueError."""
    if source.startswith("pipe:"):
        raise ValueError(f"source {source!r}: commands are not run. Write the tars to disk and name their folder")
    if re.match(r"[a-z][a-z0-9+.-]*://", source):
        raise ValueError(
            f"source {source!r}: tars are read from disk. Download it first, or, if it is a dataset of the Hub, write "
            "'datasets:user/name'"
        )
    if os.path.isdir(source):
        tars = [os.fspath(path) for path in Path(source).glob("*.tar")]
        if not tars:
            compressed = any(_is_compressed(path.name) for path in Path(source).iterdir())
            hint = ", but compressed ones, which can only be read from their start. Decompress them first"
            raise ValueError(f"source {source!r}: no .tar in it{hint if compressed else ''}")
    else:
        tars = [path for pattern in _expand_braces(source) for path in _match(pattern)]
    for path in tars:
        if _is_compressed(path):
            raise ValueError(f"{path}: a compressed tar, which can only be read from its start. Decompress it first")
    return sorted({os.path.abspath(path) for path in tars}, key=natural_key)


def _is_compressed(name: str) -> bool:
    return re.search(r"\.(tgz|tar\.\w+)$", name.lower()) is not None


def _match(pattern: str) -> list[str]:
    if os.path.exists(pattern):
        return [pattern]
    tars = find_paths(pattern, LeftOut())
    if not tars:
        raise ValueError(f"source {pattern!r}: no such file{' (nothing matches)' if glob.has_magic(pattern) else ''}")
    return tars


def _expand_braces(pattern: str) -> list[str]:
    """Expand "{00..11}" and "{a,b}". A path that exists is a path, whatever its name."""
    match = re.search(r"\{(\d+)\.\.(\d+)\}|\{([^{}]*,[^{}]*)\}", pattern)
    if match is None or os.path.exists(pattern):
        return [pattern]
    if match[3] is not None:
        parts = match[3].split(",")
    elif int(match[2]) - int(match[1]) >= _MOST_TARS:
        raise ValueError(f"source {pattern!r}: more than {_MOST_TARS:,} tars. Is the range right?")
    else:
        parts = [str(index).zfill(len(match[1])) for index in range(int(match[1]), int(match[2]) + 1)]
    before, after = pattern[: match.start()], pattern[match.end() :]
    return [path for part in parts for path in _expand_braces(before + part + after)]


def _common_folder(tars: Sequence[str]) -> Path:
    """The nearest folder that contains all tars."""
    return Path(os.path.commonpath([os.path.dirname(tar) for tar in tars]))
