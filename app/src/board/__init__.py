"""Eyewall board: a plain Tornado application, and the reference for what Eyewall puts into production."""

from board.application import make_app

__all__ = ["make_app"]
