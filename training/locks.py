"""Locks that die with their process, whichever way it ends: what tells a worker that is alive from one that is not.

Workers of one machine lock files; workers that share a PostgreSQL database take its advisory locks, which the server
lets go of when a connection breaks.
"""

from __future__ import annotations

import fcntl
import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Protocol

from slantwise.errors import TrackingError
from training.redact import redact

KEEP_ALIVE = {"tcp_keepalives_idle": "30", "tcp_keepalives_interval": "10", "tcp_keepalives_count": "3"}  # seconds, n


class Locks(Protocol):
    """Names stand for locks; one process holds a name at a time, and lets go of it when it ends."""

    def hold(self, name: str) -> Any:
        """A context in which this process holds the name; it waits for it."""

    def take(self, name: str) -> bool:
        """Hold the name from now on, unless another does; whether this process has it."""

    def release(self, name: str) -> None: ...

    def is_free(self, name: str) -> bool:
        """Whether nobody holds the name; not asked of names that this process holds."""


class FileLocks:
    """One file a name."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.held: dict[str, IO[str]] = {}
        folder.mkdir(parents=True, exist_ok=True)

    def _open(self, name: str) -> IO[str]:
        return (self.folder / f"{name}.lock").open("a")

    @contextmanager
    def hold(self, name: str) -> Iterator[None]:
        with self._open(name) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def take(self, name: str) -> bool:
        file = self._open(name)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return False
        self.held[name] = file
        return True

    def release(self, name: str) -> None:
        if name in self.held:
            self.held.pop(name).close()

    def is_free(self, name: str) -> bool:
        with self._open(name) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
        return True


class PostgresLocks:
    """Advisory locks of one session. Names of different studies do not meet.

    Where the machine of a worker vanishes without a word, the server finds out by keep-alive messages in about a
    minute.
    """

    def __init__(self, url: str, study: str) -> None:
        import psycopg

        self.url, self.study = url, study
        plain = re.sub(r"^postgresql\+\w+:", "postgresql:", url)
        self.connection = self._asked(lambda: psycopg.connect(plain, autocommit=True, connect_timeout=10))
        for name, value in KEEP_ALIVE.items():
            self._ask("SELECT set_config(%s, %s, false)", name, value)

    def _asked(self, call: Any) -> Any:
        import psycopg

        try:
            return call()
        except psycopg.Error as error:
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise TrackingError(redact(f"the study's database at {self.url} cannot be used: {first}")) from error

    def _ask(self, query: str, *values: Any) -> Any:
        return self._asked(lambda: self.connection.execute(query, values).fetchone()[0])

    def _number(self, name: str) -> int:
        digest = hashlib.blake2b(f"slantwise {self.study} {name}".encode(), digest_size=8).digest()
        return int.from_bytes(digest, "big", signed=True)

    @contextmanager
    def hold(self, name: str) -> Iterator[None]:
        self._ask("SELECT pg_advisory_lock(%s)", self._number(name))
        try:
            yield
        finally:
            self.release(name)

    def take(self, name: str) -> bool:
        return bool(self._ask("SELECT pg_try_advisory_lock(%s)", self._number(name)))

    def release(self, name: str) -> None:
        self._ask("SELECT pg_advisory_unlock(%s)", self._number(name))

    def is_free(self, name: str) -> bool:
        free = self.take(name)
        if free:
            self.release(name)
        return free
