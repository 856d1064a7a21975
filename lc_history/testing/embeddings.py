"""Embeddings for tests and tutorials that need no model: they know words, not meanings."""

from __future__ import annotations

from hashlib import blake2b
from math import sqrt

from langchain_core.embeddings import Embeddings
from typing_extensions import override

from lc_history.strategies.recall.words import words


class HashingEmbeddings(Embeddings):
    """Each word is thrown into one of the dimensions by its hash: texts are near when they share words.

    >>> HashingEmbeddings(4).embed_query("harbour")
    [0.0, 0.0, 0.0, 1.0]
    """

    def __init__(self, dimensions: int = 256) -> None:
        self.dimensions = dimensions

    @override
    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return [self.embed_query(text) for text in texts]

    @override
    def embed_query(self, text: str) -> list[float]:
        vector = [0.0] * self.dimensions
        for word in words(text):
            vector[int.from_bytes(blake2b(word.encode(), digest_size=4).digest()) % self.dimensions] += 1.0
        length = sqrt(sum(value * value for value in vector))
        if not length:  # no words: a vector of its own, since nothing is near to zero
            return [1.0, *vector[1:]]
        return [value / length for value in vector]
