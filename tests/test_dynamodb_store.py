"""The contract on DynamoDB Local, the bill, a turn of many transactions, and a restart in mid-conversation."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, HTTPServer, ThreadingHTTPServer
from itertools import count
from threading import Thread
from typing import Any, Self
from urllib.parse import quote, urlsplit
from uuid import uuid4

import boto3
import pytest

from lc_history.bridge import drive
from lc_history.errors import StoreError, StoreUnavailableError
from lc_history.model import MESSAGES, Entry, Expiry, Lane, SessionKey
from lc_history.stores.documents.insist import BUSY_ATTEMPTS
from lc_history.stores.documents.listings import digest
from lc_history.stores.dynamodb import DynamoDBStore
from lc_history.stores.dynamodb.store import _client
from lc_history.stores.dynamodb.table import Table
from lc_history.stores.heads import Head
from lc_history.testing import StoreContract, StoreOpener
from lc_history.testing.servers.emulators import DynamoDBServer


def open_dynamodb(endpoint: str, table: str) -> DynamoDBStore:
    return DynamoDBStore.from_url(f"dynamodb://{table}?endpoint_url={quote(endpoint)}")


@pytest.fixture(scope="module")
def client(dynamodb_endpoint: str) -> Any:
    keys = {"aws_access_key_id": "local", "aws_secret_access_key": "local"}
    return boto3.client("dynamodb", endpoint_url=dynamodb_endpoint, region_name="us-east-1", **keys)


@pytest.fixture(scope="module")
def table(dynamodb_endpoint: str) -> str:
    name = f"t{uuid4().hex[:8]}"
    drive(open_dynamodb(dynamodb_endpoint, name).migrate())
    return name


class DynamoDBSideDoor:
    def __init__(self, client: Any, table: str) -> None:
        self._client, self._table = client, table

    def items(self, key: SessionKey) -> list[dict[str, Any]]:
        pages = self._client.get_paginator("query").paginate(
            TableName=self._table,
            KeyConditionExpression="#session = :session",
            ExpressionAttributeNames={"#session": "session"},
            ExpressionAttributeValues={":session": {"S": digest(key.user_id, key.session_id)}},
        )
        return [item for page in pages for item in page["Items"]]

    def raw_records(self, key: SessionKey) -> list[bytes]:
        raw: list[bytes] = []
        for item in self.items(key):
            for name, typed in item.items():
                (value,) = typed.values()
                raw.append(value if isinstance(value, bytes) else value.encode())
                if name == "state":
                    raw.append(Head.loads(value)[1].description)
        return raw

    def corrupt(self, key: SessionKey, seq: int, *, lane: Lane = MESSAGES) -> None:
        for item in self.items(key):
            place = item["place"]["S"]
            if place.startswith(f"{lane}:") and place.endswith(f".{seq:016}"):
                where = {"session": item["session"], "place": item["place"]}
                self._client.update_item(TableName=self._table, Key=where, UpdateExpression="REMOVE body")


class TestDynamoDBStore(StoreContract):
    turns = 2
    attempts = 3
    examples = 3
    kills = 2
    many_records = 1200  # more than a page of 1 MB holds

    @pytest.fixture
    def open_store(self, dynamodb_endpoint: str, table: str, request: pytest.FixtureRequest) -> StoreOpener:
        if any(word in request.node.name for word in ("scan", "instant", "hostile_users")):
            # It reads the sessions of all users, and here those of all other tests.
            table = f"t{uuid4().hex[:8]}"
            drive(open_dynamodb(dynamodb_endpoint, table).migrate())
        return partial(open_dynamodb, dynamodb_endpoint, table)

    @pytest.fixture
    def side_door(self, client: Any, table: str) -> DynamoDBSideDoor:
        return DynamoDBSideDoor(client, table)


class Meter:
    """Counts what Amazon's bill counts."""

    def __init__(self, client: Any) -> None:
        self._client, self.counts = client, Counter[str]()
        client.meta.events.register("provide-client-params.dynamodb.*", self.ask)
        client.meta.events.register("after-call.dynamodb.*", self.note)

    def close(self) -> None:
        self._client.meta.events.unregister("provide-client-params.dynamodb.*", self.ask)
        self._client.meta.events.unregister("after-call.dynamodb.*", self.note)

    def ask(self, params: dict[str, Any], model: Any, **_: Any) -> None:
        if "ReturnConsumedCapacity" in model.input_shape.members:
            params["ReturnConsumedCapacity"] = "INDEXES"
        self.counts["items"] += len(params.get("TransactItems", ()))

    def note(self, parsed: dict[str, Any], **_: Any) -> None:
        self.counts["calls"] += 1
        consumed = parsed.get("ConsumedCapacity", [])
        for each in consumed if isinstance(consumed, list) else [consumed]:
            writes = each.get("WriteCapacityUnits", 0)
            self.counts["write units"] += writes
            self.counts["read units"] += 0 if writes else each["CapacityUnits"]

    def bill(self) -> dict[str, float]:
        counts, self.counts = self.counts, Counter()
        return {name: count for name, count in counts.items() if count}


@pytest.fixture
def meter(client: Any) -> Iterator[Meter]:
    meter = Meter(client)
    yield meter
    meter.close()


@pytest.fixture
def store(client: Any, table: str) -> DynamoDBStore:
    return DynamoDBStore(table=table, client=client)


@pytest.fixture
def open_other(dynamodb_endpoint: str, table: str) -> StoreOpener:
    return partial(open_dynamodb, dynamodb_endpoint, table)


@pytest.fixture
def key() -> SessionKey:
    return SessionKey(uuid4().hex, "s1")


def says(*ids: str, size: int = 1000) -> list[Entry]:
    return [Entry(id_, id_.encode() * (size // len(id_))) for id_ in ids]


def ids(store: DynamoDBStore, key: SessionKey) -> list[str]:
    return [record.id for record in drive(store.read(key)).records]


def test_the_bill(store: DynamoDBStore, key: SessionKey, meter: Meter) -> None:
    bills = []
    for turn in range(100, 130):
        drive(store.append(key, says(f"q{turn}", f"a{turn}")))
        bills.append(meter.bill())
    # DynamoDB Local doubles the two indexes for the transaction (16); the table itself is 2 * (2 * 2 + 2) + 2, and 2.
    assert bills[1:] == [{"calls": 2, "items": 5, "read units": 1, "write units": 32}] * 29
    drive(store.read(key, last=20))
    assert meter.bill() == {"calls": 1, "read units": 6}  # 20 items of 1.2 KB, a head, 4 KB a unit
    drive(store.read(key))
    assert meter.bill() == {"calls": 1, "read units": 18}
    drive(store.read(key, first=20))
    assert meter.bill() == {"calls": 2, "read units": 7}
    drive(store.sessions(key.user_id))
    assert meter.bill() == {"calls": 1, "read units": 0.5}


def test_a_long_read_takes_a_call_for_each_megabyte(store: DynamoDBStore, key: SessionKey, meter: Meter) -> None:
    for number in range(10):
        drive(store.append(key, says(f"m{number}", size=300_000)))
    meter.bill()
    assert len(drive(store.read(key)).records) == 10
    assert meter.bill()["calls"] == 3


def test_a_turn_of_many_transactions_is_one_turn(store: DynamoDBStore, key: SessionKey) -> None:
    drive(store.append(key, says("before")))
    turn = [Entry(f"m{number}", bytes(2000)) for number in range(200)]
    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(lambda: drive(store.append(key, turn)))
        lengths = {len(ids(store, key))}
        while not writing.done():
            lengths.add(len(ids(store, key)))
    assert writing.result().seqs == tuple(range(2, 202))
    assert lengths <= {1, 201}
    assert ids(store, key) == ["before", *(entry.id for entry in turn)]


def test_a_turn_that_ends_halfway_is_never_seen(
    store: DynamoDBStore, key: SessionKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    drive(store.append(key, says("before")))
    transact, left = Table.transact, iter(range(3))

    async def die(self: Table, actions: Any) -> None:
        if next(left, None) is None:
            raise KeyboardInterrupt
        await transact(self, actions)

    turn = [Entry(f"m{number}", b"body") for number in range(50)]
    with monkeypatch.context() as dying:
        dying.setattr(Table, "transact", die)
        with pytest.raises(KeyboardInterrupt):
            drive(store.append(key, turn))
    assert ids(store, key) == ["before"]
    assert [record.id for record in drive(store.read(key, last=5)).records] == ["before"]
    assert drive(store.append(key, says("other"))).seqs == (2,)  # where m0 had been written
    assert drive(store.append(key, turn)).seqs == tuple(range(3, 53))
    assert drive(store.append(key, turn)).new == (False,) * 50
    assert ids(store, key) == ["before", "other", *(entry.id for entry in turn)]


def test_what_the_server_may_collect(store: DynamoDBStore, key: SessionKey, client: Any, table: str) -> None:
    def due() -> set[Any]:
        return {item.get("expires_at", {}).get("N") for item in DynamoDBSideDoor(client, table).items(key)}

    drive(store.append(key, says("a"), expiry=Expiry(timedelta(hours=1))))
    drive(store.append(key, says("b", size=800_000), expiry=Expiry(timedelta(hours=1))))
    info = drive(store.describe(key))
    assert info
    assert info.expires_at
    assert due() == {str(int(info.expires_at.timestamp()) + 1)}
    drive(store.append(key, says("c"), expiry=Expiry(timedelta(hours=2), sliding=True)))
    assert due() == {None}


def test_a_server_that_takes_small_transactions_only(store: DynamoDBStore, key: SessionKey, meter: Meter) -> None:
    turn = [Entry(f"m{number}", b"body") for number in range(12)]  # 24 items, and this server takes 10 at once
    assert drive(store.append(key, turn)).new == (True,) * 12
    first = meter.bill()["calls"]
    assert drive(store.append(SessionKey(key.user_id, "s2"), turn)).new == (True,) * 12
    assert meter.bill()["calls"] == 5 < first  # a look, a mark and three transactions: the limit is known now
    assert drive(store.delete(key, through=11)) == 11
    assert ids(store, key) == ["m11"]


async def an_erasure(store: DynamoDBStore, key: SessionKey) -> object:
    return await store.delete(key)


async def a_trim(store: DynamoDBStore, key: SessionKey) -> object:
    return await store.delete(key, through=2)


async def a_replacement(store: DynamoDBStore, key: SessionKey) -> object:
    return await store.replace(key, 5, b"short", expected=says("m4", size=400_000)[0].body)


@contextmanager
def interrupted(client: Any, at: int, action: Callable[[], object]) -> Iterator[list[str]]:
    """Do something before one of a client's calls; yield the names of those it has made."""
    calls: list[str] = []

    def note(model: Any, **_: Any) -> None:
        calls.append(model.name)
        if len(calls) - 1 == at:
            action()

    client.meta.events.register("before-call.dynamodb.*", note)
    yield calls
    client.meta.events.unregister("before-call.dynamodb.*", note)


@pytest.mark.parametrize("limits", [{}, {"first": 3}, {"after": 1, "last": 2}])
@pytest.mark.parametrize("change", [an_erasure, a_trim, a_replacement])
def test_a_read_of_many_calls_is_of_one_moment(
    store: DynamoDBStore, open_other: StoreOpener, client: Any, change: Any, limits: dict[str, int]
) -> None:
    def read() -> list[tuple[str, int]]:
        return [(record.id, len(record.body)) for record in drive(store.read(key, **limits)).records]

    for at in count():
        key = SessionKey(uuid4().hex, f"s{at}")
        drive(store.append(key, says("m0", "m1", "m2", "m3", size=300_000)))  # several pages
        drive(store.append(key, says("m4", size=400_000)))  # in pieces
        before = read()
        with interrupted(client, at, lambda key=key: drive(change(open_other(), key))) as calls:
            found = read()
        assert found in (before, read()), f"overtaken before call {at} of {calls}"
        if len(calls) <= at:
            break


class DurableDynamoDB(DynamoDBServer):
    def command(self) -> list[str]:
        memory, *rest = (part for part in super().command() if part != "-inMemory"), "-dbPath", str(self.directory)
        return [*memory, *rest]


def test_killed_and_started_again_in_mid_conversation() -> None:
    with DurableDynamoDB() as server:
        server.start()
        store, key = open_dynamodb(server.url, "chat"), SessionKey("ann", "s1")
        drive(store.migrate())

        def write() -> None:
            for turn in range(14):
                while True:
                    try:
                        drive(store.append(key, says(f"q{turn}", f"a{turn}")))
                        break
                    except StoreUnavailableError:
                        continue

        with ThreadPoolExecutor(1) as pool:
            writing = pool.submit(write)
            while len(ids(store, key)) < 8:
                pass
            server.restart()
            writing.result(60)
        assert ids(store, key) == [f"{who}{turn}" for turn in range(14) for who in "qa"]
        drive(store.close())


def test_no_table(dynamodb_endpoint: str, key: SessionKey) -> None:
    with pytest.raises(StoreError, match="no table 'nothing': run `lc-history migrate`"):
        drive(open_dynamodb(dynamodb_endpoint, "nothing").read(key))


def test_eight_migrate_at_once(dynamodb_endpoint: str, key: SessionKey) -> None:
    stores = [open_dynamodb(dynamodb_endpoint, f"m{key.user_id}") for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda store: drive(store.migrate()), stores))
    assert drive(stores[0].append(key, says("a"))).seqs == (1,)


def test_nobody_there(key: SessionKey) -> None:
    with pytest.raises(StoreUnavailableError, match="try again later, or check its address"):
        drive(open_dynamodb("http://127.0.0.1:1", "chat").append(key, says("a")))


def test_without_credentials(monkeypatch: pytest.MonkeyPatch, key: SessionKey) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_PROFILE", "AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nowhere")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    with pytest.raises(StoreError, match="no AWS region is named"):
        drive(DynamoDBStore.from_url("dynamodb://chat").read(key))
    with pytest.raises(StoreError, match="run `aws configure`"):
        drive(DynamoDBStore.from_url("dynamodb://chat?region=eu-central-1").read(key))


def test_the_region_that_the_environment_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_DEFAULT_REGION", raising=False)
    monkeypatch.setenv("AWS_REGION", "eu-west-3")
    assert _client(None, None).meta.region_name == "eu-west-3"
    assert _client("eu-central-1", None).meta.region_name == "eu-central-1"


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("dynamodb://", "names no table"),
        ("dynamodb://chat/path", "names no table"),
        ("dynamodb://chat?regoin=eu-central-1", "the option 'regoin', which is not known"),
        ("dynamodb://chat#part", "the fragment 'part'"),
        ("dynamodb://chat?endpoint_url=localhost:8000", "is no address; one looks like http://localhost:8000"),
    ],
)
def test_a_url_of_which_something_would_be_passed_over(url: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        DynamoDBStore.from_url(url)


class Overloaded(BaseHTTPRequestHandler):
    """A gateway that answers with a page of its own, as those before a service do."""

    def do_POST(self) -> None:
        self.send_response(503)
        self.end_headers()
        self.wfile.write(b"<html>busy</html>")

    def log_message(self, *_: object) -> None:
        pass


def test_a_server_that_is_overloaded_is_to_be_asked_again_later(key: SessionKey) -> None:
    with HTTPServer(("127.0.0.1", 0), Overloaded) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        store = open_dynamodb(f"http://127.0.0.1:{server.server_port}", "chat")
        with pytest.raises(StoreUnavailableError, match="try again later"):
            drive(store.append(key, says("a")))
        drive(store.close())
        server.shutdown()
        thread.join()


def refusal(kind: str, message: str, **more: Any) -> bytes:
    return json.dumps({"__type": kind, "message": message, **more}).encode()


MODEL = "com.amazonaws.dynamodb.v20120810#"
EXCEEDED = "Throughput exceeds the current capacity of your table or index. DynamoDB is automatically scaling it."
THROTTLES = {
    "provisioned capacity": refusal(
        f"{MODEL}ProvisionedThroughputExceededException",
        "The level of configured provisioned throughput for the table was exceeded. Consider increasing it.",
    ),
    "on demand": refusal(f"{MODEL}ThrottlingException", EXCEEDED),
    "the front end": refusal("com.amazon.coral.availability#ThrottlingException", "Rate exceeds the limit."),
    "the account": refusal(f"{MODEL}RequestLimitExceeded", "Throughput exceeds the limit for your account."),
    "in a transaction": refusal(
        f"{MODEL}TransactionCanceledException",
        "Transaction cancelled, please refer cancellation reasons for specific reasons [None, ThrottlingError]",
        CancellationReasons=[{"Code": "None"}, {"Code": "ThrottlingError", "Message": EXCEEDED}],
    ),
}


class Throttle(ThreadingHTTPServer):
    """Stands before DynamoDB, and answers some requests of an operation as DynamoDB does when it has no capacity."""

    daemon_threads = True

    def __init__(self, endpoint: str, operation: str, answer: bytes, times: int) -> None:
        super().__init__(("127.0.0.1", 0), Throttled)
        self.behind, self.operation, self.answer, self.left = urlsplit(endpoint).netloc, operation, answer, times
        self.asked = Counter[str]()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def __enter__(self) -> Self:
        Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *failure: object) -> None:
        self.shutdown()
        super().__exit__(*failure)


class Throttled(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Throttle

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        operation = self.headers["X-Amz-Target"].partition(".")[2]
        self.server.asked[operation] += 1
        if operation == self.server.operation and self.server.left:
            self.server.left -= 1
            self.answer(400, self.server.answer)
            return
        behind = HTTPConnection(self.server.behind)
        behind.request("POST", "/", body, dict(self.headers))
        answer = behind.getresponse()
        self.answer(answer.status, answer.read())
        behind.close()

    def answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/x-amz-json-1.0")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.parametrize(("kind", "door"), [*((kind, drive) for kind in THROTTLES), ("on demand", asyncio.run)])
def test_what_is_throttled_for_a_while_is_stored_once(
    dynamodb_endpoint: str, table: str, key: SessionKey, kind: str, door: Callable[..., Any]
) -> None:
    with Throttle(dynamodb_endpoint, "TransactWriteItems", THROTTLES[kind], times=6) as throttle:
        store = open_dynamodb(throttle.url, table)
        placed = door(store.append(key, says("a", "b")))
        assert (placed.seqs, placed.new, throttle.left) == ((1, 2), (True, True), 0)
        throttle.left = 1
        assert door(store.append(key, says("b", "c"))).new == (False, True)
        drive(store.close())
    assert ids(open_dynamodb(dynamodb_endpoint, table), key) == ["a", "b", "c"]


@pytest.mark.parametrize("operation", ["Query", "GetItem"])
def test_a_throttled_read_is_read(dynamodb_endpoint: str, table: str, key: SessionKey, operation: str) -> None:
    drive(open_dynamodb(dynamodb_endpoint, table).append(key, says("a")))
    with Throttle(dynamodb_endpoint, operation, THROTTLES["on demand"], times=6) as throttle:
        store = open_dynamodb(throttle.url, table)
        assert ids(store, key) == ["a"]
        info = drive(store.describe(key))
        assert info is not None
        assert (info.count, throttle.left) == (1, 0)
        drive(store.close())


@pytest.mark.parametrize("kind", ["on demand", "in a transaction"])
def test_throttling_that_lasts_is_told_as_what_it_is(
    dynamodb_endpoint: str, table: str, key: SessionKey, kind: str
) -> None:
    with Throttle(dynamodb_endpoint, "TransactWriteItems", THROTTLES[kind], times=1000) as throttle:
        store = open_dynamodb(throttle.url, table)
        with pytest.raises(StoreUnavailableError, match=r"more than DynamoDB has capacity for.*raise it") as told:
            drive(store.append(key, says("a")))
        assert key.session_id in str(told.value)
        assert throttle.asked["TransactWriteItems"] <= 2 * BUSY_ATTEMPTS
        drive(store.close())
    assert ids(open_dynamodb(dynamodb_endpoint, table), key) == []
