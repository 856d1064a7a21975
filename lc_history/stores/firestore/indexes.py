"""The indexes that listings on Firestore need, and the policy that collects what has expired."""

from __future__ import annotations

from typing import Any


def index_definitions(prefix: str = "lch") -> dict[str, Any]:
    """Return the content of ``firestore.indexes.json``; ``firebase deploy --only firestore:indexes`` installs it.

    Append, read and delete work without. Bodies are taken out of the automatic indexes, which would cost.
    """
    group = f"{prefix}_documents"

    def index(*fields: tuple[str, str]) -> dict[str, Any]:
        listed = [{"fieldPath": path, "order": order} for path, order in fields]
        return {"collectionGroup": group, "queryScope": "COLLECTION_GROUP", "fields": listed}

    def field(path: str, *indexes: tuple[str, str], **more: Any) -> dict[str, Any]:
        kept = [{"queryScope": scope, "order": order} for scope, order in indexes]
        return {"collectionGroup": group, "fieldPath": path, "indexes": kept, **more}

    owned, newest = ("user", "ASCENDING"), ("listed", "DESCENDING")
    return {
        "indexes": [index(owned, newest), index(owned, ("archived", "ASCENDING"), newest)],
        "fieldOverrides": [
            *(field(path) for path in ("body", "state", "id", "at", "token", "pieces")),
            field("expires_at", ("COLLECTION", "ASCENDING"), ttl=True),
            field("listed", ("COLLECTION_GROUP", "ASCENDING")),
        ],
    }
