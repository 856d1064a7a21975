"""The contract on Firestore's emulator, the bill, and the emulator's own restart."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from functools import partial
from itertools import count
from typing import Any
from uuid import uuid4

import grpc
import pytest
from google.api_core.exceptions import NotFound
from google.cloud import firestore

from lc_history.bridge import drive
from lc_history.errors import ColourError, ConflictError, StoreError, StoreUnavailableError, TooLargeError
from lc_history.model import MESSAGES, Entry, Expiry, Lane, SessionKey
from lc_history.stores.documents import insist
from lc_history.stores.documents.insist import Verdict
from lc_history.stores.documents.listings import digest
from lc_history.stores.firestore import FirestoreStore
from lc_history.stores.firestore import documents as firestore_documents
from lc_history.stores.firestore.indexes import index_definitions
from lc_history.stores.heads import Head
from lc_history.testing import StoreContract, StoreOpener
from lc_history.testing.servers.emulators import FirestoreServer

KEY = SessionKey("ann", "s1")


def open_firestore(host: str, prefix: str) -> FirestoreStore:
    os.environ["FIRESTORE_EMULATOR_HOST"] = host
    return FirestoreStore.from_url(f"firestore://test?prefix={prefix}")


class FirestoreSideDoor:
    def __init__(self, prefix: str) -> None:
        self._client, self._prefix = firestore.Client("test"), prefix

    def documents(self, key: SessionKey) -> list[Any]:
        name = digest(key.user_id, key.session_id)
        return list(self._client.collection(f"{self._prefix}_sessions", name, f"{self._prefix}_documents").stream())

    def raw_records(self, key: SessionKey) -> list[bytes]:
        raw: list[bytes] = []
        for document in self.documents(key):
            for name, value in document.to_dict().items():
                raw.append(value if isinstance(value, bytes) else str(value).encode())
                if name == "state":
                    raw.append(Head.loads(value)[1].description)
        return raw

    def corrupt(self, key: SessionKey, seq: int, *, lane: Lane = MESSAGES) -> None:
        for document in self.documents(key):
            if document.id != "head" and (document.to_dict().get(lane) or "").endswith(f".{seq:016}"):
                document.reference.update({"body": "no bytes at all"})


class TestFirestoreStore(StoreContract):
    turns = 2
    attempts = 3
    examples = 3
    kills = 2

    @pytest.fixture
    def prefix(self) -> str:
        return f"t{uuid4().hex[:8]}"

    @pytest.fixture
    def open_store(self, firestore_host: str, prefix: str, monkeypatch: pytest.MonkeyPatch) -> StoreOpener:
        monkeypatch.setenv("FIRESTORE_EMULATOR_HOST", firestore_host)
        # grpc reckons its deadlines with time.time(), which a test of the contract stops.
        monkeypatch.setitem(firestore_documents.ONCE, "timeout", 1e8)
        return partial(open_firestore, firestore_host, prefix)

    @pytest.fixture
    def side_door(self, open_store: StoreOpener, prefix: str) -> FirestoreSideDoor:
        return FirestoreSideDoor(prefix)


class Meter(grpc.UnaryUnaryClientInterceptor, grpc.UnaryStreamClientInterceptor):
    """Counts what Google's bill counts."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def intercept_unary_unary(self, proceed: Any, details: Any, request: Any) -> Any:
        self.counts["calls"] += 1
        self.counts["writes"] += len(getattr(request, "writes", ()))
        return proceed(details, request)

    def intercept_unary_stream(self, proceed: Any, details: Any, request: Any) -> Any:
        self.counts["calls"] += 1
        return self._counted(proceed(details, request))

    def _counted(self, answers: Any) -> Iterator[Any]:
        for answer in answers:
            self.counts["reads"] += bool(getattr(answer, "found", None) or getattr(answer, "document", None))
            self.counts["reads"] += bool(getattr(answer, "missing", ""))
            yield answer

    def bill(self) -> tuple[int, int, int]:
        counts, self.counts = self.counts, Counter()
        return counts["calls"], counts["reads"], counts["writes"]


class MeteredClient(firestore.Client):
    meter: Meter

    def _emulator_channel(self, transport: Any) -> grpc.Channel:
        self.meter = Meter()
        return grpc.intercept_channel(super()._emulator_channel(transport), self.meter)


def says(*ids: str, size: int = 1000) -> list[Entry]:
    return [Entry(id_, id_.encode() * (size // len(id_))) for id_ in ids]


@pytest.fixture
def client(firestore_host: str, monkeypatch: pytest.MonkeyPatch) -> MeteredClient:
    monkeypatch.setenv("FIRESTORE_EMULATOR_HOST", firestore_host)
    client = MeteredClient("test")
    assert client._firestore_api
    return client


@pytest.fixture
def store(client: MeteredClient) -> FirestoreStore:
    return FirestoreStore(client, prefix=f"t{uuid4().hex[:8]}")


def test_the_bill(store: FirestoreStore, client: MeteredClient) -> None:
    meter = client.meter
    bills = []
    for turn in range(30):
        drive(store.append(KEY, says(f"q{turn}", f"a{turn}")))
        bills.append(meter.bill())
    assert set(bills) == {(2, 1, 3)}  # calls, documents read, documents written
    drive(store.append(KEY, says("q1", "a1")))
    assert meter.bill() == (4, 4, 3)  # a commit that is refused, and a look at the ids
    drive(store.read(KEY, last=20))
    assert meter.bill() == (1, 21, 0)
    drive(store.read(KEY))
    assert meter.bill() == (1, 61, 0)
    drive(store.read(KEY, first=20))
    assert meter.bill() == (2, 21, 0)
    drive(store.read(KEY, before=31, last=20))
    assert meter.bill() == (2, 21, 0)
    drive(store.describe(KEY))
    assert meter.bill() == (1, 1, 0)
    drive(store.append(KEY, says("large", size=2_000_000)))
    assert meter.bill() == (3, 1, 5)  # three pieces, the record, the head
    drive(store.read(KEY, last=1))
    assert meter.bill() == (2, 5, 0)
    drive(store.sessions("ann"))
    assert meter.bill() == (1, 1, 0)


def test_a_turn_larger_than_a_commit_is_one_turn(store: FirestoreStore) -> None:
    turn = [Entry(f"m{number}", bytes(2000)) for number in range(3000)]
    assert drive(store.append(KEY, turn)).seqs == tuple(range(1, 3001))
    slice_ = drive(store.read(KEY))
    assert [(record.id, record.body) for record in slice_.records] == [(entry.id, entry.body) for entry in turn]


def test_a_turn_too_large_for_a_commit_even_without_bodies(store: FirestoreStore) -> None:
    with pytest.raises(TooLargeError, match="append it in several"):
        drive(store.append(KEY, [Entry(f"m{number}", b"") for number in range(7000)]))
    assert drive(store.describe(KEY)) is None


def test_what_the_server_may_collect(store: FirestoreStore, client: MeteredClient) -> None:
    def due() -> set[Any]:
        group = client.collection_group(f"{store._prefix}_documents")
        return {document.to_dict()["expires_at"] for document in group.stream()}

    drive(store.append(KEY, says("a"), expiry=Expiry(timedelta(hours=1))))
    drive(store.append(KEY, says("b"), expiry=Expiry(timedelta(hours=1))))
    info = drive(store.describe(KEY))
    assert info
    assert due() == {info.expires_at}
    drive(store.append(KEY, says("c"), expiry=Expiry(timedelta(hours=2), sliding=True)))
    assert due() == {None}


async def session_of(store: FirestoreStore) -> Any:
    return store.session(KEY)  # in a coroutine, for the client is that of the door in use


def test_remains_of_a_crash_are_not_seen_and_go_with_the_session(store: FirestoreStore, client: MeteredClient) -> None:
    drive(store.append(KEY, says("a", "b")))
    session = drive(session_of(store))
    seen = drive(session.look())
    later = seen.head.copy()
    later.alive = False
    later.begin(seen.now)
    drive(session.commit_each(session.written(later, MESSAGES, drive(store.read(KEY)).records)[0]))  # a load ends here
    assert [record.id for record in drive(store.read(KEY, last=1)).records] == ["b"]
    drive(session.change(seen, seen.head.grave(seen.now, moved=False)))  # an erasure ends here
    assert drive(store.read(KEY)).records == []
    drive(store.delete(KEY))
    group = client.collection_group(f"{store._prefix}_documents")
    assert [document.id for document in group.stream()] == ["head"]


def test_a_trim_leaves_a_message_that_has_come_again(
    store: FirestoreStore, client: MeteredClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    drive(store.append(KEY, says("a", "b", "c")))
    make_batch, batches = client.batch, count(1)

    def batch() -> Any:
        if next(batches) == 2:  # the head hides a and b, and their documents are about to be deleted
            monkeypatch.setattr(client, "batch", make_batch)
            assert drive(store.append(KEY, says("a"))).seqs == (4,)
        return make_batch()

    monkeypatch.setattr(client, "batch", batch)
    assert drive(store.delete(KEY, through=2)) == 2
    assert [(record.seq, record.id) for record in drive(store.read(KEY)).records] == [(3, "c"), (4, "a")]
    group = client.collection_group(f"{store._prefix}_documents")
    assert len(list(group.stream())) == 3


def test_a_database_that_does_not_exist() -> None:
    missing = NotFound("The database chat does not exist for project test")  # the emulator makes any
    assert FirestoreStore().verdict(missing) is Verdict.REFUSED
    assert FirestoreStore().verdict(NotFound("No document to update: projects/test/...")) is Verdict.RIVAL


def test_indexes_name_the_collection() -> None:
    definitions = index_definitions("mine")
    assert {index["collectionGroup"] for index in definitions["indexes"]} == {"mine_documents"}
    assert [field["fieldPath"] for field in definitions["fieldOverrides"] if field.get("ttl")] == ["expires_at"]


def test_without_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FIRESTORE_EMULATOR_HOST", raising=False)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "/nowhere.json")
    with pytest.raises(StoreError, match="gcloud auth application-default login"):
        drive(FirestoreStore.from_url("firestore://test").read(KEY))


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("firestore://project?prfx=mine", "the option 'prfx', which is not known"),
        ("firestore://project#part", "the fragment 'part'"),
        ("firestore://project?prefix=a/b", "must have no slash"),
        ("firestore://project/database/more", "names the database 'database/more'"),
    ],
)
def test_a_url_of_which_something_would_be_passed_over(url: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        FirestoreStore.from_url(url)


def test_one_whom_others_are_always_ahead_of_gives_up(firestore_host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(insist, "ATTEMPTS", 5)
    rival = open_firestore(firestore_host, f"t{uuid4().hex[:8]}")
    names = map(str, count())

    class Overtaken(FirestoreStore):
        def session(self, key: SessionKey) -> Any:
            session = super().session(key)
            look = session.look

            async def look_and_be_overtaken() -> Any:
                seen = await look()
                await rival.append(key, says(next(names)))
                return seen

            session.look = look_and_be_overtaken  # type: ignore[method-assign]
            return session

    store = Overtaken(firestore.Client("test"), prefix=rival._prefix)
    with pytest.raises(ConflictError, match=r"session 's1' of user 'ann'.*too many at once; nothing was written"):
        drive(store.append(KEY, says("ours")))
    assert [record.id for record in drive(rival.read(KEY)).records] == ["0", "1", "2", "3", "4"]
    drive(rival.close())


def test_nobody_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FIRESTORE_EMULATOR_HOST", "127.0.0.1:1")
    with pytest.raises(StoreUnavailableError, match=r"session 's1' of user 'ann'.*try again later"):
        drive(FirestoreStore.from_url("firestore://test").append(KEY, says("a")))


def test_a_server_that_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    with FirestoreServer() as server:
        server.start()
        monkeypatch.setenv("FIRESTORE_EMULATOR_HOST", server.url)
        store = FirestoreStore.from_url("firestore://test")
        assert drive(store.append(KEY, says("a"))).seqs == (1,)
        server.kill()
        with pytest.raises(StoreUnavailableError, match="try again later"):
            drive(store.append(KEY, says("b")))
        server.start()
        give_up = time.monotonic() + 30
        while True:
            try:
                assert drive(store.append(KEY, says("b"))).seqs == (1,)  # the emulator has forgotten everything
                break
            except StoreUnavailableError:
                assert time.monotonic() < give_up
        drive(store.close())


async def test_a_given_client_has_one_colour(store: FirestoreStore) -> None:
    with pytest.raises(ColourError, match="give an async client as well"):
        await store.read(KEY)
