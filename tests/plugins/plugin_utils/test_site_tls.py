"""What an inventory says of TLS is refused before anything, with the place and the rule."""

from typing import Any

import pytest
from support.product import plugin

site_tls = plugin("plugin_utils", "site_tls")


def said(**variables: Any) -> list[str]:
    return list(site_tls.mistaken_tls(variables))


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"site_tls": "off"},
        {"site_tls": False},  # a bare `off`
        {"site_tls": "self_signed", "site_hsts": 0},
        {"site_tls": "files", "site_certificates": [{"certificate": "/a", "key": "{{ vault_key }}"}]},
        {"site_tls": "acme", "site_acme_account_key": "{{ vault_key }}", "site_hsts": 300, "site_inner_tls": True},
        {"site_tls": "{{ 'acme' }}"},
        {"site_colour": "blue"},  # the site's own
    ],
)
def test_what_can_work_passes(variables: dict[str, Any]) -> None:
    assert said(**variables) == []


@pytest.mark.parametrize(
    ("variables", "sentence"),
    [
        (
            {"site_tls": "amce", "site_acme_account_key": "x"},
            "site_tls: got 'amce'; expected off, self_signed, files or acme. Did you mean acme?",
        ),
        ({"site_tls": True}, "site_tls: got True; expected off, self_signed, files or acme."),
        ({"site_tsl": "acme"}, "site_tsl: got a variable that no playbook has; expected site_tls, if that is meant."),
        (
            {"site_tls": "acme"},
            "site_acme_account_key: got nothing; expected the account's key, because site_tls is acme.",
        ),
        (
            {"site_tls": "files"},
            "site_certificates: got nothing; expected a certificate and its key, because site_tls is files.",
        ),
        ({"site_hsts": "long"}, "site_hsts: got 'long'; expected a whole number."),
        ({"site_inner_tls": "perhaps"}, "site_inner_tls: got 'perhaps'; expected true or false."),
        ({"site_certificates": "/a.pem"}, "site_certificates: got '/a.pem'; expected a list, as in [one, two]."),
    ],
)
def test_what_cannot_is_a_sentence(variables: dict[str, Any], sentence: str) -> None:
    assert said(**variables) == [sentence]


def test_browsers_are_never_told_to_insist_on_a_certificate_that_they_do_not_trust() -> None:
    (sentence,) = said(site_tls="self_signed", site_hsts=300)
    assert sentence.startswith("site_hsts: got 300; expected 0, because site_tls is self_signed")


def test_every_variable_of_the_wiring_and_of_this_module_has_its_place() -> None:
    wiring = site_tls.WIRING.read_text(encoding="utf-8")
    assert all(f"{name} " in wiring or f"{name}," in wiring for name in site_tls.OPTIONS), "each is used"
    # group_vars beside a playbook come before an inventory's group_vars/all
    assert not site_tls.wired() & site_tls.OPTIONS.keys()
