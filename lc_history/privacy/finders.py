"""What must not stay, found in text: each finder is a plain callable, and validates what its pattern only suspects.

A long number is no phone number and no card: cards are checked by issuer, length and Luhn, IBANs by country and mod 97,
phone numbers by the world's numbering plans, addresses by `ipaddress`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from ipaddress import ip_address
from typing import Any, Final, NamedTuple


class Found(NamedTuple):
    """A stretch of a text that must not stay, what it is, and its canonical form (the same however it was written)."""

    start: int
    end: int
    label: str
    canonical: str


Finder = Callable[[str], Iterable[Found]]
"""Anything that finds stretches in a text: a `Pattern`, `presidio`, or a function of yours."""


def as_written(text: str) -> str:
    """Accept a match as it stands."""
    return text


class Pattern:
    r"""Finds a regular expression, or its group ``it``, where `accept` returns the canonical form and not None.

    >>> employees = Pattern("EMPLOYEE", r"\bE-[0-9]{6}\b")
    >>> list(employees("ask E-004711"))
    [Found(start=4, end=12, label='EMPLOYEE', canonical='E-004711')]
    """

    def __init__(self, label: str, regex: str, accept: Callable[[str], str | None] = as_written) -> None:
        self.label, self._regex, self._accept = label, re.compile(regex), accept
        self._group: str | int = "it" if "it" in self._regex.groupindex else 0

    def __call__(self, text: str) -> Iterator[Found]:
        """Yield every stretch that matches and is accepted."""
        for match in self._regex.finditer(text):
            canonical = self._accept(match[self._group])
            if canonical is not None:
                yield Found(*match.span(self._group), self.label, canonical)


def presidio(analyzer: Any, *, language: str = "en", **options: Any) -> Finder:
    """Return what Microsoft Presidio's ``AnalyzerEngine`` finds as a finder; its package stays yours to install.

    options: passed to ``analyzer.analyze``, such as ``entities`` and ``score_threshold``.
    """

    def find(text: str) -> Iterator[Found]:
        for result in analyzer.analyze(text=text, language=language, **options):
            yield Found(result.start, result.end, result.entity_type, text[result.start : result.end])

    return find


# ISO/IEC 7812: the issuers' first digits and the lengths they use.
_ISSUERS: Final = re.compile(
    r"4(?:\d{12}|\d{15}|\d{18})|5[1-5]\d{14}|2(?:22[1-9]|2[3-9]\d|[3-6]\d\d|7[01]\d|720)\d{12}|3[47]\d{13}"
    r"|3(?:0[0-5]|[689]\d)\d{11}|35(?:2[89]|[3-8]\d)\d{12,15}|6(?:011|5\d\d|4[4-9]\d)\d{12,15}|62\d{14,17}"
    r"|(?:5[0678]|6[37])\d{11,17}"
)
_CARD_DIGITS: Final = range(13, 20)


_DIGITS: Final = re.compile(r"(?<![\w.+])\d(?:[ -]?\d){12,}(?!\w|\.\d)")


def cards(text: str) -> Iterator[Found]:
    """Find payment cards: an issuer's prefix and length, and a right check digit; also next to other numbers."""
    for run in _DIGITS.finditer(text):
        places = [place for place in range(*run.span()) if text[place].isdecimal()]
        digits = "".join(text[place] for place in places)
        edges = [index for index, place in enumerate(places) if index == 0 or place - places[index - 1] > 1]
        edges.append(len(places))
        end = 0
        for index, first in enumerate(edges):
            near = edges[index + 1 : index + _CARD_DIGITS.stop]  # at least a digit each
            fitting = [last for last in near if last - first in _CARD_DIGITS and _is_card(digits[first:last])]
            if fitting and first >= end:
                end = fitting[-1]
                yield Found(places[first], places[end - 1] + 1, "CARD", digits[first:end])


def _is_card(digits: str) -> bool:
    doubled = (int(digit) * (1 + position % 2) for position, digit in enumerate(reversed(digits)))
    return bool(_ISSUERS.fullmatch(digits)) and sum(sum(divmod(number, 10)) for number in doubled) % 10 == 0


# The IBAN registry of SWIFT: two letters of the country, then the length.
_IBAN_LENGTHS: Final = {
    entry[:2]: int(entry[2:])
    for entry in re.findall(
        "....",
        "AD24AE23AL28AT20AZ28BA20BE16BG22BH22BI27BR29BY28CH21CR22CY28CZ24DE22DJ27DK18DO28EE20EG29"
        "ES24FI18FK18FO18FR27GB22GE22GI23GL18GR27GT28HN28HR21HU28IE22IL23IQ23IS26IT27JO30KW30KZ20"
        "LB28LC32LI21LT20LU20LV21LY25MC27MD24ME22MK19MN20MR27MT31MU30NI28NL18NO15OM23PK24PL28PS29"
        "PT25QA29RO24RS22RU33SA24SC31SD18SE24SI19SK24SM27SO23ST25SV28TL23TN24TR26UA29VA22VG24XK20"
        "YE30",
    )
}
_IBAN_START: Final = re.compile(r"(?<![A-Za-z0-9])[A-Za-z]{2}[0-9]{2}(?=[ -]?[A-Za-z0-9])")


def ibans(text: str) -> Iterator[Found]:
    """Find IBANs, in groups or not: a country's length, and a right remainder (mod 97)."""
    for match in _IBAN_START.finditer(text):
        rest = _IBAN_LENGTHS.get(match[0][:2].upper(), 0) - 4
        found = re.compile(rf".{{4}}(?:[ -]?[A-Za-z0-9]){{{rest}}}(?![A-Za-z0-9])").match(text, match.start())
        if rest < 0 or not found:
            continue
        iban = re.sub("[ -]", "", found[0]).upper()
        if int("".join(str(int(character, 36)) for character in iban[4:] + iban[:4])) % 97 == 1:
            yield Found(*found.span(), "IBAN", iban)


# ITU-T E.164: the country codes; with them, a number has 8 to 15 digits.
_COUNTRY: Final = re.compile(
    r"1|7|2[07]|3[0-469]|4[013-9]|5[1-8]|6[0-6]|8[1246]|9[0-58]"
    r"|2[1234569]\d|3[578]\d|42[013]|50\d|59\d|67[02-9]|68\d|69[0-2]|80[08]|85[02356]|87[08]|88[0-368]|96\d|97[0-79]|99[2-68]"
)
# The North American plan: area and exchange begin with 2 to 9, and neither is one of the services (911).
_NORTH_AMERICAN: Final = re.compile(r"1?[2-9](?!11)\d\d[2-9](?!11)\d{6}")


def phone(text: str) -> str | None:
    """Return a phone number in international form, if a numbering plan has room for it."""
    digits = "".join(character for character in text.replace("(0)", "") if character.isdecimal()).removeprefix("00")
    international = text.startswith(("+", "00")) and not digits.startswith("1")
    if international:
        return f"+{digits}" if _COUNTRY.match(digits) else None
    return f"+1{digits[-10:]}" if _NORTH_AMERICAN.fullmatch(digits) else None


def address(text: str) -> str | None:
    """Return an IP address, if it is one of somebody: not this very machine, not none at all."""
    try:
        found = ip_address(text)
    except ValueError:
        return None
    return None if found.is_loopback or found.is_unspecified else found.compressed


emails = Pattern(
    "EMAIL",
    r"(?<![\w.+%-])[\w.+%-]{1,64}@(?:[^\W_](?:[\w-]{0,61}[^\W_])?\.){1,8}(?:xn--[\w-]{2,59}|[^\W\d_]{2,63})(?![\w-])",
    str.casefold,
)
phones = Pattern(
    "PHONE",
    r"(?<![\w.+/-])(?:(?:\+|00)[2-9](?:[ ()./-]{0,3}\d){7,14}"
    r"|(?:(?:\+|00)?1[ .-]?)?(?:\(\d{3}\) ?|\d{3}[ .-])\d{3}[ .-]?\d{4}|(?:\+|00)1\d{10})(?![\w-]|\.\d)",
    phone,
)
addresses = Pattern(
    "IP",
    r"(?<![\w.:])(?:(?:\d{1,3}\.){3}\d{1,3}(?!\w|\.\d)"
    r"|(?=[0-9A-Fa-f]{0,4}:[0-9A-Fa-f]{0,4}:)(?:[0-9A-Fa-f:]{1,30}:(?:\d{1,3}\.){3}\d{1,3}|[0-9A-Fa-f:]{2,39})(?![\w:]|\.\d))",
    address,
)
credentials = Pattern(
    "CREDENTIALS", r"\b[A-Za-z][A-Za-z0-9+.-]{1,30}://(?P<it>[^\s/?#:]{0,256}:[^\s/?#]{1,256})@(?=[\w\[])"
)
secrets = Pattern(
    "SECRET",
    r"-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----[\s\S]{1,20000}?-----END [A-Z ]{0,30}PRIVATE KEY-----"
    r"|(?<![\w-])(?:sk-[\w-]{20,250}|(?:sk|rk|pk)_(?:live|test)_\w{16,250}|(?:AKIA|ASIA)[0-9A-Z]{16}|AIza[\w-]{35}"
    r"|gh[oprsu]_[A-Za-z0-9]{36,250}|github_pat_\w{22,250}|glpat-[\w-]{20,250}|xox[abeoprs]-[\w-]{10,250}|hf_[A-Za-z0-9]{30,250}"
    r"|npm_[A-Za-z0-9]{36}|pypi-[\w-]{50,250}|lsv2_\w{20,250}|SG\.[\w-]{16,64}\.[\w-]{16,64}"
    r"|eyJ[\w-]{8,4000}\.eyJ[\w-]{8,8000}\.[\w-]{8,4000})(?![\w-])",
)
assignments = Pattern(
    "SECRET",
    r"(?i)\b(?:(?:pass(?:word|wd|phrase)|secret|api[_-]?key|access[_-]?key|(?:access|auth|bearer|refresh)[_-]?token)"
    r"[\"']?\s{0,4}[:=]\s{0,4}[\"']?|bearer\s{1,4})(?P<it>(?!\[SECRET)(?=[^\s\"',;]{0,256}\d)[^\s\"',;]{8,256})",
)

EVERYTHING: Final[tuple[Finder, ...]] = (
    *(secrets, assignments, credentials),
    *(emails, ibans, cards, phones, addresses),
)
"""All finders of this module."""
