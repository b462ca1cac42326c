"""The open-file limit, in force: what the kernel says of running processes, not what a file says."""

import pytest


def limits(site, pid):
    line = site.sh("grep '^Max open files' /proc/%s/limits", str(pid))
    return tuple(int(word) for word in line.split()[3:5])


def test_a_service_without_the_role_has_less(site, open_files_limit):
    """The control: where nothing was set, the limit is another, so the tests below can fail."""
    assert int(site.sh("systemd-run --quiet --wait --pipe sh -c 'ulimit -Sn'")) < open_files_limit


def test_every_tornado_process(site, open_files_limit):
    processes = site.processes()
    assert processes
    for process in processes:
        assert limits(site, process["pid"]) == (open_files_limit, open_files_limit)
        assert process["open_files_limit"] == open_files_limit


def test_supervisord(site, open_files_limit):
    pid = site.sh("systemctl show --property=MainPID --value supervisor.service")
    assert limits(site, pid) == (open_files_limit, open_files_limit)


def test_every_nginx_worker(site, open_files_limit):
    workers = site.host.process.filter(user="www-data", comm="nginx")
    assert workers
    for worker in workers:
        assert limits(site, worker.pid)[0] == open_files_limit


@pytest.mark.parametrize("which", ["-Sn", "-Hn"])
def test_a_session_of_the_account(site, open_files_limit, which):
    """Through PAM, which is what reads limits.d."""
    assert site.sh(f"su --shell /bin/sh board --command 'ulimit {which}'") == str(open_files_limit)


def test_a_running_service_gets_the_limit_without_a_restart(site, open_files_limit):
    site.sh("systemd-run --quiet --unit=probe --property=LimitNOFILE=1024:%s sleep 300", open_files_limit)
    try:
        pid = site.sh("systemctl show --property=MainPID --value probe.service")
        assert limits(site, pid) == (1024, open_files_limit)
        done = site.play("-e", '{"open_files_services": ["probe"]}')
        assert done.returncode == 0, done.stdout + done.stderr
        assert site.sh("systemctl show --property=MainPID --value probe.service") == pid
        assert limits(site, pid) == (open_files_limit, open_files_limit)
    finally:
        site.sh("systemctl stop probe.service; rm -rf /etc/systemd/system/probe.service.d; systemctl daemon-reload")
