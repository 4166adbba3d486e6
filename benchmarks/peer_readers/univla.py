"""UniVLA's own transforms, unmodified, on the samples of `lara-tok export univla`: equal tokens.

    python benchmarks/peer_readers/univla.py --checkout path/to/UniVLA

Needs a checkout of github.com/OpenDriveLab/UniVLA at COMMIT, and torch and transformers. UniVLA stores no labels: it
runs its latent action model while it reads RLDS. So each pair of an export is given to UniVLA's transforms as such a
sample, and the resulting input_ids and labels are compared with those of the exported line, from the same tokenizer and
prompt builder.

UniVLA's own, from `prismatic`: vla/datasets/datasets.py (RLDSBatchTransformLatentAction, and with history
RLDSBatchTransformLIBERO_withHis) and the prompt builders. Stand-ins: the RLDS pipeline that datasets.py imports and
these classes do not use (it needs TensorFlow and dlimp), packages without their __init__ (which import whole models), a
latent action model that looks the codes of two frames up in the table, and the random choice of whether a sample has
history. The tokenizer is a byte-level BPE of transformers, trained here on the instructions.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from peer_checkout import describe_file, stand_in
from peer_readers._sample import write_clips
from random_data import STRIDE

from lara_tokenizer.export import add_act_tokens, export_univla
from lara_tokenizer.export.images import image_name
from lara_tokenizer.table import read_tokens

COMMIT = "0ab9e9dd3074ffa14fdd1a00aa2aa84e4f8e1352"
FILES = {
    "prismatic/vla/datasets/datasets.py": "0c8c76ba89ed924e60a48a7844985ffa77926e77",
    "prismatic/models/backbones/llm/prompting/base_prompter.py": "3816b1831177d128bbe872c041ed5b0ffaf5b5ed",
}
SHAPES = ((4, 16), (8, 128))  # N, K: of UniVLA and of our checkpoint
IGNORED = -100  # a label without loss


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkout", type=Path, required=True)
    checkout = parser.parse_args().checkout
    datasets, prompting = import_univla(checkout)
    print(f"UniVLA {COMMIT[:7]}, {', '.join(describe_file(checkout, *file) for file in FILES.items())}")
    for num_latents, codebook_size in SHAPES:
        for builder in (prompting.PurePromptBuilder, prompting.VicunaV15ChatPromptBuilder):
            with tempfile.TemporaryDirectory() as folder:
                compare(datasets, builder, Path(folder), num_latents, codebook_size)


def import_univla(checkout: Path) -> tuple[Any, Any]:
    """UniVLA's datasets.py and prompt builders, without the imports that these do not use."""
    for name in ("", ".vla", ".vla.datasets", ".models", ".models.backbones", ".models.backbones.llm", ".util"):
        stand_in(f"prismatic{name}", checkout / f"prismatic{name}".replace(".", "/"))
    rlds = "prismatic.vla.datasets.rlds"
    stand_in("prismatic.models.backbones.vision", ImageTransform=object)
    stand_in(rlds, make_interleaved_dataset=object, make_single_dataset=object)
    stand_in(f"{rlds}.oxe", OXE_NAMED_MIXTURES=object, get_oxe_dataset_kwargs_and_weights=object)
    stand_in(f"{rlds}.utils")
    stand_in(f"{rlds}.utils.data_utils", NormalizationType=object)
    datasets = importlib.import_module("prismatic.vla.datasets.datasets")
    return datasets, importlib.import_module("prismatic.models.backbones.llm.prompting")


def new_tokenizer(texts: list[str]) -> Any:
    """A byte-level BPE tokenizer trained on the instructions."""
    bpe = Tokenizer(models.BPE(unk_token="<unk>"))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<unk>", "<s>", "</s>"], initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


class TableLookup:
    """Replaces UniVLA's latent action model: codes from the table, for frames whose pixels are their own index."""

    device = "cpu"

    def __init__(self, rows: dict[int, dict[str, Any]]) -> None:
        self._rows = rows

    def vq_encode(self, video: torch.Tensor) -> dict[str, torch.Tensor]:
        first, second = video.reshape(2, -1)[:, 0].tolist()
        row = self._rows[int(first)]
        assert int(second) == row["future_frame_index"], (first, second)
        return {"indices": torch.tensor(row["codes"])[None]}


def frame_index(image: Any) -> torch.Tensor:
    """Replaces an image transform: the index that a frame's pixels are."""
    return torch.tensor([float(np.asarray(image)[0, 0, 0])])


def compare(datasets: Any, builder: Any, folder: Path, num_latents: int, codebook_size: int) -> None:
    """Export, and compare the tokens of every line with those of UniVLA's transforms for the same pair."""
    tokens, source = write_clips(folder, num_latents, codebook_size)
    summary = export_univla(tokens, source, folder / "export", workers=0)
    lines = [json.loads(line) for line in (folder / "export/train.jsonl").read_text().splitlines()]
    table = [row for row in read_tokens(tokens).to_pylist() if row["valid"]]
    texts = [turn["value"] for line in lines for turn in line["conversations"]]
    tokenizer, univla_tokenizer = new_tokenizer(texts), new_tokenizer(texts)
    # One vocabulary is extended by our function, the other as UniVLA's training does it.
    add_act_tokens(tokenizer, codebook_size=summary.settings["codebook_size"])
    univla_tokenizer.add_special_tokens({"additional_special_tokens": [f"<ACT_{i}>" for i in range(codebook_size)]})
    by_image = {image_name(row["episode"], row["camera"], row["frame_index"]): row for row in table}
    with_history = 0
    for line in lines:
        row = by_image[line["image"]]
        of_episode = {each["frame_index"]: each for each in table if each["episode"] == row["episode"]}
        has_history = "History action" in line["conversations"][0]["value"]
        with_history += has_history
        samples = univla_samples(datasets, builder, univla_tokenizer, row, of_episode, has_history)
        input_ids, labels = tokens_of(line, builder, tokenizer, num_latents)
        assert samples
        for sample in samples:  # first the image, to be sure that it is the same pair
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


def univla_samples(
    datasets: Any, builder: Any, tokenizer: Any, row: dict[str, Any], rows: dict[int, dict[str, Any]], has_history: bool
) -> list[dict[str, Any]]:
    """A pair through UniVLA's transforms: the one with history, and where there is none the other one too."""
    parts = {
        "action_tokenizer": TableLookup(rows),
        "base_tokenizer": tokenizer,
        "image_transform": frame_index,
        "image_transform_lam": frame_index,
        "prompt_builder_fn": builder,
    }
    # Instead of the module: whether a sample has history is drawn otherwise.
    datasets.random = SimpleNamespace(randint=lambda low, high: int(has_history))
    first = row["frame_index"] - has_history  # a sample with history begins one frame earlier
    frames = np.arange(first, first + STRIDE + 2, dtype=np.uint8)[:, None, None, None]
    with_history = datasets.RLDSBatchTransformLIBERO_withHis(**parts, window_size=STRIDE + 1)
    samples = [with_history(rlds_sample(row, frames))]
    if not has_history:
        samples.append(datasets.RLDSBatchTransformLatentAction(**parts)(rlds_sample(row, frames[:-1])))
    return samples


def rlds_sample(row: dict[str, Any], frames: np.ndarray) -> dict[str, Any]:
    """A row as UniVLA's RLDS pipeline would give it."""
    return {
        "dataset_name": b"sample",
        "action": np.zeros((len(frames), 7), np.float32),
        "observation": {"image_primary": np.broadcast_to(frames, (len(frames), 8, 8, 3))},
        "task": {"language_instruction": row["text"].encode()},
    }


def tokens_of(line: dict[str, Any], builder: Any, tokenizer: Any, num_latents: int) -> tuple[list[int], list[int]]:
    """A line through a prompt builder and a tokenizer, as a reader of the export applies them."""
    prompt = builder("openvla")
    for turn in line["conversations"]:
        prompt.add_turn(turn["from"], turn["value"])
    input_ids = tokenizer(prompt.get_prompt(), add_special_tokens=True).input_ids
    supervised = num_latents + 1  # the codes and the end of sequence
    return input_ids, [IGNORED] * (len(input_ids) - supervised) + input_ids[-supervised:]


if __name__ == "__main__":
    main()
