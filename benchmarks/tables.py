"""The figures as tables in Markdown."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import median
from typing import Any

from benchmarks.targets import TARGETS, over_the_model


def all_of(parts: dict[str, Any]) -> str:
    """Return every table that the figures allow."""
    made = [_header(parts), _targets(parts)]
    made += [_codec(parts["codec"])] if "codec" in parts else []
    made += [_store(name, parts[name]) for name in ("Redis", "PostgreSQL", "SQLite") if name in parts]
    made += [_turns(parts["turns"])] if "turns" in parts else []
    made += [_checkpoints(parts["checkpoints"])] if "checkpoints" in parts else []
    made += [_bills(parts["bills"])] if "bills" in parts else []
    made += [_scale(parts["scale"])] if "scale" in parts else []
    made += [_cluster(parts["cluster"])] if "cluster" in parts else []
    made += [_day(parts["day"])] if "day" in parts else []
    return "\n" + "\n\n".join(made) + "\n\n"


def table(head: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    head = list(head)
    lines = [head, ["---", *["--:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def microseconds(timing: dict[str, float]) -> str:
    return f"{timing['median']:,.0f} ({timing['low']:,.0f}-{timing['high']:,.0f})"


def _header(parts: dict[str, Any]) -> str:
    seen = [part["measured"] for part in parts.values() if "measured" in part]
    if not seen:
        return ""
    first = seen[-1]
    packages = ", ".join(f"{name} {number}" for name, number in first["packages"].items())
    servers = ", ".join(parts[name]["version"] for name in ("Redis", "PostgreSQL", "SQLite") if name in parts)
    about = (
        f"Machine: {first['machine']}. Python {first['python']}; {packages}. Servers, on the same machine: {servers}."
    )
    rows = [
        [name, told["at"], told["commit"], told.get("load", "not noted"), "quick" if told.get("quick") else "full"]
        for name, told in ((name, part["measured"]) for name, part in parts.items() if "measured" in part)
    ]
    return f"{about}\n\n{table(['part', 'measured at', 'commit', 'load average after', 'rounds'], rows)}"


def _targets(parts: dict[str, Any]) -> str:
    rows = []
    for target in TARGETS:
        try:
            found = target.ratio(parts)
        except KeyError:
            continue
        rows.append([target.what, f"{found:.2f}", f"{target.most:.2f}", "yes" if found <= target.most else "**no**"])
    return "### Targets\n\n" + table(["ours / the other, median", "measured", "at most", "reached"], rows)


def _codec(part: dict[str, Any]) -> str:
    ways = {name: row for name, row in part.items() if name != "measured"}
    base = ways["`message_to_dict` + `json`"]
    rows = [
        [
            name,
            *(f"{row[what]:.2f} | {row[what] / base[what]:.2f}" for what in ("encode", "decode")),
            f"{row['bytes']:.0f}",
        ]
        for name, row in ways.items()
    ]
    head = ["codec", "encode, us a message", "ratio", "decode, us", "ratio", "bytes"]
    return "### Codec\n\n" + table(head, rows)


def _store(name: str, part: dict[str, Any]) -> str:
    ways = part["ways"]
    notes = "\n".join(f"* {way}: {told['note']}." for way, told in ways.items() if told["note"])
    lengths = list(part["read"])
    verbs = [verb for verb in _ONCE if verb in part]
    rows = [
        [
            way,
            *(microseconds(part[verb][way]) if way in part[verb] else "" for verb in verbs),
            f"{part['bytes'][way]:,.0f}" if part["bytes"].get(way) else "",
        ]
        for way in ways
    ]
    made = [f"### {name}: {part['version']}", "Microseconds: median (middle half)."]
    made.append(table(["", *map(_ONCE.get, verbs), "bytes stored a message"], rows))
    for verb, words in (("read", "read all"), ("last", "last 20")):
        body = [
            [way, *(microseconds(part[verb][length][way]) for length in lengths)]
            for way in ways
            if way in part[verb]["10"]
        ]
        made.append(table([f"{words} of", *(f"{int(length):,}" for length in lengths)], body))
    flat = part["flat"]
    body = [[f"**lc-history** {words}", *map(microseconds, flat[verb].values())] for verb, words in _FLAT]
    made.append(table(["must be flat: messages in the session", *(f"{int(n):,}" for n in flat["last"])], body))
    made.append(_many(part["threads"], "threads"))
    made.append(_async(part["async"]))
    return "\n\n".join([*made, notes])


_ONCE = {
    "append": "append a turn of 2",
    "append, renewed": "the same, each turn renewing a ttl",
    "request": "fresh object reads 10",
}
_FLAT = (("last", "last 20"), ("append", "append 2"))


def _many(speeds: dict[str, Any], what: str) -> str:
    counts = sorted(next(iter(speeds.values())), key=int)
    rows = [[way, *(f"{median(of[count]):,.0f}" for count in counts)] for way, of in speeds.items()]
    return table([f"turns a second (last 20, append 2) with {what}", *counts], rows)


def _async(part: dict[str, Any]) -> str:
    verbs = ("append", "read 100", "last 20 of 100")
    rows = [[way, *(microseconds(part[verb][way]) for verb in verbs)] for way in part["ways"]]
    notes = "\n".join(f"* async, {way}: {told['note']}." for way, told in part["ways"].items() if told["note"])
    return f"{table(['async', *verbs], rows)}\n\n{_many(part['tasks'], 'tasks')}\n\n{notes}"


def _turns(part: dict[str, Any]) -> str:
    made = ["### Whole turns", "Microseconds of a turn with a model that answers at once; messages in the history:"]
    for place in ("Redis", "PostgreSQL"):
        lengths = list(part[place])
        rows = [[kind, *(microseconds(part[place][n][kind]) for n in lengths)] for kind in part[place][lengths[0]]]
        made.append(table([place, *lengths], rows))
    over = part["over the model"]
    rows = [[kind, *(microseconds(over[n][kind]) for n in over)] for kind in next(iter(over.values()))]
    rows.append(["left for `with_history` itself", *(f"{over_the_model(over[n]):,.0f}" for n in over)])
    made.append(table(["a store that answers at once", *over], rows))
    return "\n\n".join(made)


def _checkpoints(part: dict[str, Any]) -> str:
    made = ["### Checkpoints", f"A graph of one node, {part['threads']} threads; at turn:"]
    units = (("milliseconds", "ms a turn", 1), ("bytes", "KB in the tables", 1024), ("wal", "KB of log (WAL)", 1024))
    for what, words, unit in units:
        rows = [
            [name, *(f"{saver[what][str(turn)] / unit:,.1f}" for turn in part["shown"])]
            for name, saver in part["savers"].items()
        ]
        made.append(table([words, *map(str, part["shown"])], rows))
    return "\n\n".join(made)


def _bills(part: dict[str, Any]) -> str:
    made = ["### Counted", "Round trips, seen by a proxy; a request is a fresh object that reads and appends:"]
    for place in ("Redis", "PostgreSQL"):
        verbs = ("append", "read", "last 20", "request", "new connections")
        rows = [[way, *(row.get(verb, "") for verb in verbs)] for way, row in part[place].items()]
        made.append(table([place, *verbs], rows))
    for place in ("Firestore", "DynamoDB"):
        rows = [
            [way, *(_bill(row[length][verb]) for verb in ("append", "last 20") for length in row)]
            for way, row in part[place].items()
        ]
        made.append(table([place, "append to 10", "to 100", "last 20 of 10", "of 100"], rows))
    return "\n\n".join(made)


def _bill(counts: dict[str, float]) -> str:
    return ", ".join(f"{count:g} {name}" for name, count in counts.items())


def _scale(part: dict[str, Any]) -> str:
    steps = part["steps"]
    counts = [f"{step['sessions']:,}" for step in steps]
    made = [f"### Scale: {counts[-1]} archived sessions in PostgreSQL"]
    made.append(f"Loaded in {part['seconds to load']:.0f} s. Microseconds by the number of sessions:")
    rows = [[verb, *(microseconds(step["times"][verb]) for step in steps)] for verb in steps[0]["times"]]
    made.append(table(["", *counts], rows))
    rows = [[name, *(f"{step['sizes'][name] / 1e6:,.1f}" for step in steps)] for name in steps[0]["sizes"]]
    rows.append(["records", *(f"{step['records']:,}" for step in steps)])
    made.append(table(["megabytes", *counts], rows))
    search = part["search"]
    rows = [[kind, f"{timing['median'] / 1000:,.2f}"] for kind, timing in search["times"].items()]
    made.append(table([f"search by title among {counts[-1]}", "ms"], rows))
    index = f"{search['index bytes'] / 1e6:,.0f} MB, built in {search['index seconds']:.0f} s"
    return "\n\n".join([*made, f"The index of titles: {index}."])


def _cluster(part: dict[str, Any]) -> str:
    made = [f"### Redis Cluster: {part['sessions']:,} sessions of four messages"]
    verbs = dict.fromkeys(kind.rpartition(", ")[0] for kind in part["times"])
    places = ("one server", "cluster")
    rows = [[verb, *(microseconds(part["times"][f"{verb}, {place}"]) for place in places)] for verb in verbs]
    rows.append(
        ["sessions a second, one thread", *(f"{part[f'sessions a second into {place}']:,.0f}" for place in places)]
    )
    rows.append(["megabytes", f"{part['megabytes of one server']:.1f}", _each(part["megabytes"], ".1f")])
    rows.append(["keys on each master", "", _each(part["keys"], ",")])
    return "\n\n".join([*made, table(["microseconds", *places], rows)])


def _each(values: list[float], form: str) -> str:
    return " / ".join(format(value, form) for value in values)


def _day(part: dict[str, Any]) -> str:
    told = {name: value for name, value in part.items() if name not in ("samples", "measured")}
    made = ["### A day on a hot and a cold store, compressed", table(["", "in all"], told.items())]
    shown = part["samples"][1::2]
    rows = [
        [name, *(f"{sample[name]:,.1f}" if "messages" not in name else f"{sample[name]:,}" for sample in shown)]
        for name in shown[0]
        if name != "hour"
    ]
    return "\n\n".join([*made, table(["at hour", *(f"{sample['hour']:.0f}" for sample in shown)], rows)])
