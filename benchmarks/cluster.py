"""Sessions in a Redis Cluster of three masters: how they spread, what the verbs cost, what a session takes.

python -m benchmarks.cluster [--sessions 20000] [--write]
"""

from __future__ import annotations

import argparse
import random
from time import perf_counter
from typing import Any

from redis import Redis

from benchmarks.conversation import talk, turn
from benchmarks.measure import race
from benchmarks.report import Results
from lc_history import ChatHistories
from lc_history.testing.servers import RedisCluster, RedisServer

PER_USER = 5


def measure(count: int) -> dict[str, Any]:
    """Return the costs of the verbs in a cluster and on one server, each filled with so many sessions."""
    found: dict[str, Any] = {"sessions": count}
    with RedisServer() as single, RedisCluster() as cluster:
        masters = [node for node in cluster.nodes if _role(node) == "master"]
        open_stores = {"one server": ChatHistories.open(single.url), "cluster": ChatHistories.open(cluster.url)}
        for name, histories in open_stores.items():
            begin = perf_counter()
            for number in range(count):
                _session(histories, number).add_messages(talk(4))
            found[f"sessions a second into {name}"] = count / (perf_counter() - begin)
        found["keys"] = [_info(node, "keyspace")["db0"]["keys"] for node in masters]
        found["megabytes"] = [_info(node, "memory")["used_memory_dataset"] / 1e6 for node in masters]
        found["megabytes of one server"] = _info(single, "memory")["used_memory_dataset"] / 1e6
        kinds = {}
        for name, histories in open_stores.items():
            kinds |= {f"{verb}, {name}": call for verb, call in _verbs(histories).items()}
        found["times"] = race(kinds, given=lambda: random.randrange(count), seconds=0.7)
        for histories in open_stores.values():
            histories.close()
    return found


def _session(histories: ChatHistories, number: int) -> Any:
    return histories.session(f"session-{number:06}", user_id=f"user-{number // PER_USER:06}")


def _verbs(histories: ChatHistories) -> dict[str, Any]:
    return {
        "append 2": lambda number: _session(histories, number).add_messages(turn()),
        "last 20": lambda number: _session(histories, number).last(20),
        "list a user's": lambda number: histories.sessions(f"user-{number // PER_USER:06}"),
        "archive": lambda number: _session(histories, number).describe(archived=True),
    }


def _role(node: RedisServer) -> str:
    return str(_info(node, "replication")["role"])


def _info(node: RedisServer, section: str) -> dict[str, Any]:
    with Redis(port=node.port) as client:
        return client.info(section)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sessions", type=int, default=20_000)
    parser.add_argument("--write", action="store_true", help="keep the figures in docs/performance")
    arguments = parser.parse_args()
    results = Results.read() if arguments.write else Results({})
    results.keep("cluster", measure(arguments.sessions))
    print(results.text())
    if arguments.write:
        results.write()


if __name__ == "__main__":
    main()
