"""LAPA's own loader, unmodified, on a small `lara-tok export lapa`: codes equal the table's.

    python benchmarks/peer_readers/lapa.py --checkout path/to/LAPA [--tokens tokens.parquet --source videos/]

Needs a checkout of github.com/LatentActionPretraining/LAPA at COMMIT, and jax, flax, ml_collections, albumentations
below 2 (LAPA calls its crop as it was in 1), sentencepiece and datasets. LAPA's own, from `latent_pretraining`: data.py
(DatasetFactory, and through it DeltaVisionTextProcessor and JsonDeltaDataset with img_aug=True), and for the first
pairs vqgan.py, at full size with random weights; the other pairs all get the same 256 image codes, since an image takes
seconds.

Then a few pairs with `vision` filled by our port of that VQGAN and img_aug=False, as the export's settings have it: the
codes that the loader returns are those that LAPA's own VQGAN gives the images, and no image is read.

Stand-ins: the library tux, of which two functions are used (it does not import with a current jax); and
LLaMATokenizer, a wrapper of SentencePiece (its file needs flax classes that transformers 5 dropped): here a
SentencePiece model trained on the instructions, without begin and end as in LAPA.
"""

from __future__ import annotations

import argparse
import importlib
import json
import pickle
import shutil
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from peer_checkout import describe_file, stand_in_tux
from peer_readers._sample import write_clips

from lara_tokenizer.export import ExportSummary, export_lapa
from lara_tokenizer.export.images import image_name
from lara_tokenizer.table import read_tokens
from lara_tokenizer.vision_tokens import LwmVisionTokenizer

COMMIT = "46aca51d7faebcec02d7d323bbb3820c2df07bc6"
DATA, DATA_BLOB = "latent_pretraining/data.py", "ca3d36d861dc64720389f49ca0a65f3adc270543"
SHAPES = ((4, 8), (8, 128))  # N, K: of LAPA and of our checkpoint
BATCH = 4
END_OF_VISION = 8193
PROCESSOR = "--train_dataset.delta_vision_text_processor."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkout", type=Path, required=True)
    parser.add_argument("--tokens", type=Path, help="A real table. Default: random codes for generated clips.")
    parser.add_argument("--source", help="The video of that table.")
    parser.add_argument("--pictures", type=int, default=8, help="Pairs whose image goes through their VQGAN.")
    options = parser.parse_args()
    stand_in_tux()
    sys.path.insert(0, str(options.checkout))
    data = importlib.import_module("latent_pretraining.data")
    print(f"LAPA {COMMIT[:7]}, {describe_file(options.checkout, DATA, DATA_BLOB)}")
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        vqgan = write_random_vqgan(scratch / "vqgan.pickle")
        if options.tokens is not None:
            samples = [(scratch / "real", options.tokens, options.source)]
        else:
            folders = {scratch / f"{n}x{k}": (n, k) for n, k in SHAPES}
            samples = [(folder, *write_clips(folder, *shape)) for folder, shape in folders.items()]
        for folder, tokens, source in samples:
            compare(data, tokens, source, folder, vqgan, options.pictures)
        compare_vision(data, tokens, source, folder, vqgan)


def write_random_vqgan(path: Path) -> Path:
    """Random weights for the encoder of LAPA's VQGAN, in the form its constructor reads."""
    import jax
    from latent_pretraining.vqgan import VQGANConfig, VQGANModel

    model = VQGANModel(VQGANConfig.get_default_config())
    weights = model.init(jax.random.PRNGKey(0), np.zeros((1, 256, 256, 3), np.float32), method=model.encode)
    params = jax.device_get(weights["params"])
    # LAPA's own initialization makes entries so alike that rounding would choose among them.
    codebook = np.random.default_rng(0).standard_normal(params["quantize"]["embeddings"].shape, np.float32)
    path.write_bytes(pickle.dumps({**params, "quantize": {"embeddings": codebook}}))
    return path


class LapaTokenizer:
    """The methods that LAPA's loader calls on a tokenizer, by SentencePiece."""

    def __init__(self, texts: list[str], folder: Path) -> None:
        import sentencepiece

        corpus = folder / "texts.txt"
        folder.mkdir(parents=True, exist_ok=True)
        corpus.write_text("\n".join([*texts, "<vision> </vision> <delta> </delta>"]))
        # So few sentences do not fill the vocabulary, hence no hard limit.
        sentencepiece.SentencePieceTrainer.train(
            input=str(corpus), model_prefix=str(folder / "words"), vocab_size=500, hard_vocab_limit=False, minloglevel=2
        )
        self._model = sentencepiece.SentencePieceProcessor(model_file=str(folder / "words.model"))
        self.bos_token_id, self.eos_token_id = self._model.bos_id(), self._model.eos_id()

    def encode(self, text: str) -> list[int]:
        return self._model.encode(text)

    def decode(self, ids: list[int]) -> str:
        return self._model.decode(ids)


class SameCodes:
    """Replaces LAPA's VQGAN: the same 256 codes for any image."""

    def encode(self, images: np.ndarray) -> tuple[None, np.ndarray]:
        return None, np.full((len(images), 16, 16), 7)


def rows_of(tokens: Path) -> dict[str, dict[str, Any]]:
    """The table's valid rows, by the image names in the exported lines."""
    return {
        image_name(row["episode"], row["camera"], row["frame_index"]): row
        for row in read_tokens(tokens).to_pylist()
        if row["valid"]
    }


def load(
    data: Any, summary: ExportSummary, vqgan: Path, scratch: Path
) -> tuple[Any, list[dict[str, Any]], LapaTokenizer]:
    """LAPA's dataset of an export, its lines in the order of the dataset, and its tokenizer."""
    out = Path(summary.out)
    lines = [json.loads(line) for line in (out / "train.jsonl").read_text().splitlines()]
    tokenizer = LapaTokenizer(sorted({line["instruction"] for line in lines}), scratch)
    dataset = data.DatasetFactory.load_dataset(config_of(summary.settings, out, vqgan), tokenizer, node_info=None)
    # The dataset shuffles its lines at the start: their order is read from it.
    order = [json.loads(text) for text, _ in dataset._data]
    assert sorted(map(json.dumps, order)) == sorted(map(json.dumps, lines))
    return dataset, order, tokenizer


def compare(data: Any, tokens: Path, source: Any, folder: Path, vqgan: Path, num_images: int) -> None:
    """Export, read every line, and compare codes and instructions with the table's."""
    summary = export_lapa(tokens, source, folder / "export", workers=0, instruction="do something")
    rows = rows_of(tokens)
    dataset, order, tokenizer = load(data, summary, vqgan, folder / "words")
    batches = iter(dataset)
    last = []
    for index in range(len(order) // BATCH):
        if index * BATCH >= num_images:
            dataset.text_processor.vqgan = SameCodes()  # LAPA's own takes seconds per image
        batch, _ = next(batches)
        for row in range(BATCH):
            line = order[index * BATCH + row]
            example = {name: values[row] for name, values in batch.items()}
            last.append(check(example, line, rows[line["image"]], tokenizer))
    used = {code for row in rows.values() for code in row["codes"]}
    print(
        f"  N {len(line['delta'])}, K {summary.settings['--llama.delta_vocab_size']}: {len(last)} of {summary.pairs} "
        f"pairs read, delta = the table's codes ({len(used)} different, up to {max(used)}); the last of them is at "
        f"position {max(last)} of {dataset.seq_length}"
    )


def compare_vision(data: Any, tokens: Path, source: Any, folder: Path, vqgan: Path) -> None:
    """Export the pairs with the largest motion with `vision` filled, and read them with img_aug=False."""
    rows = rows_of(tokens)
    least = sorted(row["motion"] for row in rows.values())[-2 * BATCH :][0]
    summary = export_lapa(
        tokens,
        source,
        folder / "vision",
        workers=0,
        instruction="do something",
        min_motion=least,
        vision=LwmVisionTokenizer.from_pickle(vqgan, device="cpu"),
    )
    dataset, order, tokenizer = load(data, summary, vqgan, folder / "vision-words")
    expected = {line["image"]: lapa_codes(data, Path(summary.out) / line["image"], vqgan) for line in order}
    shutil.rmtree(Path(summary.out) / "images")  # the loader must not need them
    equal = []
    for index, (batch, _) in zip(range(len(order) // BATCH), dataset, strict=False):
        for row in range(BATCH):
            line = order[index * BATCH + row]
            example = {name: values[row] for name, values in batch.items()}
            check(example, line, rows[line["image"]], tokenizer)
            vision = example["input_tokens"][example["input_vision_masks"]]
            assert vision.tolist() == [*line["vision"], END_OF_VISION], vision
            equal.append(np.mean(vision[:-1] == expected[line["image"]]))
    different = len({code for line in order for code in line["vision"]})
    print(
        f"  vision stored, img_aug={summary.settings[f'{PROCESSOR}img_aug']}, without images: {len(equal)} of "
        f"{summary.pairs} pairs read, vision = the line's codes, of which {np.mean(equal):.4%} are those that their "
        f"VQGAN gives the image ({different} different ones)"
    )
    # jax and torch sum in other orders: a latent between two codes may get either.
    assert np.mean(equal) >= 0.999


def lapa_codes(data: Any, image: Path, vqgan: Path) -> np.ndarray:
    """An image's codes as LAPA's loader computes them, without its random crop and colours."""
    pixels = data.process_images_batch([str(image)], data.get_preprocessor(image_aug=False))
    return data.encode_images(_lapa_vqgan(data, vqgan), pixels).reshape(-1)


@cache
def _lapa_vqgan(data: Any, vqgan: Path) -> Any:
    return data.VQGAN(str(vqgan), replicate=False)


def check(example: dict[str, np.ndarray], line: dict[str, Any], row: dict[str, Any], tokenizer: LapaTokenizer) -> int:
    """Compare an example of LAPA's loader with its line and row; returns the position of the last code."""
    ids = example["input_tokens"]
    delta, vision = ids[example["input_delta_masks"]], ids[example["input_vision_masks"]]
    assert delta.dtype == np.int32, delta.dtype
    assert delta.tolist() == list(row["codes"]), (line["image"], delta, row["codes"])
    assert len(vision) == 257, len(vision)  # 256 codes of the image, and an end
    # Position 0 is the beginning of the sequence.
    prompt = tokenizer.encode(line["instruction"])
    assert ids[1 : 1 + len(prompt)].tolist() == prompt
    assert (row.get("text") or "") in tokenizer.decode(prompt)
    supervised = example["loss_masks"] * example["target_delta_masks"]
    assert supervised.sum() == len(row["codes"]), supervised.sum()
    return int(np.flatnonzero(example["input_delta_masks"])[-1])


def config_of(settings: dict[str, Any], out: Path, vqgan: Path) -> dict[str, Any]:
    """The export's own settings as LAPA's config, in the way its flags are parsed."""
    config: dict[str, Any] = {}
    for name, value in settings.items():
        if name.startswith("--train_dataset."):
            *parts, last = name.removeprefix("--train_dataset.").split(".")
            node = config
            for part in parts:
                node = node.setdefault(part, {})
            node[last] = value.replace("<this folder>", str(out)) if isinstance(value, str) else value
    if config["delta_vision_text_processor"]["img_aug"]:
        config["delta_vision_text_processor"]["vqgan_checkpoint_path"] = str(vqgan)
    config["json_delta_dataset"] |= {"use_data_sharded_loader": False, "batch_size": BATCH}  # one machine
    return config


if __name__ == "__main__":
    main()
