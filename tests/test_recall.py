"""Recall: what left the window comes back when it is asked for, and never what was erased or is somebody else's."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from langchain_core.embeddings import Embeddings
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, RemoveMessage, ToolMessage
from langchain_core.runnables import RunnableLambda
from langgraph.graph.message import REMOVE_ALL_MESSAGES

from lc_history import ChatHistories, with_history
from lc_history.bridge import drive
from lc_history.errors import ContextOverflowError, PolicyError
from lc_history.model import SessionKey
from lc_history.postgres import Postgres
from lc_history.privacy.keyring import Keyring
from lc_history.stores.memory import MemoryStore
from lc_history.stores.postgres import PostgresStore
from lc_history.stores.sqlite import SQLiteStore
from lc_history.strategies import Full, View, Window
from lc_history.strategies.memory import Blocks, memory_tools
from lc_history.strategies.recall import Hybrid, LexicalIndex, Passage, Recall, VectorIndex
from lc_history.strategies.recall.words import words
from lc_history.strategies.repair import problems
from lc_history.strategies.tokens import estimate_messages
from lc_history.testing.embeddings import HashingEmbeddings
from lc_history.testing.models import StrictChatModel
from lc_history.transcript import Policy, Transcript
from tests.dialogues import dialogues
from tests.doors import BOTH, Door


@pytest.fixture(params=["sqlite", "postgres"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Any, LexicalIndex]]:
    """Open a store and an index in its database."""
    if request.param == "sqlite":
        store: Any = SQLiteStore(tmp_path / "chat.db")
        index = LexicalIndex.open(f"sqlite:///{tmp_path}/chat.db")
    else:
        url, schema = request.getfixturevalue("postgres_url"), f"recall_{tmp_path.name}".replace("-", "_")[-60:]
        database = Postgres.open(url, schema=schema)
        store = PostgresStore(database)
        index = LexicalIndex.open(url, schema=schema)
    drive(store.migrate())
    drive(index.migrate())
    yield store, index
    drive(index.close())
    drive(store.close())


FACTS = {
    3: "The spare key is under the blue flowerpot behind the greenhouse.",
    7: "My sister Eleonore moved to Trondheim in April.",
    11: "我的猫叫豆豆,它喜欢睡在窗台上。",
    15: "Das Passwort für den Werkzeugschuppen ist Zwetschgenknödel.",
}


def talk(turns: int = 30) -> list[BaseMessage]:
    said: list[BaseMessage] = []
    for number in range(turns):
        said.append(
            HumanMessage(FACTS.get(number, f"Tell me something about topic {number}, please."), id=f"q{number}")
        )
        if number == 20:
            call = {"name": "look_up", "args": {"order": "KX-4711"}, "id": "c1"}
            said.append(AIMessage("", id="call", tool_calls=[call]))
            said.append(ToolMessage("The parcel waits in Rotterdam.", tool_call_id="c1", id="result", name="look_up"))
        said.append(AIMessage(f"Here is something about topic {number} " + "and more " * 5, id=f"a{number}"))
    return said


def transcript_in(store: Any, session: str = "s1", user: str = "ann", **policy: Any) -> Transcript:
    return Transcript(store, SessionKey(user, session), Policy(**policy))


def recalled(strategy: Any, transcript: Transcript, question: str) -> str:
    view = drive(strategy.view(transcript, [HumanMessage(question, id="question")]))
    assert problems(view.prompt) == []
    return "\n".join(message.text for message in view.recalled)


def recall(index: Any, **options: Any) -> Recall:
    return Recall(Window(budget_tokens=200), index, **{"recall_tokens": 120, **options})


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("Where is the spare key?", "blue flowerpot"),
        ("Which city did Eleonore move to?", "Trondheim"),
        ("豆豆喜欢睡在哪里?", "窗台"),
        ("Wie war das Passwort vom Werkzeugschuppen?", "Zwetschgenknödel"),
        ("What about order KX-4711?", "Rotterdam"),
    ],
)
def test_what_has_left_the_window_comes_back(place: tuple[Any, LexicalIndex], question: str, answer: str) -> None:
    store, index = place
    transcript = transcript_in(store)
    drive(transcript.append(talk()))
    assert answer in recalled(recall(index), transcript, question)
    assert answer in recalled(recall(index), transcript, question), "and again, from the index as it stands"


def test_a_turn_is_told_whole_in_order_and_with_its_time(place: tuple[Any, LexicalIndex]) -> None:
    store, index = place
    transcript = transcript_in(store)
    drive(transcript.append(talk()))
    text = recalled(recall(index, recall_tokens=400), transcript, "order KX-4711 and the spare key")
    assert 'calls look_up({"order":"KX-4711"})' in text
    assert "Result of look_up: The parcel waits in Rotterdam." in text
    assert text.index("flowerpot") < text.index("Rotterdam")
    year = drive(transcript.read(first=1)).said[0].created_at.year
    assert f"[{year}-" in text


def test_it_stands_at_the_tail_and_the_prompt_before_it_is_the_same(place: tuple[Any, LexicalIndex]) -> None:
    store, index = place
    transcript = transcript_in(store)
    drive(transcript.append(talk()))
    views = [
        drive(recall(index).view(transcript, [HumanMessage(question, id="question")]))
        for question in ("Where is the spare key?", "Where is Eleonore?")
    ]
    assert views[0].window == views[1].window
    assert views[0].recalled != views[1].recalled
    assert views[0].prompt[-2:] == [*views[0].recalled, *views[0].current]


def test_a_turn_under_way_is_not_torn(place: tuple[Any, LexicalIndex]) -> None:
    store, index = place
    transcript = transcript_in(store)
    call = AIMessage("", id="x", tool_calls=[{"name": "look", "args": {}, "id": "k"}])
    drive(transcript.append([*talk(), HumanMessage("the spare key?", id="now"), call]))
    view = drive(recall(index).view(transcript, [ToolMessage("found", tool_call_id="k", id="r")]))
    assert problems(view.prompt) == []
    assert view.recalled == []


def rows(place: tuple[Any, LexicalIndex]) -> int:
    async def work(execute):
        return await execute("SELECT count(*) FROM {schema}lc_history_lexical_words", {})

    return int(drive(place[1]._shelf.database.read(work))[0][0])


@pytest.mark.parametrize("through", [None, 20])
def test_an_erasure_reaches_the_index_at_once(place: tuple[Any, LexicalIndex], through: int | None) -> None:
    store, index = place
    transcript = transcript_in(store)
    drive(transcript.append(talk()))
    assert "flowerpot" in recalled(recall(index), transcript, "the spare key")
    assert rows(place) > 100
    drive(transcript.erase(through=through))
    assert rows(place) == 0
    assert "flowerpot" not in recalled(recall(index), transcript, "the spare key")
    if through:
        assert "Rotterdam" in recalled(recall(index), transcript, "KX-4711"), "what is left is found again"


@pytest.mark.parametrize("indexed", [True, False], ids=["indexed before", "indexed after"])
def test_what_was_removed_is_not_recalled(place: tuple[Any, LexicalIndex], indexed: bool) -> None:
    store, index = place
    transcript = transcript_in(store)
    drive(transcript.append(talk()))
    if indexed:
        assert "flowerpot" in recalled(recall(index), transcript, "the spare key")
    drive(transcript.append([RemoveMessage("q3"), RemoveMessage("result")]))
    for _ in range(2):
        assert "flowerpot" not in recalled(recall(index), transcript, "the spare key under the flowerpot")
        assert "[Removed.]" in recalled(recall(index), transcript, "order KX-4711 that waits in Rotterdam")
        drive(transcript.append([m.model_copy(update={"id": f"later {m.id}"}) for m in talk(3) for _ in range(9)]))
    other = transcript_in(store, "another")
    assert "flowerpot" not in recalled(recall(index, scope="user"), other, "the spare key under the flowerpot")


def test_once_everything_was_removed_only_what_came_after_is_recalled(place: tuple[Any, LexicalIndex]) -> None:
    store, index = place
    transcript = transcript_in(store)
    drive(transcript.append(talk()))
    assert "flowerpot" in recalled(recall(index), transcript, "the spare key")
    drive(transcript.append([RemoveMessage(REMOVE_ALL_MESSAGES)]))
    assert recalled(recall(index), transcript, "the spare key") == ""
    drive(transcript.append([HumanMessage("The spare key is at the baker's.", id="new")]))
    drive(transcript.append([m.model_copy(update={"id": f"later {m.id}"}) for m in talk(30)[8:]]))
    text = recalled(recall(index), transcript, "the spare key")
    assert "baker" in text
    assert "flowerpot" not in text


def test_in_another_database_nothing_erased_is_shown_and_the_index_is_put_right(tmp_path: Path) -> None:
    index = LexicalIndex.open(f"sqlite:///{tmp_path}/index.db")
    drive(index.migrate())
    transcript = transcript_in(MemoryStore())
    drive(transcript.append(talk()))
    assert "flowerpot" in recalled(recall(index), transcript, "the spare key")
    drive(transcript.erase(through=20))
    assert "flowerpot" not in recalled(recall(index), transcript, "the spare key flowerpot")
    assert drive(index.through(transcript.key)) == 0
    assert "Rotterdam" in recalled(recall(index), transcript, "KX-4711")


def test_an_erasure_while_it_is_indexed_leaves_nothing(place: tuple[Any, LexicalIndex]) -> None:
    store, index = place
    transcript = transcript_in(store)
    drive(transcript.append(talk()))

    class Slow(LexicalIndex):
        async def add(self, *args: Any, **kwargs: Any) -> bool:
            await transcript.erase()
            return await super().add(*args, **kwargs)

    drive(recall(Slow(index._shelf.database)).catch_up(transcript))
    assert rows(place) == 0


def test_a_user_is_searched_across_sessions_and_no_other_user(place: tuple[Any, LexicalIndex]) -> None:
    store, index = place
    earlier, mine, other = transcript_in(store, "old"), transcript_in(store, "new"), transcript_in(store, "x", "bob")
    drive(earlier.append(talk(12)))
    drive(other.append([HumanMessage("My spare key is with the baker.", id="b"), *talk(3)]))
    for one in (earlier, other):
        assert drive(recall(index).catch_up(one)) > 0
    drive(mine.append([HumanMessage("Hello.", id="h"), AIMessage("Hello.", id="a")]))
    assert drive(index.search(mine.key, "baker", scope="user", limit=5)) == []
    everywhere = recalled(recall(index, scope="user", recall_tokens=400), mine, "the spare key")
    assert "flowerpot" in everywhere
    assert "baker" not in everywhere
    assert recalled(recall(index), mine, "the spare key") == ""


def test_many_at_once_index_a_conversation_once(place: tuple[Any, LexicalIndex]) -> None:
    store, index = place
    transcript = transcript_in(store)
    drive(transcript.append(talk()))

    async def ask() -> None:
        await asyncio.gather(*(recall(index).catch_up(transcript) for _ in range(6)))
        for one in (index, store):
            await one.close()

    asyncio.run(ask())
    once = rows(place)
    drive(recall(index).catch_up(transcript))
    assert rows(place) == once > 100


def test_a_sealed_conversation_is_not_indexed_unless_that_is_allowed(tmp_path: Path) -> None:
    index = LexicalIndex.open(f"sqlite:///{tmp_path}/index.db")
    drive(index.migrate())
    keys = Keyring({"k": b"0" * 32}, current="k")
    transcript = transcript_in(MemoryStore(), keys=keys)
    drive(transcript.append(talk()))
    with pytest.raises(PolicyError, match="is sealed, and an index of it would not be"):
        recalled(recall(index), transcript, "the spare key")
    with pytest.raises(PolicyError):
        drive(recall(index).catch_up(transcript))
    assert drive(index.through(transcript.key)) == 0
    assert "flowerpot" in recalled(recall(index, plaintext=True), transcript, "the spare key")


@pytest.mark.parametrize("name", ["a:b", "*", "../x", "\x00\n", "\ud800", "é" * 512, "'; DROP TABLE x; --"])
def test_any_name_is_just_a_name(place: tuple[Any, LexicalIndex], name: str) -> None:
    store, index = place
    transcript = transcript_in(store, name, name)
    drive(transcript.append(talk()))
    assert "flowerpot" in recalled(recall(index, scope="user"), transcript, "the spare key")


@pytest.mark.parametrize("question", ["", "?!", "'; --", "the the the", "word " * 5000, "\x00", "\ud800"])
def test_any_question_is_just_a_question(place: tuple[Any, LexicalIndex], question: str) -> None:
    store, index = place
    transcript = transcript_in(store)
    drive(transcript.append(talk(12)))
    drive(recall(index).catch_up(transcript))
    drive(index.search(transcript.key, question, scope="session", limit=5))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(dialogue=dialogues(40), budget=st.integers(80, 400))
def test_with_everything_together_a_view_is_sendable_and_fits(
    tmp_path: Path, dialogue: list[BaseMessage], budget: int
) -> None:
    index = LexicalIndex.open(f"sqlite:///{tmp_path}/index.db")
    drive(index.migrate())
    transcript = transcript_in(MemoryStore())
    drive(index.forget(transcript.key))
    if dialogue:
        drive(transcript.append(dialogue))
    model = RunnableLambda(lambda _: "in short " * 20)
    shown = Hybrid(model, index, budget_tokens=budget, summary_tokens=25, recall_tokens=40)
    asked = [HumanMessage("which word? m3 m5", id="question")]
    try:
        view = drive(shown.view(transcript, asked))
    except ContextOverflowError:
        return
    finally:
        drive(index.close())
    assert problems(view.prompt) == []
    assert view.tokens <= budget


@pytest.mark.parametrize("tokens", [1, 15, 20, 30, 120, 2000])
def test_what_is_recalled_has_its_size_by_the_counter_that_was_given(
    place: tuple[Any, LexicalIndex], tokens: int
) -> None:
    def characters(messages: Sequence[BaseMessage]) -> int:
        return sum(len(message.text) for message in messages)

    store, index = place
    transcript = transcript_in(store)
    drive(transcript.append(talk()))
    for count in (characters, estimate_messages):
        view = drive(
            recall(index, recall_tokens=tokens, count=count).view(transcript, [HumanMessage("the spare key?")])
        )
        assert count(view.recalled) <= tokens
    assert tokens < 120 or "flowerpot" in view.recalled[0].text


def test_rare_words_weigh_more_than_common_ones(place: tuple[Any, LexicalIndex]) -> None:
    _, index = place
    key = SessionKey("ann", "s1")
    texts = [f"the common words of turn {number} the common words" for number in range(50)]
    texts[31] = "xylophone"
    many = [Passage(number + 1, number + 1, text) for number, text in enumerate(texts)]
    assert drive(index.add(key, many, after=0, through=50))
    assert not drive(index.add(key, many, after=0, through=50)), "once"
    [best, *_] = drive(index.search(key, "the common xylophone", scope="session", limit=3))
    assert (best.first_seq, best.key) == (32, key)


@given(st.text())
def test_words_are_short_and_never_fail(text: str) -> None:
    assert all(0 < len(word) <= 40 for word in words(text))


def test_it_goes_with_any_strategy(tmp_path: Path) -> None:
    index = LexicalIndex.open(f"sqlite:///{tmp_path}/index.db")
    drive(index.migrate())
    histories = ChatHistories(MemoryStore(), strategy=Recall(Full(), index))
    history = histories.session("s1", user_id="ann")
    history.add_messages(talk(3))
    assert recalled(histories.strategy, history.transcript, "topic 1") == "", "everything is shown already"


@pytest.fixture
def vectors(postgres_url: str, tmp_path: Path) -> Iterator[tuple[Any, VectorIndex]]:
    """Open a store and a vector index in its database."""
    schema = f"vectors_{tmp_path.name}".replace("-", "_")[-60:]
    store = PostgresStore(Postgres.open(postgres_url, schema=schema))
    index = VectorIndex.open(postgres_url, HashingEmbeddings(512), model="hash", dimensions=512, schema=schema)
    drive(store.migrate())
    drive(index.migrate())
    yield store, index
    drive(index.close())
    drive(store.close())


@pytest.mark.parametrize(("question", "answer"), [("the spare key?", "flowerpot"), ("order KX-4711", "Rotterdam")])
@pytest.mark.parametrize("door", ["blocking", "async"])
def test_vectors_bring_back_what_has_left(
    vectors: tuple[Any, VectorIndex], question: str, answer: str, door: str
) -> None:
    store, index = vectors
    transcript = transcript_in(store)
    drive(transcript.append(talk()))
    if door == "blocking":
        assert answer in recalled(recall(index), transcript, question)
        return

    async def ask() -> str:
        view = await recall(index).view(transcript, [HumanMessage(question, id="q")])
        for one in (index, store):
            await one.close()
        return view.recalled[0].text

    assert answer in asyncio.run(ask())


def test_vectors_are_scoped_and_erased_with_the_conversation(vectors: tuple[Any, VectorIndex]) -> None:
    store, index = vectors
    ann, bob = transcript_in(store), transcript_in(store, "x", "bob")
    drive(ann.append(talk()))
    drive(bob.append([HumanMessage("My spare key is with the baker.", id="b"), *talk(3)]))
    drive(recall(index).catch_up(bob))
    for scope in ("session", "user"):
        text = recalled(recall(index, scope=scope), ann, "the spare key")
        assert "flowerpot" in text
        assert "baker" not in text
    drive(ann.erase())
    assert drive(index.search(ann.key, "the spare key", scope="user", limit=5)) == []
    assert drive(index.through(ann.key)) == 0
    assert len(drive(index.search(bob.key, "the spare key", scope="user", limit=5))) > 0


def test_a_vector_of_another_length_is_refused_and_says_what_to_do(vectors: tuple[Any, VectorIndex]) -> None:
    _, index = vectors
    index._embeddings = HashingEmbeddings(64)
    key = SessionKey("ann", "s1")
    for call in (
        index.search(key, "key", scope="session", limit=1),
        index.add(key, [Passage(1, 1, "key")], after=0, through=1),
    ):
        with pytest.raises(ValueError, match="hash gave a vector of 64 dimensions, and its index has 512"):
            drive(call)


def test_a_few_turns_of_one_user_are_found_among_many_of_others(vectors: tuple[Any, VectorIndex]) -> None:
    _, index = vectors
    others = [Passage(n + 1, n + 1, f"the spare key number {n} hangs in the hall") for n in range(600)]
    drive(index.add(SessionKey("bob", "s"), others, after=0, through=600))
    mine = [Passage(1, 1, "the spare key is under the flowerpot"), Passage(2, 2, "nothing at all")]
    drive(index.add(SessionKey("ann", "s"), mine, after=0, through=2))
    found = drive(index.search(SessionKey("ann", "s"), "the spare key hangs in the hall", scope="user", limit=2))
    assert [one.first_seq for one in found] == [1, 2]


BROKEN: dict[str, Any] = {"nothing": None, "NaN": [float("nan")] * 512, "words": ["word"] * 512, "no list": [None]}


class Failing(Embeddings):
    """Embeddings whose service is down, hangs, answers with too little, or with what is no vector."""

    def __init__(self, how: str) -> None:
        self.how = how

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        if self.how == "raises":
            raise RuntimeError("no credit")
        if self.how == "hangs":
            time.sleep(1.5)
        if self.how in BROKEN:
            return BROKEN[self.how] and [BROKEN[self.how] for _ in texts]
        return HashingEmbeddings(512).embed_documents(texts)[1:]

    def embed_query(self, text: str) -> list[float]:
        return self.embed_documents([text, text])[0]


@pytest.mark.parametrize("how", ["raises", "hangs", "answers too little", *BROKEN])
@pytest.mark.parametrize("door", ["blocking", "async"])
def test_when_embeddings_fail_the_turn_goes_on_and_a_later_one_makes_it_good(
    vectors: tuple[Any, VectorIndex], how: str, door: str, caplog: pytest.LogCaptureFixture
) -> None:
    store, index = vectors
    database = index._shelf.database
    failing = VectorIndex(database, Failing(how), model="hash", dimensions=512, timeout=timedelta(seconds=0.3))
    transcript = transcript_in(store)
    drive(transcript.append(talk()))
    question = [HumanMessage("the spare key?", id="q")]
    if door == "blocking":
        view = drive(recall(failing).view(transcript, question))
    else:

        async def ask() -> View:
            view = await recall(failing).view(transcript, question)
            for one in (index, store):
                await one.close()
            return view

        view = asyncio.run(ask())
    if how == "hangs":
        time.sleep(1.5)  # its thread is not to reach into the next test
    assert problems(view.prompt) == []
    assert view.recalled == []
    assert "nothing is recalled" in caplog.text
    assert drive(index.through(transcript.key)) == 0
    assert "flowerpot" in recalled(recall(index), transcript, "the spare key?")


@pytest.mark.parametrize("door", BOTH, ids=lambda door: door.name)
def test_while_the_indexs_own_server_is_down_turns_go_on_without(
    own_postgres, tmp_path: Path, door: Door, caplog
) -> None:
    server = own_postgres()
    index = LexicalIndex.open(server.url)
    drive(index.migrate())
    histories = ChatHistories.open(f"sqlite:///{tmp_path}/chat.db", strategy=recall(index, recall_tokens=500))
    histories.session("s1").append(talk())
    sent: list[str] = []

    def answer(messages: list[BaseMessage]) -> AIMessage:
        sent.append("\n".join(message.text for message in messages[:-1]))
        return AIMessage("Let me see.")

    chat, config = with_history(StrictChatModel(answer=answer), histories), {"configurable": {"session_id": "s1"}}
    for running in (True, False, False, True, False):
        if running:
            server.start()
        else:
            server.kill()
        door.call(chat, "invoke", "Where is the spare key?", config)
    assert ["flowerpot" in seen for seen in sent] == [True, False, False, True, False]
    assert len(histories.session("s1").messages) == len(talk()) + 2 * len(sent)
    told = [record for record in caplog.records if "nothing is recalled" in record.message]
    assert [record.levelname for record in told] == ["WARNING", "WARNING"], "once in each outage"
    assert "turns go on without it" in told[0].message
    assert f":{server.port}/" in told[0].message
    tools = memory_tools(lambda _: histories.session("s1").transcript, Blocks({"user": "who"}), index=index)
    (search,) = [tool for tool in tools if tool.name == "search_history"]
    answered = door.call(search, "invoke", {"query": "spare key"})
    assert answered.startswith("Not searched")
    assert str(server.port) not in answered


@pytest.mark.parametrize("dimensions", [2000, 2001, 3072, 4000])
def test_long_vectors_are_indexed_too(vectors: tuple[Any, VectorIndex], dimensions: int) -> None:
    store, index = vectors
    transcript = transcript_in(store)
    drive(transcript.append(talk()))
    long = VectorIndex(
        index._shelf.database, HashingEmbeddings(dimensions), model=f"long {dimensions}", dimensions=dimensions
    )
    drive(long.migrate())
    assert "flowerpot" in recalled(recall(long), transcript, "the spare key?")
    drive(transcript.erase())
    assert drive(long.search(transcript.key, "the spare key?", scope="user", limit=5)) == []


@pytest.mark.parametrize("dimensions", [0, 4001])
def test_vectors_that_cannot_be_indexed_are_refused_at_once(dimensions: int) -> None:
    with pytest.raises(ValueError, match="cannot be indexed: ask m for 4000 at most"):
        VectorIndex.open("postgresql://", HashingEmbeddings(), model="m", dimensions=dimensions)


def test_embeddings_are_given_text_that_can_be_sent(vectors: tuple[Any, VectorIndex]) -> None:
    class Sending(Embeddings):
        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            given.extend(text.encode() for text in texts)
            return HashingEmbeddings(512).embed_documents(texts)

        def embed_query(self, text: str) -> list[float]:
            return self.embed_documents([text])[0]

    given: list[bytes] = []
    store, index = vectors
    sending = VectorIndex(index._shelf.database, Sending(), model="hash", dimensions=512)
    transcript = transcript_in(store)
    drive(transcript.append([HumanMessage("The spare \ud83d key \x00 is under the flowerpot", id="half"), *talk()]))
    assert "flowerpot" in recalled(recall(sending), transcript, "the spare \ud83d \x00 key?")
    assert drive(sending.search(transcript.key, "the \ud83d key", scope="session", limit=1))
    assert len(given) > 10


@pytest.mark.parametrize("text", ["spare \x00 key", "spare \ud83d key", "spare key \U0001f511"])
def test_any_text_is_indexed(place: tuple[Any, LexicalIndex], text: str) -> None:
    store, index = place
    transcript = transcript_in(store)
    drive(transcript.append([HumanMessage(f"{text} under the flowerpot", id="odd"), *talk()[20:]]))
    assert "flowerpot" in recalled(recall(index), transcript, "the spare key?")


def test_an_index_is_kept_where_it_can_be() -> None:
    with pytest.raises(ValueError, match="SQLite or PostgreSQL, not in 'redis'"):
        LexicalIndex.open("redis://x")
