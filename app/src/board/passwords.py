"""The one password of the board, checked without holding up the loop."""

import hashlib
from concurrent.futures import ThreadPoolExecutor

from argon2 import PasswordHasher
from argon2.exceptions import Argon2Error, InvalidHashError
from tornado.ioloop import IOLoop

MAX_LENGTH = 1024

# One check takes 64 MB for some 50 ms. Two at a time, and a short queue, bound what a flood of guesses costs.
_THREADS = 2
_QUEUE = 16


class BusyError(Exception):
    """So many log-ins are being checked that another one would only wait."""


class Passwords:
    """Checks passwords in threads of its own, so that the loop goes on serving meanwhile."""

    def __init__(self, password_hash: str) -> None:
        self._hash = password_hash
        self._hasher = PasswordHasher()
        # Threads start with the first check, so an application may fork between make_app and its loop.
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="password")
        self._pending = 0
        # Signed into the login cookie: a changed password ends every session that the old one opened.
        self.fingerprint = hashlib.sha256(password_hash.encode()).hexdigest()[:16]

    @property
    def enabled(self) -> bool:
        return bool(self._hash)

    async def matches(self, password: str) -> bool:
        if not self.enabled or len(password) > MAX_LENGTH:
            return False
        if self._pending >= _QUEUE:
            raise BusyError
        self._pending += 1
        try:
            return await IOLoop.current().run_in_executor(self._threads, self._verify, password)
        finally:
            self._pending -= 1

    def _verify(self, password: str) -> bool:
        try:
            return self._hasher.verify(self._hash, password)
        except (Argon2Error, InvalidHashError):
            return False
