"""Train a small latent action model on your own videos, then tokenize them with it.

    python examples/train_small.py videos my-lam

A hundred steps on a CPU show that everything runs; labels worth training on need `lara-tok train` with a recipe
(`lara-tok recipes`), and `lara-tok eval` afterwards.
"""

from __future__ import annotations

import sys

from lara_tokenizer import LatentActionModel, LatentActionProcessor, load_episodes
from lara_tokenizer.train import Recipe, train_latent_action_model

RECIPE = {
    "preset": "default",
    "model": {
        "strides": ["0.5s"],
        "hidden_size": 64,
        "num_attention_heads": 4,
        "decoder_hidden_size": 64,
        "decoder_num_attention_heads": 4,
        "vision_config": {
            "model_type": "vit_mae",
            "image_size": 64,
            "patch_size": 16,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_attention_heads": 4,
            "num_hidden_layers": 1,
        },
    },
    "training": {"steps": 100, "batch_size": 16, "warmup_steps": 10, "log_steps": 20, "workers": 0},
}


def main(videos: str, out: str, steps: int = 100) -> None:
    def progress(phase: str, done: int, total: int, logs: dict[str, float]) -> None:
        if phase == "steps" and "loss" in logs:
            print(f"{phase} {done}/{total}", {name: round(value, 3) for name, value in logs.items() if "gain" in name})

    recipe = Recipe.parse(RECIPE).override(steps=steps)
    train_latent_action_model(videos, recipe, out=out, progress=progress)

    model = LatentActionModel.from_pretrained(out).eval()
    processor = LatentActionProcessor.from_pretrained(out)
    frames = load_episodes(videos)[0].frames("", range(20))
    print(model.encode(**processor(frames[:-5], frames[5:])).codes[0])


if __name__ == "__main__":
    main(*sys.argv[1:3])
