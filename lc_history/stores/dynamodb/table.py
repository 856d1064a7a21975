"""One DynamoDB table: its calls by a client that blocks, its pages and batches, and how it is made."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from lc_history.bridge import Lock, Threads, pause
from lc_history.errors import StoreError, StoreUnavailableError, extra
from lc_history.stores.documents.insist import AgainError
from lc_history.stores.documents.session import split

with extra("dynamodb"):
    from botocore.exceptions import ClientError, NoCredentialsError, NoRegionError

Item = dict[str, Any]

WRITE_ITEMS: Final = 25
"""That one call writes or deletes without a transaction."""
GET_ITEMS: Final = 100
BATCH_ATTEMPTS: Final = 10
"""How often a batch is sent of which DynamoDB has left something undone."""
TRANSACTION_ITEMS: Final = 100
TRANSACTION_BYTES: Final = 3_500_000
"""In one transaction, which may have 4 MB."""
THREADS: Final = 16

_FEWER: Final = re.compile(r"length less than or equal to (\d+)")

BY_USER: Final = "by_user"
BY_TIME: Final = "by_time"
PARTITIONS: Final = {BY_USER: "user", BY_TIME: "shard"}


def code_of(error: Exception) -> str:
    """Return DynamoDB's name for an error."""
    return str(error.response.get("Error", {}).get("Code", "")) if isinstance(error, ClientError) else ""


class Table:
    """A table, by a client that is made when it is first needed."""

    def __init__(self, name: str, make_client: Callable[[], Any]) -> None:
        self.name = name
        self.transaction_items = TRANSACTION_ITEMS
        """In one transaction; less where the server has refused so many: DynamoDB Local 1 takes 10."""
        self._make_client, self._client, self._making = make_client, None, Lock()
        self._threads = Threads(THREADS, name="lc-history-dynamodb")

    def _connected(self) -> Any:
        with self._making:
            self._client = self._client or self._make_client()
        return self._client

    async def call(self, operation: str, **parameters: Any) -> dict[str, Any]:
        """Return the answer of one call; on the async door it is made in a thread."""

        def call() -> dict[str, Any]:
            answer: dict[str, Any] = getattr(self._connected(), operation)(**parameters)
            return answer

        try:
            return await self._threads.run(call)
        except NoCredentialsError as error:
            message = "there are no AWS credentials: run `aws configure`, or set AWS_ACCESS_KEY_ID"
            raise StoreError(message) from error
        except NoRegionError as error:
            message = "no AWS region is named: add ?region= to the URL, or set AWS_REGION"
            raise StoreError(message) from error
        except ClientError as error:
            if code_of(error) != "ResourceNotFoundException":
                raise
            message = f"there is no table {self.name!r}: run `lc-history migrate`, or check name, region and account"
            raise StoreError(message) from error

    async def on_item(self, operation: str, **parameters: Any) -> dict[str, Any]:
        """Return the answer of one call on this table."""
        return await self.call(operation, TableName=self.name, **parameters)

    async def transact(self, actions: Iterable[dict[str, Item]]) -> None:
        """Do all of it or nothing; `AgainError` where the server has just told that it takes fewer items."""
        items = [{verb: {"TableName": self.name, **what} for verb, what in action.items()} for action in actions]
        try:
            await self.call("transact_write_items", TransactItems=items)
        except ClientError as error:
            fewer = _FEWER.search(str(error)) if code_of(error) == "ValidationException" else None
            if fewer is None or not 1 < int(fewer[1]) < len(items):
                raise
            self.transaction_items = int(fewer[1])
            raise AgainError from error

    async def query(self, *, limit: int | None = None, **parameters: Any) -> list[Item]:
        """Return up to so many items; a call answers at most a megabyte, so there may be several."""
        found: list[Item] = []
        while True:
            room = {} if limit is None else {"Limit": limit - len(found)}
            answer = await self.on_item("query", **room, **parameters)
            found += answer["Items"]
            if "LastEvaluatedKey" not in answer or len(found) == limit:
                return found
            parameters["ExclusiveStartKey"] = answer["LastEvaluatedKey"]

    async def get(self, keys: Sequence[Item], **parameters: Any) -> list[Item]:
        """Return the items of those keys that are there, in any order."""
        found: list[Item] = []
        for some in split(keys, GET_ITEMS):
            asked: Any = {self.name: {"Keys": some, "ConsistentRead": True, **parameters}}
            for attempt in range(BATCH_ATTEMPTS):
                answer = await self.call("batch_get_item", RequestItems=asked)
                found += answer["Responses"].get(self.name, [])
                asked = answer.get("UnprocessedKeys")
                if not asked:
                    break
                await pause(0.02 * 2**attempt)
            self._check_done(asked)
        return found

    async def write(self, *, puts: Iterable[Item] = (), deletes: Iterable[Item] = ()) -> None:
        """Put and delete items in any order, without a transaction."""
        requests = [{"PutRequest": {"Item": item}} for item in puts]
        requests += [{"DeleteRequest": {"Key": key}} for key in deletes]
        for some in split(requests, WRITE_ITEMS):
            asked: Any = {self.name: some}
            for attempt in range(BATCH_ATTEMPTS):
                asked = (await self.call("batch_write_item", RequestItems=asked)).get("UnprocessedItems")
                if not asked:
                    break
                await pause(0.02 * 2**attempt)
            self._check_done(asked)

    def _check_done(self, left: Any) -> None:
        if left:
            message = f"table {self.name!r} takes no more for now: try again later, or raise its limits"
            raise StoreUnavailableError(message)

    async def migrate(self) -> None:
        """Make the table, unless it is there, and let it collect what has expired."""
        try:
            await self.call("create_table", **definition(self.name))
        except ClientError as error:
            if code_of(error) not in ("ResourceInUseException", "TableAlreadyExistsException"):
                raise
        await self._threads.run(lambda: self._connected().get_waiter("table_exists").wait(TableName=self.name))
        policy = await self.on_item("describe_time_to_live")
        if policy["TimeToLiveDescription"]["TimeToLiveStatus"] in ("ENABLED", "ENABLING"):
            return
        try:
            enabled = {"Enabled": True, "AttributeName": "expires_at"}
            await self.on_item("update_time_to_live", TimeToLiveSpecification=enabled)
        except ClientError as error:
            if code_of(error) != "ValidationException":  # another process was first
                raise

    def close(self, *, client: bool) -> None:
        """Let the threads go, and the client if it is ours."""
        self._threads.close()
        if client and self._client is not None:
            self._client.close()


def transactions(actions: Iterable[dict[str, Item]], most_items: int) -> list[list[dict[str, Item]]]:
    """Return the actions in groups that fit a transaction and leave room for one item more."""
    groups: list[list[dict[str, Item]]] = [[]]
    room = TRANSACTION_BYTES
    for action in actions:
        size = 1000 + len(action["Put"]["Item"].get("body", {}).get("B", b""))
        if groups[-1] and (len(groups[-1]) + 1 == most_items or size > room):
            groups.append([])
            room = TRANSACTION_BYTES
        groups[-1].append(action)
        room -= size
    return groups


def definition(name: str) -> dict[str, Any]:
    """Return the table: a partition for each session, and two indexes that hold heads only."""

    def key(partition: str, sort: str) -> list[dict[str, str]]:
        return [{"AttributeName": partition, "KeyType": "HASH"}, {"AttributeName": sort, "KeyType": "RANGE"}]

    def index(index_name: str, partition: str) -> dict[str, Any]:
        projection = {"ProjectionType": "INCLUDE", "NonKeyAttributes": ["state"]}
        return {"IndexName": index_name, "KeySchema": key(partition, "listed"), "Projection": projection}

    names = ("session", "place", "user", "listed", "shard")
    return {
        "TableName": name,
        "BillingMode": "PAY_PER_REQUEST",
        "KeySchema": key("session", "place"),
        "AttributeDefinitions": [{"AttributeName": name, "AttributeType": "S"} for name in names],
        "GlobalSecondaryIndexes": [index(*each) for each in PARTITIONS.items()],
    }
