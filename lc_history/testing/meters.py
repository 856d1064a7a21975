"""Count what a provider's bill counts: calls and documents of Firestore, calls and capacity of DynamoDB."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import grpc  # type: ignore[import-untyped] # it has no stubs
from google.cloud import firestore
from typing_extensions import override

WRITES = {"BatchWriteItem", "DeleteItem", "PutItem", "TransactWriteItems", "UpdateItem"}


class FirestoreMeter(grpc.UnaryUnaryClientInterceptor, grpc.UnaryStreamClientInterceptor):  # type: ignore[misc] # grpc has no stubs
    """Calls, documents read and documents written since the last bill."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    @override
    def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        self._counts["calls"] += 1
        self._counts["writes"] += len(getattr(request, "writes", ()))
        return continuation(client_call_details, request)

    @override
    def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        self._counts["calls"] += 1
        return self._counted(continuation(client_call_details, request))

    def _counted(self, answers: Any) -> Iterator[Any]:
        for answer in answers:
            self._counts["reads"] += bool(getattr(answer, "found", None) or getattr(answer, "document", None))
            self._counts["reads"] += bool(getattr(answer, "missing", ""))
            yield answer

    def bill(self) -> dict[str, float]:
        """Return what has come together, and begin again."""
        counts, self._counts = self._counts, Counter()
        return dict(counts)


class MeteredFirestore(firestore.Client):
    """A blocking client of the emulator, whose `meter` counts."""

    meter: FirestoreMeter

    @override
    def _emulator_channel(self, transport: Any) -> Any:
        self.meter = FirestoreMeter()
        return grpc.intercept_channel(super()._emulator_channel(transport), self.meter)  # type: ignore[no-untyped-call]


class DynamoDBMeter:
    """Calls, read units and write units of a boto3 client since the last bill."""

    def __init__(self, client: Any) -> None:
        self._counts: Counter[str] = Counter()
        client.meta.events.register("provide-client-params.dynamodb.*", self._ask)
        client.meta.events.register("after-call.dynamodb.*", self._note)

    def bill(self) -> dict[str, float]:
        """Return what has come together, and begin again."""
        counts, self._counts = self._counts, Counter()
        return {name: count for name, count in counts.items() if count}

    def _ask(self, params: dict[str, Any], model: Any, **_: Any) -> None:
        if "ReturnConsumedCapacity" in model.input_shape.members:
            params["ReturnConsumedCapacity"] = "INDEXES"

    def _note(self, parsed: dict[str, Any], model: Any, **_: Any) -> None:
        self._counts["calls"] += 1
        consumed = parsed.get("ConsumedCapacity", [])
        for each in consumed if isinstance(consumed, list) else [consumed]:
            if model.name in WRITES:
                self._counts["write units"] += each.get("WriteCapacityUnits", each["CapacityUnits"])
            else:
                self._counts["read units"] += each["CapacityUnits"]
