"""The only room that knows blocking from async.

Every operation of the library is written once, as ``async def``. The async door awaits it. The blocking door
drives it: with blocking clients nothing in it ever waits, so one ``send(None)`` runs it to its end. No event
loop, no generated code; a thread only for drivers that cannot wait, for heartbeats, and for what the garbage
collector finds.
"""

from lc_history.bridge.calls import breathe, collect, complete, each, either, entered, pause, run_async, settle, within
from lc_history.bridge.clients import Clients, Lock, Places, Pulse, Slots, Threads
from lc_history.bridge.doors import Closing, door, drive, drive_each, is_blocking

__all__ = [
    "Clients",
    "Closing",
    "Lock",
    "Places",
    "Pulse",
    "Slots",
    "Threads",
    "breathe",
    "collect",
    "complete",
    "door",
    "drive",
    "drive_each",
    "each",
    "either",
    "entered",
    "is_blocking",
    "pause",
    "run_async",
    "settle",
    "within",
]
