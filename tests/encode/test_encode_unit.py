"""`encode_unit` is `model.encode(processor(frames))`, with each frame through the vision encoder once."""

from __future__ import annotations

from collections import Counter
from copy import deepcopy

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from lara_tokenizer import LatentActionConfig, LatentActionModel, LatentActionProcessor, encode_episode
from lara_tokenizer.encode.encode import _HeldFrames, encode_unit
from lara_tokenizer.encode.model_runner import EncodedPairs, EpisodeFrames, ModelRunner, batch_sizes
from lara_tokenizer.encode.options import resolve_options
from lara_tokenizer.encode.plan import Unit
from lara_tokenizer.table.statistics import codes_array


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class CountingRunner(ModelRunner):
    """Counts the frames and pairs that pass the model."""

    def __init__(self, model, processor):
        super().__init__(model, processor)
        self.frames = self.pairs = 0

    def frame_features(self, frames_B3SS):
        self.frames += len(frames_B3SS)
        return super().frame_features(frames_B3SS)

    def encode(self, features, future_features):
        self.pairs += len(features)
        return super().encode(features, future_features)


@pytest.mark.parametrize("strides", [["1f"], ["0.5s", "1f", "2f"]])
def test_rows_equal_encode_on_the_decoded_frames(array_episode, moving_square, tiny_model, tiny_processor, strides):
    frames = moving_square(23, size=48)
    table = encode_episode(array_episode(frames), tiny_model, tiny_processor, strides=strides, columns=["latents"])
    with torch.inference_mode():
        for row in table.to_pylist():
            inputs = tiny_processor(frames[row["frame_index"]], frames[row["future_frame_index"]])
            out = tiny_model.encode(**inputs)
            assert row["codes"] == out.codes[0].tolist()
            assert row["latents"] == out.latents.flatten().half().tolist()
            assert row["code_margin"] == out.code_margin.mean()
            change = tiny_processor.resize_frames(frames[row["frame_index"]]).int() - tiny_processor.resize_frames(
                frames[row["future_frame_index"]]
            )
            assert row["motion"] == pytest.approx(float(change.abs().float().mean() / 255), rel=1e-6)
    gaps = Counter(table["stride"].to_pylist())
    assert gaps == {stride: 23 - {"1f": 1, "2f": 2, "0.5s": 5}[stride] for stride in strides}


def test_swapped_arguments_are_named(array_episode, moving_square, tiny_model, tiny_processor):
    episode = array_episode(moving_square(9))
    with pytest.raises(ValueError, match="argument 2 is a LatentActionProcessor, not a model"):
        encode_episode(episode, tiny_processor, tiny_model)
    with pytest.raises(ValueError, match=r"argument 1 is a str, not an Episode; load_episodes\(path\)\[0\] makes"):
        encode_episode("clip.mp4", tiny_model, tiny_processor)


def test_every_frame_is_read_and_encoded_once_for_all_strides(array_episode, moving_square, tiny_model, tiny_processor):
    episode = array_episode(moving_square(40))
    runner = CountingRunner(tiny_model, tiny_processor)
    options = resolve_options(tiny_model.config, strides=["1f", "2f", "5f"], batch_size=8)
    table = encode_unit(Unit("clip", "", 0, 38), EpisodeFrames(episode, "", tiny_processor), runner, options)
    assert episode.reader.requested == list(range(40))
    assert runner.frames == 40
    assert runner.pairs == table.num_rows == 39 + 38 + 35


def test_frames_are_dropped_after_their_last_use(array_episode, moving_square, tiny_model, tiny_processor, monkeypatch):
    held = []

    class Watched(_HeldFrames):
        def add(self, *args):
            super().add(*args)
            held.append(len(self._frames))

        def release(self, rows):
            super().release(rows)
            held.append(len(self._frames))

    monkeypatch.setattr("lara_tokenizer.encode.encode._HeldFrames", Watched)
    options = resolve_options(tiny_model.config, strides=["1f", "3f"], batch_size=4)
    frames = EpisodeFrames(array_episode(moving_square(200)), "", tiny_processor)
    encode_unit(Unit("clip", "", 0, 198), frames, ModelRunner(tiny_model, tiny_processor), options)
    # The window of the longest stride, the frames of less than a batch of waiting pairs, and one new batch.
    assert max(held) <= 3 + 4 + 4
    assert held[-1] == 0


def test_a_model_in_training_goes_back_to_its_training(array_episode, moving_square, tiny_checkpoint, tiny_processor):
    model = LatentActionModel.from_pretrained(tiny_checkpoint).train()
    model.vision_encoder.eval()  # frozen, say
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    table = encode_episode(array_episode(moving_square(9)), model, tiny_processor, strides="1f")
    assert model.training
    assert model.inverse_dynamics.training
    assert not model.vision_encoder.training
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())
    again = encode_episode(array_episode(moving_square(9)), model.eval(), tiny_processor, strides="1f")
    assert table.equals(again)


def test_strides_in_one_pass_equal_strides_one_by_one(array_episode, moving_square, tiny_model, tiny_processor):
    episode = array_episode(moving_square(30))
    together = encode_episode(episode, tiny_model, tiny_processor, strides=["1f", "0.3s"]).to_pylist()
    alone = [
        row
        for stride in ("0.3s", "1f")
        for row in encode_episode(episode, tiny_model, tiny_processor, strides=stride).to_pylist()
    ]
    assert together == alone


def test_units_do_not_show_in_the_rows(array_episode, moving_square, tiny_model, tiny_processor, monkeypatch):
    episode = array_episode(moving_square(50), cameras=("front", "wrist"))
    whole = encode_episode(episode, tiny_model, tiny_processor, strides=["1f", "3f"])
    monkeypatch.setattr("lara_tokenizer.encode.plan.MAX_ANCHORS", 7)
    cut = encode_episode(episode, tiny_model, tiny_processor, strides=["1f", "3f"])
    assert cut.to_pylist() == whole.to_pylist()
    keys = list(zip(*(whole[name].to_pylist() for name in ("camera", "stride", "frame_index")), strict=True))
    assert keys == sorted(set(keys))


@pytest.mark.parametrize("batch_size", [1, 7])
def test_codes_agree_across_batch_sizes(array_episode, moving_square, tiny_model, tiny_processor, batch_size):
    episode = array_episode(moving_square(150))
    codes = [
        codes_array(encode_episode(episode, tiny_model, tiny_processor, strides="1f", batch_size=size))
        for size in (batch_size, 64)
    ]
    assert (codes[0] == codes[1]).mean() >= 0.999


@pytest.mark.parametrize("batch_size", [1, 2, 4, 7, 8, 16, 32, 64])
def test_latents_are_bit_equal_in_every_slot_and_with_any_neighbours(tiny_model, batch_size):
    torch.manual_seed(0)
    frames, others = torch.randn(2, 3, 32, 32), torch.randn(2 * batch_size, 3, 32, 32)
    with torch.inference_mode():
        results = set()
        for slot in range(batch_size):
            now, future = (others.roll(slot, 0)[k * batch_size :][:batch_size].clone() for k in (0, 1))
            now[slot], future[slot] = frames
            features = tiny_model.get_frame_features(now), tiny_model.get_frame_features(future)
            out = tiny_model.encode(frame_features=features[0], future_frame_features=features[1])
            results.add((out.latents[slot].numpy().tobytes(), out.code_margin[slot].numpy().tobytes()))
    assert len(results) == 1


def test_invalid_rows_are_marked_and_never_clamped(array_episode, moving_square, tiny_model, tiny_processor):
    table = encode_episode(
        array_episode(moving_square(8)), tiny_model, tiny_processor, strides="5f", keep_tail=True, columns=["latents"]
    )
    assert table["valid"].to_pylist() == [True] * 3 + [False] * 5
    tail = table.slice(3).to_pylist()
    assert {tuple(row["codes"]) for row in tail} == {(-1, -1, -1, -1)}
    for row in tail:
        assert row["future_frame_index"] == -1
        assert row["future_timestamp"] is row["motion"] is row["code_margin"] is None
        assert np.isnan(row["latents"]).all()


def test_a_still_pair_has_no_motion_and_black_to_white_all(array_episode, tiny_model, tiny_processor):
    frames = np.zeros((3, 32, 32, 3), np.uint8)
    frames[2] = 255
    table = encode_episode(array_episode(frames), tiny_model, tiny_processor, strides="1f")
    assert table["motion"].to_pylist() == [0.0, 1.0]


def test_times_follow_a_variable_rate(array_episode, moving_square, tiny_model, tiny_processor):
    timestamps = np.array([0, 0.1, 0.3, 0.4, 0.6, 0.7, 0.9])
    episode = array_episode(moving_square(7), timestamps=timestamps)
    table = encode_episode(episode, tiny_model, tiny_processor, strides="0.3s").to_pylist()
    assert [(row["frame_index"], row["future_frame_index"]) for row in table] == [
        (0, 2),
        (1, 3),
        (2, 4),
        (3, 5),
        (4, 6),
    ]
    assert [row["future_timestamp"] for row in table] == [0.3, 0.4, 0.6, 0.7, 0.9]


def test_batches_are_full_ones_and_then_halves():
    assert batch_sizes(200, 64) == [64, 64, 64, 8]
    assert batch_sizes(63, 64) == [32, 16, 8, 4, 2, 1]
    assert batch_sizes(13, 7) == [7, 3, 3]
    assert batch_sizes(0, 64) == []
    for count in range(200):
        assert sum(batch_sizes(count, 7)) == count
        assert set(batch_sizes(count, 7)) <= {7, 3, 1}


def test_a_continuous_bottleneck_gives_latents_and_no_codes(array_episode, moving_square, tiny_model, tiny_processor):
    class Continuous(ModelRunner):
        def encode(self, features, future_features):
            return EncodedPairs(super().encode(features, future_features).latents, None, None)

    sizes = LatentActionConfig(num_latents=4, codebook_dim=8)
    sizes.codebook_size = None
    options = resolve_options(sizes, strides="1f")
    frames = EpisodeFrames(array_episode(moving_square(6)), "", tiny_processor)
    table = encode_unit(Unit("clip", "", 0, 4), frames, Continuous(tiny_model, tiny_processor), options)
    assert "codes" not in table.schema.names
    assert table.schema.field("latents").type.list_size == 32
    assert table["code_margin"].null_count == 5


def test_work_for_many_strides_grows_by_the_m_former_only(tiny_config, array_episode, moving_square):
    """The paper's proportions at toy size: a vision encoder of about five M-Formers. The decoder never runs."""
    config = deepcopy(tiny_config)
    config.update({"hidden_size": 48, "intermediate_size": 192, "num_m_former_layers": 2})
    config.vision_config.update({"hidden_size": 64, "num_hidden_layers": 12, "intermediate_size": 256})
    model = LatentActionModel(config).eval()
    model.forward_dynamics.forward = None  # it would fail
    processor = LatentActionProcessor(size={"height": 32, "width": 32})
    frames = EpisodeFrames(array_episode(moving_square(64)), "", processor)

    def flops(function):
        with FlopCounterMode(display=False) as counter:
            function()
        return counter.get_total_flops()

    pixels, pair = torch.zeros(1, 3, 32, 32), [torch.zeros(1, config.num_frame_tokens, 64)] * 2
    a_frame = flops(lambda: model.get_frame_features(pixels))
    a_pair = flops(lambda: model.encode(frame_features=pair[0], future_frame_features=pair[1]))
    totals = {}
    for strides in (("1f",), ("1f", "2f", "5f")):
        options = resolve_options(config, strides=strides, batch_size=32)
        runner = ModelRunner(model, processor)
        totals[strides] = flops(lambda: encode_unit(Unit("clip", "", 0, 62), frames, runner, options))  # noqa: B023
    one, three = totals.values()
    assert one == 64 * a_frame + 63 * a_pair
    assert three == 64 * a_frame + (63 + 62 + 59) * a_pair
    assert three <= 1.4 * one


@pytest.fixture
def steady_processor():
    return LatentActionProcessor(size={"height": 32, "width": 32}, steady_pairs=True)


@pytest.fixture(scope="module")
def shaken():
    """A clip (17, 32, 32, 3) of one textured scene, in which only the camera moves."""
    rng = np.random.default_rng(0)
    scene = np.kron(rng.integers(40, 200, (12, 12, 3)), np.ones((4, 4, 1))).astype(np.uint8)
    return np.stack([scene[y : y + 32, x : x + 32] for x, y in rng.integers(5, 10, (17, 2))])


def test_rows_of_a_shaken_clip_equal_encode_on_the_steadied_pairs(array_episode, shaken, tiny_model, steady_processor):
    table = encode_episode(array_episode(shaken), tiny_model, steady_processor, strides=["1f", "3f"], columns="latents")
    with torch.inference_mode():
        for row in table.to_pylist():
            out = tiny_model.encode(**steady_processor(shaken[row["frame_index"]], shaken[row["future_frame_index"]]))
            assert row["codes"] == out.codes[0].tolist()
            assert row["latents"] == out.latents.flatten().half().tolist()


def test_only_what_is_steadied_is_looked_at_twice(array_episode, shaken, moving_square, tiny_model, steady_processor):
    options = resolve_options(tiny_model.config, strides="1f", batch_size=8)
    looks = {}
    for name, clip in (("still camera", moving_square(17, size=32)), ("shaken", shaken)):
        runner = CountingRunner(tiny_model, steady_processor)
        frames = EpisodeFrames(array_episode(clip), "", steady_processor)
        encode_unit(Unit("clip", "", 0, 15), frames, runner, options)
        looks[name] = runner.frames
    moved = sum((a != b).any() for a, b in zip(shaken[1:], shaken[:-1], strict=True))
    assert looks == {"still camera": 17, "shaken": 17 + moved}


def test_steadying_changes_the_processor_s_hash(steady_processor, tiny_processor):
    from lara_tokenizer.checkpoint import processor_sha256

    assert processor_sha256(steady_processor) != processor_sha256(tiny_processor)


@pytest.mark.parametrize(
    ("dtype", "advice"), [(torch.float32, "The weights are damaged"), (torch.bfloat16, "Use dtype float32")]
)
def test_latents_that_are_no_numbers_get_no_codes(
    array_episode, moving_square, tiny_checkpoint, tiny_processor, dtype, advice
):
    model = LatentActionModel.from_pretrained(tiny_checkpoint, dtype=dtype).eval()
    with torch.no_grad():
        model.inverse_dynamics.to_latents[-1].bias[0] = torch.inf
    name = str(dtype).removeprefix("torch.")
    with pytest.raises(ValueError, match=f"latents are not finite in {name}: there is no code for them. {advice}"):
        encode_episode(array_episode(moving_square(6)), model, tiny_processor, strides="1f")


def test_an_episode_whose_latents_are_no_numbers_fails_with_the_reason(
    write_video, moving_square, tiny_checkpoint, tiny_processor, tmp_path
):
    pytest.importorskip("av")
    from lara_tokenizer import encode_dataset

    model = LatentActionModel.from_pretrained(tiny_checkpoint).eval()
    with torch.no_grad():
        model.inverse_dynamics.to_latents[-1].weight[0] = 3e38  # finite, as a checkpoint must be; its sums are not
    file = write_video(tmp_path / "clip.mp4", moving_square(6))
    out = tmp_path / "tokens.parquet"
    summary = encode_dataset(file, model, tiny_processor, out=out, strides="1f", workers=0)
    assert (summary.rows, len(summary.failed)) == (0, 1)
    assert "latents are not finite in float32" in (tmp_path / "tokens.parquet.failed.jsonl").read_text()
