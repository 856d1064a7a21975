"""What the figures have to reach: ratios within one race, ours to the other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

OURS = "**lc-history**"
NORMAL = f"{OURS}, `synchronous=normal`"
Parts = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Target:
    """A ratio, and what it may be at most."""

    what: str
    most: float
    ratio: Callable[[Parts], float]


def _of(part: Parts, race: Parts, role: str) -> float:
    """Return the fastest median of a role in a race."""
    return float(min(race[way]["median"] for way, told in part["ways"].items() if told["role"] == role and way in race))


def _against(place: str, role: str, *path: str) -> Callable[[Parts], float]:
    def ratio(parts: Parts) -> float:
        part = race = parts[place]
        for step in path:
            part, race = (race[step], race[step]) if step == "async" else (part, race[step])
        return float(race[OURS]["median"]) / _of(part, race, role)

    return ratio


def _flat(place: str, verb: str) -> Callable[[Parts], float]:
    def ratio(parts: Parts) -> float:
        medians = {int(length): timing["median"] for length, timing in parts[place]["flat"][verb].items()}
        return float(medians[max(medians)] / medians[100])

    return ratio


def _codec(verb: str) -> Callable[[Parts], float]:
    return lambda parts: float(parts["codec"]["**ours**"][verb] / parts["codec"]["`message_to_dict` + `json`"][verb])


def _turn(place: str, kind: str, peer: str) -> Callable[[Parts], float]:
    def ratio(parts: Parts) -> float:
        race = parts["turns"][place]["1000"]
        return float(race[kind]["median"] / race[f"RunnableWithMessageHistory, {peer}"]["median"])

    return ratio


def over_the_model(parts: dict[str, Any]) -> float:
    """Return what with_history adds to the model's call, on a store that costs nothing."""
    return float(parts["`with_history`"]["median"] - parts["model alone"]["median"])


def _over_model(length: str) -> Callable[[Parts], float]:
    return lambda parts: over_the_model(parts["turns"]["over the model"][length])


WINDOWED = "RunnableWithMessageHistory, ours, window of 20"


def _per_place() -> list[Target]:
    limits = {
        "Redis": (0.42, 2.0, 0.42, 1.8, 0.60),
        "PostgreSQL": (0.60, 1.8, 0.42, 1.6, 0.58),
        "SQLite": (0.07, 2.2, 0.25, 1.6, 0.40),
    }
    found = []
    for place, (peer, raw, read, floor, waiting) in limits.items():
        found += [
            Target(f"{place}: append 2 / fastest LangChain peer", peer, _against(place, "peer", "append")),
            Target(f"{place}: append 2 / raw driver, same bytes", raw, _against(place, "raw", "append")),
            Target(f"{place}: read all 100 / fastest LangChain peer", read, _against(place, "peer", "read", "100")),
            Target(f"{place}: read all 1,000 / fastest LangChain peer", read, _against(place, "peer", "read", "1000")),
            Target(f"{place}: last 20 of 1,000 / floor", floor, _against(place, "floor", "last", "1000")),
            Target(f"{place}: last 20 of the longest / of 100", 1.3, _flat(place, "last")),
            Target(f"{place}: append to the longest / to 100", 1.3, _flat(place, "append")),
            Target(f"{place}: async append 2 / fastest peer", waiting, _against(place, "peer", "async", "append")),
        ]
    return found


def _unflushed(parts: Parts) -> float:
    part = parts["SQLite"]
    return float(part["append"][NORMAL]["median"]) / _of(part, part["append"], "peer")


TARGETS = [
    *_per_place(),
    Target("Redis: append 2, renewing a ttl / fastest peer", 0.42, _against("Redis", "peer", "append, renewed")),
    Target("SQLite: append 2, `synchronous=normal` / fastest peer", 0.07, _unflushed),
    Target("Codec: encode / `message_to_dict` + `json`", 0.35, _codec("encode")),
    Target("Codec: decode / `message_to_dict` + `json`", 0.30, _codec("decode")),
    Target("Redis: windowed turn at 1,000 / peer without", 0.15, _turn("Redis", WINDOWED, "langchain-community")),
    Target(
        "PostgreSQL: windowed turn at 1,000 / peer without", 0.16, _turn("PostgreSQL", WINDOWED, "langchain-postgres")
    ),
    *(
        Target(f"`with_history` over model and store at {length}, in us", 50, _over_model(length))
        for length in ("10", "100", "1000")
    ),
    Target(
        "Redis: p99 of the last 20, at any length, in us",
        2000,
        lambda parts: max(float(timing["p99"]) for timing in parts["Redis"]["flat"]["last"].values()),
    ),
]
