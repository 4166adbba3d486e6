"""LeRobotDataset v2.1 and v3.0: exact frames, actions and text, exact borders, errors confined to one episode."""

from __future__ import annotations

import json
import pickle
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lara_tokenizer.data import load_episodes
from lara_tokenizer.data.lerobot import rows as lerobot_rows
from lara_tokenizer.encode.pool.worker import reason_of
from lara_tokenizer.errors import EpisodeReadError

TOP, WRIST = "observation.images.top", "observation.images.wrist"
LENGTHS = (13, 9, 17)
VERSIONS = ("v3.0", "v2.1")


@pytest.fixture(scope="module")
def clips(numbered_frames):
    """Three episodes of two cameras; all frames differ."""
    frames = numbered_frames(2 * sum(LENGTHS))
    ends = np.cumsum(LENGTHS * 2)
    clips = np.split(frames, ends[:-1])
    return {TOP: clips[:3], WRIST: clips[3:]}


@pytest.fixture(scope="module")
def datasets(tmp_path_factory, clips, write_lerobot):
    """The three episodes on disk, in each version."""
    folder, tasks = tmp_path_factory.mktemp("lerobot"), ["push it", "pull it", "push it"]
    return {version: write_lerobot(folder / version, clips, version=version, tasks=tasks) for version in VERSIONS}


@pytest.fixture(params=VERSIONS)
def dataset(request, datasets):
    """The three episodes on disk, in one version after the other."""
    return datasets[request.param]


@pytest.fixture
def copied(dataset, tmp_path):
    """A copy to be damaged, in one version after the other."""
    return shutil.copytree(dataset, tmp_path / "set")


@pytest.fixture
def copied_v2(datasets, tmp_path):
    """A copy with one file an episode, to be damaged."""
    return shutil.copytree(datasets["v2.1"], tmp_path / "set")


@pytest.fixture
def copied_v3(datasets, tmp_path):
    """A copy with all episodes in one file, to be damaged."""
    return shutil.copytree(datasets["v3.0"], tmp_path / "set")


def expected_frames(root, camera, episode, decode_all):
    """What a full sequential decode of the file gives, cut by hand."""
    if (root / "meta/tasks.jsonl").exists():
        return decode_all(root / f"videos/chunk-000/{camera}/episode_{episode:06d}.mp4")
    first = sum(LENGTHS[:episode])
    return decode_all(root / f"videos/{camera}/chunk-000/file-000.mp4")[first : first + LENGTHS[episode]]


@pytest.mark.parametrize("camera", [TOP, WRIST])
def test_every_frame_is_that_of_a_full_decode(dataset, camera, decode_all):
    for number, episode in enumerate(load_episodes(dataset, cameras="all")):
        expected = expected_frames(dataset, camera, number, decode_all)
        assert episode.id == f"episode_{number:06d}"
        assert episode.num_frames(camera) == LENGTHS[number]
        assert np.array_equal(episode.frames(camera, range(LENGTHS[number])), expected)
        assert np.array_equal(episode.frames(camera, [LENGTHS[number] - 1, 0, 4]), expected[[-1, 0, 4]])
        assert episode.frames(camera, []).shape == (0, 48, 64, 3)


@pytest.mark.parametrize("codec", ["libx264", "libsvtav1"])
@pytest.mark.parametrize("gop", [2, 10, 250])
def test_frames_are_exact_for_any_group_of_pictures(tmp_path, numbered_frames, write_lerobot, decode_all, codec, gop):
    lengths = (120, 270, 130)  # groups of 250 begin and end inside of episodes
    clips = np.split(numbered_frames(sum(lengths)), np.cumsum(lengths)[:-1])
    root = write_lerobot(tmp_path / "set", {TOP: clips}, codec=codec, gop=gop)
    whole = decode_all(root / f"videos/{TOP}/chunk-000/file-000.mp4")
    assert len(whole) == sum(lengths)
    rng = np.random.default_rng(0)
    for number, episode in enumerate(load_episodes(root)):
        first, length = sum(lengths[:number]), lengths[number]
        for indices in (np.arange(length), rng.integers(length, size=6), np.arange(length - 1, -1, -31)):
            assert np.array_equal(episode.frames(TOP, indices), whole[first + indices])


def test_actions_and_text_come_back_row_by_row(dataset):
    for number, episode in enumerate(load_episodes(dataset)):
        signals = episode.signals()
        assert np.array_equal(
            signals.actions, np.random.default_rng(number).normal(size=(LENGTHS[number], 3)).astype(np.float32)
        )
        assert signals.texts == (("push it", "pull it", "push it")[number],) * LENGTHS[number]
        assert signals.states is None
        assert episode.available_signals == ("actions", "text")


def test_pictures_in_the_data_come_back_as_they_were(tmp_path, clips, write_lerobot):
    for version in VERSIONS:
        root = write_lerobot(tmp_path / version, clips, version=version, kind="image")
        for number, episode in enumerate(load_episodes(root, cameras="all")):
            for camera in (TOP, WRIST):
                assert np.array_equal(episode.frames(camera, range(LENGTHS[number])), clips[camera][number])
            assert np.array_equal(episode.frames(TOP, [5, 2]), clips[TOP][number][[5, 2]])


def test_times_are_the_datasets_not_the_containers(tmp_path, clips, write_lerobot, write_video):
    root = write_lerobot(tmp_path / "set", {TOP: [clips[TOP][0]]}, version="v2.1", fps=10)
    write_video(root / f"videos/chunk-000/{TOP}/episode_000000.mp4", clips[TOP][0], fps=30)  # stamped wrongly
    (episode,) = load_episodes(root)
    assert np.allclose(episode.timestamps(TOP), np.arange(13) / 10)
    (episode,) = load_episodes(root, fps=5)
    assert np.allclose(episode.timestamps(TOP), np.arange(13) / 5)


def test_the_first_camera_is_taken_and_said_and_any_can_be_asked_for(dataset):
    one = load_episodes(dataset)
    assert one[0].cameras == (TOP,)
    assert f"took camera '{TOP}' of {TOP}, {WRIST}" in str(one.sources[0])
    assert load_episodes(dataset, cameras="wrist")[0].cameras == (WRIST,)
    assert load_episodes(dataset, cameras=["wrist", TOP])[0].cameras == (TOP, WRIST)
    assert load_episodes(dataset, cameras="all")[0].cameras == (TOP, WRIST)
    with pytest.raises(
        ValueError, match=rf"camera 'side' is no camera of it. There are: {TOP}, {WRIST}; or take 'all'"
    ):
        load_episodes(dataset, cameras="side")


def test_masks_and_depth_are_read_only_when_named(tmp_path, clips, write_lerobot):
    mask, depth = "observation.masks.top", "observation.images.top_depth"
    root = write_lerobot(tmp_path / "set", {TOP: clips[TOP], mask: clips[WRIST], depth: clips[WRIST]})
    info = json.loads((root / "meta/info.json").read_text())
    info["features"][depth]["info"] = {"video.is_depth_map": True}
    (root / "meta/info.json").write_text(json.dumps(info))
    assert load_episodes(root, cameras="all")[0].cameras == (TOP,)
    assert load_episodes(root, cameras=mask)[0].cameras == (mask,)


def test_episodes_and_tasks_are_filtered(dataset):
    assert [episode.index for episode in load_episodes(dataset, episodes="0,2")] == [0, 2]
    assert [episode.index for episode in load_episodes(dataset, episodes="1:3")] == [1, 2]
    assert [episode.index for episode in load_episodes(dataset, episodes=[1])] == [1]
    assert [episode.index for episode in load_episodes(dataset, tasks="push")] == [0, 2]
    assert [episode.index for episode in load_episodes(dataset, tasks=["PULL*"])] == [1]
    with pytest.raises(ValueError, match=r"episodes 7: not in the source, which has 3 \(0 to 2\)"):
        load_episodes(dataset, episodes="7")
    with pytest.raises(ValueError, match=r"task 'dance': no episode has it. There are: 'pull it', 'push it'"):
        load_episodes(dataset, tasks="dance")


def test_a_reader_travels_to_another_process(dataset):
    episode = load_episodes(dataset)[1]
    frames = episode.frames(TOP, [3])
    again = pickle.loads(pickle.dumps(episode))
    assert np.array_equal(again.frames(TOP, [3]), frames)
    assert len(pickle.dumps(episode)) < 2000


def test_both_versions_hold_the_same(tmp_path, clips, write_lerobot):
    sets = [load_episodes(write_lerobot(tmp_path / v, clips, version=v, kind="image")) for v in VERSIONS]
    for one, other in zip(*sets, strict=True):
        assert np.array_equal(one.frames(TOP, range(9)), other.frames(TOP, range(9)))
        assert np.array_equal(one.signals().actions, other.signals().actions)


# Errors in one episode name that episode; the others are unaffected.


def failing(root, number, signals=False):
    """The reason that one episode gives; the others must read."""
    reason = None
    for episode in load_episodes(root):
        if episode.index == number:
            with pytest.raises(EpisodeReadError) as raised:
                _ = episode.signals() if signals else (episode.frame_index(TOP), episode.frames(TOP, [0]))
            reason = reason_of(raised.value, episode.id)
        elif not (signals and (root / "meta/tasks.parquet").exists()):
            assert episode.frame_index(TOP).num_frames == LENGTHS[episode.index]
            assert episode.frames(TOP, [0]).shape == (1, 48, 64, 3)
    assert reason is not None
    return reason


def test_a_missing_video(copied_v2):
    (copied_v2 / f"videos/chunk-000/{TOP}/episode_000001.mp4").unlink()
    assert failing(copied_v2, 1) == f"videos/chunk-000/{TOP}/episode_000001.mp4: it is missing"


def test_a_missing_video_of_many_episodes(copied_v3):
    (copied_v3 / f"videos/{TOP}/chunk-000/file-000.mp4").unlink()
    # Without any file it is no camera any more; the other one is left.
    episodes = load_episodes(copied_v3)
    assert episodes[0].cameras == (WRIST,)
    assert f"meta/info.json names camera '{TOP}', but there are no files of it" in str(episodes.sources[0])
    with pytest.raises(ValueError, match="there are no files of it"):
        load_episodes(copied_v3, cameras="top")


def test_a_video_with_another_number_of_frames(copied_v2, clips, write_video):
    write_video(copied_v2 / f"videos/chunk-000/{TOP}/episode_000001.mp4", clips[TOP][1][:7])
    assert "the file has 7 frames, the metadata says 9" in failing(copied_v2, 1)


def test_a_file_that_ends_before_its_last_episode(copied_v3, clips, write_video):
    write_video(copied_v3 / f"videos/{TOP}/chunk-000/file-000.mp4", np.concatenate(clips[TOP])[:-1])
    expected = "expected a frame every 1/10 s from 2.2 s to 3.8 s (17 frames), but frames are missing"
    assert expected in failing(copied_v3, 2)


def test_borders_that_do_not_fit_the_length(copied_v3):
    file = copied_v3 / "meta/episodes/chunk-000/file-000.parquet"
    table = pq.read_table(file).to_pylist()
    table[1][f"videos/{TOP}/to_timestamp"] += 0.2
    pq.write_table(pa.Table.from_pylist(table), file)
    assert "are 11 frames, the metadata says 9" in failing(copied_v3, 1)


def test_broken_parquet(copied):
    v2 = copied / "data/chunk-000/episode_000001.parquet"
    file = v2 if v2.exists() else copied / "data/chunk-000/file-000.parquet"
    file.write_bytes(b"PAR1 nothing PAR1")
    assert "cannot be read as parquet" in failing(copied, 1, signals=True)


def test_data_with_another_number_of_rows(copied):
    v2 = copied / "data/chunk-000/episode_000001.parquet"
    file = v2 if v2.exists() else copied / "data/chunk-000/file-000.parquet"
    table = pq.read_table(file)
    last = max(i for i, e in enumerate(table["episode_index"].to_pylist()) if e == 1)
    pq.write_table(pa.concat_tables([table.slice(0, last), table.slice(last + 1)]), file)
    assert "8 rows for an episode of 9 frames" in failing(copied, 1, signals=True)


def test_an_empty_dataset_and_one_that_is_none(copied, tmp_path):
    (copied / "meta/info.json").write_text("{}")
    with pytest.raises(ValueError, match=r"not a LeRobotDataset: meta/info.json: no 'codebase_version' in it"):
        load_episodes(copied)
    (copied / "meta/info.json").unlink()
    with pytest.raises(ValueError, match=r"not a LeRobotDataset: meta/info.json is missing$"):
        load_episodes(f"lerobot:{copied}")
    with pytest.raises(ValueError, match="neither a local folder nor a Hub repository"):
        load_episodes(f"lerobot:{tmp_path / 'a' / 'b'}")


def test_a_dataset_without_an_episode(tmp_path, clips, write_lerobot):
    root = write_lerobot(tmp_path / "set", clips, version="v2.1")
    (root / "meta/episodes.jsonl").write_text("")
    with pytest.raises(ValueError, match=r"set: a LeRobotDataset v2.1 without an episode; is it finished\?"):
        load_episodes(root)


def test_an_older_version_is_refused_with_what_to_do(copied):
    info = json.loads((copied / "meta/info.json").read_text())
    (copied / "meta/info.json").write_text(json.dumps(info | {"codebase_version": "v1.6"}))
    with pytest.raises(ValueError, match=r"a LeRobotDataset v1.6; v2.0, v2.1 and v3.0 are read. Convert it"):
        load_episodes(copied)


def test_a_broken_line_of_metadata_costs_its_episode_alone(tmp_path, clips, write_lerobot):
    root = write_lerobot(tmp_path / "set", clips, version="v2.1")
    file = root / "meta/episodes.jsonl"
    lines = file.read_text().splitlines()
    file.write_text("\n".join([lines[0], '{"episode_index": 1, "len', lines[2]]))
    episodes = load_episodes(root)
    assert [episode.index for episode in episodes] == [0, 2]
    assert "meta/episodes.jsonl, line 2 cannot be read; that episode is left out" in str(episodes.sources[0])
    assert "meta/info.json promises 3 episodes, 2 are listed" in str(episodes.sources[0])


def test_the_published_set_with_its_warts(shared_data):
    episodes = load_episodes(shared_data / "gr1_sim")
    assert [episode.num_frames(episode.cameras[0]) for episode in episodes] == [416, 470, 470, 412, 328]
    assert episodes[0].cameras == ("observation.images.ego_view",)
    assert episodes[0].signals().actions.shape == (416, 44)
    assert set(episodes[0].signals().texts) == {"pick the pear from the counter and place it in the plate"}
    assert "names camera 'observation.images.egoview', but there are no files of it" in str(episodes.sources[0])
    with pytest.raises(ValueError, match="there are no files of it"):
        load_episodes(shared_data / "gr1_sim", cameras="egoview")


def test_a_damaged_picture_names_the_file_the_camera_and_the_frame(tmp_path, clips, write_lerobot):
    root = write_lerobot(tmp_path / "set", clips, version="v2.1", kind="image")
    file = root / "data/chunk-000/episode_000001.parquet"
    rows = pq.read_table(file).to_pylist()
    rows[4][TOP] = {"bytes": b"not an image", "path": None}
    rows[5][TOP] = {"bytes": None, "path": None}
    pq.write_table(pa.Table.from_pylist(rows), file)
    episode = load_episodes(root)[1]
    assert np.array_equal(episode.frames(TOP, [3, 6]), clips[TOP][1][[3, 6]])
    for frame, reason in ((4, "not an image, or damaged"), (5, "the cell is empty")):
        with pytest.raises(
            EpisodeReadError, match=rf"data/.*1\.parquet: {TOP}, frame {frame} cannot be read .{reason}"
        ):
            episode.frames(TOP, [frame])


@pytest.mark.parametrize(
    "change",
    [
        {"fps": None}, {"fps": 0}, {"fps": "fast"}, {"features": []}, {"features": {TOP: None}}, {"video_path": None},
        {"video_path": "videos/{camera}.mp4"}, {"data_path": "data/{nobody}.parquet"}, {"chunks_size": 0},
    ],
)  # fmt: skip
def test_metadata_that_makes_no_sense_is_a_plain_error(copied_v2, change):
    info = json.loads((copied_v2 / "meta/info.json").read_text())
    (copied_v2 / "meta/info.json").write_text(json.dumps(info | change))
    with pytest.raises(ValueError, match=r"^set: (its metadata is invalid|not a LeRobotDataset|it has no camera)"):
        load_episodes(copied_v2)


def test_a_broken_dataset_beside_good_ones_is_said_and_the_others_are_read(tmp_path, datasets):
    shutil.copytree(datasets["v2.1"], tmp_path / "good")
    shutil.copytree(datasets["v2.1"], tmp_path / "bad")
    (tmp_path / "bad/meta/episodes.jsonl").write_text("")
    episodes = load_episodes(tmp_path)
    assert [episode.id for episode in episodes] == [f"good/episode_{n:06d}" for n in range(3)]
    assert "left out: bad: a LeRobotDataset v2.1 without an episode; is it finished?" in str(episodes.sources[0])
    with pytest.raises(ValueError, match="bad: a LeRobotDataset"):
        load_episodes(tmp_path / "bad")


def test_a_task_with_any_character_is_one_task(tmp_path, clips, write_lerobot):
    task = "pick\u2028the cup\x85now"
    root = write_lerobot(tmp_path / "set", clips, version="v2.1", tasks=[task] * 3)
    for name in ("episodes", "tasks"):  # as lerobot 0.3 writes them
        file = root / f"meta/{name}.jsonl"
        lines = [json.dumps(json.loads(line), ensure_ascii=False) for line in file.read_text().split("\n") if line]
        file.write_text("\n".join(lines) + "\n")
    episodes = load_episodes(root)
    assert len(episodes) == 3
    assert set(episodes[1].signals().texts) == {task}


def test_rows_are_found_in_any_cut_of_the_data_file(tmp_path, clips, write_lerobot):
    for kind in ("video", "image"):
        root = write_lerobot(tmp_path / kind, clips, kind=kind)
        file = root / "data/chunk-000/file-000.parquet"
        table = pq.read_table(file)
        expected = [episode.signals().actions for episode in load_episodes(root)]
        for rows, statistics in ((5, True), (13, True), (1000, True), (7, False)):
            columns = table.column_names[::-1] if rows == 13 else table.column_names
            pq.write_table(table.select(columns), file, row_group_size=rows, write_statistics=statistics)
            lerobot_rows._footer.cache_clear()
            lerobot_rows._row_groups.cache_clear()
            for episode, actions in zip(load_episodes(root), expected, strict=True):
                assert np.array_equal(episode.signals().actions, actions)
