"""LAPA's JSON lines for latent pretraining: one line per pair, with the codes as `delta`.

Read by `latent_pretraining/data.py` of github.com/LatentActionPretraining/LAPA (`DeltaVisionTextProcessor` and
`JsonDeltaDataset`, dataset type json_vision_delta); written there by `laq/inference_sthv2.py`, with these five fields:

{"image": "images/a.mp4/img_00012.jpg", "vision": [], "instruction": "<s> ... ASSISTANT:", "delta": ["3", "1"],
 "fields": "[instruction],[vision],delta"}

`vision` is for the 256 codes of LWM's VQGAN, which a `VisionTokenizer` computes. If it is empty, LAPA's loader computes
them from the image, but only with img_aug=True; else an empty list stops it at the first line.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from functools import partial
from itertools import repeat
from typing import Any, Unpack

from lara_tokenizer.export.job import ExportJob, ExportSummary, Progress
from lara_tokenizer.export.jsonl import LINES, check_jsonl, jsonl_files, write_jsonl
from lara_tokenizer.export.vision_codes import VisionCodes, VisionTokenizer
from lara_tokenizer.table.reader import SelectOptions, TokenSequence, TokenTable
from lara_tokenizer.table.source import Source

INSTRUCTION = "{instruction}"
# LAPA's own prompt.
TEMPLATE = "<s> You are a helpful assistant. USER: What action should the robot take to `{instruction}` ASSISTANT:"
# LAPA's loader applies no loss to fields in brackets. The names must contain "vision" and "delta": it looks for these.
FIELDS = "[instruction],[vision],delta"
# Per image. In LAPA's sequence 8192 and 8193 are the end of a frame and of all frames.
VISION_CODES, VISION_CODEBOOK = 256, 8192

# LAPA's sequence length fits 4 codes, 259 tokens for begin, end and image, 4 markers and a prompt.
_LAPA_LENGTH, _LAPA_CODES, _FIXED_TOKENS = 384, 4, 259
_PROMPT_TOKENS = _LAPA_LENGTH - _LAPA_CODES - _FIXED_TOKENS
# Characters; LLaMA's tokenizer needs one token for about 3 of them, so longer prompts may not fit.
_LONG_PROMPT = 300


def export_lapa(
    tokens: str | os.PathLike[str],
    source: Source,
    out: str | os.PathLike[str],
    *,
    instruction: str | None = None,
    template: str = TEMPLATE,
    seed: int = 0,
    images: bool = True,
    vision: VisionTokenizer | None = None,
    from_list: str | os.PathLike[str] | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
    **select: Unpack[SelectOptions],
) -> ExportSummary:
    """Write train.jsonl, images/ and a manifest that LAPA's latent pretraining reads.

    Args:
        tokens: the table, file or folder.
        source: the video it was made from, as given to `encode_dataset`.
        out: a new folder.
        instruction: for episodes without one; None refuses them.
        template: the prompt, with {instruction} in it.
        seed: of the order of lines.
        images: write the images; else they must exist under these names when LAPA reads the lines.
        vision: computes the field `vision`, codes of the images as decoded from JPEG; called in this process.
            `lara_tokenizer.vision_tokens.LwmVisionTokenizer` is one.
        from_list: the list of clips, if the table was made from one.
        workers: processes that write images; None uses one per core, 0 none but this one.
        progress: called with (done, total) items.
        select: stride, cameras and thresholds, see `TokenTable.open`.

    Raises:
        ValueError: before anything is written, for a table without codes, a source that is not the table's, episodes
            without instruction, invalid options, and if `out` exists.
        JobMismatchError: there is an unfinished export of something else.

    >>> export_lapa("tokens.parquet", "videos/", "for-lapa").settings["--llama.delta_vocab_size"]  # doctest: +SKIP
    128
    """
    if template.count(INSTRUCTION) != 1:
        raise ValueError(f"template {template!r}: takes a text with {INSTRUCTION} in it, once")
    _check_vision(vision)
    table = TokenTable.open(tokens, **select)
    table.require("codes", "the field delta")
    identity = None if vision is None else dict(vision.identity)
    options = {"instruction": instruction, "template": template, "seed": seed, "images": images, "vision": identity}
    job = ExportJob("lapa", table, out, options)
    if (finished := job.finished(source, from_list, partial(jsonl_files, images=images))) is not None:
        return finished
    matched = job.match(source, from_list)
    longest_prompt = len(template) - len(INSTRUCTION) + check_jsonl(matched, instruction, seed)
    notes = _notes(longest_prompt, images, vision is not None)
    summary = job.summarize(matched, _settings(table, vision is not None), notes)
    with job.folder(summary) as folder:
        codes = None if vision is None else VisionCodes(folder, vision)
        write_jsonl(
            folder,
            matched,
            partial(_lines, template=template, vision=codes),
            instruction=instruction,
            seed=seed,
            images=images,
            workers=workers,
            progress=progress,
            before_lines=None if codes is None else partial(codes.write, matched.sequences(), images),
        )
        if codes is not None:
            codes.remove()
    return summary


def _check_vision(vision: VisionTokenizer | None) -> None:
    if vision is not None and (vision.num_codes != VISION_CODES or vision.codebook_size > VISION_CODEBOOK):
        raise ValueError(
            f"the vision tokenizer makes {vision.num_codes} codes of {vision.codebook_size} per image: LAPA takes "
            f"{VISION_CODES} of at most {VISION_CODEBOOK}"
        )


def _lines(
    sequence: TokenSequence, images: list[str], texts: list[str], template: str, vision: VisionCodes | None
) -> Iterator[bytes]:
    """The lines of a sequence; the JSON around the numbers is serialized once per instruction, not once per line."""
    assert sequence.codes is not None
    around = {text: _around_codes(text, template) for text in set(texts)}
    codes = sequence.codes[sequence.selected].tolist()
    vision_codes = repeat([], len(codes)) if vision is None else vision.of(sequence)
    for image, pair_codes, text, image_codes in zip(images, codes, texts, vision_codes, strict=True):
        before, after = around[text]
        delta = '", "'.join(map(str, pair_codes))
        yield f'{{"image": "{image}", "vision": {image_codes}, {before}"{delta}"{after}\n'.encode()


def _around_codes(text: str, template: str) -> tuple[str, str]:
    """The JSON of a line between the image's codes and the table's, and the JSON after those."""
    prompt = json.dumps(template.replace(INSTRUCTION, text))
    return f'"instruction": {prompt}, "delta": [', f'], "fields": "{FIELDS}"}}'


def _settings(table: TokenTable, has_vision: bool) -> dict[str, Any]:
    """The flags of LAPA's `latent_pretraining/train.py`."""
    processor = "--train_dataset.delta_vision_text_processor."
    dataset = "--train_dataset.json_delta_dataset."
    size = table.codebook_size
    online = {
        f"{processor}image_absolute_path": "<this folder>/",
        f"{processor}vqgan_checkpoint_path": "<the vqgan file of LWM>",
    }
    return {
        "--modality": "vision,text,delta",
        "--llama.delta_vocab_size": size,
        # With --load_llama_config this one counts, and only this one.
        "--update_llama_config": f"dict(delta_vocab_size={size}, ...)",
        "--train_dataset.type": "json_vision_delta",
        f"{processor}fields_from_example": "fields",
        f"{processor}n_tokens_per_delta": table.num_latents,
        f"{processor}max_n_frames": 1,
        f"{processor}img_aug": not has_vision,
        **({} if has_vision else online),
        f"{dataset}path": f"<this folder>/{LINES}",
        f"{dataset}seq_length": _LAPA_LENGTH - _LAPA_CODES + max(table.num_latents, _LAPA_CODES),
        f"{dataset}tokenizer_processes": 1,
    }


def _notes(longest_prompt: int, images: bool, has_vision: bool) -> list[str]:
    """Sentences for the manifest; a change of their text changes the bytes of exports."""
    notes = ["Start from LWM's weights: LAPA's own know 8 codes of another model."]
    if has_vision:
        notes.append(
            "vision holds the codes of each picture: with img_aug=False no picture is read and no VQGAN runs. With "
            "img_aug=True the field is not looked at; image_absolute_path and vqgan_checkpoint_path are needed then."
        )
    else:
        notes += [
            "image_absolute_path is put before the names as it is: it ends in a slash.",
            "img_aug=True also crops and recolours the pictures a little; the codes are those of the pictures as they "
            "are.",
        ]
    if longest_prompt > _LONG_PROMPT:
        notes.append(
            f"The longest prompt has {longest_prompt} characters. seq_length leaves {_PROMPT_TOKENS} tokens for it and "
            "4 markers; of a longer line the end is cut off, which is the codes. Raise it if need be."
        )
    if not images and not has_vision:
        notes.append("No pictures were written: put them where the field image says, or link images/ to them.")
    return notes
