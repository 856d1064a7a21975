"""A store on Firestore: `documents` says what a session's documents are, `indexes` what listings need."""

from lc_history.stores.firestore.store import FirestoreStore

__all__ = ["FirestoreStore"]
