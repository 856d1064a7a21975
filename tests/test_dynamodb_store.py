"""The contract on DynamoDB Local, the bill, and its restart in mid-conversation."""

from __future__ import annotations

from functools import partial
from urllib.parse import quote
from uuid import uuid4

import pytest

from lc_history.bridge import drive
from lc_history.stores.dynamodb import DynamoDBStore
from lc_history.testing import StoreContract, StoreOpener


def open_dynamodb(endpoint: str, table: str) -> DynamoDBStore:
    return DynamoDBStore.from_url(f"dynamodb://{table}?endpoint_url={quote(endpoint)}", transaction_items=10)


class TestDynamoDBStore(StoreContract):
    turns = 2
    attempts = 3
    examples = 6
    many_records = 300

    @pytest.fixture
    def table(self, dynamodb_endpoint: str) -> str:
        name = f"t{uuid4().hex[:8]}"
        drive(open_dynamodb(dynamodb_endpoint, name).migrate())
        return name

    @pytest.fixture
    def open_store(self, dynamodb_endpoint: str, table: str) -> StoreOpener:
        return partial(open_dynamodb, dynamodb_endpoint, table)
