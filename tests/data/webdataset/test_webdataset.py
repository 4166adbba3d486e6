"""Episodes from the samples of WebDataset tars, written by the webdataset library."""

import json
import pickle
import tarfile
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import webdataset
from PIL import Image

from lara_tokenizer.data import VideoReader, load_episodes
from lara_tokenizer.data.listing import Listing, ListOptions
from lara_tokenizer.data.video.backends import video_reader_class
from lara_tokenizer.data.video.media import FileSlice
from lara_tokenizer.data.webdataset.dataset import detect, list_episodes
from lara_tokenizer.data.webdataset.reader import camera_of
from lara_tokenizer.data.webdataset.tar import TarSamples
from lara_tokenizer.errors import EpisodeReadError, VideoDecodeError


def list_webdataset(source, **options) -> Listing:
    return list_episodes(str(source), ListOptions(**options))


def is_detected(folder: Path) -> bool:
    return detect(folder, {entry.name for entry in folder.iterdir()})


@pytest.fixture(scope="module")
def clips(tmp_path_factory, write_video, numbered_frames):
    """Three short videos."""
    folder = tmp_path_factory.mktemp("clips")
    return [write_video(folder / f"{n}.mp4", numbered_frames(n)) for n in (8, 12, 16)]


def write_tar(path, samples):
    """`samples` by key: their members by extension; bytes are written as they are."""
    with webdataset.TarWriter(str(path)) as writer:
        for key, members in samples.items():
            writer.write({"__key__": key, **members})
    return path


def png(pixels):
    file = BytesIO()
    Image.fromarray(pixels).save(file, "png")
    return file.getvalue()


ACTIONS = np.random.default_rng(0).normal(size=(8, 7)).astype(np.float32)


@pytest.fixture
def tar(tmp_path, clips):
    samples = {
        "kitchen/000": {"mp4": clips[0].read_bytes(), "txt": "open the drawer\n", "actions.npy": ACTIONS},
        "kitchen/001": {
            "mp4": clips[1].read_bytes(),
            "json": {"caption": "close it", "fps": 4, "actions": [[0.5]] * 12},
        },
        "kitchen/002": {"MP4": clips[2].read_bytes(), "cls": 3},
    }
    return write_tar(tmp_path / "train.tar", samples)


def test_a_sample_with_a_video_is_an_episode(tar, clips):
    found = list_webdataset(tar)
    assert (found.format, found.name, found.notes) == ("WebDataset", "train", [])
    assert [each.id for each in found.episodes] == [f"train/kitchen/00{n}" for n in range(3)]
    assert [each.text for each in found.episodes] == ["open the drawer", "close it", None]
    assert [each.available_signals for each in found.episodes] == [("actions", "text"), ("actions", "text"), ()]
    for episode, clip in zip(found.episodes, clips, strict=True):
        count = VideoReader(clip).index().num_frames
        assert episode.num_frames() == count
        np.testing.assert_array_equal(episode.frames("", range(count)), VideoReader(clip).frames("", range(count)))
        np.testing.assert_array_equal(episode.frames("", [5, 1, 1]), VideoReader(clip).frames("", [5, 1, 1]))


def test_members_are_those_that_webdataset_itself_finds(tar):
    theirs = list(webdataset.WebDataset(str(tar), shardshuffle=False, empty_check=False))
    ours = list(TarSamples(tar))
    assert [sample.key for sample in ours] == [sample["__key__"] for sample in theirs]
    for mine, other in zip(ours, theirs, strict=True):
        members = {extension: FileSlice(str(tar), *span, "").read() for extension, span in mine.members.items()}
        assert members == {name: value for name, value in other.items() if not name.startswith("__")}


def test_actions_and_texts_come_a_row_a_frame(tar):
    first, second, third = list_webdataset(tar).episodes
    np.testing.assert_array_equal(first.signals().actions, ACTIONS)
    assert first.signals().texts == ("open the drawer",) * 8
    assert second.signals().actions.tolist() == [[0.5]] * 12
    assert second.signals().actions.dtype == np.float32
    assert third.signals().actions is third.signals().texts is third.signals().states is None


def test_a_sample_s_own_rate_wins_over_its_video_s(tar):
    first, second, _ = list_webdataset(tar).episodes
    assert first.timestamps()[:3] == pytest.approx([0, 0.1, 0.2])
    assert second.timestamps()[:3].tolist() == [0, 0.25, 0.5]
    second.fps = 2
    assert second.timestamps()[:3].tolist() == [0, 0.5, 1]


def test_several_videos_are_cameras(tmp_path, clips):
    views = {"top.mp4": clips[0].read_bytes(), "wrist.mp4": clips[1].read_bytes()}
    tar = write_tar(tmp_path / "a.tar", {"000": views, "001": {"top.mp4": views["top.mp4"]}})
    found = list_webdataset(tar)
    assert found.episodes[0].cameras == ("top",)
    assert found.notes == ["took camera 'top' of top, wrist"]
    with pytest.raises(ValueError, match=r"camera 'side' is no camera of it\. There are: top, wrist"):
        list_webdataset(tar, cameras=["side"])
    found = list_webdataset(tar, cameras=["top", "wrist"])
    assert found.notes == ["1 of 2 samples have no camera 'wrist': they will fail"]
    assert [found.episodes[0].num_frames(camera) for camera in ("top", "wrist")] == [8, 12]
    with pytest.raises(EpisodeReadError, match=r"no camera 'wrist' in this sample \(it has 'top'\)"):
        found.episodes[1].num_frames("wrist")


def test_numbered_frames_come_in_the_order_of_their_numbers(tmp_path, numbered_frames):
    pixels = numbered_frames(12)
    frames = {f"top.{t}.png": png(pixels[t]) for t in range(12)} | {
        f"side.{t:04d}.png": png(pixels[0]) for t in range(3)
    }
    tar = write_tar(tmp_path / "a.tar", {"run": frames | {"json": {"fps": 5}, "jpg": b"a thumbnail"}})
    episode = list_webdataset(tar, cameras=["top"]).episodes[0]
    np.testing.assert_array_equal(episode.frames("top", range(12)), pixels)
    np.testing.assert_array_equal(episode.frames("top", [10, 9, 9]), pixels[[10, 9, 9]])
    assert episode.timestamps("top")[:2].tolist() == [0, 0.2]
    assert len(pickle.dumps(episode)) < 1500


def test_frames_without_a_rate_need_one(tmp_path, numbered_frames):
    frames = {f"frame_{t:06d}.png": png(numbered_frames(3)[t]) for t in range(3)}
    episode = list_webdataset(write_tar(tmp_path / "a.tar", {"run": frames})).episodes[0]
    with pytest.raises(EpisodeReadError, match="give it with fps"):
        episode.timestamps()
    episode.fps = 10
    assert episode.timestamps().tolist() == [0, 0.1, 0.2]


@pytest.mark.parametrize(
    ("extension", "camera"),
    [
        ("webm", ("", True)),
        ("observation.images.top.mp4", ("observation.images.top", True)),
        ("000.jpg", ("", False)),
        ("img_3.png", ("", False)),
        ("wrist.0001.jpeg", ("wrist", False)),
        ("cam0_0001.jpg", ("cam0", False)),
        ("0001_depth.png", ("depth", False)),
        ("jpg", None),
        ("cover.jpg", None),
        ("json", None),
    ],
)
def test_cameras_are_named_by_what_is_not_the_number(extension, camera):
    assert camera_of(extension) == camera


@pytest.fixture
def shards(tmp_path, clips):
    for number in range(11):
        members = {"mp4": clips[0].read_bytes()}
        write_tar(tmp_path / f"train-{number}.tar", {"000": members, "001": members})
    return tmp_path


def test_keys_of_several_tars_follow_the_tar_s_name(shards):
    ids = [episode.id for episode in list_webdataset(shards).episodes]
    assert ids[:3] == ["train-0/000", "train-0/001", "train-1/000"]
    assert ids[-1] == "train-10/001"
    assert len(set(ids)) == 22


def test_globs_and_braces_name_tars(shards):
    def ids(pattern):
        return [episode.id for episode in list_webdataset(f"{shards}/{pattern}").episodes[::2]]

    assert ids("train-{9..10}.tar") == ["train-9/000", "train-10/000"]
    assert ids("{train,train}-{0..1}.tar") == ids("train-[01].tar") == ["train-0/000", "train-1/000"]
    assert ids("train-10.tar") == ["train-10/000"]
    with pytest.raises(ValueError, match=r"train-11.tar': no such file"):
        list_webdataset(f"{shards}/train-{{10..11}}.tar")
    with pytest.raises(ValueError, match="nothing matches"):
        list_webdataset(f"{shards}/test-*.tar")


def test_braces_keep_their_zeros(shards, clips):
    write_tar(shards / "z-009.tar", {"a": {"mp4": clips[0].read_bytes()}})
    write_tar(shards / "z-010.tar", {"b": {"mp4": clips[0].read_bytes()}})
    assert [each.id for each in list_webdataset(f"{shards}/z-{{009..010}}.tar").episodes] == ["z-009/a", "z-010/b"]


def test_load_episodes_knows_a_folder_of_tars(shards, tmp_path):
    assert is_detected(shards)
    assert load_episodes(shards)[0].id == "train-0/000"
    assert load_episodes(f"{shards}/train-{{3..3}}.tar")[0].id == "train-3/000"
    # As a shell spells a glob: tars named one by one are one dataset, and none is taken for another.
    named = load_episodes([shards / f"train-{n}.tar" for n in (0, 1, 0)])
    assert [episode.id for episode in named] == ["train-0/000", "train-0/001", "train-1/000", "train-1/001"]
    assert len({episode.dataset for episode in named}) == 1


def test_other_tars_are_no_webdataset(tmp_path):
    assert not is_detected(tmp_path)
    with tarfile.open(tmp_path / "source.tar", "w") as tar:
        tar.add(__file__, "project/test.py")
    assert not is_detected(tmp_path)
    (tmp_path / "source.tar").write_bytes(b"no tar")
    assert not is_detected(tmp_path)


def test_readers_travel_to_other_processes(tar):
    for episode in list_webdataset(tar).episodes:
        assert len(pickle.dumps(episode)) < 1000
        before = episode.frames("", [1, 7])
        np.testing.assert_array_equal(pickle.loads(pickle.dumps(episode)).frames("", [1, 7]), before)
        episode.close()
        np.testing.assert_array_equal(episode.frames("", [1, 7]), before)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"mp4": b"no video"}, "not a video, or damaged"),
        ({"mp4": None, "json": b"{no json"}, "its .json cannot be read"),
        ({"mp4": None, "json": {"fps": "ten"}}, "fps 'ten' in its .json: must be a number above 0"),
        ({"000.png": b"no image"}, "bad, frame 0 cannot be read .not an image, or damaged"),
        ({"000.png": png(np.zeros((4, 4), np.uint16))}, "has I;16 pixels"),
    ],
)
def test_a_damaged_sample_fails_alone(tmp_path, clips, members, message):
    good = {"mp4": clips[0].read_bytes()}
    members = {name: good["mp4"] if value is None else value for name, value in members.items()}
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for key, sample in {"good": good, "bad": members, "last": good}.items():
            for extension, value in sample.items():
                data = value if isinstance(value, bytes) else json.dumps(value).encode()
                entry = tarfile.TarInfo(f"{key}.{extension}")
                entry.size = len(data)
                tar.addfile(entry, BytesIO(data))
    first, bad, last = list_webdataset(tmp_path / "a.tar").episodes
    assert first.num_frames() == last.num_frames() == 8
    bad.fps = 5
    with pytest.raises(EpisodeReadError, match=message):
        (bad.num_frames(), bad.frames("", [0]))


@pytest.mark.parametrize("data", [b"no numbers", b"", pickle.dumps(np.zeros(3))])
def test_damaged_actions_say_so(tmp_path, clips, data):
    tar = write_tar(tmp_path / "a.tar", {"a": {"mp4": clips[0].read_bytes(), "actions.npy": ACTIONS}})
    spoiled = tar.read_bytes()
    [span] = [sample.members["actions.npy"] for sample in TarSamples(tar)]
    spoiled = spoiled[: span.offset] + data.ljust(span.size, b"\0") + spoiled[span.offset + span.size :]
    tar.write_bytes(spoiled)
    episode = list_webdataset(tar).episodes[0]
    assert episode.num_frames() == 8
    with pytest.raises(EpisodeReadError, match=r"its actions.npy cannot be read"):
        episode.signals()


def test_of_a_tar_that_is_cut_off_the_samples_before_the_cut_are_read(tar, clips):
    whole = tar.read_bytes()
    [*_, last] = TarSamples(tar)
    for cut in (last.members["mp4"].offset + 1000, last.members["mp4"].offset):
        tar.write_bytes(whole[:cut])
        found = list_webdataset(tar)
        assert [episode.id for episode in found.episodes] == ["train/kitchen/000", "train/kitchen/001"]
        assert found.notes[0].startswith("train.tar: cut off or damaged")
        np.testing.assert_array_equal(found.episodes[0].frames("", [7]), VideoReader(clips[0]).frames("", [7]))
    tar.write_bytes(whole[: -(-(last.members["mp4"].offset + last.members["mp4"].size) // 512) * 512])
    assert list_webdataset(tar).notes == ["train.tar: it has no end mark: is it cut off?"]


def test_what_follows_a_damaged_header_is_left_out_and_said(tar):
    spoiled = bytearray(tar.read_bytes())
    [_, second, _] = TarSamples(tar)
    start = min(span.offset for span in second.members.values()) - 1024 * 3
    for at in range(start - start % 512, len(spoiled), 512):
        if spoiled[at + 257 : at + 262] == b"ustar":
            spoiled[at + 100] ^= 0xFF
    tar.write_bytes(spoiled)
    found = list_webdataset(tar)
    assert [episode.id for episode in found.episodes] == ["train/kitchen/000"]
    assert "left out" in found.notes[0]


def test_a_tar_replaced_by_a_shorter_one_fails_clearly(tar):
    episode = list_webdataset(tar).episodes[2]
    tar.write_bytes(tar.read_bytes()[:2048])
    with pytest.raises(VideoDecodeError):
        episode.num_frames()


def test_repeated_keys_get_ids_of_their_own(tmp_path, clips):
    with webdataset.TarWriter(str(tmp_path / "a.tar")) as writer:
        for clip in clips:
            writer.write({"__key__": "clip", "mp4": clip.read_bytes()})
    found = list_webdataset(tmp_path / "a.tar")
    assert [episode.id for episode in found.episodes] == ["a/clip", "a/clip#2", "a/clip#3"]
    assert [episode.num_frames() for episode in found.episodes] == [8, 12, 16]
    assert "1 keys come more than once" in found.notes[0]


def test_samples_without_pictures_are_counted(tmp_path, clips):
    tar = write_tar(tmp_path / "a.tar", {"a": {"mp4": clips[0].read_bytes()}, "b": {"txt": "x"}, "c": {"jpg": b"x"}})
    assert list_webdataset(tar).notes == ["2 samples have neither a video nor numbered frames and are left out"]
    write_tar(tar, {"b": {"jpg": b"x", "txt": "x"}})
    with pytest.raises(ValueError, match=r"its samples hold \.jpg, \.txt\. A sample that is an episode has a video"):
        list_webdataset(tar)


def test_large_facts_are_read_when_they_are_asked_for(tmp_path, clips):
    rows = np.random.default_rng(0).normal(size=(8, 1000))
    metadata = {"actions": rows.tolist(), "instruction": "pour", "fps": 2}
    tar = write_tar(tmp_path / "a.tar", {key: {"mp4": clips[0].read_bytes(), "json": metadata} for key in "ab"})
    for episode in list_webdataset(tar).episodes:
        assert episode.text is None
        assert episode.available_signals == ("actions", "text")
        assert episode.frame_index().fps == 2
        np.testing.assert_array_equal(episode.signals().actions, rows.astype(np.float32))
        assert episode.signals().texts == ("pour",) * 8


def test_what_has_no_random_access_is_refused(tmp_path):
    with pytest.raises(ValueError, match="commands are not run"):
        list_webdataset("pipe:touch /tmp/oops; cat a.tar")
    for url in ("https://example.org/a.tar", "s3://bucket/a-{0..3}.tar", "gs://bucket/a.tar"):
        with pytest.raises(ValueError, match=r"Download it first, or, .* 'datasets:user/name'"):
            list_webdataset(url)
    (tmp_path / "a.tar.gz").write_bytes(b"")
    with pytest.raises(ValueError, match="a compressed tar"):
        list_webdataset(tmp_path / "a.tar.gz")
    with pytest.raises(ValueError, match=r"no \.tar in it, but compressed ones"):
        list_webdataset(tmp_path)
    (tmp_path / "a.tar.gz").rename(tmp_path / "a.tar")
    with pytest.raises(ValueError, match=r"no sample in it \(a.tar: cut off or damaged"):
        list_webdataset(tmp_path / "a.tar")


def test_a_slice_is_a_file_of_its_own(tmp_path):
    (tmp_path / "file").write_bytes(bytes(range(200)))
    part = FileSlice(str(tmp_path / "file"), 50, 100, "part")
    assert part.read() == bytes(range(50, 150))
    with part.open() as file:
        assert (file.seek(-10, 2), file.read(20)) == (90, bytes(range(140, 150)))
        assert (file.seek(30), file.read(2), file.tell()) == (30, bytes([80, 81]), 32)
        assert (file.seek(120), file.read()) == (120, b"")
    assert pickle.loads(pickle.dumps(part)) == part
    with pytest.raises(OSError, match="cut off: 50 of 100"):
        FileSlice(str(tmp_path / "file"), 150, 100, "part").read()


def test_decord_reads_a_member_of_a_tar(tar, clips):
    pytest.importorskip("decord")
    episode = list_webdataset(tar, decoder="decord").episodes[0]
    expected = video_reader_class("decord")(clips[0]).frames("", range(8))
    np.testing.assert_array_equal(episode.frames("", range(8)), expected)
    assert episode.reader.open_camera("").decoder == "decord"


def test_videos_beside_tars_are_read_too(tar, clips, tmp_path):
    (tmp_path / "more").mkdir()
    for name in ("beside.mp4", "more/below.mp4"):
        (tmp_path / name).write_bytes(clips[0].read_bytes())
    ids = [episode.id for episode in load_episodes(tmp_path)]
    assert ids == ["beside.mp4", "more/below.mp4", *(f"train/kitchen/00{n}" for n in range(3))]


def test_a_long_sample_in_segments_travels_light(tmp_path, write_video, numbered_frames):
    clip = write_video(tmp_path / "film.mp4", numbered_frames(400))
    write_tar(tmp_path / "films.tar", {"film": {"mp4": clip.read_bytes()}})
    parts = load_episodes(tmp_path / "films.tar", segment="10s")
    assert [part.num_frames() for part in parts] == [100] * 4
    assert max(len(pickle.dumps(part)) for part in parts) < 2500


def test_hard_links_are_followed_and_sparse_members_said(tmp_path):
    frames = [np.full((8, 8, 3), 20 * n, np.uint8) for n in range(5)]
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for key in ("linked", "broken"):
            for n, frame in enumerate(frames):
                member = tarfile.TarInfo(f"{key}.{n:04d}.png")
                data = png(frame)
                member.size = len(data)
                if n == 3:  # as tar writes a file that was there before
                    member.type, member.size, data = tarfile.LNKTYPE, 0, b""
                    member.linkname = "linked.0001.png" if key == "linked" else "nowhere.png"
                tar.addfile(member, BytesIO(data))
    found = list_webdataset(tmp_path / "a.tar")
    (episode,) = found.episodes
    assert episode.frames("", range(5))[:, 0, 0, 0].tolist() == [0, 20, 40, 20, 80]
    assert found.notes == [
        "a.tar: 1 samples are left out, of which a member is sparse, or a link to nothing before it (broken.0003.png)"
    ]


def test_a_missing_frame_fails_its_sample_alone(tmp_path):
    images = {f"{n:04d}.png": png(np.full((8, 8, 3), n, np.uint8)) for n in range(6)}
    holed = {name: data for name, data in images.items() if name != "0003.png"}
    write_tar(tmp_path / "a.tar", {"holed": holed, "whole": images})
    holed_episode, whole = list_webdataset(tmp_path / "a.tar").episodes
    assert whole.num_frames() == 6
    with pytest.raises(EpisodeReadError, match=r"no number 3 between 0002.png and 0004.png"):
        holed_episode.num_frames()


def test_all_cameras_are_those_that_each_sample_has(tmp_path, clips):
    one, two, _ = (clip.read_bytes() for clip in clips)
    write_tar(tmp_path / "a.tar", {"both": {"top.mp4": one, "wrist.mp4": two}, "one": {"top.mp4": one}})
    found = list_webdataset(tmp_path / "a.tar", cameras=["all"])
    assert [episode.cameras for episode in found.episodes] == [("top", "wrist"), ("top",)]
    assert found.notes == []
