"""What the model sees of a conversation: a view is made for each call, and the transcript stays whole."""

from lc_history.strategies.summary import Summarised, Summary
from lc_history.strategies.view import Full, Strategy, View
from lc_history.strategies.window import Window

__all__ = ["Full", "Strategy", "Summarised", "Summary", "View", "Window"]
