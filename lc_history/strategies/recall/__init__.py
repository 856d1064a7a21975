"""What has left the window and is needed again: searched by words or by meaning, shown at the tail of the prompt."""

from lc_history.strategies.recall.catching_up import CatchUp, CatchUpReport
from lc_history.strategies.recall.hybrid import Hybrid
from lc_history.strategies.recall.index import Hit, Index, Passage, Scope
from lc_history.strategies.recall.lexical import LexicalIndex
from lc_history.strategies.recall.strategy import Recall
from lc_history.strategies.recall.vectors import VectorIndex

__all__ = [
    "CatchUp",
    "CatchUpReport",
    "Hit",
    "Hybrid",
    "Index",
    "LexicalIndex",
    "Passage",
    "Recall",
    "Scope",
    "VectorIndex",
]
