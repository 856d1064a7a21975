"""Durable conversation state for LangChain and LangGraph.

    from lc_history import ChatHistories, with_history

Histories that never lose, duplicate, reorder or leak a message; agents that resume exactly where they stopped
(`lc_history.agents`).
"""

from lc_history.chat_message_histories import (
    DynamoDBChatMessageHistory,
    FirestoreChatMessageHistory,
    InMemoryChatMessageHistory,
    PostgresChatMessageHistory,
    RedisChatMessageHistory,
    SQLiteChatMessageHistory,
)
from lc_history.histories import ChatHistories, SessionListing, history_factory_config
from lc_history.history import ChatHistory, Session
from lc_history.model import SessionKey
from lc_history.privacy.actor import acting_as
from lc_history.privacy.audit import AuditHead, AuditTrail
from lc_history.privacy.keyring import Keyring
from lc_history.privacy.redaction import Redactor
from lc_history.reading import Label
from lc_history.with_history import with_history

__all__ = [
    "AuditHead",
    "AuditTrail",
    "ChatHistories",
    "ChatHistory",
    "DynamoDBChatMessageHistory",
    "FirestoreChatMessageHistory",
    "InMemoryChatMessageHistory",
    "Keyring",
    "Label",
    "PostgresChatMessageHistory",
    "Redactor",
    "RedisChatMessageHistory",
    "SQLiteChatMessageHistory",
    "Session",
    "SessionKey",
    "SessionListing",
    "acting_as",
    "history_factory_config",
    "with_history",
]
