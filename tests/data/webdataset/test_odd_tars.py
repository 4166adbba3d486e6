"""Tars as other people's scripts leave them, and headers that lie."""

from __future__ import annotations

import json
import tarfile
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lara_tokenizer.data import load_episodes
from lara_tokenizer.data.listing import ListOptions
from lara_tokenizer.data.webdataset.dataset import list_episodes
from lara_tokenizer.errors import EpisodeReadError


def png(brightness: int) -> bytes:
    file = BytesIO()
    Image.fromarray(np.full((8, 8, 3), brightness, np.uint8)).save(file, "png")
    return file.getvalue()


def npy(shape: str) -> bytes:
    header = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}".encode()
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header


FRAMES = {f"{t:04d}.png": png(t) for t in range(3)}


def write(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as tar:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, BytesIO(data))
    return path


def sample(key: str, **others: bytes) -> dict[str, bytes]:
    return {f"{key}.{name}": data for name, data in {**FRAMES, **others}.items()}


def header(name: str, size: int, kind: bytes = b"0") -> bytes:
    """A tar header with any size; a negative or a large one in the base-256 form."""
    member = tarfile.TarInfo(name)
    member.type = kind
    data = bytearray(member.tobuf(tarfile.GNU_FORMAT))
    data[124:136] = (b"\xff" if size < 0 else b"\x80") + (size % 256**11).to_bytes(11, "big")
    data[148:156] = b" " * 8
    data[148:156] = b"%06o\0 " % sum(data)
    return bytes(data)


@pytest.mark.parametrize(
    ("members", "text"),
    [
        ({"txt": b"\xef\xbb\xbfpick up\n"}, "pick up"),
        ({"txt": "pick up".encode("utf-16")}, "pick up"),
        ({"caption.txt": b"pick up"}, "pick up"),
        ({"json": b'"pick up"'}, "pick up"),
        ({"json": b'["pick up", "lift"]'}, "pick up"),
        ({"json": b'\xef\xbb\xbf{"fps": 5, "text": "pick up"}'}, "pick up"),
        ({"json": b'{"instruction": ["", "pick up", "lift"]}'}, "pick up"),
        ({"json": b'{"task": {"en": "pick"}, "caption": "pick up"}'}, "pick up"),
    ],
)
def test_a_text_is_read_in_each_of_its_forms(tmp_path, members, text):
    write(tmp_path / "a.tar", sample("one", **members))
    (episode,) = load_episodes(tmp_path / "a.tar", fps=5)
    assert (episode.text, episode.signals().texts) == (text, (text,) * 3)
    assert episode.files() == (tmp_path / "a.tar",)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"json": b"[" * 50_000}, r"its .json cannot be read .*nested too deeply"),
        ({"json": b'{"fps": ' + b"9" * 5000 + b"}"}, "its .json cannot be read"),
        ({"txt": b"caf\xe9"}, r"its .txt is not UTF-8 \(byte 0xe9\). Save it as UTF-8"),
        ({"txt": b"x" * 2_000_000}, r"its .txt has 2,000,000 bytes: is it an instruction\?"),
        ({"json": b'{"actions": [[1e300]]}'}, "its actions cannot be read"),
        ({"json": b'{"actions": [[1], [1, 2]]}'}, "its actions cannot be read"),
        ({"actions.npy": npy("(1000000000000000,)")}, "its actions.npy cannot be read"),
        ({"actions.npy": npy("(" * 300)}, "its actions.npy cannot be read"),
    ],
)
def test_what_cannot_be_read_costs_its_sample(tmp_path, members, message):
    write(tmp_path / "a.tar", sample("bad", **members) | sample("good"))
    bad, good = load_episodes(tmp_path / "a.tar", fps=5)
    with pytest.raises(EpisodeReadError, match=message):
        bad.signals()
    assert good.frames("", range(3))[:, 0, 0, 0].tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    "lie",
    [
        header("x.0000.png", -1024),
        header("x.0000.png", 2**62),
        header("././@LongLink", 2**40, b"L"),
        header("x", 2**40, b"x"),
        header("x", 64, b"x") + b"30 GNU.sparse.map=a,b\n".ljust(512, b"\0"),
        header("././@LongLink", 1, b"L") * 3,
    ],
)
def test_behind_a_header_that_lies_nothing_is_read_and_what_is_before_it_is(tmp_path, lie):
    whole = write(tmp_path / "a.tar", sample("good")).read_bytes().rstrip(b"\0")
    whole += bytes(-len(whole) % 512)
    (tmp_path / "a.tar").write_bytes(whole + lie + bytes(2048))
    found = list_episodes(str(tmp_path / "a.tar"), ListOptions())
    assert [episode.id for episode in found.episodes][:1] == ["a/good"]
    assert found.episodes[0].frames("", [2])[0, 0, 0, 0] == 2
    assert found.notes


def test_a_name_that_is_not_utf8_becomes_an_escaped_id(tmp_path):
    write(tmp_path / "a.tar", {name.replace("one", "caf\udce9"): data for name, data in sample("one").items()})
    (episode,) = load_episodes(tmp_path / "a.tar", fps=5)
    assert episode.id == r"a/caf\udce9"
    assert episode.num_frames() == 3


def test_depth_is_read_only_where_it_is_named(tmp_path):
    depth = {f"depth.{name}": png(100) for name in FRAMES}
    write(tmp_path / "a.tar", {f"one.{name}": data for name, data in (depth | FRAMES).items()})
    assert load_episodes(tmp_path / "a.tar", fps=5)[0].cameras == ("",)
    assert load_episodes(tmp_path / "a.tar", fps=5, cameras="all")[0].cameras == ("",)
    (episode,) = load_episodes(tmp_path / "a.tar", fps=5, cameras="depth")
    assert episode.frames("depth", [0])[0, 0, 0, 0] == 100
    write(tmp_path / "a.tar", {f"one.{name}": data for name, data in depth.items()})
    with pytest.raises(ValueError, match=r"no colour camera, only 'depth'. .* name the camera: --camera depth"):
        load_episodes(tmp_path / "a.tar", fps=5)


def test_a_replaced_sample_has_another_digest(tmp_path):
    digests = []
    for brightness in (1, 1, 200):
        frames = {f"one.{t}.png": png(brightness + 5 * t) + bytes(brightness) for t in range(3)}
        (episode,) = load_episodes(write(tmp_path / f"{len(digests)}.tar", frames), fps=5)
        digests.append(episode.frame_index().digest)
    assert digests[0] == digests[1] != digests[2]


def test_metadata_beside_a_film_keeps_its_note_and_digest(tmp_path, film):
    write(tmp_path / "a.tar", {"one.mp4": film.read_bytes(), "one.json": json.dumps({"fps": 5}).encode()})
    (episode,) = load_episodes(tmp_path / "a.tar")
    assert episode.timestamps()[1] == 0.2
    assert episode.frame_index().digest == load_episodes(film)[0].frame_index().digest
