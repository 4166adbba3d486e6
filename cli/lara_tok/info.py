"""`lara-tok info`: contents of a checkpoint or a token table."""

from __future__ import annotations

from typing import Annotated, Any

from typer import Argument

from lara_tok._common import JsonOption, codes_line, emit, quantity, render_health, say

_BLOCKS = " ▁▂▃▄▅▆▇█"
_WIDTH = 64  # of a histogram, in characters


def info(
    target: Annotated[
        str,
        Argument(metavar="TABLE|CHECKPOINT", help="A table (tokens.parquet, or a folder of shards) or a checkpoint."),
    ],
    json_: JsonOption = False,
) -> None:
    """Describe a table or a checkpoint: sizes, origin, codes in use.

    Examples:

      lara-tok info tokens.parquet

      lara-tok info lara-lam
    """
    from lara_tokenizer.table import describe

    result = describe(target)
    emit(result, json_, _render_tokens if result["kind"] == "tokens" else _render_checkpoint)


def _line(name: str, text: object) -> None:
    say(f"{name:19} {text}")


def _render_checkpoint(result: dict[str, Any]) -> None:
    _line("checkpoint", result["id"] + (f" at {result['revision']}" if result["revision"] else ""))
    _line("weights", f"{result['bytes'] / 1e6:.1f} MB")
    for name, digest in result["weights_sha256"].items():
        _line("", f"{name} sha256 {digest}")
    for part, count in result["parameters"].items():
        _line("parameters" if part == "total" else f"  {part}", f"{count:,}")
    encoder = f", {result['vision_encoder']}" if result["vision_encoder"] else ""
    size = result["image_size"]
    pixels = size if isinstance(size, int) else " x ".join(map(str, size))
    _line("frames", f"{pixels} px{encoder}")
    codes = "continuous" if result["codebook_size"] is None else f"codes of {result['codebook_size']}"
    _line("latent action", f"{result['num_latents']} {codes}, of dimension {result['codebook_dim']}")
    _line("trained strides", ", ".join(result["strides"]))
    if result["card"] is not None:
        _line("trained on", result["card"]["trained_on"])
        for name, verdict in result["card"]["verdicts"].items():
            _line(f"on {name}", f"{verdict['grade']}: {verdict['reason']}")


def _render_tokens(result: dict[str, Any]) -> None:
    provenance = result["provenance"]
    model = provenance["model"]
    _line(
        "tokens",
        f"{quantity(result['rows'], 'row')} of {quantity(result['episodes'], 'episode')}, "
        f"{result['bytes'] / 1e6:.2f} MB",
    )
    for stride, count in result["pairs"].items():
        _line(f"stride {stride}", f"{count:,} pairs")
    if cameras := [camera for camera in result["cameras"] if camera]:
        _line("cameras", ", ".join(cameras))
    _line("columns", ", ".join(result["columns"]))
    render_health(result, _line)
    _line("model", model["id"] + (f" at {model['revision']}" if model["revision"] else ""))
    for name, digest in model["weights_sha256"].items():
        _line("", f"{name} sha256 {digest}")
    for source in provenance["source"]:
        _line(
            "source",
            f"{source['name']}{' at ' + source['revision'] if source['revision'] else ''} ({source['format']})",
        )
    if not provenance["source"]:
        _line("source", "episodes in memory")
    settings = {name: provenance[name] for name in ("every", "dtype", "device", "batch_size")} | provenance["load"]
    if provenance["min_motion"]:
        settings["min_motion"] = provenance["min_motion"]
    _line("settings", ", ".join(f"{name} {value}" for name, value in settings.items()))
    _line("versions", ", ".join(f"{name} {version}" for name, version in provenance["versions"].items()))
    if result["histogram"] is not None:
        _render_histogram(result, model["codebook_size"])


def _render_histogram(result: dict[str, Any], codebook_size: int) -> None:
    _line("codes", codes_line(result, codebook_size))
    pooled = [sum(counts) for counts in zip(*result["histogram"], strict=True)]
    _line("  all", f"|{_bars(pooled)}| 0 to {codebook_size - 1}")
    for position, counts in enumerate(result["histogram"]):
        perplexity = result["perplexity_per_position"][position]
        _line(f"  position {position}", f"|{_bars(counts)}| perplexity {perplexity:.1f}")


def _bars(counts: list[int]) -> str:
    """A histogram in one line; neighbouring codes share a bar if there are more codes than characters."""
    per_bar = -(-len(counts) // _WIDTH)
    bins = [sum(counts[start : start + per_bar]) for start in range(0, len(counts), per_bar)]
    highest = max(bins) or 1
    # Rounded up, so that every code that occurs is visible.
    return "".join(_BLOCKS[-(-count * (len(_BLOCKS) - 1) // highest)] for count in bins)
