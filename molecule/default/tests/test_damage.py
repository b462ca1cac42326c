"""Files of a host that are damaged: status names them, and the same deploy makes them again while the site is used.

tests/plugins/test_damage.py asks of every file what is asked here of a few, each kind on one of the hosts.
"""

import json

import pytest

CURRENT = "generation=/opt/board/$(readlink /opt/board/current); release=$(readlink $generation/release); "

# To which host what is done, and the files that status is to name.
DAMAGE = {
    "generation": (
        "bookworm",
        ": >$generation/settings.json; rm $generation/supervisor.conf",
        ["/settings.json: got an empty file"],
    ),
    "manifest": (
        "trixie",
        "truncate --size=20 $generation/generation.json; echo garbage >/opt/board/deploy.json; "
        "truncate --size=-20 /opt/board/deploys.jsonl",
        [
            "/generation.json: got 20 bytes that are not JSON",
            "/opt/board/deploy.json: got 8 bytes that are not JSON",
            "/opt/board/deploys.jsonl, line ",
        ],
    ),
    "release": (
        "bookworm",
        "rm $release/venv/lib/python*/site-packages/board/__init__.py; : >$release/manifest.json",
        ["/manifest.json: got 0 bytes; expected ", "1 more of this release are damaged."],
    ),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_what_is_damaged_is_named_and_made_again_under_traffic(site, traffic, until, kind):
    host, command, named = DAMAGE[kind]
    if site.name != host:
        pytest.skip(f"it is asked of {host}")
    before = [process["pid"] for process in site.processes()]
    generation = site.generation
    site.sh(f"{CURRENT}{command}")
    status = site.play(playbook="playbooks/status.yml")
    assert status.returncode != 0
    for words in named:
        assert words in " ".join(status.stdout.split())
    with traffic() as seen:
        run = site.play(playbook="playbooks/deploy.yml")
    assert run.returncode == 0, run.stdout
    assert seen.lost == []
    assert sum(seen.answers.values()) > 100, "the control: it was used"
    assert site.generation == generation
    assert [process["pid"] for process in site.processes()] == before, "what ran is as it was"
    after = site.play(playbook="playbooks/status.yml")
    assert after.returncode == 0, after.stdout
    # a start needs what was damaged
    site.sh("kill -9 %s", before[0])
    until(lambda: all(process["state"] == "ready" for process in site.processes()))
    assert json.loads(site.sh("cat /opt/board/current/generation.json"))["generation"] == generation
    again = site.play(playbook="playbooks/deploy.yml")
    assert "changed=0" in again.stdout, again.stdout
