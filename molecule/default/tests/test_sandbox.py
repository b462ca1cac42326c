"""The sandbox, in force: what the kernel says of each process. What takes a mount namespace is asked in molecule/machine."""

from support.sandbox import MOST, assert_sandboxed, services


def test_supervisord_and_nginx_are_in_a_sandbox_and_what_users_reach_can_do_nothing(site):
    found = services(site.host, "supervisor", "nginx")
    assert_sandboxed(found["supervisor"], "board")
    assert_sandboxed(found["nginx"], "www-data")
    assert {process.account for process in found["supervisor"].processes} == {"root", "board"}


def test_a_service_without_the_roles_is_in_none(site):
    """The control: what Debian's own unit allows."""
    found = services(site.host, "ssh")["ssh"]
    assert found.exposure > 2 * MOST
    assert not any(process.no_new_privileges for process in found.processes)
    assert any(process.capabilities for process in found.processes)
