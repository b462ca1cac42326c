"""What cannot work is refused with a sentence that names variable, value and what is allowed, and nothing changes.

A case for each step of `site.yml` that refuses; each step's other sentences are asked of the step itself (tests/plugins).
"""

import re

import pytest

ONE_HOST = "bookworm"


@pytest.fixture
def refused(site):
    """Run site.yml with a mistake: what it says, after seeing that it changed nothing."""
    if site.name != ONE_HOST:
        pytest.skip("what refuses is the same on every host")

    def play(*arguments):
        site.sh("touch /tmp/before")
        done = site.play(*arguments)
        said = re.sub(r"\s+", " ", done.stdout + done.stderr)
        assert done.returncode != 0, said
        assert re.search(rf"{site.name} .*changed=0 ", said), said
        assert site.sh("find /etc /opt /usr -newer /tmp/before") == ""
        return said

    return play


# What one check finds is said at once, and so is asked in one run.
@pytest.mark.parametrize(
    ("variables", "sentences"),
    [
        (
            "tornado_app_processes=0 tornado_app_user=root tornado_app_factory=board.nothing"
            " vault_tornado_app_cookie_secret=CHANGE-ME",
            [
                "tornado_app_processes: got '0'; expected 'auto' (one per CPU, here",
                "tornado_app_user: got 'root', which is another account of this host; expected a name",
                "tornado_app_factory: got 'board.nothing'; expected package.module:factory.",
                "got nothing or the example's placeholder for BOARD_COOKIE_SECRET",
            ],
        ),
        (
            "tornado_app_port=80 tornado_app_processes=2 tornado_app_debug=true",
            [
                "tornado_app_port: got 80, which makes the ports 80 to 81 of 2 processes; expected ports from 1024",
                "tornado_app_debug: got true with 2 processes",
            ],
        ),
        ("tornado_app_factory=board:nothing", ["tornado_app_factory is 'board:nothing', and importing it"]),
        (
            "tornado_app_proceses=2 nginx_prot=80",
            [
                "tornado_app_proceses: got a variable that the role tornado_app does not have; expected one of",
                "nginx_prot: got a variable that the role nginx does not have; expected one of",
            ],
        ),
        (
            "open_files_limit=2000000000",
            ["open_files_limit is 2000000000, and bookworm can give a process at least 1024 and at most"],
        ),
        (
            "nginx_client_max_body_size=50MB nginx_health_path=health",
            [
                "nginx_client_max_body_size: got '50MB'; expected a number of bytes",
                "nginx_health_path: got 'health'; expected a path that begins with /",
            ],
        ),
        ('{"site_operating_systems": ["Debian 11"]}', ["bookworm: got Debian 12"]),
    ],
)
def test_value(refused, variables, sentences):
    said = refused("-e", variables)
    assert [sentence for sentence in sentences if sentence not in said] == []
