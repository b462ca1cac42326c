"""What is known of the request that is being answered."""

from contextvars import ContextVar

request_id: ContextVar[str] = ContextVar("request_id", default="-")
"""The id of the request that is being answered, ``-`` outside of one.

It is ``X-Request-Id`` if a trusted peer sent a well-formed one, else made here.
"""
