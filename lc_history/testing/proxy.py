"""Between client and server: counts round trips, makes them longer, and loses a reply on demand."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from datetime import timedelta
from selectors import EVENT_READ, DefaultSelector
from time import sleep
from typing import Final, Self

PIECE: Final = 1 << 16


class Proxy:
    """Passes bytes between clients and a server on this machine, and watches them.

    with Proxy(port) as proxy:
        store = RedisStore.from_url(f"redis://127.0.0.1:{proxy.port}/0")

    delay: how much longer each round trip takes, as over a network.
    """

    def __init__(self, server_port: int, *, delay: timedelta = timedelta()) -> None:
        self._server_port, self._delay = server_port, delay.total_seconds()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.round_trips = 0
        """How often a client has sent something and then waited for the server, on all connections."""
        self.connections = 0
        self._swallow = threading.Event()
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()

    def swallow_next_reply(self) -> None:
        """Let the server do what it is asked next, and close the connection instead of passing on its answer."""
        self._swallow.set()

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, name="proxy", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            ends = [self._listener, *self._open]
        for end in ends:
            _close(end)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self._server_port))
            with self._lock:
                self.connections += 1
                self._open |= {client, server}
            threading.Thread(target=self._pass, args=(client, server), name="proxy", daemon=True).start()

    def _pass(self, client: socket.socket, server: socket.socket) -> None:
        other, asking = {client: server, server: client}, False
        with DefaultSelector() as ready:
            for end in other:
                ready.register(end, EVENT_READ)
            try:
                while True:
                    for key, _ in ready.select():
                        end = client if key.fileobj is client else server
                        if not (piece := end.recv(PIECE)) or (end is server and self._swallowed()):
                            return
                        if end is client and not asking:
                            with self._lock:
                                self.round_trips += 1
                            sleep(self._delay)
                        asking = end is client
                        other[end].sendall(piece)
            except OSError:
                return
            finally:
                for end in other:
                    _close(end)

    def _swallowed(self) -> bool:
        with self._lock:
            swallowed = self._swallow.is_set()
            self._swallow.clear()
        return swallowed


def _close(end: socket.socket) -> None:
    with suppress(OSError):  # it was closed from the other side
        end.shutdown(socket.SHUT_RDWR)
    end.close()
