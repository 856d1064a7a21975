"""A store on DynamoDB: an item per message, written with the head in one conditional transaction."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from functools import cache
from heapq import merge
from http import HTTPStatus
from itertools import islice
from typing import Any, ClassVar, Self
from urllib.parse import urlsplit

from typing_extensions import override

from lc_history.errors import extra
from lc_history.model import SessionKey, SessionPage
from lc_history.stores.documents.insist import Verdict
from lc_history.stores.documents.listings import HIGHEST, digest, listed_after, not_after, page_of
from lc_history.stores.documents.store import DocumentStore
from lc_history.stores.documents.url import parted
from lc_history.stores.dynamodb.items import SHARDS, DynamoDBSession
from lc_history.stores.dynamodb.table import BY_TIME, BY_USER, PARTITIONS, THREADS, Item, Table, code_of

with extra("dynamodb"):
    import boto3
    from botocore import exceptions as aws
    from botocore.config import Config

RIVALS = {"ConditionalCheckFailedException", "TransactionConflictException", "TransactionInProgressException"}
BUSY = {
    "LimitExceededException",
    "ProvisionedThroughputExceededException",
    "RequestLimitExceeded",
    "ThrottlingException",
}
LOCAL = {"localhost", "127.0.0.1", "::1"}


class DynamoDBStore(DocumentStore):
    """Keeps sessions in one DynamoDB table, which `migrate` makes.

    A turn takes two calls: a read of the head and one transaction, which writes an item and a small marker for
    each message, and the head; no older message is read, and no item grows. What it consumes, with k the size of
    a message and its names (some 300 bytes) in whole KB: 0.5 or 1 read unit for the head, and in write units
    2k + 2 for each message, 2 for the head and 4 for its two indexes. A turn of two messages of 1 KB: 18
    by AWS's published rules, not measured there; DynamoDB Local counts 32.

    A read of the newest n messages takes one call and one read unit for each 4 KB; one by `first` or `before`, or
    of another lane, takes two. DynamoDB answers at most 1 MB a call, so a long read takes one call per MB. Bodies
    over 350 KB lie in further items. A turn of more than 49 messages or 3.5 MB takes several transactions; it is
    still seen whole or not at all, and others wait for it about a second before they go first.

    Reads are consistent; only listings may lag behind by a moment, for they read indexes. Times are this
    process's clock, which decides when a session has expired, never the order. DynamoDB collects what has
    expired where the expiry is fixed and came with the first message; a session with a sliding one is hidden on
    time and removed by `delete` or when it begins anew.

    client: of boto3, for both doors (the async one uses it in threads); yours to close. Otherwise one is made for a
        region and an endpoint, with the credentials that boto3 finds; at an endpoint on this machine none are needed.

    >>> store = DynamoDBStore.from_url("dynamodb://chat?region=eu-central-1")  # connects when first used
    >>> store.max_body_bytes
    33554432
    """

    server: ClassVar[str] = "DynamoDB"
    max_body_bytes: ClassVar[int] = 32 * 1024 * 1024

    def __init__(
        self,
        *,
        table: str,
        client: Any = None,
        region: str | None = None,
        endpoint_url: str | None = None,
    ) -> None:
        self._table = Table(table, lambda: client or _client(region, endpoint_url))
        self._owns_client = client is None

    @classmethod
    def from_url(cls, url: str) -> Self:
        """Open ``dynamodb://table?region=&endpoint_url=``; both options may be left out."""
        example = "dynamodb://table?region=eu-central-1"
        table, path, options = parted(url, example=example, known=("region", "endpoint_url"))
        if not table or path:
            message = f"{url!r} names no table; a URL looks like {example}"
            raise ValueError(message)
        endpoint_url = options.get("endpoint_url")
        if endpoint_url and not urlsplit(endpoint_url).hostname:
            message = f"endpoint_url={endpoint_url} is no address; one looks like http://localhost:8000"
            raise ValueError(message)
        return cls(table=table, region=options.get("region"), endpoint_url=endpoint_url)

    @override
    def session(self, key: SessionKey) -> DynamoDBSession:
        return DynamoDBSession(self._table, key=key)

    @override
    def verdict(self, error: Exception) -> Verdict:
        code = code_of(error)
        if code in RIVALS:
            return Verdict.RIVAL
        if code in BUSY:
            return Verdict.BUSY
        if isinstance(error, aws.ConnectionError | aws.HTTPClientError) or _is_overloaded(error):
            return Verdict.SILENT
        if code == "TransactionCanceledException" and isinstance(error, aws.ClientError):
            return _why_cancelled(error)
        return Verdict.REFUSED if isinstance(error, aws.BotoCoreError | aws.ClientError) else Verdict.FOREIGN

    @override
    async def sessions(
        self, user_id: str, *, archived: bool | None = None, limit: int = 50, cursor: str | None = None
    ) -> SessionPage:
        before = listed_after(cursor) or HIGHEST

        async def attempt(_: int) -> SessionPage:
            found = await self._listed(
                BY_USER,
                digest(user_id),
                "#listed < :before",
                {":before": {"S": before}},
                limit=limit + 1,
                ScanIndexForward=False,
            )
            page = page_of(found, limit, datetime.now(UTC))
            items = [info for info in page.items if archived in (None, info.archived)]
            return SessionPage(items, page.cursor)

        return await self.insist("the listing of sessions", attempt)

    @override
    async def scan(
        self, *, idle_since: datetime | None = None, limit: int = 100, cursor: str | None = None
    ) -> SessionPage:
        between = {":lowest": {"S": f"{listed_after(cursor)} "}, ":highest": {"S": not_after(idle_since)}}

        async def attempt(_: int) -> SessionPage:
            shards = [
                await self._listed(BY_TIME, shard, "#listed BETWEEN :lowest AND :highest", between, limit=limit + 1)
                for shard in map(str, range(SHARDS))
            ]
            return page_of(list(islice(merge(*shards), limit + 1)), limit, datetime.now(UTC))

        return await self.insist("the listing of sessions", attempt)

    async def _listed(
        self, index: str, partition: str, where: str, values: Item, **parameters: Any
    ) -> list[tuple[str, str]]:
        """Return heads of an index, each as its place and its state."""
        found = await self._table.query(
            IndexName=index,
            KeyConditionExpression=f"#partition = :partition AND {where}",
            ExpressionAttributeNames={"#partition": PARTITIONS[index], "#listed": "listed"},
            ExpressionAttributeValues={":partition": {"S": partition}, **values},
            **parameters,
        )
        return [(item["listed"]["S"], item["state"]["S"]) for item in found]

    @override
    async def migrate(self) -> None:
        await self.insist(f"table {self._table.name!r}", lambda _: self._table.migrate())

    @override
    async def close(self) -> None:
        self._table.close(client=self._owns_client)


@cache
def _session() -> boto3.Session:
    return boto3.Session()  # which takes a tenth of a second to read its own definitions


def _client(region: str | None, endpoint_url: str | None) -> Any:
    region = region or os.environ.get("AWS_REGION")  # which every other SDK of AWS reads, and boto3 does not
    options: dict[str, Any] = {"region_name": region, "endpoint_url": endpoint_url}
    if endpoint_url and urlsplit(endpoint_url).hostname in LOCAL:
        options["region_name"] = region or "us-east-1"
        if "AWS_ACCESS_KEY_ID" not in os.environ:
            options |= {"aws_access_key_id": "local", "aws_secret_access_key": "local"}
    retries: Any = {"mode": "standard", "total_max_attempts": 2}
    config = Config(max_pool_connections=THREADS * 2, connect_timeout=3, read_timeout=20, retries=retries)
    return _session().client("dynamodb", config=config, **options)


def _is_overloaded(error: Exception) -> bool:
    """Tell whether a server or a gateway before it has failed, by a name of its own."""
    answer = error.response.get("ResponseMetadata", {}) if isinstance(error, aws.ClientError) else {}
    return answer.get("HTTPStatusCode", 0) >= HTTPStatus.INTERNAL_SERVER_ERROR


def _why_cancelled(error: aws.ClientError) -> Verdict:
    reasons = {reason.get("Code") for reason in error.response.get("CancellationReasons", [])}
    if reasons & {"ConditionalCheckFailed", "TransactionConflict"}:
        return Verdict.RIVAL
    return Verdict.BUSY if reasons & {"ThrottlingError", "ProvisionedThroughputExceeded"} else Verdict.REFUSED
