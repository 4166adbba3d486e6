"""Export the base policy of a LARA checkpoint as a checkpoint of its own type, which needs no plugin.

python -m lerobot_policy_lara.export outputs/checkpoints/last/pretrained_model my_policy
python -m lerobot_policy_lara.export ... my_policy --tokenizer my_tokenizer      the refined tokenizer too
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

from lara_tokenizer._parse import read_json_object
from lerobot_policy_lara.modeling_lara import LARAPolicy
from lerobot_policy_lara.processor_lara import STEP_NAME

PROCESSORS = ("policy_preprocessor.json", "policy_postprocessor.json")


def export_base(checkpoint: str | Path, out: str | Path, tokenizer: str | Path | None = None) -> None:
    """Write the base policy with its processors to `out`, and optionally the tokenizer.

    Raises ValueError for a folder that is no checkpoint of policy type lara, or an `out` that contains one already.
    """
    checkpoint, out = Path(checkpoint), Path(out)
    config = checkpoint / "config.json"
    if not config.is_file() or read_json_object(config).get("type") != "lara":
        raise ValueError(f"{checkpoint} is no checkpoint of policy type 'lara': give its pretrained_model folder.")
    if (out / "config.json").exists():
        raise ValueError(f"{out} holds a checkpoint already. Give another folder.")
    policy = LARAPolicy.from_pretrained(checkpoint)
    policy.save_base(out)
    for name in PROCESSORS:
        _copy_processor(checkpoint, out, name)
    if tokenizer is not None:
        policy.lara.save_pretrained(tokenizer)


def _copy_processor(checkpoint: Path, out: Path, name: str) -> None:
    """Copy a processor without our step, as files: loading it could require a language model's tokenizer."""
    pipeline = read_json_object(checkpoint / name)
    pipeline["steps"] = [step for step in pipeline["steps"] if step.get("registry_name") != STEP_NAME]
    (out / name).write_text(json.dumps(pipeline, indent=2) + "\n", encoding="utf-8")
    for step in pipeline["steps"]:
        if "state_file" in step:
            shutil.copyfile(checkpoint / step["state_file"], out / step["state_file"])


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m lerobot_policy_lara.export", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("checkpoint", help="the pretrained_model folder of a lara checkpoint")
    parser.add_argument("out", help="folder for the base policy's checkpoint")
    parser.add_argument("--tokenizer", help="folder for the refined tokenizer")
    arguments = parser.parse_args()
    try:
        export_base(arguments.checkpoint, arguments.out, arguments.tokenizer)
    except (ValueError, OSError) as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
