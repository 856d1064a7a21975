"""Views are always sendable, within the budget, the same everywhere; and they are cut rarely."""

from __future__ import annotations

import asyncio
import json
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, RemoveMessage, SystemMessage, ToolMessage
from langgraph.graph.message import REMOVE_ALL_MESSAGES

from lc_history import ChatHistories
from lc_history.bridge import drive
from lc_history.errors import ContextOverflowError
from lc_history.model import SessionKey
from lc_history.stores.memory import MemoryStore
from lc_history.strategies import Full, Strategy, View, Window
from lc_history.strategies import view as view_module
from lc_history.strategies.fitting import CLEARED
from lc_history.strategies.repair import problems
from lc_history.strategies.tokens import estimate_messages
from lc_history.transcript import Transcript
from tests.dialogues import dialogues, left_of

QUESTION = HumanMessage("and what now?", id="question")


def conversation(messages: list[BaseMessage]) -> Transcript:
    transcript = Transcript(MemoryStore(), SessionKey("ann", "s1"))
    if messages:
        drive(transcript.append(messages))
    return transcript


def said(transcript: Transcript, *messages: BaseMessage) -> None:
    drive(transcript.append(messages))


def texts(messages: list[BaseMessage]) -> list[str]:
    return [message.text for message in messages]


def turn(number: int, words: int = 10) -> list[BaseMessage]:
    return [
        HumanMessage(f"q{number} " + "word " * words, id=f"q{number}"),
        AIMessage(f"a{number}", id=f"a{number}"),
    ]


def shown_ids(view: View) -> set[str | None]:
    """Return what is shown of what was stored; results may be made up."""
    return {m.id for m in view.prompt if not isinstance(m, ToolMessage)} - {"question", "opening"}


def leading(messages: list[BaseMessage]) -> list[BaseMessage]:
    kept = []
    for message in messages:
        if not isinstance(message, SystemMessage):
            break
        kept.append(message)
    return kept


@settings(max_examples=300, deadline=None)
@given(dialogues(), st.integers(1, 400), st.sampled_from([0.0, 0.3, 0.5, 1.0]))
def test_every_view_is_sendable_and_fits_or_says_by_how_much(
    dialogue: list[BaseMessage], budget: int, low: float
) -> None:
    transcript = conversation(dialogue)
    window = Window(budget_tokens=budget, low=low)
    system = leading(left_of(dialogue))
    least = estimate_messages([*system, QUESTION])
    if least > budget:
        with pytest.raises(ContextOverflowError, match=f" {least - budget} tokens over"):
            drive(window.view(transcript, [QUESTION]))
        return
    view = drive(window.view(transcript, [QUESTION]))
    assert problems(view.prompt) == []
    assert view.tokens == estimate_messages(view.prompt) <= budget
    assert leading(view.prompt)[: len(system)] == system
    assert {m.id for m in view.prompt if m.type != "tool"} <= {m.id for m in left_of(dialogue)} | {
        "question",
        "opening",
    }
    assert view.current == [QUESTION]
    assert drive(window.view(transcript, [QUESTION])).prompt == view.prompt, "a retry sends the same"


@settings(max_examples=200, deadline=None)
@given(dialogues(), st.integers(20, 400))
def test_a_turn_under_way_is_sendable_and_its_words_are_never_dropped(dialogue: list[BaseMessage], budget: int) -> None:
    others = [m for m in dialogue if m.type not in ("human", "system") and m.id != REMOVE_ALL_MESSAGES]
    asked = [QUESTION, *others]
    try:
        view = drive(Window(budget_tokens=budget).view(conversation([]), asked))
    except ContextOverflowError:
        return
    assert problems(view.prompt) == []
    assert view.prompt[0] == QUESTION
    assert estimate_messages(view.prompt) <= budget


@settings(max_examples=200, deadline=None)
@given(dialogues())
def test_everything_is_sendable_too(dialogue: list[BaseMessage]) -> None:
    view = drive(Full().view(conversation(dialogue), [QUESTION]))
    assert problems(view.prompt) == []
    given_texts = [m.text for m in left_of(dialogue) if not isinstance(m, ToolMessage)]
    assert [t for t in texts(view.prompt) if t in given_texts] == given_texts


PLAIN = st.lists(
    st.tuples(
        st.sampled_from(["human", "human", "ai", "ai", "ai", "system", "remove", "tool"]),
        st.sampled_from(["yes", "no, \u51b0", " ", "", "half \ud83d", "y\u00e9s"]),
    ),
    max_size=8,
)


def plainly(kind: str, text: str, name: str) -> BaseMessage:
    if kind == "remove":
        return RemoveMessage(f"m{len(text)}")
    if kind == "tool":
        return AIMessage(text, id=name, tool_calls=[{"name": "look", "args": {}, "id": text}])
    return {"human": HumanMessage, "ai": AIMessage, "system": SystemMessage}[kind](text, id=name)


@settings(max_examples=500, deadline=None)
@given(PLAIN, PLAIN)
def test_what_needs_no_mending_is_shown_as_if_it_had_been_looked_at_closely(
    dialogue: list[tuple[str, str]], asked: list[tuple[str, str]]
) -> None:
    said, incoming = (
        [plainly(kind, text, f"{prefix}{at}") for at, (kind, text) in enumerate(some)]
        for prefix, some in (("m", dialogue), ("i", asked))
    )
    transcript = conversation(said)
    quickly = drive(Full().view(transcript, incoming))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(view_module, "are_words", lambda _: False)
        closely = drive(Full().view(transcript, incoming))
    assert (quickly.system, quickly.window, quickly.current) == (closely.system, closely.window, closely.current)
    assert quickly.removal == closely.removal


@settings(max_examples=200, deadline=None)
@given(st.lists(dialogues(12), min_size=1, max_size=5), st.integers(30, 300), st.sampled_from([0.0, 0.5]))
def test_what_was_removed_stays_out_however_often_it_was_cut(
    parts: list[list[BaseMessage]], budget: int, low: float
) -> None:
    transcript, window, said_so_far = conversation([]), Window(budget_tokens=budget, low=low), []
    for number, made in enumerate(parts):
        part = [m if m.id == REMOVE_ALL_MESSAGES else m.model_copy(update={"id": f"{number}{m.id}"}) for m in made]
        if part:
            said(transcript, *part)
        said_so_far += part
        left = left_of(said_so_far)
        try:
            view = drive(window.view(transcript, [QUESTION]))
        except ContextOverflowError:
            assert estimate_messages([*leading(left), QUESTION]) > budget
            continue
        assert problems(view.prompt) == []
        assert shown_ids(view) <= {m.id for m in left}
        assert leading(view.prompt)[: len(leading(left))] == leading(left)


def test_all_can_be_removed_again_and_again() -> None:
    transcript, window = conversation([SystemMessage("be kind"), *turn(0)]), Window(budget_tokens=400)
    for number in (1, 2, 3):
        said(transcript, RemoveMessage(REMOVE_ALL_MESSAGES), *turn(number))
        for strategy in (Full(), window):
            assert drive(strategy.view(transcript, [QUESTION])).prompt == [*turn(number), QUESTION]
    assert len(drive(transcript.read()).said) == 12, "the transcript is whole"


def test_what_comes_in_may_remove_what_was_said() -> None:
    transcript = conversation([SystemMessage("be kind"), *turn(0), *turn(1)])
    for strategy in (Full(), Window(budget_tokens=400)):
        view = drive(strategy.view(transcript, [RemoveMessage("q0"), RemoveMessage("a0"), QUESTION]))
        assert texts(view.prompt)[::3] == ["be kind", QUESTION.text]
        view = drive(strategy.view(transcript, [RemoveMessage(REMOVE_ALL_MESSAGES), QUESTION]))
        assert view.prompt == [QUESTION]
    assert len(drive(Window(budget_tokens=400).view(transcript, [QUESTION])).prompt) == 6, "it is not stored yet"


def test_a_result_that_was_removed_leaves_its_place_to_the_call() -> None:
    call = AIMessage("", id="c", tool_calls=[{"name": "look", "args": {}, "id": "1"}])
    result = ToolMessage("secret", tool_call_id="1", id="r", artifact={"secret": 1})
    transcript = conversation([HumanMessage("look", id="q"), call, result, RemoveMessage("r")])
    [_, _, shown, _] = drive(Full().view(transcript, [QUESTION])).prompt
    assert (shown.text, shown.artifact) == ("[Removed.]", None)
    said(transcript, RemoveMessage("c"))
    assert texts(drive(Full().view(transcript, [QUESTION])).prompt) == ["look", QUESTION.text]


@pytest.mark.parametrize("strategy", [Full(), Window(budget_tokens=400)], ids=["full", "window"])
def test_half_a_character_does_not_make_a_conversation_unsendable(strategy: Strategy) -> None:
    half, call = "half \ud83d of it", {"name": "say\ud83d", "args": {"\udc00": ["a\ud83d"]}, "id": "1\ud83d"}
    torn = {"name": "say", "args": '{"\ud83d', "id": "2\ud83d", "error": None}
    transcript = conversation(
        [
            HumanMessage(half, id="q"),
            AIMessage("well", id="a\ud83d", tool_calls=[call], invalid_tool_calls=[torn]),
            ToolMessage("it was said", tool_call_id="1\ud83d", id="r"),
            AIMessage("whole: \ud83d\ude00", id="a2"),
        ]
    )
    prompt = drive(
        strategy.view(transcript, [HumanMessage(half), HumanMessage([{"type": "text", "text": half}])])
    ).prompt
    json.dumps([message.model_dump(exclude={"id"}) for message in prompt], ensure_ascii=False).encode()
    assert prompt[0].text == "half \ufffd of it"
    assert prompt[1].tool_calls[0]["args"] == {"\ufffd": ["a\ufffd"]}
    assert [message.text for message in prompt[2:3]] == ["it was said"], "it is still the result of its call"
    assert prompt[4].text == "whole: \U0001f600"
    assert drive(transcript.read()).messages[0].text == half, "it is stored as it was said"


def test_calls_that_no_result_can_answer_are_not_shown() -> None:
    twice = [{"name": "look", "args": {"at": at}, "id": "1"} for at in "ab"]
    broken = {"name": "look", "args": "{", "id": None, "error": None}
    results = [ToolMessage(at, tool_call_id="1", id=f"r{at}") for at in "ab"]
    said_before = [HumanMessage("look", id="q"), AIMessage("", id="c", tool_calls=twice, invalid_tool_calls=[broken])]
    for incoming in ([QUESTION], [*said_before, *results]):
        transcript = conversation([] if len(incoming) > 1 else [*said_before, *results])
        prompt = drive(Full().view(transcript, incoming)).prompt
        assert problems(prompt) == []
        assert [call["args"] for call in prompt[1].tool_calls] == [{"at": "a"}]
        assert [m.text for m in prompt if isinstance(m, ToolMessage)] == ["a"]
    silent = AIMessage("", id="c2", invalid_tool_calls=[broken])
    assert drive(Full().view(conversation([HumanMessage("look", id="q"), silent]))).prompt == [said_before[0]]


@pytest.mark.parametrize(
    ("kind", "key"), [("tool_use", "id"), ("tool_call", "id"), ("function_call", "call_id")], ids=lambda one: one
)
@pytest.mark.parametrize("strategy", [Full(), Window(budget_tokens=400)], ids=["full", "window"])
def test_calls_that_the_content_repeats_are_shown_if_they_can_be_answered(
    kind: str, key: str, strategy: Strategy
) -> None:
    def answer(called: list[str | None], repeated: list[str | None]) -> list[BaseMessage]:
        text = {"type": "text", "text": "I look."}
        blocks = [{"type": kind, "name": "look", key: one} for one in repeated]
        calls = [{"name": "look", "args": {}, "id": one} for one in called]
        given = AIMessage([text, *blocks], id="a", tool_calls=calls)
        return [HumanMessage("look", id="q"), given, ToolMessage("seen", tool_call_id="1", id="r")]

    def blocks_shown(*messages: BaseMessage) -> list[str]:
        prompt = drive(strategy.view(conversation(list(messages)), [QUESTION])).prompt
        assert problems(prompt) == []
        return [block["type"] for block in prompt[1].content]

    assert blocks_shown(*answer(["1"], ["1"])) == ["text", kind]
    for called, repeated in ((["1", "1"], ["1", "1"]), ([], ["1"]), (["1"], ["1", None]), (["1"], ["2"])):
        assert problems(answer(called, repeated)) != []
        assert blocks_shown(*answer(called, repeated)) == ["text"], "the calls themselves say it"


def test_long_arguments_are_shortened_where_the_content_repeats_them_too() -> None:
    call = {"name": "write", "args": {"text": "word " * 2000}, "id": "1"}
    block = {"type": "tool_use", "id": "1", "name": "write", "input": call["args"]}
    asked = [QUESTION, AIMessage([block], id="a", tool_calls=[call]), ToolMessage("done", tool_call_id="1", id="r")]
    prompt = drive(Window(budget_tokens=200).view(conversation([]), asked)).prompt
    assert prompt[1].content == []
    assert len(json.dumps(prompt[1].tool_calls)) < 400
    assert problems(prompt) == []


def test_a_system_prompt_that_is_sent_with_every_turn_stands_once_at_the_head() -> None:
    transcript, prompt = conversation([]), SystemMessage("be kind")
    for number in range(3):
        asked = [prompt.model_copy(update={"id": f"s{number}"}), turn(number)[0]]
        for strategy in (Full(), Window(budget_tokens=4000)):
            shown = drive(strategy.view(transcript, asked)).prompt
            assert [at for at, one in enumerate(shown) if isinstance(one, SystemMessage)] == [0]
        said(transcript, asked[0], *turn(number))


@settings(max_examples=100, deadline=None)
@given(dialogues(60), st.integers(60, 400))
def test_messages_of_a_state_are_cut_alike_whoever_asks_first(dialogue: list[BaseMessage], budget: int) -> None:
    state = [QUESTION, *dialogue]
    try:
        shown = Window(budget_tokens=budget).over(state)
    except ContextOverflowError:
        return
    asked = next((m for m in reversed(state) if isinstance(m, HumanMessage | RemoveMessage)), QUESTION)
    if isinstance(asked, HumanMessage) and asked.text.strip():
        assert problems(shown) == []
    assert Window(budget_tokens=budget).over(list(state)) == shown


def test_it_is_cut_rarely_and_deep() -> None:
    transcript, window = conversation([SystemMessage("be kind", id="s")]), Window(budget_tokens=400)
    begins, sizes = [], []
    for number in range(60):
        view = drive(window.view(transcript, [turn(number)[0]]))
        assert view.prompt[0].text == "be kind"
        begins.append(view.begins_at)
        sizes.append(view.tokens)
        said(transcript, *turn(number))
    cuts = sum(before != after for before, after in pairwise(begins))
    assert begins == sorted(begins)
    assert 4 <= cuts <= 8
    after_cuts = [after for before, after in pairwise(sizes) if after < before]
    assert all(0.4 * 400 < size < 0.6 * 400 for size in after_cuts), "half is left"
    assert len(drive(transcript.notes("anchors"))) == cuts


def test_between_cuts_each_prompt_begins_with_the_one_before() -> None:
    transcript, window, before, breaks = conversation([]), Window(budget_tokens=400), [], 0
    for number in range(40):
        asked = turn(number)[0]
        prompt = drive(window.view(transcript, [asked])).prompt
        breaks += prompt[: len(before)] != before
        before = prompt
        said(transcript, *turn(number))
    assert breaks <= 5


def test_another_process_shows_the_same_bytes_after_a_cut() -> None:
    transcript = conversation([m for number in range(40) for m in turn(number)])
    first = drive(Window(budget_tokens=400).view(transcript, [QUESTION]))
    said(transcript, *turn(40))
    copy = Transcript(transcript.store, transcript.key)
    later = drive(Window(budget_tokens=400).view(copy, [QUESTION]))
    assert texts(later.messages)[: len(first.messages)] == texts(first.messages)


def test_concurrent_cutters_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    transcript = conversation([m for number in range(40) for m in turn(number)])
    slow, quick = Window(budget_tokens=300), Window(budget_tokens=400)
    note = Transcript.note

    async def note_after_another(self, *args, **kwargs):
        monkeypatch.setattr(Transcript, "note", note)
        other = await quick.view(transcript, [QUESTION])
        others.append(other)
        return await note(self, *args, **kwargs)

    others: list[View] = []
    monkeypatch.setattr(Transcript, "note", note_after_another)
    view = drive(slow.view(transcript, [QUESTION]))
    assert others[0].begins_at == view.begins_at
    assert texts(others[0].prompt) == texts(view.prompt)
    assert len(drive(transcript.notes("anchors"))) == 1


def test_many_tasks_at_once_agree() -> None:
    transcript = conversation([m for number in range(40) for m in turn(number)])

    async def ask() -> list[View]:
        return await asyncio.gather(*(Window(budget_tokens=400).view(transcript, [QUESTION]) for _ in range(8)))

    views = asyncio.run(ask())
    assert len({view.begins_at for view in views}) == 1


def test_windows_of_two_names_do_not_meet() -> None:
    transcript = conversation([m for number in range(40) for m in turn(number)])
    small = drive(Window(budget_tokens=100, name="small").view(transcript, [QUESTION]))
    large = drive(Window(budget_tokens=400, name="large").view(transcript, [QUESTION]))
    assert large.begins_at < small.begins_at
    assert drive(Window(budget_tokens=100, name="small").view(transcript, [QUESTION])).prompt == small.prompt


def test_so_many_turns() -> None:
    transcript, window, shown = conversation([]), Window(turns=4), []
    for number in range(9):
        view = drive(window.view(transcript, [turn(number)[0]]))
        shown.append(sum(isinstance(message, HumanMessage) for message in view.prompt))
        said(transcript, *turn(number))
    assert shown == [1, 2, 3, 4, 2, 3, 4, 2, 3]


def test_the_oldest_results_of_the_turn_go_first_and_the_latest_stay() -> None:
    asked: list[BaseMessage] = [QUESTION]
    for number in range(6):
        asked.append(AIMessage("", id=f"c{number}", tool_calls=[{"name": "look", "args": {}, "id": f"{number}"}]))
        asked.append(ToolMessage(f"result {number} " * 30, tool_call_id=f"{number}", id=f"r{number}"))
    view = drive(Window(budget_tokens=500).view(conversation([]), asked))
    cleared = [message.text == CLEARED for message in view.current if isinstance(message, ToolMessage)]
    assert cleared == sorted(cleared, reverse=True)
    assert cleared[0]
    assert not cleared[-1]
    assert asked[2].text.startswith("result 0"), "what was given is not altered"


def test_long_arguments_are_shortened_before_it_gives_up() -> None:
    call = {"name": "write", "args": {"text": "long words " * 500, "mode": "w"}, "id": "1"}
    asked = [QUESTION, AIMessage("", tool_calls=[call]), ToolMessage("written", tool_call_id="1")]
    view = drive(Window(budget_tokens=200).view(conversation([]), asked))
    args = view.current[1].tool_calls[0]["args"]
    assert args["mode"] == "w"
    assert "characters left out" in args["text"]


def test_a_budget_below_the_system_prompt_says_by_how_much() -> None:
    transcript = conversation([SystemMessage("be kind " * 100)])
    with pytest.raises(ContextOverflowError, match=r"session 's1' of user 'ann' is \d+ tokens over the budget of 50"):
        drive(Window(budget_tokens=50).view(transcript, [QUESTION]))


def test_a_session_that_is_unknown_is_a_conversation_that_begins() -> None:
    assert drive(Window(budget_tokens=50).view(conversation([]), [QUESTION])).prompt == [QUESTION]


@pytest.mark.parametrize(
    "wrong", [{}, {"turns": 0}, {"budget_tokens": -1}, {"turns": 3, "low": 2}, {"turns": float("nan")}]
)
def test_a_window_without_a_size_is_refused(wrong: dict) -> None:
    with pytest.raises(ValueError, match=r"what size|must be"):
        Window(**wrong)


def test_an_erased_session_begins_anew() -> None:
    transcript = conversation([m for number in range(40) for m in turn(number)])
    drive(Window(budget_tokens=400).view(transcript, [QUESTION]))
    drive(transcript.erase())
    said(transcript, *turn(0))
    assert texts(drive(Window(budget_tokens=400).view(transcript, [QUESTION])).messages)[1] == "a0"


def test_a_long_conversation_is_read_from_its_end() -> None:
    class Watched(MemoryStore):
        async def read(self, *args, **kwargs):
            found = await super().read(*args, **kwargs)
            read.append(len(found.records))
            return found

    read: list[int] = []
    transcript = Transcript(Watched(), SessionKey("ann", "s1"))
    said(transcript, SystemMessage("be kind"), *(m for number in range(5000) for m in turn(number)))
    window = Window(budget_tokens=4000)
    first = drive(window.view(transcript, [QUESTION]))
    assert first.prompt[0].text == "be kind"
    assert sum(read) < 600
    read.clear()
    assert texts(drive(window.view(transcript, [QUESTION])).prompt) == texts(first.prompt)
    assert sum(read) < 250
    assert len(read) <= 3


def test_open_histories_take_a_strategy() -> None:
    histories = ChatHistories.open("memory://", strategy=Window(turns=2))
    assert isinstance(histories.strategy, Window)
