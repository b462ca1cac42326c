"""What `status` finds on hosts that were broken, and that a deploy or the site mends it."""

import subprocess

BREAK = {
    "app1": "systemctl stop nginx && systemctl disable --quiet nginx && rm -r /var/log/testapp",
    "app2": "rm /run/supervisor.sock /run/nginx.pid /usr/local/sbin/eyewall-app-testapp-start-current",
}
SAID = [
    "app1: nginx.service: got ",
    "app1: /var/log/testapp: got no directory; expected it",
    "app2: supervisord does not answer on unix:///run/supervisor.sock: [Errno 2] No such file or directory. Nothing can",
    "app2: /run/nginx.pid: got 'No such file or directory'; expected ",
    "app2: /usr/local/sbin/eyewall-app-testapp-start-current: got no file; expected it, or a boot does not start",
    "lb1: HAProxy: got DOWN for app1 for ",
]


def test_sockets_that_were_removed_are_told_and_there_again_after_a_deploy(fleet, before, candidate, watched, changed):
    """Processes serve on without /run/testapp, and are asked again as soon as it is there: nothing is lost."""
    with watched():
        fleet.sh("app1", "rm -r /run/testapp")
        broken = fleet.play("status")
        run = fleet.play("deploy", **candidate)
    assert broken.status == 2, broken.output
    assert "app1: /run/testapp: got no directory; expected it" in broken.text, broken.output
    assert "app1 8000 silent" in broken.text, broken.output
    assert "got no answer on its admin socket" not in broken.text, "it is told once"
    changed(run, candidate)


def test_what_is_broken_is_told_with_its_host_and_mended_by_the_site(fleet, before, candidate, changed):
    """One of each kind at the same time; the balancer has its own opinion of a host, and its socket is last."""
    for host, command in BREAK.items():
        fleet.sh(host, command)
    broken = fleet.play("status")
    assert broken.status == 2, broken.output
    for sentence in SAID:
        assert sentence in broken.text, f"{sentence!r} is not in {broken.output}"
    assert "app1 nginx: Connection refused" in broken.text, broken.output
    subprocess.run(["podman", "exec", fleet.container("lb1"), "rm", "-r", "/run/haproxy"], check=True)
    changed(fleet.play("site", **candidate), candidate)
    mended = fleet.play("status")
    assert mended.status == 0, mended.output
    assert "All is well." in mended.text
    assert fleet.sh("app1", "systemctl is-enabled nginx").strip() == "enabled"
