"""Does LAPA read `lara-tok export lapa`? Their own loader, unmodified, on a small export; codes equal the table's.

    python benchmarks/peer_readers/lapa.py --checkout path/to/LAPA [--tokens tokens.parquet --source videos/]

Needs a checkout of github.com/LatentActionPretraining/LAPA at COMMIT, and jax, flax, ml_collections, albumentations
below 2 (they call its crop as it was in 1), sentencepiece and datasets. What runs of theirs, from `latent_pretraining`:
data.py (DatasetFactory, and by it DeltaVisionTextProcessor and JsonDeltaDataset with img_aug=True), and for the first
pairs vqgan.py, at full size with random weights; the other pairs get the same 256 codes of a picture each, since a
picture takes seconds.

Then a few pairs with `vision` filled by our port of that VQGAN and img_aug=False, as the export says: the codes that
their loader hands on are those that their own VQGAN makes of the pictures, and no picture is read.

What stands in, from outside: their helper library tux, of which two functions are used (it does not import with a jax
of today); and their LLaMATokenizer, a wrapper of SentencePiece (its file wants flax classes that transformers 5
dropped): here a SentencePiece model trained on the instructions, without begin and end as theirs.
"""

from __future__ import annotations

import argparse
import inspect
import json
import pickle
import shutil
import sys
import tempfile
import types
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from _sample import check_file, write_sample

from lara_tokenizer.export import ExportSummary, export_lapa
from lara_tokenizer.export.images import image_name
from lara_tokenizer.table import read_tokens
from lara_tokenizer.vision_tokens import LwmVisionTokenizer

COMMIT = "46aca51d7faebcec02d7d323bbb3820c2df07bc6"
DATA, DATA_BLOB = "latent_pretraining/data.py", "ca3d36d861dc64720389f49ca0a65f3adc270543"
SHAPES = ((4, 8), (8, 128))  # N, K: theirs and ours
BATCH = 4
END_OF_VISION = 8193
PROCESSOR = "--train_dataset.delta_vision_text_processor."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkout", type=Path, required=True)
    parser.add_argument("--tokens", type=Path, help="A real table. Default: random codes for generated clips.")
    parser.add_argument("--source", help="The video of that table.")
    parser.add_argument("--pictures", type=int, default=8, help="Pairs whose picture goes through their VQGAN.")
    options = parser.parse_args()
    data = import_theirs(options.checkout)
    print(f"LAPA {COMMIT[:7]}, {check_file(options.checkout, DATA, DATA_BLOB)}")
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        vqgan = write_random_vqgan(scratch / "vqgan.pickle")
        if options.tokens is not None:
            compare(data, options.tokens, options.source, scratch / "real", vqgan, options.pictures)
            compare_vision(data, options.tokens, options.source, scratch / "real", vqgan)
        for num_latents, codebook_size in () if options.tokens else SHAPES:
            folder = scratch / f"{num_latents}x{codebook_size}"
            tokens, source = write_sample(folder, num_latents, codebook_size)
            compare(data, tokens, source, folder, vqgan, options.pictures)
        if options.tokens is None:
            compare_vision(data, tokens, source, folder, vqgan)


def import_theirs(checkout: Path) -> Any:
    """Their data.py, with the two functions of tux that it and vqgan.py use."""
    from ml_collections import ConfigDict

    tux: Any = types.ModuleType("tux")
    tux.open_file = open
    tux.function_args_to_config = lambda function: ConfigDict(
        {
            name: parameter.default
            for name, parameter in inspect.signature(function).parameters.items()
            if parameter.default is not parameter.empty
        }
    )
    sys.modules["tux"] = tux
    sys.path.insert(0, str(checkout))
    from latent_pretraining import data

    return data


def write_random_vqgan(path: Path) -> Path:
    """Weights for the encoder of their VQGAN, as its constructor reads them."""
    import jax
    from latent_pretraining.vqgan import VQGANConfig, VQGANModel

    model = VQGANModel(VQGANConfig.get_default_config())
    weights = model.init(jax.random.PRNGKey(0), np.zeros((1, 256, 256, 3), np.float32), method=model.encode)
    params = jax.device_get(weights["params"])
    # Drawn as they draw it, all entries lie within rounding of each other.
    codebook = np.random.default_rng(0).standard_normal(params["quantize"]["embeddings"].shape, np.float32)
    path.write_bytes(pickle.dumps({**params, "quantize": {"embeddings": codebook}}))
    return path


class Words:
    """What their loader asks of a tokenizer, by SentencePiece."""

    def __init__(self, texts: list[str], folder: Path) -> None:
        import sentencepiece

        corpus = folder / "texts.txt"
        folder.mkdir(parents=True, exist_ok=True)
        corpus.write_text("\n".join([*texts, "<vision> </vision> <delta> </delta>"]))
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
    """In place of their VQGAN: 256 codes for any picture."""

    def encode(self, images: np.ndarray) -> tuple[None, np.ndarray]:
        return None, np.full((len(images), 16, 16), 7)


def rows_of(tokens: Path) -> dict[str, dict[str, Any]]:
    """The table's valid rows, by the pictures that lines name."""
    return {
        image_name(row["episode"], row["camera"], row["frame_index"]): row
        for row in read_tokens(tokens).to_pylist()
        if row["valid"]
    }


def load(data: Any, summary: ExportSummary, vqgan: Path, scratch: Path) -> tuple[Any, list[dict[str, Any]], Words]:
    """Their dataset of an export, its lines in the order in which it gives them, and the words it reads them by."""
    out = Path(summary.out)
    lines = [json.loads(line) for line in (out / "train.jsonl").read_text().splitlines()]
    words = Words(sorted({line["instruction"] for line in lines}), scratch)
    dataset = data.DatasetFactory.load_dataset(config_of(summary.settings, out, vqgan), words, node_info=None)
    # They shuffle all lines at the start, and again when all were read: here what they hold is known.
    order = [json.loads(text) for text, _ in dataset._data]
    assert sorted(map(json.dumps, order)) == sorted(map(json.dumps, lines))
    return dataset, order, words


def compare(data: Any, tokens: Path, source: Any, folder: Path, vqgan: Path, pictures: int) -> None:
    """Export, read every line, and compare codes and instructions with the table's."""
    summary = export_lapa(tokens, source, folder / "export", workers=0, instruction="do something")
    rows = rows_of(tokens)
    dataset, order, words = load(data, summary, vqgan, folder / "words")
    batches = iter(dataset)
    ends = []
    for number in range(len(order) // BATCH):
        if number * BATCH >= pictures:
            dataset.text_processor.vqgan = SameCodes()
        batch, _ = next(batches)
        for row in range(BATCH):
            line = order[number * BATCH + row]
            example = {name: values[row] for name, values in batch.items()}
            ends.append(check(example, line, rows[line["image"]], words))
    used = {code for row in rows.values() for code in row["codes"]}
    print(
        f"  N {len(line['delta'])}, K {summary.settings['--llama.delta_vocab_size']}: {len(ends)} of {summary.pairs} "
        f"pairs read, delta = the table's codes ({len(used)} different, up to {max(used)}); the last of them stands at "
        f"place {max(ends)} of {dataset.seq_length}"
    )


def compare_vision(data: Any, tokens: Path, source: Any, folder: Path, vqgan: Path) -> None:
    """Export the pairs of most motion with `vision` filled, and read them with img_aug=False."""
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
    dataset, order, words = load(data, summary, vqgan, folder / "vision-words")
    theirs = {line["image"]: their_codes(data, Path(summary.out) / line["image"], vqgan) for line in order}
    shutil.rmtree(Path(summary.out) / "images")  # none is looked at
    equal = []
    for number, (batch, _) in zip(range(len(order) // BATCH), dataset, strict=False):
        for row in range(BATCH):
            line = order[number * BATCH + row]
            example = {name: values[row] for name, values in batch.items()}
            check(example, line, rows[line["image"]], words)
            vision = example["input_tokens"][example["input_vision_masks"]]
            assert vision.tolist() == [*line["vision"], END_OF_VISION], vision
            equal.append(np.mean(vision[:-1] == theirs[line["image"]]))
    different = len({code for line in order for code in line["vision"]})
    print(
        f"  vision stored, img_aug={summary.settings[f'{PROCESSOR}img_aug']}, without pictures: {len(equal)} of "
        f"{summary.pairs} pairs read, vision = the line's codes, of which {np.mean(equal):.4%} are those that their "
        f"VQGAN gives the picture ({different} different ones)"
    )
    assert np.mean(equal) >= 0.999


def their_codes(data: Any, picture: Path, vqgan: Path) -> np.ndarray:
    """As their loader computes them where it does, but for its random crop and colours."""
    pixels = data.process_images_batch([str(picture)], data.get_preprocessor(image_aug=False))
    return data.encode_images(_their_vqgan(data, vqgan), pixels).reshape(-1)


@cache
def _their_vqgan(data: Any, vqgan: Path) -> Any:
    return data.VQGAN(str(vqgan), replicate=False)


def check(example: dict[str, np.ndarray], line: dict[str, Any], row: dict[str, Any], words: Words) -> int:
    """What their loader made of a line, and the table's row; returns the place of the last code."""
    ids = example["input_tokens"]
    delta, vision = ids[example["input_delta_masks"]], ids[example["input_vision_masks"]]
    assert delta.dtype == np.int32, delta.dtype
    assert delta.tolist() == list(row["codes"]), (line["image"], delta, row["codes"])
    assert len(vision) == 257, len(vision)  # 256 codes of the picture, and an end
    prompt = words.encode(line["instruction"])
    assert ids[1 : 1 + len(prompt)].tolist() == prompt
    assert (row.get("text") or "") in words.decode(prompt)
    bears_loss = example["loss_masks"] * example["target_delta_masks"]
    assert bears_loss.sum() == len(row["codes"]), bears_loss.sum()
    return int(np.flatnonzero(example["input_delta_masks"])[-1])


def config_of(settings: dict[str, Any], out: Path, vqgan: Path) -> dict[str, Any]:
    """The export's own settings as the config that their flags become."""
    config: dict[str, Any] = {}
    for name, value in settings.items():
        if name.startswith("--train_dataset."):
            *parts, last = name.removeprefix("--train_dataset.").split(".")
            where = config
            for part in parts:
                where = where.setdefault(part, {})
            where[last] = value.replace("<this folder>", str(out)) if isinstance(value, str) else value
    if config["delta_vision_text_processor"]["img_aug"]:
        config["delta_vision_text_processor"]["vqgan_checkpoint_path"] = str(vqgan)
    config["json_delta_dataset"] |= {"use_data_sharded_loader": False, "batch_size": BATCH}  # one machine
    return config


if __name__ == "__main__":
    main()
