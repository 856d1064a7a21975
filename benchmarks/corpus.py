"""Long talks made from a seed: facts that are said once and asked for much later, some of them changed in between.

Every talk has tool calls with long results, small talk in English, German or Chinese, and labels: which words must be
in a prompt for the question to be answerable, and which words of an earlier state of the fact would mislead.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from random import Random

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage

# What is said, and how it is asked for: partly in the same words, and as if one had forgotten how it was said.
# {v} is the value, different in every talk.
FACTS = {
    "en": [
        (
            "The alarm code of the office is {v}.",
            "Which code do I type into the office alarm?",
            "What do I key in so that the siren at work stays silent?",
        ),
        (
            "Please book everything for the Kestrel project under cost centre {v}.",
            "Cost centre for Kestrel?",
            "To which account do the expenses of that undertaking named after a falcon go?",
        ),
        (
            "My allergy card says I must not take {v}.",
            "Which medicine am I allergic to?",
            "Which drug would make me ill?",
        ),
        (
            "Eleonore's new address in Trondheim is Kongens gate {v}.",
            "Where in Trondheim does Eleonore live?",
            "Where do I send a parcel for my friend in Norway?",
        ),
        (
            "The landlord's plumber is called {v}.",
            "Who was the plumber that the landlord uses?",
            "Who repairs the water pipes for the owner of our flat?",
        ),
        ("We named the kitten {v}.", "What is our kitten's name?", "How do we call our little cat?"),
        (
            "The router in the attic answers at {v}.",
            "How do I reach the router upstairs in the attic?",
            "What is the network device under the roof listening on?",
        ),
        (
            "The caterer for the wedding wants {v} as a deposit.",
            "How much deposit does the wedding caterer ask for?",
            "What do we pay in advance for the food when we marry?",
        ),
    ],
    "de": [
        (
            "Das Passwort für den Werkzeugschuppen ist {v}.",
            "Wie lautet das Passwort vom Werkzeugschuppen?",
            "Mit welchem Kennwort komme ich an Hammer und Säge im Garten?",
        ),
        (
            "Der Liegeplatz unseres Bootes ist {v}.",
            "An welchem Liegeplatz liegt das Boot?",
            "Wo im Hafen finde ich unser Schiff?",
        ),
        (
            "Mein Zug nach Görlitz fährt von Gleis {v}.",
            "Von welchem Gleis geht der Zug nach Görlitz?",
            "Wo am Bahnhof muss ich für die Reise nach Sachsen einsteigen?",
        ),
        (
            "Die Versicherungsnummer des Lastenrads ist {v}.",
            "Unter welcher Nummer ist das Lastenrad versichert?",
            "Welche Police gilt für unser Transportfahrrad?",
        ),
    ],
    "zh": [
        ("仓库的门禁密码是 {v}。", "仓库的门禁密码是多少?", "怎样才能打开存货房的大门?"),
        ("我们下次在{v}茶馆见面。", "下次见面约在哪个茶馆?", "以后去哪里一起喝东西聊天?"),
        ("张医生的预约号是 {v}。", "我在张医生那里的预约号是什么?", "看病挂的是几号?"),
    ],
}
NEARLY = (  # what sounds like a fact that is asked for, and is another
    *("The alarm code of the cellar is {v}.", "Please book the Heron project under cost centre {v}."),
    *("My brother is allergic to {v}.", "Eleonore's old address was Storgata {v}.", "The landlord's roofer is {v}."),
    *("The kitten next door is called {v}.", "The router in the kitchen answers at {v}."),
    *("The caterer for the office party wants {v} as a deposit.", "Das Passwort für das Gästenetz ist {v}."),
    *("Der Liegeplatz der Nachbarn ist {v}.", "Mein Zug nach Ulm fährt von Gleis {v}.", "办公室的门禁密码是 {v}。"),
)
CHANGED = {"en": "That has changed. ", "de": "Das hat sich geändert. ", "zh": "情况变了。"}
NOTED = {"en": "Noted.", "de": "Ist notiert.", "zh": "记下了。"}
SMALL_TALK = {
    "en": "the weather turned and we talked about bread music trains gardens a long walk by the river old films "
    "office chairs coffee a broken lamp the price of stamps neighbours holidays code reviews and a number of books",
    "de": "das Wetter und wir sprachen über Brot Musik Züge Gärten einen langen Weg am Fluss alte Filme Stühle Kaffee "
    "eine kaputte Lampe den Preis der Briefmarken Nachbarn Ferien das Büro und einige Bücher",
    "zh": "天气 面包 音乐 火车 花园 河边 散步 电影 椅子 咖啡 灯 邮票 邻居 假期 办公室 书 名字 号码",
}


@dataclass(frozen=True)
class Probe:
    """A question, the same in other words, the words that answer it, and those that no longer do."""

    question: str
    reworded: str
    language: str
    answer: str
    outdated: str | None
    said_at: int
    """The number of the message that holds the answer."""


@dataclass(frozen=True)
class Talk:
    """A conversation and what may be asked at its end."""

    messages: list[BaseMessage]
    probes: list[Probe]


def talk(seed: int, *, turns: int = 400) -> Talk:
    """Return a talk; the same seed makes the same one."""
    random = Random(seed)
    messages: list[BaseMessage] = [SystemMessage("You are a careful personal assistant.", id=f"{seed}-system")]
    facts = [(language, *fact) for language, some in FACTS.items() for fact in some]
    random.shuffle(facts)
    planned = dict(zip(random.sample(range(turns - 20), len(facts)), facts, strict=True))
    for at, fact in list(planned.items())[::3]:  # a third of them change later
        later = [turn for turn in range(at + 5, turns - 10) if turn not in planned]
        planned[random.choice(later)] = fact
    values: dict[tuple[str, str, str], list[tuple[str, int]]] = {}
    for turn in range(turns):
        name = f"{seed}-{turn}"
        if turn in planned:
            language, statement, question, reworded = planned[turn]
            known = values.setdefault((question, reworded, language), [])
            value = _value(random)
            said = (CHANGED[language] if known else "") + statement.format(v=value)
            known.append((value, len(messages) + 1))
            messages += [HumanMessage(said, id=f"{name}-q"), AIMessage(NOTED[language], id=f"{name}-a")]
        elif random.random() < 0.1:
            value = _value(random)
            said = random.choice(NEARLY).format(v=value)
            messages += [HumanMessage(said, id=f"{name}-q"), AIMessage("Noted.", id=f"{name}-a")]
        else:
            messages += _idle(random, name)
    probes = [
        Probe(*asked, known[-1][0], known[-2][0] if len(known) > 1 else None, known[-1][1])
        for asked, known in values.items()
    ]
    return Talk(messages, probes)


def _value(random: Random) -> str:
    return f"{random.choice('BDFGKLMNPRSTVZ')}{random.choice('aeiou')}{random.randrange(1000, 9999)}"


def _idle(random: Random, name: str) -> list[BaseMessage]:
    """Return a turn of small talk, or one with a tool call and its long result."""
    language = random.choices(["en", "de", "zh"], [6, 3, 1])[0]
    said = HumanMessage(_chat(random, language, random.randrange(6, 30)), id=f"{name}-q")
    if random.random() < 0.25:
        call = {"name": "search_orders", "args": {"query": random.choice("abcdef"), "page": 1}, "id": f"{name}-c"}
        rows = [
            {"order": f"KX-{random.randrange(10**6):06}", "total": random.randrange(1000) / 10, "status": "shipped"}
            for _ in range(random.randrange(3, 14))
        ]
        return [
            said,
            AIMessage("", id=f"{name}-call", tool_calls=[call]),
            ToolMessage(json.dumps(rows), tool_call_id=f"{name}-c", id=f"{name}-r", name="search_orders"),
            AIMessage(_chat(random, language, 20), id=f"{name}-a"),
        ]
    return [said, AIMessage(_chat(random, language, random.randrange(10, 60)), id=f"{name}-a")]


def _chat(random: Random, language: str, length: int) -> str:
    words = random.choices(SMALL_TALK[language].split(), k=length)
    return ("" if language == "zh" else " ").join(words) + "."
