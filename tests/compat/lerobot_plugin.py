"""`--policy.type=lara` in LeRobot: its commands train, resume and evaluate; the base is exported as a checkpoint.

    python lerobot_plugin.py FOLDER

Runs where lerobot 0.6.1, lara_tokenizer and lerobot_policy_lara are installed; FOLDER takes what is written.
"""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lerobot.datasets.factory import resolve_delta_timestamps
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from lerobot.policies.factory import get_policy_class, make_pre_post_processors
from lerobot.utils.feature_utils import dataset_to_policy_features
from lerobot_policy_lara import LARAConfig
from lerobot_policy_lara.modeling_lara import LARAPolicy
from lerobot_policy_lara.processor_lara import FRAME, FUTURE_FRAME, FUTURE_IS_PAD
from lerobot_tiny import ACT, DIFFUSION, smolvla_fields, xvla_fields
from torch.utils.data import default_collate

from lara_tokenizer import LatentActionModel

SIDE, LENGTH, EPISODES = 96, 20, 3  # 96 px as PushT has
BIN = Path(sys.executable).parent


def write_dataset(root: Path) -> None:
    """PushT's features; a square that moves two pixels a frame, so that every frame differs."""
    features: dict[str, Any] = {
        "observation.image": {"dtype": "image", "shape": (SIDE, SIDE, 3), "names": ["height", "width", "channels"]},
        "observation.state": {"dtype": "float32", "shape": (2,), "names": ["x", "y"]},
        "action": {"dtype": "float32", "shape": (2,), "names": ["x", "y"]},
    }
    dataset = LeRobotDataset.create("acme/push", fps=10, features=features, root=root, use_videos=False)
    random = np.random.default_rng(0)
    for episode in range(EPISODES):
        background = random.integers(0, 96, (SIDE // 8, SIDE // 8, 3)).repeat(8, 0).repeat(8, 1).astype(np.uint8)
        for t in range(LENGTH):
            image = background.copy()
            image[30:54, 2 * t : 2 * t + 24] = (230, 80, 40)
            state = np.array([2 * t, 30 + episode], np.float32)
            action = state + np.array([2, 0], np.float32)
            dataset.add_frame(
                {"observation.image": image, "observation.state": state, "action": action, "task": "push"}
            )
        dataset.save_episode()
    dataset.finalize()


def load_dataset(root: Path, config: Any) -> LeRobotDataset:
    meta = LeRobotDataset("acme/push", root=root).meta
    return LeRobotDataset("acme/push", root=root, delta_timestamps=resolve_delta_timestamps(config, meta))


def make_config(root: Path, base_type: str, fields: dict[str, Any]) -> LARAConfig:
    features = dataset_to_policy_features(LeRobotDataset("acme/push", root=root).meta.features)
    config = LARAConfig(base_type=base_type, base_config=fields, device="cpu", push_to_hub=False)
    config.output_features = {"action": features.pop("action")}
    config.input_features = features
    return config


def check_batches(root: Path, config: LARAConfig) -> None:
    """The base gets the same batch as without the plugin, the tokenizer the raw frames of t and of the last action."""
    offset = config.pair_offset
    rows = [3, LENGTH - offset - 1, LENGTH - offset, LENGTH - 1]
    config.validate_features()
    lara_dataset, base_dataset, raw = (
        load_dataset(root, config),
        load_dataset(root, config.base),
        LeRobotDataset("acme/push", root=root),
    )
    batches = []
    for dataset, settings in ((lara_dataset, config), (base_dataset, config.base)):
        before, _ = make_pre_post_processors(settings, dataset_stats=dataset.meta.stats)
        batches.append(before(default_collate([dataset[row] for row in rows])))
    wrapped, base = batches
    for name, value in base.items():
        if isinstance(value, torch.Tensor) and not (name.startswith("observation.") and name.endswith("_is_pad")):
            assert torch.equal(wrapped[name], value), f"{config.base_type}: {name} differs"
    assert wrapped[FUTURE_IS_PAD].tolist() == [False, False, True, True]
    for index, row in enumerate(rows):
        future = min(row + offset, LENGTH - 1)
        assert torch.equal(wrapped[FRAME][index], raw[row]["observation.image"]), "frame t"
        assert torch.equal(wrapped[FUTURE_FRAME][index], raw[future]["observation.image"]), "the future frame"
    rollout = {"observation.image": torch.rand(3, SIDE, SIDE), "observation.state": torch.rand(2), "task": "push"}
    processed = [
        make_pre_post_processors(settings, dataset_stats=lara_dataset.meta.stats)[0](dict(rollout))
        for settings in (config, config.base)
    ]
    assert torch.equal(processed[0]["observation.state"], processed[1]["observation.state"]), (
        "a roll-out passes unchanged"
    )


def check_optimizer(config: LARAConfig) -> None:
    """Every trainable parameter of base, tokenizer and projector is in one group, and in one alone."""
    policy = LARAPolicy(config)
    optimizer = config.get_optimizer_preset().build(policy.get_optim_params())
    trained = [id(parameter) for group in optimizer.param_groups for parameter in group["params"]]
    assert len(trained) == len(set(trained)), "a parameter is in two groups"
    assert {id(parameter) for parameter in policy.parameters() if parameter.requires_grad} <= set(trained)


def run(*command: str, **environment: str) -> str:
    """Run one of LeRobot's commands; its output."""
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return done.stdout + done.stderr


def train(root: Path, out: Path, steps: int, *options: str) -> dict[str, float]:
    """`lerobot-train`; the numbers of its last log line."""
    output = run(
        str(BIN / "lerobot-train"),
        *("--policy.type=lara", "--policy.device=cpu", "--policy.push_to_hub=false", *options),
        *("--dataset.repo_id=acme/push", f"--dataset.root={root}", f"--output_dir={out}"),
        *(f"--steps={steps}", "--batch_size=4", "--num_workers=0", "--log_freq=1", "--wandb.enable=false"),
    )
    return last_log(output)


def last_log(output: str) -> dict[str, float]:
    line = [line for line in output.splitlines() if "step:" in line and "loss_lara:" in line][-1]
    return {name: float(value) for name, value in re.findall(r"(\w+):([-+.\de]+)\b", line)}


def evaluate(checkpoint: Path, out: Path, **environment: str) -> None:
    run(
        str(BIN / "lerobot-eval"),
        *(f"--policy.path={checkpoint}", "--policy.device=cpu", "--env.type=pusht", "--env.episode_length=10"),
        *("--eval.n_episodes=1", "--eval.batch_size=1", "--eval.use_async_envs=false", f"--output_dir={out}"),
        SDL_VIDEODRIVER="dummy",
        **environment,
    )


def hide_plugin(folder: Path) -> str:
    """A PYTHONPATH in which neither the plugin nor our packages can be imported."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(
        "import sys\n"
        "class Hidden:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in {'lerobot_policy_lara', 'lara_policy', 'lara_tokenizer'}:\n"
        "            raise ModuleNotFoundError(name, name=name)\n"
        "sys.meta_path.insert(0, Hidden())\n"
    )
    return str(folder)


def check_act(root: Path, work: Path) -> Path:
    """Train, go on, evaluate, export, evaluate what was exported; the exported checkpoint."""
    out = work / "act"
    log = train(root, out, 3, "--policy.base_type=act", f"--policy.base_config={json.dumps(ACT)}")
    assert 0 < log["loss_lara"] < 2, log
    assert log["loss_lam"] > 0, log
    assert log["loss"] > log["loss_action"], log
    checkpoint = out / "checkpoints/last/pretrained_model"
    first = LARAPolicy.from_pretrained(checkpoint)
    assert first.steps == 3
    output = run(
        str(BIN / "lerobot-train"), f"--config_path={checkpoint}/train_config.json", "--resume=true", "--steps=5"
    )
    assert last_log(output)["step"] == 5
    second = LARAPolicy.from_pretrained(checkpoint)
    assert second.steps == 5
    evaluate(checkpoint, work / "eval")
    exported, refined = work / "exported", work / "refined"
    run(sys.executable, "-m", "lerobot_policy_lara.export", str(checkpoint), str(exported), "--tokenizer", str(refined))
    for file in exported.glob("*.json"):
        assert "lara" not in file.read_text(), f"{file} speaks of us"
    plain = get_policy_class("act").from_pretrained(exported)
    state = second.base.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in plain.state_dict().items())
    evaluate(exported, work / "eval_exported", PYTHONPATH=hide_plugin(work / "hidden"))
    tokenizers = [LatentActionModel.from_pretrained(name).state_dict() for name in (refined, "lara-lam")]
    moved = [name for name, value in tokenizers[0].items() if not torch.equal(value, tokenizers[1][name])]
    assert any(name.startswith("inverse_dynamics") for name in moved)
    assert not any(name.startswith("vision_encoder") for name in moved)
    return exported


def check_post_training(root: Path, work: Path, exported: Path) -> None:
    """`base_path`: the base starts from that checkpoint's weights, and the new one no longer needs it."""
    config = make_config(root, "act", {})
    config = LARAConfig(base_path=str(exported), device="cpu", input_features=config.input_features)
    config.output_features = {"action": config.base.output_features["action"]}
    start, plain = LARAPolicy(config).base.state_dict(), get_policy_class("act").from_pretrained(exported).state_dict()
    assert all(torch.equal(value, start[name]) for name, value in plain.items())
    train(root, work / "post", 2, f"--policy.base_path={exported}", "--policy.alignment.w1=0.05")
    exported.rename(work / "gone")
    policy = LARAPolicy.from_pretrained(work / "post/checkpoints/last/pretrained_model")
    assert (policy.config.base_type, policy.config.alignment.w1) == ("act", 0.05)
    assert policy.base.config.chunk_size == ACT["chunk_size"]


def main() -> None:
    logging.disable(logging.WARNING)
    work = Path(sys.argv[1]).resolve()
    root = work / "set"
    write_dataset(root)
    bases = {"act": ACT, "diffusion": DIFFUSION, "smolvla": smolvla_fields(work), "xvla": xvla_fields()}
    for base_type, fields in bases.items():
        config = make_config(root, base_type, fields)
        if base_type != "xvla":  # its pre-processor wants a tokenizer from the Hub
            check_batches(root, config)
        check_optimizer(make_config(root, base_type, fields))
    print("batches are the base's own, frames are raw, every parameter has its optimiser group", flush=True)
    exported = check_act(root, work)
    print("act: lerobot-train, --resume, lerobot-eval, export, lerobot-eval without the plugin", flush=True)
    check_post_training(root, work, exported)
    print("act: post-training from base_path", flush=True)
    for base_type in ("diffusion", "smolvla"):
        options = (f"--policy.base_type={base_type}", f"--policy.base_config={json.dumps(bases[base_type])}")
        log = train(root, work / base_type, 2, *options)
        print(f"{base_type}: lerobot-train, loss_lara {log['loss_lara']}, loss_lam {log['loss_lam']}", flush=True)


if __name__ == "__main__":
    main()
