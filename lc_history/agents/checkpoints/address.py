"""Where a config points: which checkpoint of which thread, for which user, under which lease."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple
from uuid import UUID

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import CheckpointTuple

from lc_history.agents.encoding.exact import has_lone_surrogate
from lc_history.agents.running.lease import LEASE_KEY, Lease
from lc_history.model import DEFAULT_USER

_UUID_EPOCH: Final = datetime(1582, 10, 15, tzinfo=UTC)


class Index(NamedTuple):
    """What a write changes in the index of threads."""

    checkpoint_id: str | None = None
    is_input: bool = False
    status: str | None = None


NOTHING: Final = Index()


def check_ids(**ids: str | None) -> None:
    """Raise `ValueError`, naming the id, unless PostgreSQL can hold it as text."""
    for what, name in ids.items():
        if name is not None and ("\0" in name or has_lone_surrogate(name)):
            raise ValueError(
                f"{what} {name!r} holds what PostgreSQL's text cannot, a NUL or half a surrogate pair, and nothing was "
                "written: give an id without it, such as a hash of this one"
            )


class OwnedThread(str):
    """A thread's id that says whose it is: nothing else of a config reaches the state of a subgraph."""

    __slots__ = ("user_id",)
    user_id: str


@dataclass(frozen=True, slots=True)
class Address:
    """Where in a thread a config points, and on whose behalf."""

    thread_id: str
    user_id: str
    named_user: bool
    namespace: str
    checkpoint_id: str | None
    turn_id: str | None
    lease: Lease | None

    @classmethod
    def of(cls, config: RunnableConfig) -> Address:
        """Read an address from a config; only a lease of the same thread counts."""
        given = config["configurable"]
        thread_id, turn_id = str(given["thread_id"]), given.get("turn_id")
        user_id = given.get("user_id", getattr(given["thread_id"], "user_id", None))
        lease = given.get(LEASE_KEY)
        if lease is not None and lease.thread_id != thread_id:
            lease = None
        owner, turn = str(user_id or DEFAULT_USER), None if turn_id is None else str(turn_id)
        check_ids(thread_id=thread_id, user_id=owner, turn_id=turn)
        return cls(
            thread_id=thread_id,
            user_id=owner,
            named_user=user_id is not None,
            namespace=given.get("checkpoint_ns") or "",
            checkpoint_id=given.get("checkpoint_id"),
            turn_id=turn,
            lease=lease,
        )

    @property
    def finds_nothing(self) -> bool:
        """Whether it points to the latest checkpoint of a thread that has none: nobody but its run could write one."""
        latest = not self.namespace and self.checkpoint_id is None
        return latest and self.lease is not None and self.lease.empty

    def admission(self, base: str, index: Index) -> tuple[Any, ...]:
        """Return the arguments of ``lch_admit`` but those for bodies; base: the checkpoint that the write builds on.

        What they are for is sent next, so the run counts as one that has written.
        """
        if self.lease is not None:
            self.lease.touch(index.checkpoint_id)
        run_id = None if self.lease is None else self.lease.run_id
        began = made_at(base) if run_id is None else None  # a lease tells by itself whether its run may write
        return self.thread_id, self.user_id, run_id, began, *index, self.turn_id

    def onward(self, made: RunnableConfig) -> RunnableConfig:
        """Return the config of a checkpoint just made such that the next is made by the same user and run."""
        mine = {"user_id": self.user_id} if self.named_user else {}
        held = {LEASE_KEY: self.lease} if self.lease is not None else {}
        return {**made, "configurable": {**made["configurable"], **mine, **held}}

    def stamp(self, found: CheckpointTuple) -> CheckpointTuple:
        """Return the tuple with the user in its configs, so that they can be used again as they are."""
        if not self.named_user:
            return found
        for config in (found.config, found.parent_config):
            if config:
                owned = OwnedThread(self.thread_id)
                owned.user_id = self.user_id
                config["configurable"].update(thread_id=owned, user_id=self.user_id)
        return found


def made_at(checkpoint_id: str) -> datetime | None:
    """Return when a checkpoint id was made; None if it does not tell.

    >>> made_at("1ef4f797-8335-6428-8001-8a1503f9b875").isoformat(timespec="seconds")
    '2024-07-31T20:14:19+00:00'
    """
    try:
        digits = UUID(checkpoint_id).hex
    except ValueError:
        return None
    ticks = int(digits[:12] + digits[13:16], 16)
    return datetime.fromtimestamp(_UUID_EPOCH.timestamp() + ticks / 1e7, UTC)
