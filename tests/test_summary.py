"""Summaries: of everything that leaves the window, made once, erased with what they tell of, and never in the way."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Sequence
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, RemoveMessage, SystemMessage
from langchain_core.runnables import RunnableLambda
from langgraph.graph.message import REMOVE_ALL_MESSAGES

from lc_history import ChatHistories, with_history
from lc_history.bridge import drive
from lc_history.errors import ContextOverflowError
from lc_history.model import SessionKey
from lc_history.stores.memory import MemoryStore
from lc_history.strategies import Summary
from lc_history.strategies.rendering import in_chunks
from lc_history.strategies.repair import problems
from lc_history.strategies.summary import SummaryFailedError
from lc_history.testing.models import StrictChatModel
from lc_history.transcript import Transcript
from tests.cutting_process import ROUNDS, plan
from tests.dialogues import dialogues
from tests.doors import BOTH, Door
from tests.processes import forked

QUESTION = HumanMessage("and what now?", id="question")


class Summariser:
    """A model that keeps every marker (q1, a17, ...) that it is shown, and counts how often it is asked."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.prompts: list[str] = []
        self.seconds = seconds

    @property
    def model(self) -> StrictChatModel:
        return StrictChatModel(answer=self._answer, seconds=self.seconds)

    def _answer(self, messages: list[BaseMessage]) -> AIMessage:
        self.prompts.append(messages[-1].text)
        return AIMessage(" ".join(dict.fromkeys(re.findall(r"\b[qa]\d+\b", messages[-1].text))))


def turn(number: int) -> list[BaseMessage]:
    return [
        HumanMessage(f"q{number} " + "word " * 10, id=f"q{number}"),
        AIMessage(f"a{number}", id=f"a{number}"),
    ]


def conversation(turns: int = 40) -> Transcript:
    transcript = Transcript(MemoryStore(), SessionKey("ann", "s1"))
    drive(transcript.append([SystemMessage("be kind"), *(m for number in range(turns) for m in turn(number))]))
    return transcript


def strategy(model, **options) -> Summary:
    return Summary(model, **{"budget_tokens": 600, "summary_tokens": 300, **options})


def test_what_is_left_out_is_in_the_summary_and_nothing_is_skipped() -> None:
    transcript, summariser = conversation(), Summariser()
    view = drive(strategy(summariser.model).view(transcript, [QUESTION]))
    prompt = "\n".join(message.text for message in view.prompt)
    assert all(f"{letter}{number}" in prompt for number in range(40) for letter in "qa")
    assert view.prompt[0].text == "be kind"
    assert view.prompt[1].text.startswith("Summary of the conversation so far:\nq0 a0 q1")
    assert problems(view.prompt) == []
    assert len(drive(transcript.read()).said) == 81, "the transcript is as it was"


def test_it_is_made_once_for_each_cut_and_grows_from_the_one_before() -> None:
    transcript, summariser = conversation(0), Summariser()
    shown = strategy(summariser.model)
    for number in range(60):
        drive(shown.view(transcript, [turn(number)[0]]))
        drive(transcript.append(turn(number)))
    kept = drive(shown.summaries(transcript))
    assert len(summariser.prompts) == len(kept) == len(drive(transcript.notes("anchors"))) >= 3
    assert [one.covers for one in kept] == sorted(one.covers for one in kept)
    said = [set(re.findall(r"\[.*\] User: (q\d+)", prompt)) for prompt in summariser.prompts]
    assert all(not one & other for at, one in enumerate(said) for other in said[at + 1 :]), "each is summarised once"


def test_many_at_once_make_one_summary() -> None:
    transcript, summariser = conversation(), Summariser(0.05)
    shown = strategy(summariser.model)

    async def ask() -> list:
        return await asyncio.gather(*(shown.view(transcript, [QUESTION]) for _ in range(8)))

    views = asyncio.run(ask())
    assert len({view.begins_at for view in views}) == 1
    assert sum("User: q0 " in prompt for prompt in summariser.prompts) == 1
    assert len({tuple(m.text for m in view.summary) for view in views if view.summary}) == 1


def test_eight_processes_at_once_send_the_same_bytes_and_make_one_summary(postgres_url: str) -> None:
    histories = ChatHistories.open(postgres_url, schema="cutting")
    histories.migrate()
    history = histories.session("s1")
    history.clear()
    history.add_messages([m for number in range(40) for m in turn(number)])
    context = forked()
    together, ends = context.Barrier(8), [context.Pipe() for _ in range(8)]
    processes = [context.Process(target=plan, args=(far, postgres_url, "cutting", together)) for _, far in ends]
    for process in processes:
        process.start()
    rounds = list(zip(*[[near.recv() for _ in range(ROUNDS)] for near, _ in ends], strict=True))
    for process in processes:
        process.join(30)
    kept = drive(strategy(Summariser().model).summaries(history.transcript))
    histories.close()
    for told in rounds:
        assert len({tuple(sent) for sent, _, _ in told}) == 1, "the window is the same in all of them"
        assert len({tuple(summary) for _, summary, _ in told if summary}) <= 1
    assert all(summary for _, summary, _ in rounds[-1])
    assert len(kept) == 1
    chunks = [asked for _, _, asked in rounds[-1] if asked]
    assert len(chunks) == 1, "one process has asked the model"


def broken(_):
    raise RuntimeError("no credit")


def slow(_):
    time.sleep(0.4)
    return AIMessage("too late")


CALL = {"name": "pay", "args": {}, "id": "1"}
NO_CALL = {"name": "pay", "args": "{", "id": "1", "error": None}
FAILURES = {
    "raises": RunnableLambda(broken),
    "is late": RunnableLambda(slow),
    "says nothing": RunnableLambda(lambda _: AIMessage("  ")),
    "calls": RunnableLambda(lambda _: AIMessage("I pay", tool_calls=[CALL])),
    "calls without sense": RunnableLambda(lambda _: AIMessage("I pay", invalid_tool_calls=[NO_CALL])),
    "answers with nothing": RunnableLambda(lambda _: None),
    "only thinks": RunnableLambda(lambda _: AIMessage([{"type": "thinking", "thinking": "hm", "signature": "s"}])),
}


@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize("door", BOTH, ids=lambda door: door.name)
def test_when_summarising_fails_the_turn_goes_on(failure: str, door: Door, caplog: pytest.LogCaptureFixture) -> None:
    shown = strategy(FAILURES[failure], timeout=timedelta(seconds=0.1))
    histories = ChatHistories(MemoryStore(), strategy=shown)
    history = histories.session("s1", user_id="ann")
    history.add_messages([m for number in range(40) for m in turn(number)])
    config = {"configurable": {"session_id": "s1", "user_id": "ann"}}
    assert door.call(with_history(StrictChatModel(), histories), "invoke", "well?", config).text == "well?"
    assert "are not summarised: the model" in caplog.text
    if failure == "is late":
        time.sleep(0.4)  # its thread is not to reach into the next test
    time.sleep(0.5)  # the claim is over: the time for each chunk, and one more
    better = strategy(Summariser().model)
    view = drive(better.view(history.transcript, [QUESTION]))
    assert "q0" in view.summary[0].text, "a later turn makes it good"


def test_while_somebody_else_summarises_the_turn_goes_on() -> None:
    transcript, views = conversation(), []
    other = strategy(Summariser().model)

    def meanwhile(_):
        views.append(drive(other.view(transcript, [QUESTION])))
        return AIMessage("done")

    drive(strategy(RunnableLambda(meanwhile)).view(transcript, [QUESTION]))
    assert views
    assert all(view.summary == [] for view in views)


def test_an_erasure_takes_the_summaries_of_what_is_erased() -> None:
    transcript, shown = conversation(), strategy(Summariser().model)
    drive(shown.view(transcript, [QUESTION]))
    drive(transcript.erase(through=21))
    assert drive(transcript.notes("summaries")) == []
    view = drive(shown.view(transcript, [QUESTION]))
    assert "q9" not in view.summary[0].text.split()
    assert "q10" in view.summary[0].text.split()
    drive(transcript.erase())
    assert drive(shown.summaries(transcript)) == []


@pytest.mark.parametrize("through", [21, None])
def test_a_summary_that_was_being_made_does_not_bring_back_what_is_erased(through: int | None) -> None:
    transcript = conversation()

    def erase_meanwhile(_):
        drive(transcript.erase(through=through))
        return AIMessage("secret q0")

    view = drive(strategy(RunnableLambda(erase_meanwhile)).view(transcript, [QUESTION]))
    assert view.summary == []
    assert [note for note in drive(transcript.notes("summaries")) if "secret" in str(note.value)] == []


def test_after_everything_was_removed_no_summary_tells_of_it() -> None:
    transcript, summariser = conversation(), Summariser()
    shown = strategy(summariser.model)
    assert "q0" in drive(shown.view(transcript, [QUESTION])).summary[0].text
    drive(transcript.append([RemoveMessage(REMOVE_ALL_MESSAGES)]))
    assert drive(shown.view(transcript, [QUESTION])).prompt == [QUESTION]
    assert drive(shown.redo(transcript)) is None
    drive(transcript.append([m for number in range(50, 90) for m in turn(number)]))
    view = drive(shown.view(transcript, [QUESTION]))
    said = set(re.findall(r"\b[qa]\d+\b", view.summary[0].text))
    assert {"q50", "a50"} <= said
    assert all(int(one[1:]) >= 50 for one in said)


def test_what_is_removed_is_not_summarised_and_a_summary_is_redone_without_it() -> None:
    transcript, shown = conversation(), strategy(Summariser().model)
    drive(transcript.append([RemoveMessage("q3")]))
    told = drive(shown.view(transcript, [QUESTION])).summary[0].text.split()
    assert "a3" in told
    assert "q3" not in told
    drive(transcript.append([RemoveMessage("q5")]))
    assert "q5" in drive(shown.view(transcript, [QUESTION])).summary[0].text.split(), "it was made before"
    again = drive(shown.redo(transcript))
    assert again is not None
    assert not {"q3", "q5"} & set(again.text.split())
    assert "q4" in again.text.split()


def test_it_can_be_inspected_and_redone() -> None:
    transcript = conversation()
    drive(strategy(RunnableLambda(lambda _: AIMessage("useless"))).view(transcript, [QUESTION]))
    shown = strategy(Summariser().model)
    [kept] = drive(shown.summaries(transcript))
    assert (kept.text, kept.version) == ("useless", 1)
    again = drive(shown.redo(transcript))
    assert again is not None
    assert (again.covers, again.version) == (kept.covers, 2)
    assert "q0" in drive(shown.view(transcript, [QUESTION])).summary[0].text
    with pytest.raises(SummaryFailedError, match="no credit"):
        drive(strategy(RunnableLambda(broken)).redo(transcript))
    assert drive(shown.redo(conversation(0))) is None


def test_a_summary_that_is_too_long_is_clipped() -> None:
    transcript = conversation()
    shown = strategy(RunnableLambda(lambda _: AIMessage("words and words " * 1000)))
    view = drive(shown.view(transcript, [QUESTION]))
    assert view.tokens <= 600
    assert view.summary[0].text.endswith("…")


def characters(messages: Sequence[BaseMessage]) -> int:
    return sum(len(message.text) for message in messages)


def test_a_summary_is_measured_by_the_counter_that_was_given() -> None:
    transcript = conversation()
    model = RunnableLambda(lambda _: AIMessage("words and words " * 1000))
    shown = strategy(model, budget_tokens=2000, summary_tokens=500, count=characters)
    view = drive(shown.view(transcript, [QUESTION]))
    assert view.tokens == characters(view.prompt) <= 2000
    assert 490 <= characters(view.summary) <= 500


def test_a_summary_from_a_time_with_more_room_is_clipped_to_what_there_is_now() -> None:
    transcript = conversation()
    model = RunnableLambda(lambda _: AIMessage("words and words " * 1000))
    drive(strategy(model, budget_tokens=700, summary_tokens=400).view(transcript, [QUESTION]))
    now = strategy(model, budget_tokens=350, summary_tokens=50)
    view = drive(now.view(transcript, [QUESTION]))
    [kept] = drive(now.summaries(transcript))[:1]
    assert len(kept.text) > 1000
    assert view.tokens <= 350


def test_an_answer_in_blocks_and_half_characters_are_a_text() -> None:
    blocks = [{"type": "thinking", "thinking": "hm", "signature": "s"}, {"type": "text", "text": "in \ud83d short"}]
    view = drive(strategy(RunnableLambda(lambda _: AIMessage(blocks))).view(conversation(), [QUESTION]))
    assert view.summary[0].text.endswith("in \ufffd short")


def test_a_text_model_will_do() -> None:
    view = drive(strategy(RunnableLambda(lambda _: "in short")).view(conversation(), [QUESTION]))
    assert view.summary[0].text.endswith("in short")


@settings(max_examples=100, deadline=None)
@given(dialogues(40), st.integers(30, 400))
def test_with_a_summary_every_view_is_sendable_and_fits(dialogue: list[BaseMessage], budget: int) -> None:
    transcript = Transcript(MemoryStore(), SessionKey("ann", "s1"))
    if dialogue:
        drive(transcript.append(dialogue))
    shown = Summary(RunnableLambda(lambda _: "in short " * 20), budget_tokens=budget, summary_tokens=25)
    try:
        view = drive(shown.view(transcript, [QUESTION]))
    except ContextOverflowError:
        return
    assert problems(view.prompt) == []
    assert view.tokens <= budget
    assert drive(shown.view(transcript, [QUESTION])).prompt == view.prompt


@given(st.lists(st.text(max_size=300), max_size=20), st.integers(1, 50))
def test_chunks_hold_everything(lines: list[str], tokens: int) -> None:
    assert "".join(in_chunks(lines, tokens)).replace("\n", "") == "".join(lines).replace("\n", "")


@pytest.mark.parametrize("tokens", [0, 1, 12, 600])
def test_a_summary_of_impossible_size_is_refused(tokens: int) -> None:
    with pytest.raises(ValueError, match="summary_tokens must be between"):
        strategy(Summariser().model, summary_tokens=tokens)
