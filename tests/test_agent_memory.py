"""Memory that an agent keeps itself: always in view, edited through tools, in order when two edit at once."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, RemoveMessage, ToolMessage
from langchain_core.runnables import RunnableConfig

from lc_history.bridge import drive
from lc_history.errors import ConflictError, ContextOverflowError, PolicyError
from lc_history.model import SessionKey
from lc_history.privacy.keyring import Keyring
from lc_history.stores.memory import MemoryStore
from lc_history.strategies import Window
from lc_history.strategies.memory import Blocks, Memory, memory_tools
from lc_history.strategies.memory.blocks import PRESSURE
from lc_history.strategies.recall import LexicalIndex
from lc_history.strategies.repair import problems
from lc_history.strategies.tokens import estimate, estimate_messages
from lc_history.transcript import Policy, Transcript
from tests.dialogues import dialogues
from tests.doors import BOTH, Door

BLOCKS = Blocks({"user": "what is known of the user", "self": "who you are"}, block_tokens=40)


@pytest.fixture
def transcript() -> Transcript:
    transcript = Transcript(MemoryStore(), SessionKey("ann", "s1"))
    drive(transcript.append([HumanMessage("Hello.", id="q"), AIMessage("Hello.", id="a")]))
    return transcript


def tools(transcript: Transcript, **options) -> dict:
    def session(config: RunnableConfig) -> Transcript:
        assert config["configurable"]["session_id"] == "s1"
        return transcript

    return {tool.name: tool for tool in memory_tools(session, BLOCKS, **options)}


CONFIG = {"configurable": {"session_id": "s1"}}


@pytest.mark.parametrize("door", BOTH, ids=lambda door: door.name)
def test_an_agent_remembers_and_corrects(transcript: Transcript, door: Door) -> None:
    made = tools(transcript)
    door.call(made["remember"], "invoke", {"block": "user", "text": "Likes tea."}, CONFIG)
    door.call(made["remember"], "invoke", {"block": "user", "text": "Lives in Ulm."}, CONFIG)
    said = door.call(made["correct_memory"], "invoke", {"block": "user", "old": "tea", "new": "coffee"}, CONFIG)
    assert said == "user now reads:\nLikes coffee.\nLives in Ulm."
    view = drive(Memory(Window(turns=4), BLOCKS).view(transcript, [HumanMessage("And now?", id="now")]))
    assert "Likes coffee.\nLives in Ulm." in view.prompt[0].text
    assert problems(view.prompt) == []
    assert sorted(made["remember"].args) == ["block", "text"]


@pytest.mark.parametrize(
    ("name", "arguments", "answer"),
    [
        ("remember", {"block": "nobody", "text": "x"}, "there is no block 'nobody': there are self, user"),
        ("remember", {"block": "user", "text": "word " * 100}, "at most 40 are allowed"),
        ("correct_memory", {"block": "user", "old": "milk", "new": "x"}, "'milk' does not stand in the block"),
        ("correct_memory", {"block": "user", "old": "", "new": "x"}, "does not stand in the block"),
    ],
)
def test_what_cannot_be_done_is_told_to_the_agent(
    transcript: Transcript, name: str, arguments: dict, answer: str
) -> None:
    said = tools(transcript)[name].invoke(arguments, CONFIG)
    assert said.startswith("Not changed: ")
    assert answer in said
    assert drive(BLOCKS.texts(transcript)) == {"user": "", "self": ""}


def test_half_a_character_that_the_agent_writes_is_kept_as_what_can_be_sent(transcript: Transcript) -> None:
    said = tools(transcript)["remember"].invoke({"block": "user", "text": "half \ud83d of it"}, CONFIG)
    assert said == "user now reads:\nhalf \ufffd of it"
    assert drive(BLOCKS.texts(transcript))["user"] == "half \ufffd of it"


def test_edits_at_once_lose_nothing(transcript: Transcript) -> None:
    blocks = Blocks({"user": "all"})
    others = iter(range(3))

    def edit(text: str) -> str:
        if (number := next(others, None)) is not None:
            drive(blocks.edit(transcript, "user", lambda old: f"{old} other{number}"))
        return f"{text} mine"

    drive(blocks.edit(transcript, "user", edit))
    assert sorted(drive(blocks.texts(transcript))["user"].split()) == ["mine", "other0", "other1", "other2"]

    async def many() -> None:
        edits = (blocks.edit(transcript, "user", lambda old, n=n: f"{old} t{n}") for n in range(8))
        await asyncio.gather(*edits)

    asyncio.run(many())
    assert len(drive(blocks.texts(transcript))["user"].split()) == 12


def test_it_gives_up_rather_than_turn_for_ever(transcript: Transcript) -> None:
    def edit(text: str) -> str:
        drive(BLOCKS.edit(transcript, "user", lambda _: "theirs"))
        return "mine"

    with pytest.raises(ConflictError, match="others keep changing the memory of session 's1'"):
        drive(BLOCKS.edit(transcript, "user", edit))


def test_it_is_erased_with_the_session(transcript: Transcript) -> None:
    drive(BLOCKS.edit(transcript, "user", lambda _: "secret"))
    drive(transcript.erase())
    assert drive(BLOCKS.texts(transcript)) == {"user": "", "self": ""}


@pytest.fixture
def index(tmp_path: Path) -> Iterator[LexicalIndex]:
    index = LexicalIndex.open(f"sqlite:///{tmp_path}/index.db")
    drive(index.migrate())
    yield index
    drive(index.close())


@pytest.mark.parametrize("door", BOTH, ids=lambda door: door.name)
def test_the_agent_searches_all_that_was_said_before(transcript: Transcript, index: LexicalIndex, door: Door) -> None:
    for number in range(12):
        said = [HumanMessage(f"Harbour {number}.", id=f"q{number}"), AIMessage("I see.", id=f"a{number}")]
        drive(transcript.append(said))
    search = tools(transcript, index=index)["search_history"]
    first, second, third = (
        door.call(search, "invoke", {"query": "the harbour", "page": page}, CONFIG) for page in (1, 2, 3)
    )
    assert "User: Harbour 1.\nAssistant: I see." in first
    shown = re.findall(r"#(\d+) ", first + second + third)
    assert sorted(map(int, shown)) == list(range(1, 25, 2)), "each turn once, but not the one under way"
    assert [page.count("#") for page in (first, second, third)] == [5, 5, 2]
    assert door.call(search, "invoke", {"query": "goodbye"}, CONFIG) == "Nothing was found."


def test_the_agent_pages_through_the_conversation(transcript: Transcript) -> None:
    drive(transcript.append([HumanMessage(f"number {n}", id=f"n{n}") for n in range(12)]))
    drive(transcript.append([RemoveMessage("n11")]))
    read = tools(transcript)["read_history"]
    latest = read.invoke({}, CONFIG)
    assert latest.startswith("#6 [")
    assert "number 3" in latest
    assert "number 11" not in latest
    [before] = re.findall(r"Earlier ones: before=(\d+)\.", latest)
    earlier = read.invoke({"before": int(before)}, CONFIG)
    assert re.findall(r"#(\d+)", earlier) == ["1", "2", "3", "4", "5"]
    assert read.invoke({"before": 1}, CONFIG) == "Nothing was found."


def test_a_result_of_a_tool_has_a_bound(transcript: Transcript) -> None:
    drive(transcript.append([HumanMessage("long words " * 5000, id=f"n{n}") for n in range(12)]))
    assert estimate(tools(transcript)["read_history"].invoke({}, CONFIG)) < 1700


@pytest.mark.parametrize("door", BOTH, ids=lambda door: door.name)
def test_the_agent_keeps_texts_in_an_archive_of_its_user(
    transcript: Transcript, index: LexicalIndex, door: Door
) -> None:
    archive = Transcript(transcript.store, SessionKey("ann", "archive"))
    made = tools(transcript, index=index, archive=lambda _: archive)
    for text in ("The boat lies in Piraeus.", "Eleonore plays the cello.", "The boat is blue."):
        assert door.call(made["archive"], "invoke", {"text": text}, CONFIG) == "Kept."
    found = door.call(made["search_archive"], "invoke", {"query": "which boat?"}, CONFIG)
    assert re.findall(r"\] (The boat .*)", found) == ["The boat lies in Piraeus.", "The boat is blue."]
    assert "empty" in door.call(made["archive"], "invoke", {"text": "  "}, CONFIG)
    assert "boat" not in door.call(made["search_history"], "invoke", {"query": "which boat?"}, CONFIG)
    drive(archive.erase())
    assert door.call(made["search_archive"], "invoke", {"query": "which boat?"}, CONFIG) == "Nothing was found."


def test_of_what_is_sealed_no_index_is_made_unasked(index: LexicalIndex) -> None:
    sealed = Transcript(MemoryStore(), SessionKey("ann", "s1"), Policy(keys=Keyring({"k": b"0" * 32}, current="k")))
    drive(sealed.append([HumanMessage("The boat lies in Piraeus.", id="q"), HumanMessage("And?", id="q2")]))
    made = tools(sealed, index=index, archive=lambda _: sealed)
    for name, arguments in (("search_history", {"query": "boat"}), ("archive", {"text": "boat"})):
        with pytest.raises(PolicyError, match="is sealed"):
            made[name].invoke(arguments, CONFIG)
    assert drive(index.through(sealed.key)) == 0
    allowed = tools(sealed, index=index, plaintext=True)
    assert "Piraeus" in allowed["search_history"].invoke({"query": "boat"}, CONFIG)


def test_an_archive_wants_an_index(transcript: Transcript) -> None:
    with pytest.raises(ValueError, match="give an index too"):
        tools(transcript, archive=lambda _: transcript)


def test_each_block_has_its_own_limit_and_the_agent_sees_how_full_it_is(transcript: Transcript) -> None:
    blocks = Blocks({"user": "the user", "notes": "a draft"}, block_tokens={"user": 10, "notes": 200})
    with pytest.raises(ValueError, match="at most 10 are allowed: shorten it first"):
        drive(blocks.edit(transcript, "user", lambda _: "word " * 20))
    drive(blocks.edit(transcript, "notes", lambda _: "word " * 20))
    shown = drive(Memory(Window(turns=4), blocks).view(transcript)).prompt[0].text
    assert f"tokens='{estimate('word ' * 20)} of 200'" in shown
    assert "tokens='0 of 10'" in shown


def test_a_block_that_is_full_can_be_written_anew(transcript: Transcript) -> None:
    made = tools(transcript)
    made["remember"].invoke({"block": "user", "text": "word " * 30}, CONFIG)
    assert "shorten it first" in made["remember"].invoke({"block": "user", "text": "more " * 30}, CONFIG)
    said = made["rewrite_memory"].invoke({"block": "user", "text": "Likes tea."}, CONFIG)
    assert said == "user now reads:\nLikes tea."


def test_a_view_reads_one_record_however_often_the_blocks_were_edited() -> None:
    class Watched(MemoryStore):
        async def read(self, *args, **kwargs):
            found = await super().read(*args, **kwargs)
            if kwargs.get("lane") == "memory":
                read.append(len(found.records))
            return found

    read: list[int] = []
    transcript = Transcript(Watched(), SessionKey("ann", "s1"))
    drive(transcript.append([HumanMessage("Hello.", id="q")]))
    for number in range(30):
        drive(BLOCKS.edit(transcript, "user" if number % 3 else "self", lambda _, n=number: f"edit {n}"))
    read.clear()
    assert drive(BLOCKS.texts(transcript)) == {"user": "edit 29", "self": "edit 27"}
    assert read == [1]


def test_before_the_window_is_cut_the_agent_is_told() -> None:
    transcript = Transcript(MemoryStore(), SessionKey("ann", "s1"))
    shown = Memory(Window(budget_tokens=400), BLOCKS, warn_at_tokens=300)
    warned, begins = [], []
    for number in range(60):
        view = drive(shown.view(transcript, [HumanMessage("word " * 10, id=f"q{number}")]))
        assert problems(view.prompt) == []
        warned.append(view.prompt[-2].text == PRESSURE)
        begins.append(view.begins_at)
        drive(transcript.append([*view.current, AIMessage("well", id=f"a{number}")]))
    cuts = [at for at, (one, other) in enumerate(pairwise(begins), 1) if one != other]
    assert len(cuts) >= 2
    assert all(warned[at - 1] and not warned[at] for at in cuts)
    call = AIMessage("", id="c", tool_calls=[{"name": "look", "args": {}, "id": "k"}])
    drive(transcript.append([HumanMessage("look " * 60, id="look"), call]))
    view = drive(shown.view(transcript, [ToolMessage("found", tool_call_id="k", id="r")]))
    assert problems(view.prompt) == [], "no call is parted from its result"


@settings(max_examples=100, deadline=None)
@given(dialogues(30), st.integers(40, 300))
def test_with_memory_every_view_is_sendable(dialogue: list[BaseMessage], budget: int) -> None:
    transcript = Transcript(MemoryStore(), SessionKey("ann", "s1"))
    if dialogue:
        drive(transcript.append(dialogue))
    shown = Memory(Window(budget_tokens=budget), BLOCKS, warn_at_tokens=budget // 2)
    asked = [HumanMessage("and now?", id="question")]
    try:
        view = drive(shown.view(transcript, asked))
    except ContextOverflowError:
        return
    assert problems(view.prompt) == []
    assert view.tokens == estimate_messages(view.prompt)


def test_blocks_have_names() -> None:
    with pytest.raises(ValueError, match="at least one block"):
        Blocks({})
