"""What is counted rather than timed: round trips and connections by a proxy, calls, documents and capacity units."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from contextlib import closing
from typing import Any
from urllib.parse import urlsplit

from benchmarks.conversation import talk, turn
from benchmarks.ways import Way
from lc_history import ChatHistories
from lc_history.stores.dynamodb import DynamoDBStore
from lc_history.stores.firestore import FirestoreStore
from lc_history.testing.meters import DynamoDBMeter, MeteredFirestore
from lc_history.testing.proxy import Proxy
from lc_history.testing.servers import PostgresServer, RedisServer
from lc_history.testing.servers.emulators import DynamoDBServer, FirestoreServer

LENGTHS = (10, 100)
KEYS = {"aws_access_key_id": "local", "aws_secret_access_key": "local", "region_name": "us-east-1"}


def measure() -> dict[str, Any]:
    """Return the counts on every server."""
    from benchmarks.ways import postgres, redis

    with RedisServer() as server:
        found = {"Redis": _trips(server.url, redis.blocking)}
    with PostgresServer() as server:
        found["PostgreSQL"] = _trips(server.url, postgres.blocking)
    with FirestoreServer() as server:
        found["Firestore"] = _firestore(server.url)
    with DynamoDBServer() as server:
        found["DynamoDB"] = _dynamodb(server.url)
    return found


def _trips(url: str, make: Callable[[str], list[Way]]) -> dict[str, dict[str, int]]:
    """Return round trips of each verb, and of a request with an object of its own, with the connections it opens."""
    found = {}
    with Proxy(urlsplit(url).port or 0) as proxy:
        for way in make(url.replace(f":{urlsplit(url).port}", f":{proxy.port}")):
            with closing(way):
                if not (way.append and way.read):
                    continue
                verbs: dict[str, Callable[[], Any]] = {
                    "append": lambda way=way: way.append("counted", turn()),
                    "read": lambda way=way: way.read("counted"),
                    "last 20": lambda way=way: way.last("counted"),
                }
                if way.request:
                    verbs["request"] = lambda way=way: (way.request("counted"), way.append("counted", turn()))
                row = {}
                for verb, call in verbs.items():
                    for _ in range(4):  # connections, scripts and prepared statements
                        call()
                    before, connections = proxy.round_trips, proxy.connections
                    call()
                    row[verb] = proxy.round_trips - before
                row["new connections"] = proxy.connections - connections
                found[way.name] = row
    return found


def _counted(history: Callable[[str], Any], meter: Callable[[], Any]) -> dict[str, Any]:
    """Return the bill of a turn and of reading the last 20, in conversations of two lengths."""
    found = {}
    for length in LENGTHS:
        for message in talk(length):
            history(f"of {length}").add_messages([message])
        one = history(f"of {length}")
        meter()
        one.add_messages(turn())
        append = meter()
        one = history(f"of {length}")
        _ = one.last(20) if hasattr(one, "last") else one.messages
        found[length] = {"append": append, "last 20": meter()}
    return found


def _firestore(host: str) -> dict[str, Any]:
    os.environ["FIRESTORE_EMULATOR_HOST"] = host
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from langchain_google_firestore import FirestoreChatMessageHistory
    client = MeteredFirestore("bench")
    assert client._firestore_api
    meter = client.meter
    ours = ChatHistories(FirestoreStore(client))
    return {
        "**lc-history**": _counted(ours.session, meter.bill),
        "langchain-google-firestore": _counted(
            lambda name: FirestoreChatMessageHistory(name, client=client), meter.bill
        ),
    }


def _dynamodb(endpoint: str) -> dict[str, Any]:
    import boto3
    from langchain_community.chat_message_histories import DynamoDBChatMessageHistory

    session = boto3.Session(**KEYS)
    client = session.client("dynamodb", endpoint_url=endpoint)
    ours = ChatHistories(DynamoDBStore(table="ours", client=client))
    ours.migrate()
    client.create_table(
        TableName="theirs",
        KeySchema=[{"AttributeName": "SessionId", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "SessionId", "AttributeType": "S"}],
        BillingMode="PAY_PER_REQUEST",
    )
    meter = DynamoDBMeter(client)
    found = {"**lc-history**": _counted(ours.session, meter.bill)}

    def theirs(name: str) -> Any:
        history = DynamoDBChatMessageHistory(
            "theirs", name, endpoint_url=endpoint, boto3_session=session, coerce_float_to_decimal=True
        )
        meters.append(DynamoDBMeter(history.table.meta.client))
        return history

    meters: list[DynamoDBMeter] = []

    def bill() -> dict[str, float]:
        total: dict[str, float] = {}
        for one in meters:
            for name, count in one.bill().items():
                total[name] = total.get(name, 0) + count
        meters[:] = meters[-1:]
        return total

    return found | {"langchain-community": _counted(theirs, bill)}
