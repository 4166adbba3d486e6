"""Which pairs go into which shard, and what a sample is called."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby

import numpy as np

from lara_tokenizer.export.matching import Matched
from lara_tokenizer.export.names import shortened, track_path
from lara_tokenizer.export.tar_writer import LONGEST_FOLDER


@dataclass(frozen=True, slots=True)
class Slice:
    """Pairs `first` to `stop - 1` of the wanted ones of an episode and camera; `track` is its place in the table."""

    episode: str
    camera: str
    track: int
    first: int
    stop: int


def plan_shards(matched: Matched, shard_size: int, seed: int) -> list[list[Slice]]:
    """The slices of each shard, of at most `shard_size` pairs: episodes in an order that follows from the seed.

    An episode, with all its cameras, lies in one shard; one that is longer than a shard is cut.
    """
    numbered = ((episode, camera, track) for track, (episode, camera) in enumerate(matched.wanted))
    episodes = [list(of_episode) for _, of_episode in groupby(numbered, key=lambda entry: entry[0])]
    shards: list[list[Slice]] = [[]]
    room = shard_size
    for number in np.random.default_rng(seed).permutation(len(episodes)).tolist():
        tracks = episodes[number]
        total = sum(matched.wanted[episode, camera] for episode, camera, _ in tracks)
        if room < total <= shard_size:
            shards.append([])
            room = shard_size
        for episode, camera, track in tracks:
            first, wanted = 0, matched.wanted[episode, camera]
            while first < wanted:
                if not room:
                    shards.append([])
                    room = shard_size
                stop = min(wanted, first + room)
                shards[-1].append(Slice(episode, camera, track, first, stop))
                room -= stop - first
                first = stop
    return shards


def shard_name(number: int) -> str:
    """The file of a shard.

    >>> shard_name(3)
    'train-000003.tar'
    """
    return f"train-{number:06d}.tar"


def shard_urls(count: int) -> str:
    """All shards in the braces that WebDataset takes.

    >>> shard_urls(12)
    'train-{000000..000011}.tar'
    """
    return shard_name(0) if count == 1 else f"train-{{{0:06d}..{count - 1:06d}}}.tar"


def sample_folder(episode: str, camera: str) -> str:
    """The folder in the names of an episode's samples: its id, and the camera where it has a name.

    WebDataset parts a name at the first dot of its last component, so that the dots of folders do no harm. What tar
    does not keep everywhere is written as in a URL, and a name that it has no room for ends in a digest.

    >>> sample_folder("kitchen/a.mp4", "wrist")
    'kitchen/a.mp4/wrist'
    """
    return shortened(track_path(episode, camera), LONGEST_FOLDER)
