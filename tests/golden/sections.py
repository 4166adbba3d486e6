"""The sections of a golden recording: each runs commands and records what they give.

Every section writes into the folder of its name, and reads only the shared inputs, so that each can be run by itself.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from digests import canonical

if TYPE_CHECKING:
    from record import Recording

INPUTS = "../inputs"
SAMPLES, CLIPS = f"{INPUTS}/samples", f"{INPUTS}/clips"
ROBOT21, ROBOT30, SIM = f"{INPUTS}/robot21", f"{INPUTS}/robot30", f"{INPUTS}/sim"
TABLES, TINY, RECIPES = f"{INPUTS}/tables", f"{INPUTS}/tiny", f"{INPUTS}/recipes"
ALL_FORMATS = (
    f"{CLIPS} lerobot:{ROBOT21} lerobot:{ROBOT30} rlds:{INPUTS}/demos datasets:{INPUTS}/hub "
    f"webdataset:{INPUTS}/train.tar ssv2:{INPUTS}/something {INPUTS}/images"
)
SEGMENTS = f"encode {SAMPLES} --segment 1s --with latents"
REFINE = f"{ROBOT30} --tokenizer {TINY} --no-stop"
EXACT_STEPS = 10  # of a run whose sums may be in another order: afterwards roundings grow


def encode(recording: Recording) -> None:
    """Tables: every number of workers, every format of source, options, kills."""
    run = recording.command
    for workers in (0, 1, 2):
        out = f"encode/{workers}/tokens.parquet"
        run(f"encode {SAMPLES} --workers {workers} --out {out}", f"workers {workers}", out)
    for workers in (1, 2):
        recording.agree(f"encode/workers {workers}/tokens", "encode/workers 0/tokens")
    for workers in (0, 2):
        out = f"encode/all{workers}/tokens.parquet"
        options = f"--model {TINY} --fps 10 --camera all --with latents,actions,text --workers {workers}"
        run(f"encode {ALL_FORMATS} {options} --out {out}")
        recording.tree("every format", out)
    options = "--stride 0.3s --stride 5f --every 2f --min-motion 0.003 --keep-tail --batch-size 7"
    run(f"encode {CLIPS} --model {TINY} {options} --workers 0 --out encode/shards/", "options", "encode/shards")
    out = "encode/list/tokens.parquet"
    run(f"encode --from {INPUTS}/list.csv --model {TINY} --decoder decord --workers 0 --out {out}", "list", out)
    out = "encode/damaged/tokens.parquet"
    run(f"encode {INPUTS}/damaged --model {TINY} --workers 0 --out {out}")
    recording.tree("damaged", out)
    failed = (recording.folder / f"{out.removesuffix('.parquet')}.parquet.failed.jsonl").read_text(encoding="utf-8")
    recording.equal("damaged/failed", [sorted(json.loads(line)) for line in failed.splitlines()])
    recording.free("damaged/failed as it is", failed)
    run(f"{SEGMENTS} --workers 0 --out encode/segments/tokens.parquet")
    recording.tree("segments", "encode/segments/tokens.parquet")
    job = recording.folder / "encode/killed/tokens.parquet.job"
    for changes in (3, 8, 12):  # about 40 in all, of which enough must be left for the third kill
        recording.start_and_kill(f"{SEGMENTS} --workers 1 --out encode/killed/tokens.parquet", _changes(job, changes))
        if not job.exists():
            raise ValueError("killed too late: the job had ended")
    run(f"{SEGMENTS} --workers 1 --out encode/killed/tokens.parquet")
    recording.tree("segments", "encode/killed/tokens.parquet")


def tables(recording: Recording) -> None:
    """The outputs of the commands on tables."""
    run, out = recording.command, "tables/wide.parquet"
    run(f"encode {SAMPLES} --stride 0.3s --with latents --workers 0 --out {out}")
    run(f"tokens merge {TABLES}/samples.parquet {out} --out tables/merged.parquet", "merge", "tables/merged.parquet")
    run(f"encode {SAMPLES} --dtype bfloat16 --workers 0 --with latents --out tables/half.parquet")
    run(f"tokens diff {TABLES}/samples.parquet tables/half.parquet", "diff")
    for name in ("samples", "robot30"):
        run(f"info {TABLES}/{name}.parquet", f"info {name}")
    run("info lara-lam", "info lara-lam")
    run(f"verify {TABLES}/samples.parquet {SAMPLES} --sample 100% --workers 0", "verify")
    run(f"verify tables/half.parquet {SAMPLES} --sample 50% --workers 2", "verify half")
    for name in ("futures.png", "futures.gif"):
        run(f"decode {TABLES}/samples.parquet {SAMPLES} --out tables/{name}", name, f"tables/{name}")


def export(recording: Recording) -> None:
    """All formats of export, in one process, in several, and after a kill."""
    run, table = recording.command, f"{TABLES}/samples.parquet {SAMPLES}"
    for name, command in EXPORTS.items():
        run(f"{command} --out export/{name}", name, f"export/{name}")
    for name in ("lapa", "moto", "univla", "webdataset"):
        run(f"{EXPORTS[name]} --workers 2 --out export/{name}-workers")
        recording.tree(name, f"export/{name}-workers")
    filters = "--min-margin 0.01 --min-motion 0.005 --no-images --seed 5"
    run(f"export lapa {table} --instruction go {filters} --out export/lapa-bare", "lapa bare", "export/lapa-bare")
    run(f"export webdataset {table} {filters} --out export/web-bare", "webdataset bare", "export/web-bare")
    for version in ("21", "30"):
        source = f"export/in-place-{version}"
        shutil.copytree(recording.folder / INPUTS / f"robot{version}", recording.folder / source)
        recording.tree(f"robot{version}", source)
        run(f"export lerobot {TABLES}/robot{version}.parquet {source} --in-place", f"in place {version}", source)
        recording.tree(f"kept {version}", f"{source}.before-labels")
        run(f"export lerobot {source} --undo", f"undo {version}")
        recording.tree(f"robot{version}", source)


EXPORTS = {
    "lapa": f"export lapa {TABLES}/samples.parquet {SAMPLES} --instruction go --seed 3",
    "univla": f"export univla {TABLES}/samples.parquet {SAMPLES} --instruction go --seed 3",
    "moto": f"export moto {TABLES}/samples.parquet {SAMPLES} --instruction go",
    "moto-rt1": f"export moto {TABLES}/robot30.parquet {ROBOT30} --style rt1 --name robots",
    "moto-calvin": f"export moto {TABLES}/robot21.parquet {ROBOT21} --style calvin",
    "webdataset": f"export webdataset {TABLES}/samples.parquet {SAMPLES} --shard-size 40",
    "lerobot21": f"export lerobot {TABLES}/robot21.parquet {ROBOT21} --min-margin 0.01",
    "lerobot30": f"export lerobot {TABLES}/robot30.parquet {ROBOT30}",
    "groot": f"export groot {TABLES}/robot21.parquet {ROBOT21} --action-horizon 9",
}


def evaluate(recording: Recording) -> None:
    """The report of every figure; index.html is free."""
    out = "evaluate/report"
    recording.command(f"eval lara-lam {SIM} --all --compare {TINY} --out {out}", "simulated", out)


def train(recording: Recording) -> None:
    """Fifty steps of stage 1."""
    line = f"train {CLIPS} lerobot:{ROBOT30} --recipe {RECIPES}/train.yaml --out train/run"
    recording.command(line, "run", "train/run")
    recording.command(f"train --recipe {RECIPES}/train.yaml --dry-run", "plan")


def refine(recording: Recording) -> None:
    """Fifty steps of joint training, alone and with unlabeled video, and the other modes shortly."""
    run = recording.command
    run(f"refine {RECIPES}/joint.yaml {REFINE} --out refine/joint", "joint", "refine/joint")
    for mode in ("dit-only", "frozen-lam"):
        line = f"refine {RECIPES}/joint.yaml {REFINE} --mode {mode} --steps 6 --out refine/{mode}"
        run(line, mode, f"refine/{mode}")
    line = f"refine {RECIPES}/joint.yaml --pretrain {TABLES}/robot30.parquet {ROBOT30} --tokenizer lara-lam"
    run(f"{line} --steps 6 --out refine/pretrain", "pretrain", "refine/pretrain")
    run(f"refine {RECIPES}/joint.yaml --dry-run", "plan")
    run(f"refine {RECIPES}/unlabeled.yaml {REFINE} --out refine/unlabeled")
    lines = (recording.folder / "refine/unlabeled/training_log.jsonl").read_text(encoding="utf-8").splitlines()
    for line in map(json.loads, lines):
        for name, value in canonical(line, []).items():
            record = recording.close if line["step"] <= EXACT_STEPS else recording.drift
            record(f"unlabeled/{name} of step {line['step']}", value)
    recording.equal("unlabeled/lines", len(lines))


def simulation(recording: Recording) -> None:
    """Demonstrations, and a policy in the simulator."""
    task = "drawer-open-v3"
    line = f"simulate metaworld --task {task} --episodes 2 --size 48 --action-noise 0.1 --workers 1"
    recording.command(f"{line} --out simulation/demos", "simulate", "simulation/demos")
    line = f"rollout {INPUTS}/policy --env metaworld:{task} --episodes 2 --max-steps 20 --workers 1"
    videos = "--videos simulation/videos --tokenizer lara-lam"
    recording.command(f"{line} {videos} --out simulation/rollout", "rollout", "simulation/rollout")
    recording.tree("videos", "simulation/videos")


def convert(recording: Recording) -> None:
    """To Moto's layout and back."""
    recording.command(f"convert {TINY} --to moto --out convert/moto", "to moto", "convert/moto")
    recording.command("convert convert/moto --out convert/back", "back", "convert/back")


def options(recording: Recording) -> None:
    """Commands and their options must stay; help texts and public names may change."""
    for line in COMMANDS:
        text = recording.python("-m", "lara_tok", *line.split(), "--help")
        listed = text.partition("\nOptions:\n")[2]
        recording.equal(f"lara-tok {line}", re.findall(r"^  (-[-\w]+(?:[ ,/]+-[-\w]+)*)", listed, re.MULTILINE))
        recording.free(f"help of lara-tok {line}", text)
    names = json.loads(recording.python("-c", LIST_NAMES))
    for package, public in names.items():
        recording.free(f"names of {package}", public)


COMMANDS = [
    *("", "encode", "info", "decode", "verify", "convert", "simulate", "train", "eval", "refine", "rollout"),
    *("export", *(f"export {name}" for name in ("groot", "lapa", "lerobot", "moto", "univla", "webdataset"))),
    *("tokens", "tokens diff", "tokens merge"),
]
LIST_NAMES = """
import importlib, json, pathlib
import lara_policy, lara_tokenizer
names = {}
for package in (lara_tokenizer, lara_policy):
    root = pathlib.Path(package.__file__).parent
    for path in sorted(root.rglob("__init__.py")):
        module = ".".join((package.__name__, *path.parent.relative_to(root).parts))
        names[module] = getattr(importlib.import_module(module), "__all__", None)
print(json.dumps(names))
"""


def begin(recording: Recording) -> None:
    """Unfinished jobs, for `resume` of this and of later code; they are kept in the folder `begin`."""
    root = recording.folder / "begin"
    kill = recording.start_and_kill
    job = root / "encode/tokens.parquet.job"
    kill(f"{SEGMENTS} --workers 0 --out begin/encode/tokens.parquet", _changes(job, 25))
    for name in RESUMED_EXPORTS:
        done = root / name / "out.partial/done.txt"
        kill(f"{EXPORTS[name]} --workers 0 --out begin/{name}/out", lambda done=done: _lines(done) > 1)
        if not done.exists():
            raise ValueError(f"export {name}: killed too late")
    for name, line in RESUMED_RUNS.items():
        state = root / name / "run/checkpoints/checkpoint-20/trainer_state.json"
        kill(f"{line} --out begin/{name}/run", state.exists)


def resume(recording: Recording) -> None:
    """The jobs that `begin` left, of this code or of `--resume-from`, end as if they had never been interrupted."""
    run = recording.command
    shutil.copytree(recording.begun, recording.folder / "resume")
    run(f"{SEGMENTS} --workers 0 --out resume/encode/tokens.parquet")
    recording.tree("encode", "resume/encode/tokens.parquet")
    recording.agree("resume/encode/tokens", "encode/segments/tokens")
    for name in RESUMED_EXPORTS:
        run(f"{EXPORTS[name]} --workers 0 --out resume/{name}/out")
        recording.tree(name, f"resume/{name}/out")
        recording.agree(f"resume/{name}/", f"export/{name}/")
    for name, line in RESUMED_RUNS.items():
        run(f"{line} --out resume/{name}/run --resume")
        recording.tree(name, f"resume/{name}/run")
    recording.agree("resume/train/model.safetensors", "train/run/model.safetensors")
    recording.agree("resume/refine/policy/", "refine/joint/policy/")
    recording.agree("resume/refine/tokenizer/", "refine/joint/tokenizer/")


RESUMED_EXPORTS = ("lapa", "moto", "univla", "webdataset")
RESUMED_RUNS = {
    "train": f"train {CLIPS} lerobot:{ROBOT30} --recipe {RECIPES}/train.yaml",
    "refine": f"refine {RECIPES}/joint.yaml {REFINE}",
}


def _changes(folder: Path, count: int) -> Callable[[], bool]:
    """Becomes true when the files of `folder` were seen to change `count` times."""
    seen = set()

    def is_due() -> bool:
        with suppress(OSError):  # not there yet, or no longer
            seen.add(tuple((file.name, file.stat().st_mtime_ns) for file in sorted(folder.iterdir())))
        return len(seen) > count

    return is_due


def _lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


SECTIONS = {
    "encode": encode,
    "tables": tables,
    "export": export,
    "evaluate": evaluate,
    "train": train,
    "refine": refine,
    "simulation": simulation,
    "convert": convert,
    "options": options,
    "begin": begin,
    "resume": resume,
}
