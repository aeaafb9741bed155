"""Secrets: read from the environment or from a file, never shown."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from podium_server.errors import ConfigInvalid

_PEPPER_BYTES = 32
_LEAST_BYTES = 16


class Secret:
    """Bytes that no `repr`, log line or error message shows."""

    __slots__ = ("_value",)

    def __init__(self, value: bytes) -> None:
        self._value = value

    def reveal(self) -> bytes:
        """Return the secret itself."""
        return self._value

    def __repr__(self) -> str:
        return "Secret(…)"

    __str__ = __repr__

    def __reduce__(self) -> str:
        raise TypeError("a secret is not pickled")


def read_text(*, env: str | None = None, file: Path | None = None, what: str) -> str | None:
    """Return a secret text from an environment variable or a file; None where neither is named.

    Args:
        env: name of the variable.
        file: its content, without the line end that editors add.
        what: it is, for the message.

    Raises:
        ConfigInvalid: the variable is not set, the file cannot be read, or there is nothing in it.

    """
    if env is not None:
        value = os.environ.get(env)
        where = f"the environment variable {env}"
        if value is None:
            raise ConfigInvalid(f"{what}: {where} is not set")
    elif file is not None:
        where = str(file)
        try:
            value = file.read_text("utf-8").rstrip("\r\n")
        except OSError as error:
            raise ConfigInvalid(f"{what}: {file} cannot be read: {error.strerror}") from error
        except UnicodeDecodeError:
            # The error of Python's own shows the bytes.
            raise ConfigInvalid(f"{what}: {file} is no UTF-8") from None
    else:
        return None
    if not value:
        raise ConfigInvalid(f"{what}: {where} is empty")
    return value


def pepper(*, env: str | None, file: Path, make: bool) -> Secret:
    """Return the secret that keys are hashed with.

    Args:
        env: the variable that has it; None for the file.
        file: where it is, or is to be.
        make: whether to make the file where it is not there.

    Raises:
        ConfigInvalid: it is not there, or too short to be one.

    """
    if env is None and make and not file.exists():
        _write_new(file, secrets.token_hex(_PEPPER_BYTES))
    value = read_text(env=env, file=file, what="the pepper of API keys")
    assert value is not None  # for mypy: one of them is named
    if len(value.encode()) < _LEAST_BYTES:
        raise ConfigInvalid(f"the pepper of API keys has {len(value.encode())} bytes; at least {_LEAST_BYTES}")
    return Secret(value.encode())


def _write_new(file: Path, text: str) -> None:
    """Write a file that only its owner reads, whole or not at all; another one that was faster stands."""
    file.parent.mkdir(parents=True, exist_ok=True)
    beside = file.with_name(f"{file.name}.{os.getpid()}.new")
    try:
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as opened:
            opened.write(text + "\n")
            opened.flush()
            os.fsync(opened.fileno())
        os.link(beside, file)
    except FileExistsError:
        pass
    except OSError as error:
        raise ConfigInvalid(f"{file}: cannot be written: {error.strerror}") from error
    finally:
        beside.unlink(missing_ok=True)
