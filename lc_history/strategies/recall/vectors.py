"""Search by meaning: any LangChain embeddings, with pgvector in PostgreSQL, one index per model."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from hashlib import sha256
from math import isfinite
from typing import Any, Final, Self, TypeVar

from langchain_core.embeddings import Embeddings

from lc_history.bridge import within
from lc_history.model import SessionKey
from lc_history.postgres import Postgres
from lc_history.strategies.characters import mended
from lc_history.strategies.recall.database import Execute, IndexDatabase, PostgresIndexDatabase
from lc_history.strategies.recall.index import Hit, Passage, Scope, SearchFailedError
from lc_history.strategies.recall.shelf import SESSIONS, Shelf, hit

T = TypeVar("T")

WHOLE: Final = 2000
"""How many dimensions pgvector can index in four bytes each; of longer vectors each number has two."""

HALVES: Final = 4000
"""How many it can index at all."""

_TABLES: Final = (
    "CREATE EXTENSION IF NOT EXISTS vector\n\n"
    + SESSIONS.strip()
    + """

CREATE TABLE {schema}{kind}_turns (
    session bigint NOT NULL REFERENCES {schema}{kind}_sessions (id) ON DELETE CASCADE,
    position bigint NOT NULL,
    first_seq bigint NOT NULL,
    last_seq bigint NOT NULL,
    embedding {vector}({dimensions}) NOT NULL,
    PRIMARY KEY (session, position)
)

CREATE INDEX {kind}_near ON {schema}{kind}_turns USING hnsw (embedding {vector}_cosine_ops)"""
)
_ADD: Final = (
    "INSERT INTO {schema}{kind}_turns "
    "VALUES (%(session)s, %(position)s, %(first_seq)s, %(last_seq)s, %(embedding)s::{vector})"
)
# What others have said stands between in the graph: go on until enough of this user's is found.
_GO_ON: Final = "SELECT set_config('hnsw.iterative_scan', 'strict_order', true)"
_NEAREST: Final = """
SELECT session_name, first_seq, last_seq, embedding <=> %(near)s::{vector} AS distance FROM {schema}{kind}_turns
JOIN {schema}{kind}_sessions ON id = session WHERE {searched} ORDER BY distance LIMIT %(limit)s
"""


class VectorIndex:
    """Finds turns by what they mean.

    embeddings: any of LangChain's.
    model: their name. Vectors of two models cannot be compared, so each model and dimension has tables of its own.
    dimensions: how long their vectors are, 4,000 at most; one of another length is a `ValueError`. Above 2,000 each
        number is kept in two bytes instead of four, which needs pgvector 0.7.
    timeout: how long the embeddings may take, for a question or for the turns of one go. When they fail or take
        longer, `Recall` goes on without, and a later turn tries again.

    Vectors tell much of what was said: the index belongs where the conversations may be read.
    """

    def __init__(
        self,
        database: IndexDatabase,
        embeddings: Embeddings,
        *,
        model: str,
        dimensions: int,
        timeout: timedelta = timedelta(seconds=60),
    ) -> None:
        self._embeddings, self.model, self.dimensions, self._timeout = embeddings, model, dimensions, timeout
        if not 1 <= dimensions <= HALVES:
            raise ValueError(f"vectors of {dimensions} dimensions cannot be indexed: ask {model} for {HALVES} at most")
        self._vector = "vector" if dimensions <= WHOLE else "halfvec"
        digest = sha256(f"{model}\n{dimensions}".encode()).hexdigest()[:8]
        readable = re.sub(r"[^a-z0-9]+", "_", model.lower())[:16].strip("_")
        self._shelf = Shelf(database, f"lc_history_{readable}_{digest}")

    @classmethod
    def open(
        cls,
        url: str,
        embeddings: Embeddings,
        *,
        model: str,
        dimensions: int,
        timeout: timedelta = timedelta(seconds=60),
        schema: str | None = None,
    ) -> Self:
        """Return the index in the database behind ``postgresql://``, which must offer the extension ``vector``.

        In the database of the store itself, erasure and expiry reach it in the same transaction.
        """
        database = PostgresIndexDatabase(Postgres.open(url, schema=schema))
        return cls(database, embeddings, model=model, dimensions=dimensions, timeout=timeout)

    async def migrate(self) -> None:
        """Create the extension and the tables of this model; after the store's own, where they share a database."""
        steps = [self._text(_TABLES).replace("{dimensions}", str(self.dimensions))]
        await self._shelf.database.migrate(self._shelf.kind, steps)

    async def close(self) -> None:
        """Release the connections."""
        await self._shelf.database.close()

    async def through(self, key: SessionKey) -> int:
        """Return up to which number a conversation is indexed."""
        return await self._shelf.through(key)

    async def forget(self, key: SessionKey) -> None:
        """Remove a conversation from the index."""
        await self._shelf.forget(key)

    async def add(self, key: SessionKey, passages: Sequence[Passage], *, after: int, through: int) -> bool:
        """Add the turns with ``after < seq <= through``; False, and nothing added, unless it stands at ``after``."""
        texts = [mended(passage.text) for passage in passages]
        vectors = await self._embedded(
            lambda: self._embeddings.embed_documents(texts), lambda: self._embeddings.aembed_documents(texts)
        )
        if vectors is None or len(vectors) != len(texts):
            raise SearchFailedError(f"{self.model} gave no vector for each of {len(texts)} texts")
        written = [self._written(vector) for vector in vectors]

        async def work(execute: Execute) -> bool:
            at = await self._shelf.advance(execute, key, passages, after=after, through=through)
            if at is None:
                return False
            session, first = at
            turns: list[dict[str, Any]] = [
                {
                    "session": session,
                    "position": first + offset,
                    "first_seq": passage.first_seq,
                    "last_seq": passage.last_seq,
                    "embedding": embedding,
                }
                for offset, (passage, embedding) in enumerate(zip(passages, written, strict=True))
            ]
            if turns:
                await execute(self._text(_ADD), turns)
            return True

        return await self._shelf.database.write(work)

    async def search(self, key: SessionKey, query: str, *, scope: Scope, limit: int) -> list[Hit]:
        """Return at most so many turns, the nearest first; only this user's, and only this session's if so scoped."""
        text = mended(query)
        vector = await self._embedded(
            lambda: self._embeddings.embed_query(text), lambda: self._embeddings.aembed_query(text)
        )
        asked = self._shelf.database.names(key) | {"near": self._written(vector), "limit": limit}
        statement = self._text(_NEAREST.replace("{searched}", self._shelf.searched(scope)))

        async def work(execute: Execute) -> list[Hit]:
            await execute(_GO_ON, {})
            return [hit(key.user_id, row[:3], 1 - float(row[3])) for row in await execute(statement, asked)]

        return await self._shelf.database.write(work)

    async def _embedded(self, blocking: Callable[[], T], waiting: Callable[[], Awaitable[T]]) -> T:
        """Ask the embeddings, whatever they may raise."""
        try:
            return await within(self._timeout.total_seconds(), blocking, waiting)
        except Exception as error:
            raise SearchFailedError(f"{self.model} failed: {type(error).__name__}: {error}") from error

    def _written(self, vector: Sequence[float]) -> str:
        try:
            numbers = list(map(float, vector))
        except (TypeError, ValueError) as error:
            raise SearchFailedError(f"{self.model} gave no vector but {vector!r:.80}") from error
        if len(numbers) != self.dimensions:
            message = f"{self.model} gave a vector of {len(numbers)} dimensions, and its index has {self.dimensions}"
            raise ValueError(f"{message}: open the index with dimensions={len(numbers)}, or embed with the same model")
        if not all(map(isfinite, numbers)):
            raise SearchFailedError(f"{self.model} gave a vector that is not all numbers")
        return f"[{','.join(map(repr, numbers))}]"

    def _text(self, statement: str) -> str:
        return self._shelf.text(statement).replace("{vector}", self._vector)
