"""Conversations with <ACT_i> words: the table's codes in UniVLA's sentence, as words that a real tokenizer keeps."""

from __future__ import annotations

import json
import re

import pytest
import torch
from lara_tok.__main__ import app
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from typer.testing import CliRunner

from lara_tokenizer.export import act_text, act_tokens, add_act_tokens, export_univla, parse_act_text
from lara_tokenizer.export.images import image_name
from lara_tokenizer.table import read_tokens

K = 128


@pytest.fixture
def tokenizer():
    """A byte-level BPE of transformers, trained on one sentence, with a special token of its own."""
    bpe = Tokenizer(models.BPE(unk_token="<unk>"))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=["<unk>", "<s>", "</s>"], initial_alphabet=alphabet)
    bpe.train_from_iterator(["What action should the robot take? <ACT_1><ACT_12>"], trainer)
    made = PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    made.add_special_tokens({"additional_special_tokens": ["<image>"]})
    return made


def conversations_of(folder):
    lines = [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]
    return {line["image"]: line["conversations"] for line in lines}


def valid_rows(tokens):
    rows = [row for row in read_tokens(tokens).to_pylist() if row["valid"]]
    return {image_name(row["episode"], row["camera"], row["frame_index"]): row for row in rows}


def test_every_valid_pair_is_a_conversation_with_the_tables_codes(tmp_path, tokens, clips):
    summary = export_univla(tokens, clips, tmp_path / "out", images=False, history=0)
    rows, lines = valid_rows(tokens), conversations_of(tmp_path / "out")
    assert lines.keys() == rows.keys()
    assert summary.pairs == len(rows)
    for image, (human, gpt) in lines.items():
        assert human["from"] == "human"
        assert human["value"] == f"What action should the robot take to {rows[image]['text'].lower()}?"
        assert gpt == {"from": "gpt", "value": act_text(rows[image]["codes"])}
        assert parse_act_text(gpt["value"], 4, 16) == rows[image]["codes"]


def test_history_is_the_pair_one_frame_earlier_wherever_there_is_one(tmp_path, tokens, clips):
    export_univla(tokens, clips, tmp_path / "out", images=False, history=1)
    rows, lines = valid_rows(tokens), conversations_of(tmp_path / "out")
    for image, (human, _) in lines.items():
        row = rows[image]
        question = f"What action should the robot take to {row['text'].lower()}?"
        earlier = rows.get(image_name(row["episode"], "", row["frame_index"] - 1))
        past = "" if earlier is None else f" History action {act_text(earlier['codes'])}"
        assert human["value"] == question + past
    assert sum("History" not in human["value"] for human, _ in lines.values()) == 2  # first frames


def test_about_half_of_the_pairs_name_their_history(tmp_path, write_tokens, moving_square, write_video):
    write_video(tmp_path / "clips/a.mp4", moving_square(400, size=16))
    path = write_tokens(tmp_path / "t.parquet", {"a.mp4": 400})
    named = []
    for seed in (0, 1):
        out = tmp_path / str(seed)
        export_univla(path, tmp_path / "clips", out, images=False, seed=seed, instruction="Go")
        lines = conversations_of(out)
        named.append({image for image, (human, _) in lines.items() if "History" in human["value"]})
        assert 0.4 < len(named[-1]) / len(lines) < 0.6
    assert named[0] != named[1]


def test_pairs_that_are_left_out_still_are_history_of_others(tmp_path, tokens, clips):
    export_univla(tokens, clips, tmp_path / "out", images=False, history=1, min_motion=0.5)
    lines, rows = conversations_of(tmp_path / "out"), valid_rows(tokens)
    assert all(rows[image]["motion"] >= 0.5 for image in lines)
    for image, (human, _) in lines.items():
        if rows[image]["frame_index"]:
            earlier = image_name(rows[image]["episode"], "", rows[image]["frame_index"] - 1)
            assert human["value"].endswith(act_text(rows[earlier]["codes"]))


def test_equal_exports_give_equal_bytes(tmp_path, tokens, clips):
    for name in "ab":
        export_univla(tokens, clips, tmp_path / name, workers=0)
    a, b = ({f.relative_to(tmp_path / n): f.read_bytes() for f in (tmp_path / n).rglob("*.*g*")} for n in "ab")
    assert a == b
    assert (tmp_path / "a/train.jsonl").read_bytes() == (tmp_path / "b/train.jsonl").read_bytes()


def test_bad_options_are_refused_before_anything_is_written(tmp_path, tokens, clips, write_tokens):
    with pytest.raises(ValueError, match=r"history 1.5: takes a share"):
        export_univla(tokens, clips, tmp_path / "out", history=1.5)
    continuous = write_tokens(tmp_path / "z.parquet", {"a.mp4": 24}, sizes=(4, 3, None))
    with pytest.raises(ValueError, match="no column 'codes'"):
        export_univla(continuous, clips, tmp_path / "out")
    with pytest.raises(ValueError, match="is not in the source"):
        export_univla(tokens, clips / "a.mp4", tmp_path / "out")
    assert not list(tmp_path.glob("out*"))


def test_the_command_writes_what_the_function_writes(tmp_path, tokens, clips):
    out = tmp_path / "out"
    ran = CliRunner().invoke(app, ["export", "univla", str(tokens), str(clips), "--out", str(out), "--json"])
    assert ran.exit_code == 0, ran.output
    assert json.loads(ran.stdout)["settings"] == {
        "codebook_size": 16,
        "codes_per_pair": 4,
        "act_tokens": "<ACT_0> to <ACT_15>",
    }
    export_univla(tokens, clips, tmp_path / "two", workers=0)
    for file in ("train.jsonl", "export_manifest.json", "images/a.mp4/img_00003.jpg"):
        assert (out / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_every_word_is_one_token_and_comes_back(tokenizer):
    ids = add_act_tokens(tokenizer, codebook_size=K)
    assert len(set(ids)) == K
    for code, word in enumerate(act_tokens(K)):
        assert tokenizer(word, add_special_tokens=False).input_ids == [ids[code]]
    for codes in ([1, 12, 1, 2], list(range(K)), [127] * 8):
        encoded = tokenizer(act_text(codes), add_special_tokens=False).input_ids
        assert encoded == [ids[code] for code in codes]
        assert parse_act_text(tokenizer.decode(encoded), len(codes), K) == codes


def test_a_conversation_round_trips_through_the_tokenizer(tokenizer, tmp_path):
    add_act_tokens(tokenizer, codebook_size=K)
    tokenizer.save_pretrained(tmp_path)
    loaded = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    text = f"What action should the robot take to Go? History action {act_text([5, 6])}\nOut: {act_text([7, 120])}</s>"
    for each in (tokenizer, loaded):
        assert each.decode(each(text, add_special_tokens=False).input_ids) == text


def test_words_are_added_once_and_other_special_tokens_stay(tokenizer):
    first = add_act_tokens(tokenizer, codebook_size=K)
    size = len(tokenizer)
    assert add_act_tokens(tokenizer, codebook_size=K) == first
    assert len(tokenizer) == size
    assert "<image>" in tokenizer.all_special_tokens


def test_an_embedding_grows_only_where_it_is_too_small(tokenizer):
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    small = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **sizes))
    padded = LlamaForCausalLM(LlamaConfig(vocab_size=1024, **sizes))
    before = small.get_input_embeddings().weight.detach().clone()
    ids = add_act_tokens(tokenizer, small, codebook_size=K)
    add_act_tokens(tokenizer, padded, codebook_size=K)
    assert small.get_input_embeddings().weight.shape[0] == len(tokenizer) == max(ids) + 1
    assert torch.equal(small.get_input_embeddings().weight[: len(before)], before)
    assert padded.get_input_embeddings().weight.shape[0] == 1024


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("open the drawer", "has no <ACT_...>, .* skip_special_tokens=False"),
        ("<ACT_1><ACT_2> then <ACT_3>", "has <ACT_...> in 2 places, .* without its prompt"),
        ("<ACT_1><ACT_2><ACT_3>", "has 3 codes, a pair has 2"),
        ("<ACT_1><ACT_16>", "has code 16, the codebook has 0 to 15"),
    ],
)
def test_an_answer_that_is_no_code_says_why(text, message):
    with pytest.raises(ValueError, match=message):
        parse_act_text(text, num_latents=2, codebook_size=16)


def test_what_stands_around_an_answer_is_passed_over():
    assert parse_act_text(" <ACT_1> <ACT_12></s>", num_latents=2, codebook_size=16) == [1, 12]
    assert re.fullmatch(r"(<ACT_\d+>){2}", act_text([1, 12]))
    with pytest.raises(ValueError, match="codebook_size 0"):
        act_tokens(0)
