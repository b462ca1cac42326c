"""The settings of the board, read from a mapping (the environment) and checked before anything starts."""

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Self

import argon2
from argon2.exceptions import InvalidHashError

MIN_SECRET = 32
MAX_TEXT = 100
DEFAULT_MAX_UPLOAD = 50 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Settings:
    """What the board can be told. README.md has the table."""

    cookie_secret: str = field(repr=False)
    password_hash: str = field(repr=False)
    data: Path
    max_upload: int
    release: str
    port: int | None
    name: str

    @classmethod
    def read(cls, values: Mapping[str, str]) -> Self:
        """Return the settings, or raise a ValueError that says what is wrong and what is allowed."""
        return cls(
            cookie_secret=_secret(values.get("BOARD_COOKIE_SECRET", "")),
            password_hash=_password_hash(values.get("BOARD_PASSWORD_HASH", "")),
            max_upload=_number(values, "BOARD_MAX_UPLOAD", 1, 2**40) or DEFAULT_MAX_UPLOAD,
            release=_text(values, "RELEASE") or _own_version(),
            port=_number(values, "PORT", 1, 65535),
            name=_text(values, "BOARD_NAME") or "Eyewall board",
            # Last, because it is the one that touches the disk.
            data=_directory(values.get("BOARD_DATA") or str(Path(tempfile.gettempdir()) / "board-data")),
        )


def _secret(value: str) -> str:
    if not value:
        raise ValueError(
            f"BOARD_COOKIE_SECRET is not set: a random text of at least {MIN_SECRET} characters is required"
        )
    if len(value) < MIN_SECRET:
        raise ValueError(
            f"BOARD_COOKIE_SECRET has {len(value)} characters: at least {MIN_SECRET} random ones are required"
        )
    return value


def _password_hash(value: str) -> str:
    if value:
        try:
            argon2.extract_parameters(value)
        except InvalidHashError:
            # The value stays out of the message: what stands there may well be the password itself.
            raise ValueError(
                f"BOARD_PASSWORD_HASH ({len(value)} characters, not shown) is not an argon2 hash: "
                "what `python -m board.password` prints is allowed, or nothing, which disables the login"
            ) from None
    return value


def _number(values: Mapping[str, str], name: str, least: int, most: int) -> int | None:
    text = values.get(name, "")
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and least <= int(text[:20]) <= most):
        raise ValueError(f"{name} is {text[:MAX_TEXT]!r}: a whole number from {least} to {most} is allowed")
    return int(text)


def _text(values: Mapping[str, str], name: str) -> str:
    text = values.get(name, "")
    if len(text) > MAX_TEXT or not text.isprintable():
        raise ValueError(
            f"{name} is {text[:MAX_TEXT]!r}: up to {MAX_TEXT} printable characters on one line are allowed"
        )
    return text


def _directory(value: str) -> Path:
    path = Path(value)
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Asking permission bits would not notice a read-only or a full file system; writing a file does.
        with tempfile.TemporaryFile(dir=path) as file:
            file.write(os.urandom(1))
    except OSError as error:
        raise ValueError(
            f"BOARD_DATA is {value!r}, where nothing can be written ({error.strerror}): "
            "a directory that the application may write to, or may create, is allowed"
        ) from None
    return path


def _own_version() -> str:
    try:
        return version("board")
    except PackageNotFoundError:
        return "unpackaged"
