"""Shards of a source: each episode in exactly one, equal work, and where the index comes from."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lara_tokenizer.data import Episode, load_episodes
from lara_tokenizer.data.shard import Shard


class Files:
    """A reader of which only the local files are known."""

    def __init__(self, *paths: Path) -> None:
        self.paths = paths

    def index(self, camera: str) -> None: ...

    def frames(self, camera: str, indices: object) -> None: ...

    def files(self, camera: str) -> tuple[Path, ...]:
        return self.paths

    def close(self) -> None: ...


@pytest.fixture(scope="module")
def episodes_of(tmp_path_factory):
    """episodes_of(sizes): an episode for each size in bytes, or of none where it is None."""
    folder = tmp_path_factory.mktemp("sizes")

    def make(sizes):
        episodes = []
        for number, size in enumerate(sizes):
            paths = []
            if size is not None:
                paths = [folder / f"{size}-{number}"]
                with paths[0].open("wb") as stream:
                    stream.truncate(size)
            episodes.append(Episode(f"{number:03}", Files(*paths)))
        return episodes

    return make


@given(st.lists(st.none() | st.integers(0, 10**6), min_size=1, max_size=30), st.data())
def test_every_episode_is_in_one_shard_and_work_is_equal_to_an_episode(episodes_of, sizes, data):
    count = data.draw(st.integers(1, len(sizes)))
    episodes = episodes_of(sizes)
    shards = [list(Shard(index, count).select(episodes)) for index in range(count)]
    assert [episode for shard in shards for episode in shard] == episodes
    assert all(shards)


def test_shards_differ_by_at_most_the_largest_episode(episodes_of):
    sizes = [1 + 997 * k % 1009 for k in range(200)]
    episodes = episodes_of(sizes)
    for count in (2, 3, 7, 16):
        shards = [[sizes[int(each.id)] for each in Shard(k, count).select(episodes)] for k in range(count)]
        assert max(map(sum, shards)) - min(map(sum, shards)) <= 2 * max(sizes)
    # By numbers of episodes the first half would have a thousandth of the work.
    small_first = episodes_of([1000] * 100 + [10**6] * 100)
    assert len(Shard(0, 2).select(small_first)) == 150


def test_episodes_of_one_file_share_its_work(tmp_path):
    (tmp_path / "a").write_bytes(bytes(900))
    (tmp_path / "b").write_bytes(bytes(300))
    episodes = [Episode(f"a{k}", Files(tmp_path / "a")) for k in range(9)]
    episodes += [Episode(f"b{k}", Files(tmp_path / "b")) for k in range(3)]
    assert [len(Shard(k, 3).select(episodes)) for k in range(3)] == [4, 4, 4]


@pytest.mark.parametrize("text", ["", "3", "8/8", "-1/8", "0/0", "1/8/2", "a/b", "auto"])
def test_what_names_no_shard_is_refused(text):
    with pytest.raises(ValueError, match=r"takes index/count, 0/8 to 7/8 for 8 shards, or auto"):
        Shard.parse(text, {})


def test_more_shards_than_episodes_are_refused_by_every_shard(episodes_of):
    for index in range(4):
        with pytest.raises(ValueError, match=r"there are 3 episodes for 4 shards"):
            Shard(index, 4).select(episodes_of([1, 1, 1]))


def test_the_shard_of_a_running_array():
    array = {"SLURM_ARRAY_TASK_ID": "12", "SLURM_ARRAY_TASK_COUNT": "4", "SLURM_ARRAY_TASK_MIN": "10"}
    assert Shard.parse("auto", array) == Shard(2, 4)
    assert Shard.parse("auto", {"RANK": "1", "WORLD_SIZE": "2"}) == Shard(1, 2)
    # An array of steps, 0 to 30 by 10, has a task 30 of 4.
    with pytest.raises(ValueError, match="takes index/count"):
        Shard.parse("auto", {"SLURM_ARRAY_TASK_ID": "30", "SLURM_ARRAY_TASK_COUNT": "4", "SLURM_ARRAY_TASK_MIN": "0"})


def test_what_a_limit_leaves_is_split(tmp_path, write_video, moving_square):
    for name in "abcd":
        write_video(tmp_path / f"{name}.mp4", moving_square(4))
    shards = [load_episodes(tmp_path, limit=3, shard=f"{k}/2") for k in range(2)]
    assert [episode.id for shard in shards for episode in shard] == ["a.mp4", "b.mp4", "c.mp4"]
    assert shards[1].options["shard"] == "1/2"
