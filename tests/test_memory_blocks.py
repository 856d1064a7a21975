"""Memory that an agent keeps itself: always in view, edited through tools, in order when two edit at once."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.runnables import RunnableConfig

from lc_history.bridge import drive
from lc_history.errors import ConflictError
from lc_history.model import SessionKey
from lc_history.stores.memory import MemoryStore
from lc_history.strategies import Window
from lc_history.strategies.memory import Blocks, Memory, memory_tools
from lc_history.strategies.recall import LexicalIndex, Passage
from lc_history.strategies.repair import problems
from lc_history.transcript import Transcript
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

    with pytest.raises(ConflictError, match="others keep changing block 'user'"):
        drive(BLOCKS.edit(transcript, "user", edit))


def test_it_is_erased_with_the_session(transcript: Transcript) -> None:
    drive(BLOCKS.edit(transcript, "user", lambda _: "secret"))
    drive(transcript.erase())
    assert drive(BLOCKS.texts(transcript)) == {"user": "", "self": ""}


def test_the_agent_searches_what_was_said(transcript: Transcript, tmp_path: Path) -> None:
    index = LexicalIndex.open(f"sqlite:///{tmp_path}/index.db")
    drive(index.migrate())
    drive(index.add(transcript.key, [Passage(1, 2, "Hello. Hello.")], after=0, through=2))
    search = tools(transcript, index=index)["search_history"]
    assert "User: Hello.\nAssistant: Hello." in search.invoke({"query": "hello"}, CONFIG)
    assert search.invoke({"query": "goodbye"}, CONFIG) == "Nothing was found."


def test_blocks_have_names() -> None:
    with pytest.raises(ValueError, match="at least one block"):
        Blocks({})
