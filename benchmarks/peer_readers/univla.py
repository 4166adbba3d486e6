"""Is `lara-tok export univla` what UniVLA makes of a sample? Their own transforms, unmodified, give equal tokens.

    python benchmarks/peer_readers/univla.py --checkout path/to/UniVLA

Needs a checkout of github.com/OpenDriveLab/UniVLA at COMMIT, and torch and transformers. UniVLA stores no labels: it
runs its latent action model while it reads RLDS. So each pair of an export is given to their transforms as such a
sample, and what they make (input_ids, labels) is compared with what comes of the line with the same tokenizer and
prompt builder.

What runs of theirs, from `prismatic`: vla/datasets/datasets.py (RLDSBatchTransformLatentAction, and with history
RLDSBatchTransformLIBERO_withHis) and the prompt builders. What stands in, from outside: the RLDS pipeline that
datasets.py imports and these classes do not use (it wants TensorFlow and dlimp), packages without their __init__ (which
import whole models), a latent action model that looks the codes of two frames up in the table, and the coin that tells
whether a sample has history. The tokenizer is a byte-level BPE of transformers, trained here on the instructions.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import tempfile
import types
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _sample import GAP, check_file, write_sample
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from lara_tokenizer.export import add_act_tokens, export_univla
from lara_tokenizer.export.images import image_name
from lara_tokenizer.table import read_tokens

COMMIT = "0ab9e9dd3074ffa14fdd1a00aa2aa84e4f8e1352"
DATASETS, DATASETS_BLOB = "prismatic/vla/datasets/datasets.py", "0c8c76ba89ed924e60a48a7844985ffa77926e77"
PROMPTS, PROMPTS_BLOB = (
    "prismatic/models/backbones/llm/prompting/base_prompter.py",
    "3816b1831177d128bbe872c041ed5b0ffaf5b5ed",
)
SHAPES = ((4, 16), (8, 128))  # N, K: theirs and ours
IGNORED = -100  # a label without loss


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkout", type=Path, required=True)
    checkout = parser.parse_args().checkout
    datasets, prompting = import_theirs(checkout)
    files = [check_file(checkout, *file) for file in ((DATASETS, DATASETS_BLOB), (PROMPTS, PROMPTS_BLOB))]
    print(f"UniVLA {COMMIT[:7]}, {', '.join(files)}")
    for num_latents, codebook_size in SHAPES:
        for builder in (prompting.PurePromptBuilder, prompting.VicunaV15ChatPromptBuilder):
            with tempfile.TemporaryDirectory() as folder:
                compare(datasets, builder, Path(folder), num_latents, codebook_size)


def import_theirs(checkout: Path) -> tuple[Any, Any]:
    """Their datasets.py and prompt builders, without what these do not use."""
    for name in ("", ".vla", ".vla.datasets", ".models", ".models.backbones", ".models.backbones.llm", ".util"):
        package: Any = types.ModuleType(f"prismatic{name}")
        package.__path__ = [str(checkout / f"prismatic{name}".replace(".", "/"))]
        sys.modules[package.__name__] = package
    rlds = "prismatic.vla.datasets.rlds"
    for name, offers in {
        "prismatic.models.backbones.vision": ["ImageTransform"],
        rlds: ["make_interleaved_dataset", "make_single_dataset"],
        f"{rlds}.oxe": ["OXE_NAMED_MIXTURES", "get_oxe_dataset_kwargs_and_weights"],
        f"{rlds}.utils": [],
        f"{rlds}.utils.data_utils": ["NormalizationType"],
    }.items():
        sys.modules[name] = types.ModuleType(name)
        for offered in offers:
            setattr(sys.modules[name], offered, object)
    datasets = importlib.import_module("prismatic.vla.datasets.datasets")
    return datasets, importlib.import_module("prismatic.models.backbones.llm.prompting")


def new_tokenizer(texts: list[str]) -> Any:
    bpe = Tokenizer(models.BPE(unk_token="<unk>"))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<unk>", "<s>", "</s>"], initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


class LookedUp:
    """In place of their latent action model: the codes of two frames, which say their numbers by their pixels."""

    device = "cpu"

    def __init__(self, rows: dict[int, dict[str, Any]]) -> None:
        self._rows = rows

    def vq_encode(self, video: torch.Tensor) -> dict[str, torch.Tensor]:
        first, second = video.reshape(2, -1)[:, 0].tolist()
        row = self._rows[int(first)]
        assert int(second) == row["future_frame_index"], (first, second)
        return {"indices": torch.tensor(row["codes"])[None]}


class Coin:
    """In place of `random`: falls as it is told."""

    def __init__(self, side: int) -> None:
        self._side = side

    def randint(self, low: int, high: int) -> int:
        return self._side


def frame_number(image: Any) -> torch.Tensor:
    """In place of an image transform."""
    return torch.tensor([float(np.asarray(image)[0, 0, 0])])


def compare(datasets: Any, builder: Any, folder: Path, num_latents: int, codebook_size: int) -> None:
    """Export, and compare every line with what their transforms make of the same pair."""
    tokens, source = write_sample(folder, num_latents, codebook_size)
    summary = export_univla(tokens, source, folder / "export", workers=0)
    lines = [json.loads(line) for line in (folder / "export/train.jsonl").read_text().splitlines()]
    table = [row for row in read_tokens(tokens).to_pylist() if row["valid"]]
    texts = [turn["value"] for line in lines for turn in line["conversations"]]
    tokenizer, their_tokenizer = new_tokenizer(texts), new_tokenizer(texts)
    add_act_tokens(tokenizer, codebook_size=summary.settings["codebook_size"])
    their_tokenizer.add_special_tokens({"additional_special_tokens": [f"<ACT_{i}>" for i in range(codebook_size)]})
    by_image = {image_name(row["episode"], row["camera"], row["frame_index"]): row for row in table}
    with_history = 0
    for line in lines:
        row = by_image[line["image"]]
        of_episode = {each["frame_index"]: each for each in table if each["episode"] == row["episode"]}
        has_history = "History action" in line["conversations"][0]["value"]
        with_history += has_history
        made = their_samples(datasets, builder, their_tokenizer, row, of_episode, has_history)
        input_ids, labels = tokens_of(line, builder, tokenizer, num_latents)
        assert made
        for sample in made:
            assert sample["pixel_values"].item() == row["frame_index"]
            assert sample["input_ids"].tolist() == input_ids, line
            assert sample["labels"].tolist() == labels, line
        words = tokenizer.convert_ids_to_tokens(labels[-num_latents - 1 : -1])
        assert words == [f"<ACT_{code}>" for code in row["codes"]]
    used = {code for row in table for code in row["codes"]}
    print(
        f"  N {num_latents}, K {codebook_size}, {builder.__name__}: {len(lines)} of {summary.pairs} pairs, "
        f"{with_history} with history: input_ids and labels equal theirs ({len(used)} different codes)"
    )


def their_samples(
    datasets: Any, builder: Any, tokenizer: Any, row: dict[str, Any], rows: dict[int, dict[str, Any]], has_history: bool
) -> list[dict[str, Any]]:
    """What their transforms make of a pair: with history one of them can, without both."""
    parts = {
        "action_tokenizer": LookedUp(rows),
        "base_tokenizer": tokenizer,
        "image_transform": frame_number,
        "image_transform_lam": frame_number,
        "prompt_builder_fn": builder,
    }
    datasets.random = Coin(int(has_history))
    first = row["frame_index"] - has_history
    frames = np.arange(first, first + GAP + 2, dtype=np.uint8)[:, None, None, None]
    with_his = datasets.RLDSBatchTransformLIBERO_withHis(**parts, window_size=GAP + 1)
    made = [with_his(rlds_sample(row, frames))]
    if not has_history:
        made.append(datasets.RLDSBatchTransformLatentAction(**parts)(rlds_sample(row, frames[:-1])))
    return made


def rlds_sample(row: dict[str, Any], frames: np.ndarray) -> dict[str, Any]:
    return {
        "dataset_name": b"sample",
        "action": np.zeros((len(frames), 7), np.float32),
        "observation": {"image_primary": np.broadcast_to(frames, (len(frames), 8, 8, 3))},
        "task": {"language_instruction": row["text"].encode()},
    }


def tokens_of(line: dict[str, Any], builder: Any, tokenizer: Any, num_latents: int) -> tuple[list[int], list[int]]:
    """A line through a prompt builder and a tokenizer, as a reader of the export does it."""
    prompt = builder("openvla")
    for turn in line["conversations"]:
        prompt.add_turn(turn["from"], turn["value"])
    input_ids = tokenizer(prompt.get_prompt(), add_special_tokens=True).input_ids
    kept = num_latents + 1  # the codes and the end of sequence
    return input_ids, [IGNORED] * (len(input_ids) - kept) + input_ids[-kept:]


if __name__ == "__main__":
    main()
