"""Measure lc-history beside its peers.

    make bench                                      everything but the scale, in minutes
    QUICK=1 make bench                              in a minute or so
    make bench BENCH_ARGS="--write Redis codec"     some parts; the figures go into docs/performance.md

Every part starts the servers that it needs. `python -m benchmarks.scale` and `benchmarks.day` are for themselves.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Callable
from time import perf_counter
from typing import Any

from benchmarks import bills, checkpoints, codec, report, stores, turns


def _store(name: str) -> Callable[[], Any]:
    def measure() -> Any:
        with stores.PLACES[name]() as place:
            return stores.measure(place)

    return measure


PARTS: dict[str, Callable[[], Any]] = {
    "codec": codec.measure,
    "bills": bills.measure,
    **{name: _store(name) for name in stores.PLACES},
    "turns": turns.measure,
    "checkpoints": checkpoints.measure,
}


def main() -> None:
    """Measure, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--write", action="store_true", help="write the figures, charts and tables into docs/")
    arguments = parser.parse_args()
    unknown = set(arguments.parts) - set(PARTS)
    if unknown:
        parser.error(f"there is no {', '.join(sorted(unknown))}: choose from {', '.join(PARTS)}")
    warnings.simplefilter("ignore")  # the peers' own deprecations
    results = report.Results.read() if arguments.write else report.Results({})
    for name in arguments.parts or PARTS:
        begin = perf_counter()
        results.keep(name, PARTS[name]())
        print(f"{name}: {perf_counter() - begin:.0f} s", file=sys.stderr)
        if arguments.write:
            results.write()
    print(results.text())


if __name__ == "__main__":
    main()
