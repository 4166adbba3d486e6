"""Options of all commands: --help lists them, and each reaches a keyword of the library function that is called."""

from __future__ import annotations

import sys
from importlib import import_module
from inspect import Parameter, signature
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from command_tree import COMMANDS
from lara_tok.__main__ import app
from typer.testing import CliRunner

from lara_tokenizer.data import Episodes, LoadOptions
from lara_tokenizer.encode.options import EncodeKeywords
from lara_tokenizer.table.reader import SelectOptions

SOURCE = "--fps --camera --split --subset --streaming --episodes --task --segment --from"
RECIPE = "--steps --batch-size --learning-rate --precision --workers --seed --resume --report-to"
SELECT = "--stride --camera --min-margin --min-motion"
IMAGES = "--images --no-images"
OPTIONS = {  # in the order of --help
    "encode": f"--out --model --stride --every {SOURCE} --decoder --limit --shard --min-motion --with --keep-tail "
    "--dtype --device --batch-size --workers --on-error --dry-run --config --print-config --json",
    "info": "--json",
    "decode": "--out --episode --camera --stride --frames --model --from --overwrite --json",
    "view": "--out --episodes --stride --camera --from --overwrite --json",
    "verify": "--sample --model --device --workers --from --json",
    "export-onnx": "--json",
    "convert": "--out --vision-encoder --image-size --to --json",
    "simulate": "--out --task --episodes --camera --size --action-noise --seed --workers --json",
    "train": f"--recipe --out --frames {SOURCE} --limit {RECIPE} --dry-run --json",
    "eval": f"--out --all --compare --control-encoder --target {SOURCE} --decoder --limit --overwrite --json",
    "refine": "--recipe --out --mode --tokenizer --policy --pretrain --lam-camera --camera --frames --fps --split "
    f"--episodes --task --limit {RECIPE} --no-stop --dry-run --json",
    "recipes": "--json",
    "rollout": "--env --episodes --seed --embodiment --executed-steps --max-steps --workers --out --videos "
    "--video-episodes --tokenizer --overwrite --json",
    "export groot": f"--out --action-horizon --max-action-dim --scale {SELECT} --json",
    "export lapa": f"--out --instruction --template --seed {IMAGES} --vision-weights --device {SELECT} --workers "
    "--from --json",
    "export lerobot": f"--out --in-place --undo {SELECT} --model --push --json",
    "export moto": f"--out --style --name --instruction --actions --no-actions --video --no-video {SELECT} --workers "
    "--from --json",
    "export univla": f"--out --instruction --history --seed {IMAGES} {SELECT} --workers --from --json",
    "export webdataset": f"--out --shard-size --seed {IMAGES} {SELECT} --workers --from --json",
    "tokens diff": "--json",
    "tokens merge": "--out --json",
}


def spellings(parameter):
    return [text for text in (*parameter.opts, *parameter.secondary_opts) if text.startswith("-")]


def test_the_commands_are_those_listed_here():
    assert COMMANDS.keys() == OPTIONS.keys()


@pytest.mark.parametrize("name", OPTIONS)
def test_help_lists_the_options(name):
    assert [text for parameter in COMMANDS[name].params for text in spellings(parameter)] == OPTIONS[name].split()
    shown = CliRunner().invoke(app, [*name.split(), "--help"]).stdout
    assert all(option in shown for option in OPTIONS[name].split())


class Reached(Exception):
    """The last function of the library was called."""


@pytest.fixture
def record(monkeypatch):
    """record(module, name, result): a list of the keywords of each call of a function, which then returns `result`.

    A call that the function's signature does not take fails. An exception as `result` is raised.
    """

    def replace(module, name, result):
        module = import_module(module)
        function, calls = getattr(module, name), []

        def recorded(*arguments, **keywords):
            bound = signature(function).bind(*arguments, **keywords)
            given = dict(bound.arguments)
            for parameter in bound.signature.parameters.values():
                if parameter.kind is Parameter.VAR_KEYWORD:
                    others = given.pop(parameter.name, {})
                    assert others.keys() <= taken(parameter)
                    given |= others
            calls.append(given)
            if isinstance(result, Exception):
                raise result
            return result

        monkeypatch.setattr(module, name, recorded)
        return calls

    return replace


def taken(parameter):
    """The keywords of `**options: Unpack[...]`."""
    typed = {f"Unpack[{each.__name__}]": each for each in (LoadOptions, EncodeKeywords, SelectOptions)}
    return typed[parameter.annotation].__annotations__.keys()


def run(name, line, unused=()):
    """Run a command with every option but --json and the `unused` ones, until the library is `Reached`."""
    words = line.split()
    options = [parameter for parameter in COMMANDS[name].params if spellings(parameter)]
    missing = {each.name for each in options if not {*spellings(each)} & {*words}}
    assert missing == {*unused} | {each.name for each in options if "--json" in each.opts}
    result = CliRunner().invoke(app, [*name.split(), *words])
    assert isinstance(result.exception, Reached), result.output or result.exception


SELECTED = {"stride": "5f", "cameras": ["top", "side"], "min_margin": 0.1, "min_motion": 0.2}
SELECT_LINE = "--stride 5f --camera top --camera side --min-margin 0.1 --min-motion 0.2"
VIDEO_LINE = f"{SELECT_LINE} --workers 3 --from clips.csv"
FROM_VIDEO = {**SELECTED, "workers": 3, "from_list": "clips.csv"}
EXPORTS = {
    "groot": (
        f"--action-horizon 8 --max-action-dim 7 --scale 2.5 {SELECT_LINE}",
        {"action_horizon": 8, "max_action_dim": 7, "scale": 2.5, **SELECTED},
    ),
    "lerobot": (
        f"--in-place --model lam --push me/demos {SELECT_LINE}",
        {"in_place": True, "model": "lam", "push": "me/demos", **SELECTED},
    ),
    "lapa": (
        "--instruction go --template {instruction} --seed 4 --no-images --vision-weights w --device cpu " + VIDEO_LINE,
        {"instruction": "go", "template": "{instruction}", "seed": 4, "images": False, "vision": "LWM", **FROM_VIDEO},
    ),
    "moto": (
        f"--style rt1 --name mine --instruction go --no-actions --no-video {VIDEO_LINE}",
        {"style": "rt1", "name": "mine", "instruction": "go", "actions": False, "video": False, **FROM_VIDEO},
    ),
    "univla": (
        f"--instruction go --history 0.25 --seed 4 --no-images {VIDEO_LINE}",
        {"instruction": "go", "history": 0.25, "seed": 4, "images": False, **FROM_VIDEO},
    ),
    "webdataset": (
        f"--shard-size 9 --seed 4 --no-images {VIDEO_LINE}",
        {"shard_size": 9, "seed": 4, "images": False, **FROM_VIDEO},
    ),
}


@pytest.mark.parametrize("name", EXPORTS)
def test_options_of_an_export_reach_the_library(record, monkeypatch, name):
    from lara_tokenizer.vision_tokens import LwmVisionTokenizer

    weights = []
    monkeypatch.setattr(LwmVisionTokenizer, "from_pickle", lambda *a, **k: weights.append((a, k)) or "LWM")
    line, expected = EXPORTS[name]
    calls = record("lara_tokenizer.export", f"export_{name}", Reached())
    run(f"export {name}", f"t.parquet videos --out new {line}", {"undo"} if name == "lerobot" else ())
    (given,) = calls
    assert callable(given.pop("progress"))
    one_source = name in ("groot", "lerobot")
    assert given == {
        "tokens": "t.parquet",
        "source": "videos" if one_source else ["videos"],
        "out": Path("new"),
        **expected,
    }
    assert weights == ([((Path("w"),), {"device": "cpu"})] if name == "lapa" else [])


@pytest.mark.parametrize("name", EXPORTS)
def test_export_options_not_given_equal_the_defaults_of_the_library(record, name):
    function = getattr(import_module("lara_tokenizer.export"), f"export_{name}")
    defaults = {parameter.name: parameter.default for parameter in signature(function).parameters.values()}
    calls = record("lara_tokenizer.export", f"export_{name}", Reached())
    CliRunner().invoke(app, ["export", name, "t.parquet", "videos", "--out", "new"])
    (given,) = calls
    assert (given.pop("min_margin"), given.pop("min_motion")) == (0, 0)
    options = given.keys() - {"tokens", "source", "out", "progress"}
    assert {option: given[option] for option in options} == {option: defaults[option] for option in options}


LOAD_LINE = (
    "--fps a*=3 --fps b*=5 --camera top --camera side --split val --subset small --streaming --episodes 0:2 "
    "--task go --task stop --segment 10s --from clips.csv --limit 6"
)
LOADED = {
    "fps": {"a*": 3.0, "b*": 5.0},
    "cameras": ["top", "side"],
    "split": "val",
    "subset": "small",
    "streaming": True,
    "episodes": "0:2",
    "tasks": ["go", "stop"],
    "segment": "10s",
    "from_list": "clips.csv",
    "limit": 6,
}
RECIPE_LINE = "--steps 5 --batch-size 2 --learning-rate 0.1 --precision bf16 --workers 3 --seed 4"
OVERRIDES = {"steps": 5, "batch_size": 2, "learning_rate": 0.1, "precision": "bf16", "workers": 3, "seed": 4}


@pytest.fixture
def loads(record):
    users = ("table.source", "evaluate.dataset", "train.train")
    for user in (*(f"lara_tokenizer.{name}" for name in users), "lara_policy.refine.refine"):
        import_module(user)  # by now, lest it keep the replacement beyond this test
    return record("lara_tokenizer.data", "load_episodes", Episodes())


def test_options_of_encode_reach_the_library(record, loads):
    calls = record("lara_tokenizer.encode", "encode_dataset", Reached())
    line = (
        f"videos --out t.parquet --model lam --stride 5f --stride 9f --every 2f {LOAD_LINE} --decoder decord "
        "--min-motion 0.2 --with latents,text --with actions --keep-tail --dtype float16 --device cpu --batch-size 2 "
        "--workers 3 --on-error fail --shard 0/2"
    )
    run("encode", line, {"dry_run", "config", "print_config"})
    assert loads == [{"source": ["videos"], "decoder": "decord", "shard": "0/2", **LOADED}]
    rows = {
        "strides": ["5f", "9f"],
        "every": "2f",
        "min_motion": 0.2,
        "columns": ["latents", "text", "actions"],
        "keep_tail": True,
        "dtype": "float16",
        "device": "cpu",
        "batch_size": 2,
        "workers": 3,
    }
    assert callable(calls[0].pop("progress"))
    assert calls == [{"source": [], "model": "lam", "out": "t.parquet", "on_error": "fail", **rows}]
    estimates = record("lara_tokenizer.encode", "estimate_dataset", Reached())
    run("encode", f"{line} --dry-run", {"config", "print_config"})
    assert estimates == [{"source": [], "model": "lam", **rows}]


def test_options_of_train_reach_the_library(record, loads, tmp_path):
    calls = record("lara_tokenizer.train", "train_latent_action_model", Reached())
    (tmp_path / "r.yaml").write_text("training: {log_steps: 77}", encoding="utf-8")
    recipe_line = f"--recipe {tmp_path}/r.yaml {RECIPE_LINE}"
    run(
        "train",
        f"videos {recipe_line} --out run --frames cache {LOAD_LINE} --resume --report-to tensorboard",
        {"dry_run"},
    )
    assert loads == [{"source": ["videos"], **LOADED}]
    (given,) = calls
    assert (given["source"], given["out"], given["frames"], given["resume"]) == ([], Path("run"), Path("cache"), True)
    assert given["tracker"] == "tensorboard"
    training = given["recipe"].training
    assert training.log_steps == 77
    assert {name: getattr(training, name) for name in OVERRIDES} == OVERRIDES


@pytest.mark.parametrize("pretrain", [False, True])
def test_options_of_refine_reach_the_library(record, loads, tmp_path, pretrain):
    import_module("lara_policy.refine.refine")
    module, name = ("lara_policy.refine.refine", "pretrain") if pretrain else ("lara_policy.refine", "refine")
    calls = record(module, name, Reached())
    (tmp_path / "r.yaml").write_text(yaml.safe_dump({"training": {"log_steps": 77}}), encoding="utf-8")
    line = (
        f"demos --recipe {tmp_path}/r.yaml --out run --mode frozen-lam --tokenizer lam --policy old --lam-camera front "
        f"--camera top --camera side --frames cache --fps 3 --split val --episodes 0:2 --task go --limit 6 "
        f"{RECIPE_LINE} --resume --report-to tensorboard"
    )
    options = ("--pretrain t.parquet", {"dry_run", "no_stop"}) if pretrain else ("--no-stop", {"dry_run", "pretrain"})
    run("refine", f"{line} {options[0]}", options[1])
    load = {"fps": 3.0, "cameras": ["top", "side"], "split": "val", "episodes": "0:2", "tasks": ["go"], "limit": 6}
    assert loads == [{"source": ["demos"], **load}]
    (given,) = calls
    recipe = given.pop("recipe")
    assert (recipe.mode, recipe.lam_camera, recipe.tokenizer) == ("frozen-lam", "front", "lam")
    assert {name: getattr(recipe.training, name) for name in OVERRIDES} == OVERRIDES
    assert recipe.training.log_steps == 77
    assert callable(given.pop("progress"))
    own = {"tokens": Path("t.parquet")} if pretrain else {"stop": False}
    assert given == {
        "source": [],
        "out": Path("run"),
        "policy": "old",
        "frames": Path("cache"),
        "resume": True,
        "tracker": "tensorboard",
        **own,
    }


def test_refine_reads_all_cameras_unless_some_are_named(record, loads):
    record("lara_policy.refine", "refine", Reached())
    CliRunner().invoke(app, ["refine", "demos", "--out", "run"])
    assert loads[0]["cameras"] == "all"


def test_options_of_eval_reach_the_library(record, monkeypatch, tmp_path):
    opened = []
    checkpoint = SimpleNamespace(id="lam", weights_sha256={})
    monkeypatch.setattr(
        sys.modules["lara_tok.eval"], "_open", lambda name: opened.append(name) or (checkpoint, "model", "processor")
    )
    figures = SimpleNamespace(data=SimpleNamespace(stride="5f"))
    calls = record("lara_tokenizer.evaluate", "evaluate_checkpoint", SimpleNamespace(report={}, figures=figures))
    pages = record("lara_tokenizer.evaluate.report.page", "write_report", Reached())
    chosen = "--all --compare two --control-encoder net --target sum"
    run("eval", f"one videos --out {tmp_path}/new {chosen} {LOAD_LINE} --decoder decord --overwrite")
    assert opened == ["one", "two"]
    shared = {"source": ["videos"], "everything": True, "target": "sum", "decoder": "decord", **LOADED}
    shared["control_encoder"] = "net"
    for given, stride in zip(calls, (None, "5f"), strict=True):
        assert {name: given[name] for name in shared} == shared
        assert (given.get("stride"), given["model"], given["model_id"]) == (stride, "model", "lam")
    assert pages[0]["path"] == tmp_path / "new" / "index.html"
    assert pages[0]["other"] is not None
    assert (tmp_path / "new" / "compared.json").is_file()
