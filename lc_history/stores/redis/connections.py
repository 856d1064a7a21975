"""The connections of the Redis store: shared in the process by URL, or ready clients of the user's."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, Final, NamedTuple
from weakref import WeakSet, WeakValueDictionary

from lc_history.bridge import Clients, Lock, Places, settle
from lc_history.errors import StoreError, StoreUnavailableError, extra
from lc_history.stores.redis.scripts import Script
from lc_history.stores.redis.url import address_of, source_of

with extra("redis"):
    import redis.asyncio as waiting_redis
    import redis.exceptions as failures
    from redis import Redis, RedisCluster
    from redis.client import NEVER_DECODE

_RAW: Final = {NEVER_DECODE: True}  # what a client with decode_responses=True would decode is not text
_UNREACHABLE: Final = (failures.ConnectionError, failures.TimeoutError, failures.RedisClusterException, OSError)
_FAILURES: Final = (failures.RedisError, *_UNREACHABLE)

WAIT_MILLISECONDS: Final = 2000
"""How long a write waits for the replicas it was told to wait for."""

_REFUSALS: Final = {
    "OOM": "is out of memory (maxmemory) and wrote nothing",
    "READONLY": "is a replica and cannot write: give the address of the primary, or of its Sentinels",
    "LOADING": "is still loading its data: try again in a moment",
    "MASTERDOWN": "is a replica without a primary: try again in a moment",
    "CLUSTERDOWN": "has slots that no node serves: try again in a moment",
    "TRYAGAIN": "is moving these keys to another node: try again in a moment",
    "MISCONF": "cannot save to its disk and refuses to write",
    "NOREPLICAS": "has too few replicas to accept a write (min-replicas-to-write)",
    "BUSY": "is busy with a long script: try again in a moment",
}
_FORBIDDEN: Final = {"NOAUTH", "WRONGPASS", "NOPERM", "AUTH"}
# For some errors redis-py has a class, and takes the word away.
_WORDS: Final = {
    "OutOfMemoryError": "OOM",
    "ReadOnlyError": "READONLY",
    "BusyLoadingError": "LOADING",
    "MasterDownError": "MASTERDOWN",
    "ClusterDownError": "CLUSTERDOWN",
    "TryAgainError": "TRYAGAIN",
    "AuthenticationError": "NOAUTH",
    "AuthorizationError": "NOAUTH",
    "NoPermissionError": "NOPERM",
    "ClusterCrossSlotError": "CROSSSLOT",
    "MovedError": "MOVED",
    "AskError": "MOVED",
}


class SpreadError(StoreError):
    """The keys of one call lie on several servers, behind an address that looks like one."""


class Call(NamedTuple):
    """A script with its keys and arguments."""

    script: Script
    keys: Sequence[str]
    arguments: Sequence[str | int | bytes] = ()

    def sent(self) -> tuple[str | int | bytes, ...]:
        """Return the command that names the script by its hash."""
        return "EVALSHA", self.script.sha, len(self.keys), *self.keys, *self.arguments

    def sent_whole(self) -> tuple[str | int | bytes, ...]:
        """Return the command that carries the script, for a server that does not know it."""
        return "EVAL", self.script.text, len(self.keys), *self.keys, *self.arguments


class Connections:
    """The clients of one Redis, and who uses them.

    spread: whether keys with different hash tags may lie on different servers.
    places: where the driver's own pool fails beyond its size: how many calls may be under way, the others wait.
    """

    def __init__(
        self, clients: Clients[Any, Any], *, address: str, spread: bool, owned: bool, places: Places | None = None
    ) -> None:
        self.clients, self.address, self.spread = clients, address, spread
        self._owned, self._turn = owned, places.taken if places else nullcontext
        self._users: WeakSet[object] = WeakSet()

    def used_by(self, store: object) -> Connections:
        """Count one more that needs them."""
        self._users.add(store)
        return self

    async def close(self, store: object) -> None:
        """Disconnect, once nobody else needs them."""
        self._users.discard(store)
        if self._owned and not self._users:
            for client in self.clients.made():
                await _close(client)

    async def run(self, call: Call, *, replicas: int = 0) -> Any:
        """Run one script in one round trip, and wait until so many replicas have what it wrote."""
        wait = [("WAIT", replicas, WAIT_MILLISECONDS)] if replicas else []
        replies = await self._replies([call.sent(), *wait])
        if isinstance(replies[0], failures.NoScriptError):
            replies = await self._replies([call.sent_whole(), *wait])
        reply, *confirmed = self._checked(replies)
        if wait and confirmed[0] < replicas:
            message = (
                f"Redis at {self.address} has stored this, but only {confirmed[0]} of {replicas} replicas have "
                "confirmed it: send it again, nothing is stored twice"
            )
            raise StoreUnavailableError(message)
        return reply

    async def run_all(self, calls: Sequence[Call]) -> list[Any]:
        """Run several scripts, each for itself, in one round trip."""
        replies = await self._replies([call.sent() for call in calls])
        unknown = [place for place, reply in enumerate(replies) if isinstance(reply, failures.NoScriptError)]
        again = await self._replies([calls[place].sent_whole() for place in unknown])
        for place, reply in zip(unknown, again, strict=True):
            replies[place] = reply
        return self._checked(replies)

    async def ask(self, *commands: Sequence[str | int]) -> list[Any]:
        """Send several commands, each for itself, in one round trip."""
        return self._checked(await self._replies(commands))

    async def _replies(self, commands: Sequence[Sequence[Any]]) -> list[Any]:
        """Return what the server answers to each command, errors included."""
        if not commands:
            return []
        try:
            async with self._turn():
                client = self.clients()
                if self.spread and isinstance(client, waiting_redis.RedisCluster):
                    await client.initialize()  # else the first commands go to any node, and it drops its connections
                if len(commands) == 1:
                    return [await settle(client.execute_command(*commands[0], **_RAW))]
                pipeline = client.pipeline(transaction=False)
                for command in commands:
                    pipeline.execute_command(*command, **_RAW)
                replies: list[Any] = await settle(pipeline.execute(raise_on_error=False))
                return replies
        except failures.NoScriptError as error:
            return [error]
        except _FAILURES as error:
            raise self._explained(error) from error

    def _checked(self, replies: list[Any]) -> list[Any]:
        for reply in replies:
            if isinstance(reply, Exception):
                raise self._explained(reply) from reply
        return replies

    def _explained(self, error: Exception) -> StoreError:
        words = {*str(error).replace(":", " ").split(), _WORDS.get(type(error).__name__, "")}
        for word, sentence in _REFUSALS.items():
            if word in words:
                return StoreUnavailableError(f"Redis at {self.address} {sentence}")
        if "CROSSSLOT" in words:
            return SpreadError(f"Redis at {self.address} spreads its keys over several servers")
        if "MOVED" in words:
            return StoreError(f"Redis at {self.address} is one node of a cluster: give redis+cluster://{self.address}")
        if words & _FORBIDDEN:
            return StoreError(f"Redis at {self.address} refuses the user, the password or the command: {error}")
        if isinstance(error, _UNREACHABLE):
            return StoreUnavailableError(f"Redis at {self.address} cannot be reached: {error or type(error).__name__}")
        return StoreError(f"Redis at {self.address} failed: {error}")


_shared: WeakValueDictionary[tuple[str, int], Connections] = WeakValueDictionary()
_sharing = Lock()


def connect(url: str, *, max_connections: int) -> Connections:
    """Return the connections of a URL: the same ones for all who hold them; nothing is opened yet."""
    with _sharing:
        shared = _shared.get((url, max_connections))
        if shared is None:
            source = source_of(url, max_connections=max_connections)
            spread = "+cluster://" in url
            clients = Clients(source.blocking, source.waiting)
            places = Places(source.max_connections) if spread else None
            shared = Connections(clients, address=address_of(url), spread=spread, owned=True, places=places)
            _shared[url, max_connections] = shared
        return shared


def given(*clients: Any) -> Connections:
    """Return the connections of ready clients, one of each colour at most; they are never closed."""
    kinds = ((Redis, RedisCluster), (waiting_redis.Redis, waiting_redis.RedisCluster))
    ready = [client for client in clients if client is not None]
    makers: list[Any] = [None, None]
    for client in ready:
        colour = next((colour for colour, kind in enumerate(kinds) if isinstance(client, kind)), None)
        if colour is None:
            message = f"a client must be a Redis or RedisCluster of redis or redis.asyncio, not {type(client).__name__}"
            raise TypeError(message)
        if makers[colour]:
            message = "give one blocking and one async client, not two of a kind"
            raise TypeError(message)
        makers[colour] = lambda client=client: client
    if not ready:
        message = "give a client of redis or redis.asyncio, or use RedisStore.from_url"
        raise TypeError(message)
    spread = isinstance(ready[0], (RedisCluster, waiting_redis.RedisCluster))
    return Connections(Clients(*makers), address=_address(ready[0]), spread=spread, owned=False)


def _address(client: Any) -> str:
    if hasattr(client, "connection_pool"):
        options = client.connection_pool.connection_kwargs
        return str(options.get("path") or f"{options.get('host', 'localhost')}:{options.get('port', 6379)}")
    return ",".join(node.name for node in client.get_nodes()) or "a cluster"


async def _close(client: Any) -> None:
    await settle(client.aclose() if hasattr(client, "aclose") else client.close())
    sentinel = getattr(getattr(client, "connection_pool", None), "sentinel_manager", None)
    for one in sentinel.sentinels if sentinel else ():
        await _close(one)
