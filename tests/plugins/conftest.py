"""Gives the tests of plugins the fixtures of the build and of a host with a real supervisord."""

from support.building import (  # noqa: F401 -- pytest takes fixtures from here
    build_fixture,
    given_fixture,
    helper_fixture,
    lock_fixture,
    open_directory_fixture,
    runner_fixture,
    source_fixture,
)
from support.supervised_host import (  # noqa: F401 -- pytest takes fixtures from here
    host_fixture,
    modules_fixture,
    next_host_fixture,
)
