"""API keys: made, kept as hashes, revoked; and the ring of them that a server looks callers up in.

A key is `podium_ID_SECRET`. ID is public: it is listed, logged and revoked by. SECRET has 256 random bits and is shown
once. What is kept is HMAC-SHA256 of the whole key under the server's pepper. A slow hash (scrypt, argon2) makes
guessing dear where secrets are guessable; nobody guesses 256 random bits at any price, and a slow hash would be paid
with every call. The pepper is there so that whoever can write the file of keys cannot add one of their own.
"""

from __future__ import annotations

import base64
import hmac
import logging
import os
import re
import secrets
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from podium_server.access.secrets import Secret
from podium_server.errors import ConfigInvalid, NotFound, StoreError

log = logging.getLogger(__name__)

FILE_NAME = "keys.sqlite"
LOOK_EVERY_S = 0.25

_ID_BYTES = 8
_SECRET_BYTES = 32
_KEY = re.compile(r"podium_([0-9a-f]{16})_([A-Za-z0-9_-]{43})")
_SCHEMA_VERSION = 1
_SCHEMA = """
CREATE TABLE keys (
  id TEXT PRIMARY KEY, digest BLOB NOT NULL, tenant TEXT NOT NULL,
  pipelines TEXT, inline INTEGER, collections TEXT, note TEXT NOT NULL,
  created_s REAL NOT NULL, expires_s REAL, revoked_s REAL
) STRICT, WITHOUT ROWID;
CREATE TABLE pepper (digest BLOB NOT NULL) STRICT;
"""


@dataclass(frozen=True, slots=True)
class Key:
    """What is kept of a key.

    Args:
        id: its public part.
        digest: of the whole key, under the pepper.
        tenant: whose it is.
        pipelines: that it may use; None for all of the tenant's.
        inline: whether requests may bring stages of their own; None: where all pipelines are allowed.
        collections: that it may use; None for all of the tenant's.
        note: for people.
        created_s: seconds of Unix time, as the next two.
        expires_s: None for never.
        revoked_s: None where it is not.

    """

    id: str
    digest: bytes
    tenant: str
    pipelines: frozenset[str] | None = None
    inline: bool | None = None
    collections: frozenset[str] | None = None
    note: str = ""
    created_s: float = 0.0
    expires_s: float | None = None
    revoked_s: float | None = None

    def __repr__(self) -> str:
        return f"Key(id={self.id!r}, tenant={self.tenant!r})"


def digest_of(key: str, pepper: Secret) -> bytes:
    """Return what is kept of a key."""
    return hmac.digest(pepper.reveal(), key.encode(), "sha256")


def id_of(key: str) -> str | None:
    """Return the public part of a key; None where it is no key."""
    match = _KEY.fullmatch(key)
    return None if match is None else match[1]


class KeyFile:
    """The file of keys, as the command line sees it. Every method opens it, does its work in one transaction, closes.

    The journal is SQLite's rollback journal, so that a server may read a file that it cannot write.

    Args:
        path: of the file.
        pepper: that digests are made with.

    Raises:
        ConfigInvalid: the keys were made with another pepper, or it is no file of keys.
        StoreError: it cannot be read or written.

    """

    def __init__(self, path: Path, pepper: Secret) -> None:
        self.path = path
        self._pepper = pepper

    def create(
        self,
        tenant: str,
        *,
        pipelines: frozenset[str] | None = None,
        inline: bool | None = None,
        collections: frozenset[str] | None = None,
        note: str = "",
        expires_s: float | None = None,
        now_s: float | None = None,
    ) -> tuple[str, Key]:
        """Make a key. Returns the key itself, which is nowhere kept, and what is kept of it."""
        id_ = secrets.token_hex(_ID_BYTES)
        secret = base64.urlsafe_b64encode(secrets.token_bytes(_SECRET_BYTES)).rstrip(b"=").decode()
        whole = f"podium_{id_}_{secret}"
        made = Key(
            id=id_,
            digest=digest_of(whole, self._pepper),
            tenant=tenant,
            pipelines=pipelines,
            inline=inline,
            collections=collections,
            note=note,
            created_s=time.time() if now_s is None else now_s,
            expires_s=expires_s,
        )
        with self._changing() as connection:
            connection.execute("INSERT INTO keys VALUES (?,?,?,?,?,?,?,?,?,?)", _row(made))
        return whole, made

    def list(self) -> tuple[Key, ...]:
        """Return all keys that there ever were, the oldest first."""
        if not self.path.exists():
            return ()
        with _translated(self.path), closing(_opened(self.path)) as connection:
            _check(connection, self.path, self._pepper)
            return _read(connection)

    def revoke(self, id_: str, *, now_s: float | None = None) -> Key:
        """Revoke a key, for good; servers follow within a second. One that is revoked stays as it is.

        Raises:
            NotFound: no key has this id.

        """
        with self._changing() as connection:
            connection.execute(
                "UPDATE keys SET revoked_s = ? WHERE id = ? AND revoked_s IS NULL",
                (time.time() if now_s is None else now_s, id_),
            )
            found = {key.id: key for key in _read(connection)}
        if id_ not in found:
            raise NotFound("key", id_, tuple(found))
        return found[id_]

    @contextmanager
    def _changing(self) -> Iterator[sqlite3.Connection]:
        """Open the file, which is made where it is not there, within one transaction."""
        with _translated(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # So that it never exists with the rights that a umask leaves.
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600))
            with closing(sqlite3.connect(self.path, timeout=10.0, isolation_level=None)) as connection:
                connection.execute("PRAGMA synchronous=FULL")
                connection.execute("BEGIN IMMEDIATE")
                if not connection.execute("PRAGMA user_version").fetchone()[0]:
                    for statement in _SCHEMA.strip().split(";\n"):
                        connection.execute(statement)
                    connection.execute("INSERT INTO pepper VALUES (?)", (_mark(self._pepper),))
                    connection.execute(f"PRAGMA user_version={_SCHEMA_VERSION}")
                _check(connection, self.path, self._pepper)
                yield connection
                connection.execute("COMMIT")


class KeyRing:
    """The keys as a server knows them: all in memory, followed by a thread of its own.

    A file that is not there yet is followed, too: the first key may come after the server. One that cannot be read any
    more leaves the keys as they were last seen, which is told once and counted; keys go on to expire.

    Args:
        path: of the file.
        pepper: gives the secret; asked for when the first key is there.

    """

    def __init__(self, path: Path, pepper: Callable[[], Secret]) -> None:
        self.path = path
        self.keys: Mapping[str, Key] = MappingProxyType({})
        self.failures = 0
        """Looks at the file that failed."""
        self._pepper_of = pepper
        self._pepper: Secret | None = None
        self._nobody = secrets.token_bytes(32)
        self._seen: tuple[int, int, int] | None = None
        self._connection: sqlite3.Connection | None = None
        self._failing = False
        self._looking = threading.Lock()
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def open(self) -> None:
        """Read the keys, and begin to follow their file.

        Raises:
            ConfigInvalid, StoreError: they cannot be read.

        """
        self._look()
        self._thread = threading.Thread(target=self._follow, name="podium-keys", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Follow no more."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join()
        with self._looking:
            self._forget()

    def find(self, given: str) -> Key | None:
        """Return the key that was given, be it revoked or expired; None where it is none of ours.

        It takes as long for an id that is not there, and compares digests in constant time.
        """
        id_ = id_of(given)
        key = None if id_ is None else self.keys.get(id_)
        pepper = self._pepper
        if pepper is None:
            return None
        right = hmac.compare_digest(digest_of(given, pepper), self._nobody if key is None else key.digest)
        return key if right else None

    def _follow(self) -> None:
        while not self._stopped.wait(LOOK_EVERY_S):
            try:
                self._look()
            except (ConfigInvalid, StoreError) as error:
                self.failures += 1
                with self._looking:
                    self._forget()
                if not self._failing:
                    self._failing = True
                    log.error("API keys stay as they were last seen, and none can be revoked: %s", error.message)
                continue
            if self._failing:
                self._failing = False
                log.warning("the file of API keys can be read again")

    def _look(self) -> None:
        """Read the keys where their file has changed."""
        with self._looking:
            self._look_alone()

    def _look_alone(self) -> None:
        try:
            stat = self.path.stat()
        except FileNotFoundError:
            if self.keys or self._seen is not None:
                raise StoreError(f"{self.path}: is gone") from None
            return
        except OSError as error:
            raise StoreError(f"{self.path}: cannot be read: {error.strerror}") from error
        with _translated(self.path):
            if self._connection is None or self._seen is None or self._seen[0] != stat.st_ino:
                self._forget()
                self._seen = None  # a version means something to the connection that gave it
                # Read and closed in the thread that follows, but opened at first by the one that starts it.
                self._connection = _opened(self.path)
            version = self._connection.execute("PRAGMA data_version").fetchone()[0]
            seen = (stat.st_ino, version, stat.st_size)
            if seen == self._seen:
                return
            if not self._connection.execute("PRAGMA user_version").fetchone()[0]:
                return  # its first key is being made
            if self._pepper is None:
                self._pepper = self._pepper_of()
            _check(self._connection, self.path, self._pepper)
            self.keys = MappingProxyType({key.id: key for key in _read(self._connection)})
        self._seen = seen

    def _forget(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection = None


def _opened(path: Path) -> sqlite3.Connection:
    # To read and write, so that the journal of a killed `podium keys` is rolled back; SQLite falls back to reading.
    uri = f"{path.absolute().as_uri()}?mode=rw"
    return sqlite3.connect(uri, uri=True, timeout=10.0, isolation_level=None, check_same_thread=False)


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.DatabaseError as error:
        raise StoreError(f"{path}: the keys cannot be read or written: {error}") from error
    except OSError as error:
        raise StoreError(f"{path}: the keys cannot be read or written: {error.strerror}") from error


def _mark(pepper: Secret) -> bytes:
    """Return what shows that a pepper is the same, and nothing else of it."""
    return hmac.digest(pepper.reveal(), b"podium: which pepper is this?", "sha256")


def _check(connection: sqlite3.Connection, path: Path, pepper: Secret) -> None:
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version != _SCHEMA_VERSION:
        raise ConfigInvalid(f"{path}: is version {version} of a file of keys, and this Podium reads {_SCHEMA_VERSION}")
    row = connection.execute("SELECT digest FROM pepper").fetchone()
    if row is None or not hmac.compare_digest(row[0], _mark(pepper)):
        raise ConfigInvalid(
            f"{path}: the keys in it were made with another pepper; give the server the one that "
            "`podium keys create` had (access.pepper_file, access.pepper_env)"
        )


_COLUMNS = "id, digest, tenant, pipelines, inline, collections, note, created_s, expires_s, revoked_s"


def _read(connection: sqlite3.Connection) -> tuple[Key, ...]:
    rows = connection.execute(f"SELECT {_COLUMNS} FROM keys ORDER BY created_s, id")
    return tuple(
        Key(
            id_, digest, tenant, _names(pipelines), None if inline is None else bool(inline), _names(collections), *rest
        )
        for id_, digest, tenant, pipelines, inline, collections, *rest in rows
    )


def _row(key: Key) -> tuple[object, ...]:
    return (
        key.id,
        key.digest,
        key.tenant,
        _joined(key.pipelines),
        None if key.inline is None else int(key.inline),
        _joined(key.collections),
        key.note,
        key.created_s,
        key.expires_s,
        key.revoked_s,
    )


def _names(joined: str | None) -> frozenset[str] | None:
    return None if joined is None else frozenset(joined.split("\n")) if joined else frozenset()


def _joined(names: frozenset[str] | None) -> str | None:
    return None if names is None else "\n".join(sorted(names))
