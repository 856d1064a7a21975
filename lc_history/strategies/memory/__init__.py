"""Memory that an agent keeps itself: blocks that it always sees, an archive, and tools to search what was said."""

from lc_history.strategies.memory.blocks import Blocks, Memory
from lc_history.strategies.memory.tools import memory_tools

__all__ = ["Blocks", "Memory", "memory_tools"]
