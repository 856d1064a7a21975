"""The curves that should be flat, and those that are not, as small PNG files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

COLOURS = {"ours": "#1f6f8b", "variant": "#8fc1d4", "peer": "#c8553d", "raw": "#999999", "floor": "#cccccc"}


def draw(parts: dict[str, Any], directory: Path) -> None:
    """Draw what the figures allow."""
    import matplotlib as mpl

    mpl.use("Agg")
    places = [place for place in ("Redis", "PostgreSQL", "SQLite") if place in parts]
    for verb, words in (("read", "read all"), ("last", "last 20")):
        if places:
            _lengths(parts, places, verb, words, directory / f"{verb}.png")
    if "checkpoints" in parts:
        _checkpoints(parts["checkpoints"], directory / "checkpoints.png")


def _lengths(parts: dict[str, Any], places: list[str], verb: str, words: str, path: Path) -> None:
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, len(places), figsize=(4 * len(places), 3.2), squeeze=False)
    for axis, place in zip(axes[0], places, strict=True):
        part = parts[place]
        for way, told in part["ways"].items():
            lengths = [length for length in part[verb] if way in part[verb][length]]
            values = [part[verb][length][way]["median"] / 1000 for length in lengths]
            style = {"color": COLOURS[told["role"]], "linestyle": "--" if way.endswith("SQL") else "-"}
            axis.loglog([int(length) for length in lengths], values, marker="o", ms=3, label=way.strip("*"), **style)
        axis.set(title=f"{place}: {words}", xlabel="messages in the session", ylabel="ms")
        axis.legend(fontsize=6, frameon=False)
    _save(figure, path)


def _checkpoints(part: dict[str, Any], path: Path) -> None:
    from matplotlib import pyplot as plt

    figure, axis = plt.subplots(figsize=(5, 3.2))
    for (name, saver), colour in zip(part["savers"].items(), (COLOURS["peer"], COLOURS["ours"]), strict=True):
        curve = saver["curve"]
        axis.plot(range(1, len(curve) + 1), curve, color=colour, linewidth=1, label=name.replace("*", ""))
    axis.set(title="A turn with a checkpointer", xlabel="turn", ylabel="ms", ylim=(0, None))
    axis.legend(fontsize=7, frameon=False)
    _save(figure, path)


def _save(figure: Any, path: Path) -> None:
    figure.tight_layout()
    figure.savefig(path, dpi=90)
