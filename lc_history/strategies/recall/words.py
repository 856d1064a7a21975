"""The words of a text, alike in a question and in an answer."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise
from typing import Final

_RUN: Final = re.compile(r"[^\W_]+")
_UNSPACED: Final = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]+")
_ENDING: Final = re.compile(r"(?<=[a-z]{3})(ies|ing|ed|es|s|en|er|e)$")

LONGEST_WORD: Final = 40


def words(text: str) -> Iterator[str]:
    """Yield the words of a text in lower case, without common endings; of Chinese and Japanese, pairs of characters.

    >>> list(words("Boats in the harbours: 冰在夜里"))
    ['boat', 'in', 'the', 'harbour', '冰在', '在夜', '夜里']
    """
    for run in _RUN.findall(text.casefold()):
        at = 0
        for unspaced in _UNSPACED.finditer(run):
            if unspaced.start() > at:
                yield _stem(run[at : unspaced.start()])
            characters = unspaced.group()
            if len(characters) == 1:
                yield characters
            yield from ("".join(pair) for pair in pairwise(characters))
            at = unspaced.end()
        if at < len(run):
            yield _stem(run[at:])


def _stem(word: str) -> str:
    return _ENDING.sub("", word)[:LONGEST_WORD]
