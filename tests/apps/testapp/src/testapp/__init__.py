"""The application that deploys are measured with: plain Tornado, and it knows nothing of how it is run.

Everything that it answers says who answered, in the headers ``X-Release``, ``X-Pid``, ``X-Port`` and ``X-Host``.
It is told by its environment: ``RELEASE`` and ``PORT``, which it repeats, and

- ``TESTAPP_FAULT``: ``import`` (importing it raises), ``start`` (the factory never returns), ``health`` (``/health``
  answers 500), ``dies`` (the process exits with status 3, in the middle of whatever it does), or nothing;
- ``TESTAPP_FAULT_AFTER``: seconds from the factory's call to the death of ``dies`` (default 1.5). It dies wherever it
  is run; whether it had been tried out of rotation by then is a matter of who was faster.
"""

import os

from testapp.application import make_app

if os.environ.get("TESTAPP_FAULT") == "import":
    raise RuntimeError("TESTAPP_FAULT is 'import'")

__all__ = ["make_app"]
