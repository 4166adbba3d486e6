"""First mistakes of new users: each is one line that says what came, what is taken and what to do, and ends with 2."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest
from token_tables import write_table

# The command, and words of its message: what came, what is taken, what to do. In a folder with clips/ (two videos),
# t.parquet (a table of other videos), report/ (of an earlier eval), model/ (empty), file and notes.json.
MISTAKES = [
    # Sources.
    ("encode nowhere/ --out o.parquet", ["'nowhere/': no such file or folder", "a folder of videos"]),
    ("encode lerobot/pusht --out o.parquet", ["'lerobot/pusht'", "on the Hub, write 'lerobot:lerobot/pusht'"]),
    ("encode foo:bar --out o.parquet", ["there is no format 'foo'", "There are video, lerobot, rlds"]),
    ("encode model --out o.parquet", ["'model': nothing readable in it", "Looked for", ".mp4"]),
    ("encode notes.json --out o.parquet", ["'notes.json': no video", "Name the folder of the dataset"]),
    ("encode clips --out o.parquet --camera wrist", ["camera 'wrist'", "plain video, with one camera"]),
    ("encode clips --out o.parquet --split train", ["split", "plain video, which has none", "Leave --split out"]),
    ("encode clips --out o.parquet --from nolist.csv", ["nolist.csv", "No such file"]),
    # Options.
    ("encode clips", ["missing option '--out'", "tokens.parquet", "lara-tok encode --help"]),
    ("encodd clips --out o.parquet", ["'encodd'", "Did you mean 'encode'"]),
    ("encode clips --out o.parquet --strid 5f", ["--strid", "--stride", "lara-tok encode --help"]),
    ("encode clips --out o.parquet --limit some", ["'--limit'", "'some'", "integer", "N: Read only the first N"]),
    ("encode clips --out o.parquet --stride 5", ["stride '5'", "'0.6s' or frames such as '5f'", "write '5s' or '5f'"]),
    ("encode clips --out o.parquet --fps fast", ["fps 'fast'", "takes frames per second", "'rt1_*=3'"]),
    ("encode clips --out o.parquet --decoder vlc", ["decoder 'vlc'", "takes pyav, decord, torchcodec"]),
    ("encode clips --out o.parquet --dtype int8", ["dtype 'int8'", "takes float32, bfloat16, float16"]),
    ("encode clips --out o.parquet --with smell", ["column 'smell'", "actions, latents, text"]),
    ("encode clips --config job.yaml", ["job.yaml: unknown key 'strides'", "Did you mean 'stride'"]),
    # Checkpoints and recipes.
    ("encode clips --out o.parquet --model model", ["model 'model'", "no config.json"]),
    ("eval lara-lam --out r", ["evaluation needs SOURCE", "not trained on"]),
    ("train clips --recipe nothing.yaml --out run", ["nothing.yaml", "By name there are lam", "lara-tok recipes"]),
    ("train clips --out run --steps 0", ["steps", "0"]),
    ("convert nowhere --out c", ["nowhere"]),
    # Extras, and what they add.
    ("simulate robosuite --out d", ["unknown simulator 'robosuite'", "there is metaworld"]),
    ("rollout policy --env libero:spatial/0", ["'libero' extra", "pip install 'lara-tokenizer[libero]'"]),
    # Results that are there, or cannot be.
    ("encode clips --out o.csv", ["'o.csv'", "a file ending in .parquet, or a folder"]),
    ("encode clips --out file/o.parquet", ["cannot create the folder file", "Name another --out"]),
    ("eval lara-lam clips --out report", ["report/report.json exists already", "--overwrite"]),
    ("decode t.parquet clips --out notes.json", ["notes.json exists already", "--overwrite"]),
    # Tables.
    (
        "info clips/one.mp4",
        ["clips/one.mp4: a file, but no token table", "tokens.parquet", "lara-lam, a folder or a Hub id"],
    ),
    ("verify t.parquet clips --sample 5", ["sample '5'", "takes a share in percent, e.g. 1%"]),
    ("export lapa t.parquet clips --out lapa", ["other.mp4"]),
    ("export rlds t.parquet clips --out x", ["'rlds'", "lara-tok export --help"]),
    ("tokens merge t.parquet --out m.parquet", ["1 tables to join", "name two at least"]),
]


@pytest.fixture
def folder(tmp_path, clip_folder, monkeypatch):
    shutil.copytree(clip_folder, tmp_path / "clips")
    for name in ("model", "report"):
        (tmp_path / name).mkdir()
    for name in ("file", "notes.json", "report/report.json"):
        (tmp_path / name).write_text("{}", encoding="utf-8")
    (tmp_path / "job.yaml").write_text("out: o.parquet\nstrides: 0.5s\n", encoding="utf-8")
    write_table(tmp_path / "t.parquet", {("other.mp4", "", "2f"): 6})
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(("command", "words"), MISTAKES, ids=[command for command, _ in MISTAKES])
def test_a_first_mistake_is_one_line_that_helps_and_leaves_nothing_behind(lara_tok, folder, command, words):
    before = sorted(folder.rglob("*"))
    ran = lara_tok(*command.split())
    assert ran.code == 2
    (error,) = [line for line in ran.err.splitlines() if line.startswith("error: ")]
    assert "Traceback" not in ran.err
    assert [word for word in words if word not in error] == []
    assert sorted(folder.rglob("*")) == before


# All in one interpreter: what one of them loads stays loaded.
ONE_AFTER_THE_OTHER = """
import json, sys
from lara_tok.__main__ import main
for command in json.loads(sys.argv[1]):
    sys.argv = ["lara-tok", *command.split()]
    try:
        main()
    except SystemExit:
        pass
    if loaded := {"torch", "transformers"} & sys.modules.keys():
        sys.exit(f"{command} loads {loaded}")
"""


def test_no_first_mistake_loads_torch(folder):
    commands = json.dumps([command for command, _ in MISTAKES])
    ran = subprocess.run([sys.executable, "-c", ONE_AFTER_THE_OTHER, commands], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr


def test_an_error_is_json_on_stdout_where_json_was_asked_for(lara_tok, folder):
    for command in (["encode", "nowhere", "--out", "o.parquet"], ["encode"], ["info", "file"]):
        ran = lara_tok(*command, "--json")
        assert json.loads(ran.out) == {"error": ran.err.strip().removeprefix("error: "), "exit_code": 2}
