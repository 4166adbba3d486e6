"""WebDataset tars on this disk: each sample with a video or with numbered frames is an episode.

    000012.mp4  000012.json              a video, and facts: "fps", a text, "actions"
    000012.top.mp4  000012.wrist.mp4     the cameras top and wrist
    000012.0000.jpg  000012.0001.jpg     frames
    000012.txt  000012.actions.npy       an instruction; actions, a row a frame

Tars are listed by their headers and read by random access: an interrupted encoding goes on with any episode.
"""

from __future__ import annotations

import glob
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from lara_tokenizer.data.episode import SIGNALS, Episode
from lara_tokenizer.data.listing import Found, choose_cameras
from lara_tokenizer.data.names import ACTIONS, STATES, first_of
from lara_tokenizer.data.video.images import natural_key
from lara_tokenizer.data.webdataset.reader import WebDatasetReader, camera_of, cameras_of, json_text, signal_members
from lara_tokenizer.data.webdataset.tar import Sample, TarSamples
from lara_tokenizer.errors import EpisodeReadError

# Texts and facts up to this size are read while listing. Larger ones (actions as JSON) wait until they are asked for.
_SMALL = 64 * 1024
_FIRST_SAMPLES = 8


def is_webdataset(folder: Path) -> bool:
    """Whether a folder holds tars, and a sample at the start of the first has a video or numbered frames."""
    first = min(folder.glob("*.tar"), default=None, key=lambda path: natural_key(path.name))
    if first is None:
        return False
    try:
        return any(cameras_of(sample) for sample in islice(TarSamples(first), _FIRST_SAMPLES))
    except OSError:
        return False


def find_webdataset(source: str | Path, *, cameras: Sequence[str] = (), decoder: str = "pyav") -> Found:
    """List the samples of a tar, of the tars in a folder, or of those that a glob or braces name.

    Ids are "tar/key". Reads the tars' headers, and texts and .json of up to 64 KiB. What is wrong with a sample ends as
    that episode's EpisodeReadError; a tar that is cut off gives the samples before the cut, and a note.

    Raises ValueError where there is no such tar, no sample with pictures, or no such camera; and for sources that have
    no random access: commands (pipe:), URLs, compressed tars.

    >>> find_webdataset("shards/train-{000000..000011}.tar").episodes[0].id  # doctest: +SKIP
    'train-000000/000000'
    """
    tars = _tars(os.fspath(source))
    listing = _Listing(tars)
    if not listing.samples:
        raise ValueError(f"{source}: {listing.nothing()}")
    chosen, notes = choose_cameras(listing.cameras(), cameras, source)
    lister = _Lister(chosen, decoder, each_its_own="all" in cameras)
    episodes = [lister.episode(name, tar, sample) for name, tar, sample in listing.samples]
    for camera in chosen if "all" not in cameras else ():
        lacking = sum(camera not in cameras_of(sample) for _, _, sample in listing.samples)
        if lacking:
            notes.append(f"{lacking} of {len(episodes)} samples have no camera {camera!r}: they will fail")
    return Found("WebDataset", _name(source, tars), episodes, [*listing.notes, *notes])


def _name(source: str | Path, tars: Sequence[str]) -> str:
    if os.path.isdir(source):
        return Path(os.path.abspath(source)).name
    return Path(tars[0]).stem if len(tars) == 1 else _common(tars).name


class _Listing:
    """The samples with pictures, each with its id and its tar."""

    def __init__(self, tars: Sequence[str]) -> None:
        self.samples: list[tuple[str, str, Sample]] = []
        self.notes: list[str] = []
        self._others: Counter[str] = Counter()  # extensions of samples without pictures
        common = _common(tars)
        seen: Counter[str] = Counter()
        for tar in tars:
            shard = Path(tar).relative_to(common).with_suffix("").as_posix()
            for key, sample in self._read(tar):
                name = f"{shard}/{key}"
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
        """In the order in which they first come."""
        return list(dict.fromkeys(camera for _, _, sample in self.samples for camera in cameras_of(sample)))

    def nothing(self) -> str:
        """Why there is no sample."""
        found = ", ".join(f".{extensions}" for extensions, _ in self._others.most_common(4))
        there = f"its samples hold {found}" if found else "no sample in it"
        wrong = f" ({'; '.join(self.notes)})" if self.notes else ""
        return (
            f"{there}{wrong}. A sample that is an episode has a video (key.mp4, key.top.mp4) or numbered frames "
            "(key.0000.jpg, key.top.0000.jpg)"
        )

    def _read(self, tar: str) -> Iterator[tuple[str, Sample]]:
        samples = TarSamples(tar)
        try:
            for sample in samples:
                if any(camera_of(extension) for extension in sample.members):
                    yield sample.key, sample
                else:
                    self._others[", .".join(sample.members)] += 1
        except OSError as error:
            samples.note = f"cannot be read ({error.strerror})"
        if samples.note:
            self.notes.append(f"{Path(tar).name}: {samples.note}")


class _Lister:
    """Makes the episodes; of .json files too large to be read each, the first tells what all of them offer."""

    def __init__(self, cameras: Sequence[str], decoder: str, *, each_its_own: bool) -> None:
        self._cameras, self._each_its_own, self.decoder = tuple(cameras), each_its_own, decoder
        self._large: set[str] | None = None

    def episode(self, name: str, tar: str, sample: Sample) -> Episode:
        there = cameras_of(sample) if self._each_its_own else self._cameras
        cameras = tuple(camera for camera in self._cameras if camera in there)
        reader = WebDatasetReader(tar, sample, cameras, self.decoder)
        offers = set(signal_members(sample))
        text = None
        try:
            if (
                max((sample.members[each].size for each in ("json", "txt") if each in sample.members), default=0)
                <= _SMALL
            ):
                text = reader.text()
                offers |= _offered(reader)
            elif self._large is None:
                offers |= (large := _offered(reader))
                self._large = large
            else:
                offers |= self._large
        except EpisodeReadError:
            pass  # the episode will say so itself
        reader.close()
        return Episode(name, reader, cameras, text=text, offers=tuple(each for each in SIGNALS if each in offers))


def _offered(reader: WebDatasetReader) -> set[str]:
    """The signals in a sample's .json. Raises EpisodeReadError."""
    facts = reader.facts()
    found = {"actions": first_of(ACTIONS, facts), "states": first_of(STATES, facts), "text": json_text(facts)}
    return {signal for signal, there in found.items() if there is not None}


def _tars(source: str) -> list[str]:
    """Absolute paths, in natural order. Raises ValueError."""
    if source.startswith("pipe:"):
        raise ValueError(f"source {source!r}: runs no commands. Write the tars to disk and name their folder")
    if re.match(r"[a-z][a-z0-9+.-]*://", source):
        raise ValueError(
            f"source {source!r}: tars are read from disk. Download it first, or, if it is a dataset of the Hub, write "
            "'datasets:user/name'"
        )
    if os.path.isdir(source):
        found = [os.fspath(path) for path in Path(source).glob("*.tar")]
        if not found:
            raise ValueError(f"source {source!r}: no .tar in it{_compressed(source)}")
    else:
        found = [path for pattern in _braces(source) for path in _matches(pattern)]
    for path in found:
        if re.search(r"\.(tgz|tar\.\w+)$", path.lower()):
            raise ValueError(f"{path}: a compressed tar, which can only be read from its start. Decompress it first")
    return sorted({os.path.abspath(path) for path in found}, key=natural_key)


def _compressed(folder: str) -> str:
    is_there = any(re.search(r"\.(tgz|tar\.\w+)$", path.name.lower()) for path in Path(folder).iterdir())
    return ", but compressed ones, which can only be read from their start. Decompress them first" if is_there else ""


def _matches(pattern: str) -> list[str]:
    if os.path.exists(pattern):
        return [pattern]
    found = glob.glob(pattern, recursive=True)
    if not found:
        raise ValueError(f"source {pattern!r}: no such file{' (nothing matches)' if glob.has_magic(pattern) else ''}")
    return found


def _braces(pattern: str) -> list[str]:
    """Spell out "{00..11}" and "{a,b}". A path that exists is a path, whatever its name."""
    match = re.search(r"\{(\d+)\.\.(\d+)\}|\{([^{}]*,[^{}]*)\}", pattern)
    if match is None or os.path.exists(pattern):
        return [pattern]
    if match[3] is not None:
        parts = match[3].split(",")
    else:
        parts = [str(number).zfill(len(match[1])) for number in range(int(match[1]), int(match[2]) + 1)]
    return [each for part in parts for each in _braces(pattern[: match.start()] + part + pattern[match.end() :])]


def _common(tars: Sequence[str]) -> Path:
    """The nearest folder that all tars lie in."""
    return Path(os.path.commonpath([os.path.dirname(tar) for tar in tars]))
