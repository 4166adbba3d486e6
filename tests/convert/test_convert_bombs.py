"""Weights of other projects that would unpack to more than the file: refused before anything is allocated."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
import torch

from lara_tokenizer.convert import convert_checkpoint
from lara_tokenizer.convert.state_dict import read_state_dict_file


def _saved(file: Path, tensors: object) -> Path:
    torch.save(tensors, file)
    return file


def test_a_tensor_that_repeats_one_number_a_trillion_times_is_refused(tmp_path):
    file = _saved(tmp_path / "laq.pt", {"fc.weight": torch.zeros(1).expand(10**6, 10**6)})
    assert file.stat().st_size < 5000
    with pytest.raises(ValueError, match=r"laq.pt holds tensors that are larger than their data \(fc.weight\)"):
        read_state_dict_file(file)


def test_tensors_that_all_share_one_block_of_data_are_refused(tmp_path):
    block = torch.zeros(2**20)
    file = _saved(tmp_path / "laq.pt", {f"layer.{index}": block for index in range(100)})
    with pytest.raises(ValueError, match="together are larger than the file"):
        read_state_dict_file(file)
    tied = _saved(tmp_path / "tied.pt", {"one": block, "other": block})
    assert list(read_state_dict_file(tied).tensors) == ["one", "other"]


def test_a_compressed_archive_is_refused_before_it_is_unpacked(tmp_path):
    plain = _saved(tmp_path / "plain.pt", {"fc.weight": torch.zeros(2**20)})
    with zipfile.ZipFile(plain) as source, zipfile.ZipFile(tmp_path / "laq.pt", "w", zipfile.ZIP_DEFLATED) as target:
        for name in source.namelist():
            target.writestr(name, source.read(name))
    assert (tmp_path / "laq.pt").stat().st_size < 10_000
    with pytest.raises(ValueError, match=r"laq.pt is a compressed archive"):
        read_state_dict_file(tmp_path / "laq.pt")


def test_a_layer_with_a_number_in_the_billions_is_not_built(tmp_path):
    tensors = {"action_prompt": torch.zeros(1, 1, 1, 8), "fc.weight": torch.zeros(8, 8)}
    tensors |= {"encoder.transformer_blocks.999999999.norm.weight": torch.zeros(8)}
    file = _saved(tmp_path / "lam.pt", tensors)
    with pytest.raises(ValueError, match=r"lam.pt: a layer 999999999 of encoder.transformer_blocks among 3 tensors"):
        convert_checkpoint(file, out=tmp_path / "out")
