"""One SQLite file: its connections, and its errors in words.

Connections are opened when they are needed and handed from thread to thread. Readers share the file with one writer
(WAL); the writers of this process wait for each other here, in order, and for other processes in SQLite.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Final, Literal, TypeVar
from weakref import WeakSet, finalize

from lc_history.bridge import Lock, Threads, drive, pause
from lc_history.errors import StoreError, StoreUnavailableError
from lc_history.sqlite.schema import APPLICATION_ID, MIGRATIONS

T = TypeVar("T")

Synchronous = Literal["full", "normal"]

Identity = tuple[int, int]
"""Which file it is, whatever it is called: its device and its inode."""


class _Connection(sqlite3.Connection):
    log: tuple[Identity | None, ...] = (None,)
    """The write-ahead log that it writes to, and its index: SQLite keeps them as long as a connection is open."""


def _identity(path: Path) -> Identity | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


class SQLiteFile:
    """A database file, for any number of threads and processes.

    synchronous: "full" flushes every commit to the disk, so that it survives a power cut. "normal" is faster; a
        power cut may then take the latest commits, whole ones. Neither loses any when only a process dies.
    """

    def __init__(self, path: Path, *, busy_timeout: timedelta, synchronous: Synchronous) -> None:
        self.path = path.absolute()  # a program may change its folder between two connections
        self._busy_timeout, self._synchronous = busy_timeout, synchronous
        self._idle: list[_Connection] = []
        self._place: Identity | None = None
        self._log: tuple[Path, ...] = ()
        self._writing = Lock()
        # SQLite has one writer, and reads are too short to gain from a second thread; but a write may have to wait.
        self._reader, self._writer = Threads(1, name="lc-history-sqlite-read"), Threads(1, name="lc-history-sqlite")
        _files.add(self)
        finalize(self, _close_all, self._idle)  # whoever never closes it leaves no log beside the file

    async def look(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Return what the work returns, which is one statement and so sees the file as of one moment."""
        return await self._reader.run(self._look, work)

    async def read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Return what the work returns, which sees the file as of one moment."""
        return await self._reader.run(self._transact, "BEGIN", work)

    async def write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Return what the work returns once it is committed; when it raises, nothing has changed."""
        return await self._writer.run(self._write, work)

    async def close(self) -> None:
        """Close the connections that are idle; a later call opens new ones, to whatever file is there then."""
        await self._writer.run(_close_all, self._idle)
        self._place = None
        for threads in (self._reader, self._writer):
            threads.close()

    def before_fork(self) -> None:
        """Close what is idle and let nobody write: in a child, SQLite would count on locks that its parent holds."""
        self._writing.acquire()
        _close_all(self._idle)

    def after_fork(self) -> None:
        """Go on, in the parent and in the child."""
        self._writing.release()

    def _look(self, work: Callable[[sqlite3.Connection], T]) -> T:
        with self._in_words(), self._connection() as connection:
            result = work(connection)
            self._check_place()
            self._check_log(connection)
            return result

    def _write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        with self._writing:
            return self._transact("BEGIN IMMEDIATE", work)

    def _transact(self, begin: str, work: Callable[[sqlite3.Connection], T]) -> T:
        with self._in_words(), self._connection() as connection:
            try:
                connection.execute(begin)  # Ctrl-C while it waits for another process comes when it has begun
                result = work(connection)
                self._check_place()
                self._check_log(connection)
                connection.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):  # nothing has begun, or the disk has failed and it is rolled back
                    connection.execute("ROLLBACK")
                raise
            return result

    @contextmanager
    def _connection(self) -> Iterator[_Connection]:
        try:
            connection = self._idle.pop()
        except IndexError:
            connection = self._open()
        try:
            yield connection
        finally:
            self._idle.append(connection)

    def _check_place(self) -> None:
        """Refuse to go on with a file that is no longer found under its path: what is written there, nobody finds."""
        found = _identity(self.path)
        if found is None or found != self._place:
            what = "deleted" if found is None else "replaced by another file"
            message = (
                f"{self.path} was {what} while it was in use; nothing was written, and what it held is lost with it "
                "unless it is put back: put it back, or close the store to go on with what is there then"
            )
            raise StoreError(message)

    def _check_log(self, connection: _Connection) -> None:
        """Refuse to commit to a write-ahead log that was deleted: SQLite does that where it finds no lock of ours."""
        log = tuple(map(_identity, self._log))
        if None in connection.log:
            connection.log = log
        elif connection.log != log:
            raise StoreError(
                f"the log of {self.path} was deleted while it was in use, and nothing was written: close the store to "
                "go on. Do not open or copy the file by other means in this program: SQLite's locks are gone then"
            )

    def _open(self) -> _Connection:
        if self._place is None:
            self._create()
            self._place = _identity(self.path)
            real = self.path.resolve()  # beside it SQLite keeps its log, not beside a link to it
            self._log = Path(f"{real}-wal"), Path(f"{real}-shm")
        self._check_place()
        connection = sqlite3.connect(
            self.path,
            timeout=self._busy_timeout.total_seconds(),
            isolation_level=None,
            check_same_thread=False,
            factory=_Connection,
        )
        try:
            self._check(connection)
            self._use_log(connection)
            connection.execute(f"PRAGMA synchronous = {self._synchronous}")
            connection.execute("PRAGMA secure_delete = ON")  # what is erased does not stay in free pages
            self._migrate(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _create(self) -> None:
        """Make the file and its folder, for their owner's eyes only."""
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.path.touch(mode=0o600, exist_ok=True)
        except OSError as error:
            reason = error.strerror or error
            message = f"{self.path} cannot be opened or made: {reason}; choose another path, or mend the rights"
            raise StoreError(message) from error

    def _check(self, connection: sqlite3.Connection) -> int:
        """Return the file's schema version; refuse another program's file, and one from the future."""
        (tables, application, version) = connection.execute(_IDENTITY).fetchone()  # as of one moment
        if tables and application != APPLICATION_ID:
            message = f"{self.path} is another program's database, and was left as it is: choose another path"
            raise StoreError(message)
        if version > len(MIGRATIONS):
            message = (
                f"{self.path} has schema version {version}, and this lc-history knows {len(MIGRATIONS)}: "
                "a newer one has written it, so upgrade lc-history here"
            )
            raise StoreError(message)
        return int(version)

    def _use_log(self, connection: sqlite3.Connection) -> None:
        """Let readers and a writer share the file; SQLite does not wait by itself when others do this at once."""
        for left in reversed(range(max(1, self._busy_timeout // _MOMENT))):
            try:
                connection.execute("PRAGMA journal_mode = WAL")
            except sqlite3.OperationalError as error:
                if not left or error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                    raise
                drive(pause(_MOMENT.total_seconds()))
            else:
                return

    def _migrate(self, connection: sqlite3.Connection) -> None:
        if self._check(connection) == len(MIGRATIONS):
            return
        connection.execute("BEGIN IMMEDIATE")
        try:
            for step in MIGRATIONS[self._check(connection) :]:
                for statement in step.split(";\n")[:-1]:
                    connection.execute(statement)
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")
            connection.execute("COMMIT")
        except BaseException:
            connection.execute("ROLLBACK")
            raise

    @contextmanager
    def _in_words(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            if self._place is not None:
                self._check_place()  # or what is wrong with the file is only that it is another one
            code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
            kind, words = _WORDS.get(code, (StoreError, "cannot be used as it is"))
            seconds = self._busy_timeout.total_seconds()
            message = f"{self.path} {words.format(seconds=seconds)} (SQLite says: {error})"
            raise kind(message) from error


_MOMENT: Final = timedelta(milliseconds=20)
_IDENTITY: Final = """
SELECT (SELECT count(*) FROM sqlite_schema), application_id, user_version
FROM pragma_application_id, pragma_user_version
"""
_WORDS: Final[dict[int, tuple[type[StoreError], str]]] = {
    sqlite3.SQLITE_BUSY: (
        StoreUnavailableError,
        "has been locked by another process for {seconds:g} seconds; nothing was written: try again",
    ),
    sqlite3.SQLITE_FULL: (StoreUnavailableError, "has no room left on its disk; nothing was written: make room"),
    sqlite3.SQLITE_IOERR: (StoreUnavailableError, "cannot be read or written: look after its disk"),
    sqlite3.SQLITE_CANTOPEN: (StoreError, "cannot be opened: choose another path, or mend the rights"),
    sqlite3.SQLITE_READONLY: (StoreError, "may not be written by this process: mend the rights of file and folder"),
    sqlite3.SQLITE_NOTADB: (StoreError, "is no SQLite database, and was left as it is: choose another path"),
    sqlite3.SQLITE_CORRUPT: (StoreError, "is damaged: restore a backup, or save what can be read with .recover"),
}


def _close_all(connections: list[_Connection]) -> None:
    while connections:
        connections.pop().close()


_files: Final[WeakSet[SQLiteFile]] = WeakSet()
_forking: Final[list[SQLiteFile]] = []


def _before_fork() -> None:
    for file in list(_files):
        file.before_fork()
        _forking.append(file)


def _after_fork() -> None:
    while _forking:
        _forking.pop().after_fork()


if hasattr(os, "register_at_fork"):  # where processes fork
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork)
