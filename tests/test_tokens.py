"""Estimates against counts of o200k_base, which were taken once with tiktoken; no table is needed to run this."""

from __future__ import annotations

import json

import pytest
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage

from lc_history.bridge import drive
from lc_history.model import SessionKey
from lc_history.stores.memory import MemoryStore
from lc_history.strategies import Window
from lc_history.strategies.tokens import MEDIA_TOKENS, calibration, estimate, estimate_messages
from lc_history.transcript import Transcript

ENGLISH = """
When the harbour froze that winter, the fishermen mended their nets in the old schoolhouse and argued about the price
of herring. Nobody believed that the ferry would come before March. The teacher, who had no pupils left to teach, kept
the stove going and wrote letters for those who could not write their own. She charged nothing for it, but every
letter had to contain one true sentence about the weather. My grandfather still has his: it says that the ice sang at
night, and that he would be home as soon as somebody built a boat that could walk.
"""
GERMAN = """
Als der Hafen in jenem Winter zufror, flickten die Fischer ihre Netze im alten Schulhaus und stritten über den Preis
der Heringe. Niemand glaubte, dass die Fähre vor dem März käme. Die Lehrerin, die keine Schüler mehr zu unterrichten
hatte, hielt den Ofen am Brennen und schrieb Briefe für alle, die es selbst nicht konnten. Sie verlangte nichts dafür,
aber in jedem Brief musste ein wahrer Satz über das Wetter stehen. Mein Großvater hat seinen noch: Darin heißt es, das
Eis habe nachts gesungen, und er werde heimkommen, sobald jemand ein Boot baue, das gehen könne.
"""
CHINESE = """
那年冬天港口结了冰,渔夫们在旧校舍里补渔网,为鲱鱼的价钱争论不休。没有人相信渡船会在三月之前到来。女教师已经没有学生可教了,
她一直烧着炉子,替不会写字的人写信。她不收钱,但每封信里都必须有一句关于天气的真话。我的祖父还留着他的那封信:信上说,
冰在夜里唱歌,只要有人造出一条会走路的船,他就回家。请问您什么时候方便?我们可以在下周二上午十点见面,讨论新的合同和付款方式。
"""
CODE = '''
class Ledger:
    def __init__(self, path: Path, *, currency: str = "EUR") -> None:
        self._entries: dict[str, list[Entry]] = defaultdict(list)
        self.path, self.currency = path, currency

    def balance(self, account: str, until: datetime | None = None) -> Decimal:
        """Return the sum of all entries of an account."""
        total = Decimal(0)
        for entry in self._entries[account]:
            if until is not None and entry.booked_at > until:
                break
            total += entry.amount if entry.side == "debit" else -entry.amount
        return total.quantize(Decimal("0.01"))

    async def load(self, retries: int = 3) -> int:
        for attempt in range(1, retries + 1):
            try:
                rows = await asyncio.to_thread(self.path.read_text, encoding="utf-8")
            except OSError as error:
                logger.warning("attempt %d of %d failed: %s", attempt, retries, error)
                continue
            return sum(self._add(json.loads(row)) for row in rows.splitlines() if row.strip())
        raise LedgerError(f"{self.path} cannot be read")
'''
JSON = json.dumps(
    [
        {
            "flight": f"LH{number * 37 % 900 + 100}",
            "departure": {"airport": "HAM", "scheduled_at": f"2026-11-{number + 10}T06:{number}5:00Z", "gate": None},
            "seats_left": number * 7,
            "price_cents": 12900 + number * 1111,
            "refundable": number % 2 == 0,
            "note": "Two pieces of hand luggage, no meal",
        }
        for number in range(5)
    ]
)
RUSSIAN = "Добрый день! Я хотел бы узнать, когда придёт мой заказ. Вчера мне обещали, что курьер позвонит утром."
SPOKEN = {
    "English": (ENGLISH, 120),
    "German": (GERMAN, 142),
    "Chinese": (CHINESE, 159),
    "code": (CODE, 264),
    "JSON": (JSON, 382),
    "Russian": (RUSSIAN, 29),
}


@pytest.mark.parametrize("what", SPOKEN)
def test_the_estimate_is_within_15_percent(what: str) -> None:
    text, counted = SPOKEN[what]
    assert abs(estimate(text) / counted - 1) < 0.15


def test_hostile_texts_are_counted_too() -> None:
    assert estimate("") == 0
    for text in ("\x00", "\ud800", " ", "\n" * 50, "a" * 10_000, "😀" * 3):
        assert estimate(text) >= 1


def test_calls_results_and_media_count() -> None:
    call = {"name": "look", "args": {"at": "the harbour in winter"}, "id": "1"}
    said = [AIMessage("", tool_calls=[call])]
    assert estimate_messages(said) > estimate_messages([AIMessage("")]) + 10
    picture = {"type": "image", "base64": "aGk=" * 100_000, "mime_type": "image/png"}
    assert MEDIA_TOKENS < estimate_messages([HumanMessage([picture, {"type": "text", "text": "what?"}])]) < 1020
    block = {"type": "tool_use", "id": "1", "name": "look", "input": {"at": "the harbour in winter"}}
    assert estimate_messages([AIMessage([block], tool_calls=[call])]) == estimate_messages(said)


def talk(factor: float, turns: int = 6, model: str = "m") -> list[BaseMessage]:
    """Return a talk whose provider counts so many times as much as the estimate."""
    messages: list[BaseMessage] = []
    for number in range(turns):
        messages.append(HumanMessage(f"{ENGLISH} {number}"))
        prompt = 500 + round(factor * estimate_messages(messages))  # a system prompt and tools that we never see
        usage = {"input_tokens": prompt, "output_tokens": 20, "total_tokens": prompt + 20}
        messages.append(AIMessage("I see.", usage_metadata=usage, response_metadata={"model_name": model}))
    return messages


@pytest.mark.parametrize("factor", [0.8, 1.0, 1.3, 1.9])
def test_what_the_provider_tells_calibrates(factor: float) -> None:
    assert calibration(talk(factor)) == pytest.approx(factor, rel=0.01)


def test_a_cut_in_between_or_another_model_does_not_mislead() -> None:
    assert calibration([*talk(1.3), *talk(1.3)]) == pytest.approx(1.3, rel=0.01)
    assert calibration([*talk(1.3, 2, "a"), *talk(1.3, 2, "b")]) == 1.0


def test_a_window_counts_as_the_provider_does_in_every_process() -> None:
    transcript = Transcript(MemoryStore(), SessionKey("ann", "s1"))
    drive(transcript.append(talk(1.5)))
    for _ in range(2):
        view = drive(Window(budget_tokens=5000).view(Transcript(transcript.store, transcript.key)))
        assert view.tokens == pytest.approx(1.5 * estimate_messages(view.prompt), rel=0.02)


def test_any_callable_can_count() -> None:
    transcript = Transcript(MemoryStore(), SessionKey("ann", "s1"))
    drive(transcript.append([HumanMessage("a" * 50), AIMessage("b" * 50), HumanMessage("c" * 50), AIMessage("d")]))
    window = Window(budget_tokens=100, low=0.9, count=lambda messages: sum(len(one.text) for one in messages))
    view = drive(window.view(transcript, [HumanMessage("e", id="e")]))
    assert (view.tokens, [message.text[0] for message in view.prompt]) == (52, ["c", "d", "e"])


def test_a_tool_result_is_counted_by_its_text() -> None:
    assert estimate_messages([ToolMessage(JSON, tool_call_id="1")]) == pytest.approx(estimate(JSON), abs=20)
