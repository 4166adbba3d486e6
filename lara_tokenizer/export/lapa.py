"""LAPA's jsonl for latent pretraining: a line a pair, with the codes as `delta`.

Read by `latent_pretraining/data.py` of github.com/LatentActionPretraining/LAPA (`DeltaVisionTextProcessor` and
`JsonDeltaDataset`, dataset type json_vision_delta); written there by `laq/inference_sthv2.py`, with these five fields:

{"image": "images/a.mp4/img_00012.jpg", "vision": [], "instruction": "<s> ... ASSISTANT:", "delta": ["3", "1"],
 "fields": "[instruction],[vision],delta"}

`vision` is for 256 codes of LWM's VQGAN. A `VisionTokenizer` fills it. Without one it stays empty: with img_aug=True
their loader computes the codes from the picture and does not look at it; else an empty list stops it at the first line.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import compress, repeat
from pathlib import Path
from typing import Any, Unpack

from lara_tokenizer.export.folder import export_folder
from lara_tokenizer.export.manifest import ExportSummary, export_job, finished_export, summary_of, write_manifest
from lara_tokenizer.export.matching import Source, match_source
from lara_tokenizer.export.pair_lines import LINES, Progress, check_pair_lines, write_pair_lines
from lara_tokenizer.export.pictures import frame_file, picture_folder
from lara_tokenizer.export.vision_codes import VisionCodes, VisionTokenizer
from lara_tokenizer.table.reader import SelectOptions, TokenSequence, TokenTable

PLACE = "{instruction}"
TEMPLATE = (
    "<s> You are a helpful assistant. USER: What action should the robot take to `{instruction}` ASSISTANT:"  # theirs
)
# Fields in brackets bear no loss. Their loader tells by a field's name what it holds: "vision" and "delta" are in it.
FIELDS = "[instruction],[vision],delta"
# Of a picture. Their sequence has 8192 and 8193 for the end of a frame and of all frames.
VISION_CODES, VISION_CODEBOOK = 256, 8192

# Their sequence is as long as 4 codes, 259 places for begin, end and picture, 4 markers and a prompt need.
_THEIR_LENGTH, _THEIR_CODES, _FIXED_PLACES = 384, 4, 259
_PROMPT_PLACES = _THEIR_LENGTH - _THEIR_CODES - _FIXED_PLACES
# Characters; LLaMA's tokenizer makes a token of about 3 and more of them.
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
        instruction: for episodes without one; none given refuses them.
        template: their prompt, with {instruction} where it goes.
        seed: of the order of lines.
        images: write the pictures; else they are there already under these names, or come later.
        vision: fills the field `vision` with its codes of the pictures, as JPEG keeps them; called in this process.
            `lara_tokenizer.vision_tokens.LwmVisionTokenizer` is one.
        from_list: the list of clips, where the table was made from one.
        workers: processes that write pictures; None takes one a core, 0 none but this one.
        progress: called with how much is done and how much there is to do.
        select: which pairs, see `TokenTable.open`.

    Raises:
        ValueError: before anything is written, for a table without codes, a source that is not the table's, episodes
            without instruction, bad options, and where `out` exists. JobMismatchError: an unfinished export of
            something else waits there.

    >>> export_lapa("tokens.parquet", "videos/", "for-lapa").settings["--llama.delta_vocab_size"]  # doctest: +SKIP
    128
    """
    out = Path(out)
    _check_template(template)
    _check_vision(vision)
    opened = TokenTable.open(tokens, **select)
    opened.require("codes", "the field delta")
    options = {"instruction": instruction, "template": template, "seed": seed, "images": images}
    job = export_job("lapa", opened, **options, vision=None if vision is None else dict(vision.identity))
    if (finished := finished_export(out, job)) is not None:
        return finished
    matched = match_source(opened, source, from_list, out)
    longest_prompt = len(template) - len(PLACE) + check_pair_lines(matched, instruction, seed)
    notes = _notes(longest_prompt, images, vision is not None)
    summary = summary_of("lapa", out, matched, _settings(opened, vision is not None), notes)
    with export_folder(out, job) as folder:
        codes = None if vision is None else VisionCodes(folder, vision)
        write_pair_lines(
            folder,
            matched,
            partial(_lines, template=template, vision=codes),
            instruction=instruction,
            seed=seed,
            images=images,
            workers=workers,
            progress=progress,
            vision=codes,
        )
        write_manifest(folder.path, job, summary)
    return summary


def _check_template(template: str) -> None:
    if template.count(PLACE) != 1:
        raise ValueError(f"template {template!r}: takes a text with {PLACE} in it, once")


def _check_vision(vision: VisionTokenizer | None) -> None:
    if vision is not None and (vision.num_codes != VISION_CODES or vision.codebook_size > VISION_CODEBOOK):
        raise ValueError(
            f"the vision tokenizer makes {vision.num_codes} codes of {vision.codebook_size} of a picture: LAPA takes "
            f"{VISION_CODES} of at most {VISION_CODEBOOK}"
        )


def _lines(track: TokenSequence, texts: Sequence[str], template: str, vision: VisionCodes | None) -> Iterator[bytes]:
    assert track.codes is not None
    folder = json.dumps(picture_folder(track.episode, track.camera))[1:-1]
    parts = {text: _parts(text, template) for text in set(texts)}
    frames, codes = (values[track.selected].tolist() for values in (track.frames, track.codes))
    pictures = repeat([], len(frames)) if vision is None else vision.of(track)
    for frame, numbers, text, seen in zip(frames, codes, compress(texts, track.selected), pictures, strict=True):
        before, after = parts[text]
        delta = '", "'.join(map(str, numbers))
        yield f'{{"image": "{folder}/{frame_file(frame)}", "vision": {seen}, {before}"{delta}"{after}\n'.encode()


def _parts(text: str, template: str) -> tuple[str, str]:
    """What stands in a line between the picture's codes and the table's, and behind those."""
    prompt = json.dumps(template.replace(PLACE, text))
    return f'"instruction": {prompt}, "delta": [', f'], "fields": "{FIELDS}"}}'


def _settings(tokens: TokenTable, has_vision: bool) -> dict[str, Any]:
    """By the names in which their `latent_pretraining/train.py` takes them."""
    processor = "--train_dataset.delta_vision_text_processor."
    dataset = "--train_dataset.json_delta_dataset."
    size = tokens.codebook_size
    online = {
        f"{processor}image_absolute_path": "<this folder>/",
        f"{processor}vqgan_checkpoint_path": "<the vqgan file of LWM>",
    }
    return {
        "--modality": "vision,text,delta",
        "--llama.delta_vocab_size": size,
        # With --load_llama_config they take it from here, and only from here.
        "--update_llama_config": f"dict(delta_vocab_size={size}, ...)",
        "--train_dataset.type": "json_vision_delta",
        f"{processor}fields_from_example": "fields",
        f"{processor}n_tokens_per_delta": tokens.num_latents,
        f"{processor}max_n_frames": 1,
        f"{processor}img_aug": not has_vision,
        **({} if has_vision else online),
        f"{dataset}path": f"<this folder>/{LINES}",
        f"{dataset}seq_length": _THEIR_LENGTH - _THEIR_CODES + max(tokens.num_latents, _THEIR_CODES),
        f"{dataset}tokenizer_processes": 1,
    }


def _notes(longest_prompt: int, images: bool, has_vision: bool) -> list[str]:
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
            f"The longest prompt has {longest_prompt} characters. seq_length leaves {_PROMPT_PLACES} tokens for it and "
            "4 markers; of a longer line the end is cut off, which is the codes. Raise it if need be."
        )
    if not images and not has_vision:
        notes.append("No pictures were written: put them where the field image says, or link images/ to them.")
    return notes
