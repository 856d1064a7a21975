"""Lists of messages as references to bodies that are kept once: a longer list costs what was added to it.

A reference is a hash of the body, so the same message is the same row however many checkpoints of its thread hold it.
References are grouped by 32, and full groups are bodies themselves: a list of n messages is named by about
32 references per level of a tree, and appending changes the last group only.

    byte: number of levels   per level, the deepest first: byte: number of references   all references, 16 bytes each
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from typing import Final

from lc_history.errors import DecodeError

REFERENCE_BYTES: Final = 16
GROUP_SIZE: Final = 32
GROUP: Final = "references"
"""The type of a body that is a group of references."""

Keep = Callable[[str, bytes], bytes]
"""Notes a body of a type to be kept, and returns its reference."""


def reference(kind: str, body: bytes) -> bytes:
    """Return the name of a body: the same for the same content."""
    return blake2b(kind.encode() + b"\0" + body, digest_size=REFERENCE_BYTES).digest()


def fold(references: Sequence[bytes], keep: Keep) -> bytes:
    """Return a list of references as a few, after keeping its full groups.

    >>> groups = {}
    >>> def keep(kind, body):
    ...     name = reference(kind, body)
    ...     groups[name] = (kind, body)
    ...     return name
    >>> names = [bytes([number]) * 16 for number in range(100)]
    >>> folded = fold(names, keep)
    >>> len(folded), unfold(folded, groups) == names
    (116, True)
    """
    levels = []
    while len(references) > GROUP_SIZE:
        full = len(references) // GROUP_SIZE * GROUP_SIZE
        levels.append(references[full:])
        groups = [b"".join(references[at : at + GROUP_SIZE]) for at in range(0, full, GROUP_SIZE)]
        references = [keep(GROUP, group) for group in groups]
    levels.append(references)
    counts = bytes(len(level) for level in levels)
    return bytes([len(levels)]) + counts + b"".join(name for level in levels for name in level)


def unfold(folded: bytes, bodies: Mapping[bytes, tuple[str, bytes]]) -> list[bytes]:
    """Return all references of a folded list; `KeyError` with the name of a group that is not among the bodies."""
    *tails, names = levels_of(folded)
    for tail in reversed(tails):
        names = [name for group in names for name in split(bodies[group][1])] + tail
    return names


def levels_of(folded: bytes) -> list[list[bytes]]:
    """Return the references that a folded list holds itself, by level, those of messages first."""
    depth = folded[0] if folded else 0
    counts = folded[1 : 1 + depth]
    names = split(folded[1 + depth :])
    if len(counts) != depth or not depth or sum(counts) != len(names):
        raise DecodeError("a list of messages is damaged")
    levels, at = [], 0
    for count in counts:
        levels.append(names[at : at + count])
        at += count
    return levels


def split(names: bytes) -> list[bytes]:
    """Return the references that stand together."""
    if len(names) % REFERENCE_BYTES:
        raise DecodeError("a list of messages is damaged")
    return [names[at : at + REFERENCE_BYTES] for at in range(0, len(names), REFERENCE_BYTES)]
