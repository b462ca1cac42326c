"""Certificates of an inventory: what is refused, and the site's own CA."""

import datetime
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
from support.product import plugin

certificates = plugin("plugin_utils", "certificates")
WANTED = [{"name": "board", "names": ["www.example.com", "example.com"]}]
DAY = datetime.timedelta(days=1)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return certificates.SiteAuthority.make(tmp_path_factory.mktemp("site") / "ca", "CA of a test")


def pem(pair: Any) -> dict[str, str]:
    chain = "".join(map(certificates.certificate_pem, pair.chain))
    return {"certificate": chain, "key": certificates.key_pem(pair.key)}


def mistakes(*files: dict[str, str], wanted: Any = WANTED, days: float = 0) -> tuple[list[str], list[str]]:
    wrong, soon, _ = certificates.mistaken_files(files, wanted, certificates.now() + days * DAY)
    return wrong, soon


# ---- Files ----


def test_a_certificate_with_its_chain_and_key_is_taken(authority: Any) -> None:
    assert mistakes(pem(authority.issue(["www.example.com", "example.com"]))) == ([], [])
    # several, each for a part of the names, and a wildcard for one label
    two = [pem(authority.issue(["example.com"])), pem(authority.issue(["*.example.com"]))]
    assert mistakes(*two) == ([], [])


def test_paths_are_read_on_the_controller(authority: Any, tmp_path: Path) -> None:
    given = pem(authority.issue(["www.example.com", "example.com"]))
    for part, text in given.items():
        (tmp_path / part).write_text(text)
    assert mistakes({part: str(tmp_path / part) for part in given}) == ([], [])
    (sentence,) = mistakes({**given, "key": str(tmp_path / "none")})[0]
    assert (
        sentence.startswith(f"site_certificates[0].key: got '{tmp_path}/none' (")
        and "expected a file in PEM" in sentence
    )
    (sentence,) = mistakes({**given, "key": "key.pem"})[0]
    assert sentence == "site_certificates[0].key: got 'key.pem'; expected an absolute path on the controller, or PEM."


def test_what_cannot_be_served_is_refused(authority: Any) -> None:
    one, other = (pem(authority.issue(["www.example.com", "example.com"])) for _ in range(2))
    assert mistakes({**one, "key": other["key"]})[0] == [
        "site_certificates[0]: got a key that is not the certificate's; expected the one that it was made for."
    ]
    assert "got no private key" in mistakes({**one, "key": "-----BEGIN nonsense"})[0][0]
    assert "got no certificate" in mistakes({**one, "certificate": "-----BEGIN nonsense"})[0][0]
    leaf = one["certificate"].split("-----END CERTIFICATE-----")[0] + "-----END CERTIFICATE-----\n"
    assert "got an incomplete chain" in mistakes({**one, "certificate": leaf})[0][0]
    assert "got an incomplete chain" in mistakes({**one, "certificate": leaf + leaf})[0][0], "in another order"
    assert mistakes(pem(authority.issue(["www.example.com"])))[0] == [
        "site_certificates: got none for example.com; expected every name of site_apps.board.server_names."
    ]
    assert "got nothing" in mistakes()[0][0]


def test_a_key_with_a_passphrase_is_refused_and_not_shown(authority: Any) -> None:
    given = pem(authority.issue(["www.example.com", "example.com"]))
    words = ["openssl", "pkey", "-aes256", "-passout", "pass:secret"]
    locked = subprocess.run(words, input=given["key"], capture_output=True, text=True, check=True).stdout
    (sentence,) = mistakes({**given, "key": locked})[0]
    assert sentence.startswith("site_certificates[0].key: got an encrypted key;") and "BEGIN" not in sentence


def test_an_expired_one_is_refused_and_one_that_soon_is_warned_of(authority: Any) -> None:
    given = pem(authority.issue(["www.example.com", "example.com"]))
    assert mistakes(given, days=0.79 * 365) == ([], [])
    wrong, (soon,) = mistakes(given, days=0.81 * 365)
    assert wrong == [] and "expected a fifth of its life or more" in soon
    assert "got a certificate that expired on" in mistakes(given, days=366)[0][0]
    assert "got a certificate that is valid from" in mistakes(given, days=-1)[0][0]


# ---- ACME ----


def rsa_key(bits: int = 2048) -> str:
    return subprocess.run(["openssl", "genrsa", str(bits)], capture_output=True, text=True, check=True).stdout


def acme(wanted: Any = WANTED, key: str = "", directory: str = "https://ca.example/dir", ca: str = "") -> list[str]:
    return list(certificates.mistaken_acme(wanted, key or rsa_key(), directory, ca))


def test_what_acme_needs() -> None:
    assert acme() == []
    for name in ("*.example.com", "10.0.0.1", "localhost"):
        (sentence,) = acme([{"name": "board", "names": [name]}])
        assert sentence.startswith(f"site_apps.board.server_names: got {name}; expected whole names with a dot")
    assert acme([{"name": "board", "names": []}])[0].startswith("site_apps.board.server_names: got no whole name")
    assert acme(key="CHANGE-ME") == [
        "site_acme_account_key: got no private key; expected one in PEM (-----BEGIN PRIVATE KEY-----)."
    ]
    assert (
        "expected RSA"
        in acme(key=certificates.key_pem(certificates.ec.generate_private_key(certificates.ec.SECP256R1())))[0]
    )
    assert "expected a URL that begins with https://" in acme(directory="http://ca.example")[0]
    assert "site_acme_ca: got '/none'" in acme(ca="/none")[0]


def test_the_thumbprint_is_that_of_the_rfc() -> None:
    """RFC 7638, section 3.1, has this key and its thumbprint, as numbers; here is the rule on a key of our own."""
    key = rsa_key()
    text = subprocess.run(
        ["openssl", "rsa", "-modulus", "-noout"], input=key, capture_output=True, text=True, check=True
    ).stdout
    modulus = bytes.fromhex(text.strip().partition("=")[2])
    n = certificates.base64.urlsafe_b64encode(modulus).rstrip(b"=").decode()
    digest = certificates.hashlib.sha256(f'{{"e":"AQAB","kty":"RSA","n":"{n}"}}'.encode()).digest()
    assert certificates.thumbprint(key) == certificates.base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


# ---- Names ----


@pytest.mark.parametrize(
    ("server_names", "names"),
    [
        (
            ["www.example.com", "*.example.org", ".example.net"],
            ["www.example.com", "*.example.org", "example.net", "*.example.net"],
        ),
        (["_"], []),
        ([r"~^w+\.example$", "www.*"], []),
        (["127.0.0.1", "[::1]", "localhost"], ["127.0.0.1", "::1", "localhost"]),
    ],
)
def test_the_names_that_a_certificate_can_have(server_names: list[str], names: list[str]) -> None:
    assert certificates.certified_names(server_names) == names
    (one,) = certificates.certified_applications([{"name": "board", "server_names": server_names}], ["host1"])
    assert one == {"name": "board", "names": names or ["host1"]}


# ---- The site's own CA ----


def test_the_ca_is_made_once_and_kept_from_git(tmp_path: Path) -> None:
    made = certificates.SiteAuthority.make(tmp_path / "ca", "CA of a test")
    assert certificates.SiteAuthority.load(tmp_path / "ca").certificate == made.certificate
    assert stat.S_IMODE((tmp_path / "ca" / "ca.key").stat().st_mode) == 0o600
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    seen = subprocess.run(
        ["git", "-C", tmp_path, "status", "--porcelain"], capture_output=True, text=True, check=True
    ).stdout
    assert seen == ""
    assert certificates.SiteAuthority.load(tmp_path / "none") is None
    (tmp_path / "ca" / "ca.key").unlink()
    with pytest.raises(certificates.CertificateError, match="got a CA that cannot be used"):
        certificates.SiteAuthority.load(tmp_path / "ca")


def test_openssl_and_its_strictest_rules_take_what_it_issues(authority: Any, tmp_path: Path) -> None:
    pair = authority.issue(["www.example.com", "127.0.0.1"])
    (tmp_path / "ca.pem").write_text(certificates.certificate_pem(authority.certificate))
    (tmp_path / "leaf.pem").write_text(certificates.certificate_pem(pair.leaf))
    for purpose, taken in (("sslserver", True), ("sslclient", False)):
        words = ["openssl", "verify", "-x509_strict", "-purpose", purpose, "-CAfile", "ca.pem", "leaf.pem"]
        assert (subprocess.run(words, cwd=tmp_path, capture_output=True, check=False).returncode == 0) == taken
    assert pair.names == {"www.example.com", "127.0.0.1"}


def test_it_is_issued_again_after_two_thirds_for_other_names_and_of_another_ca(authority: Any, tmp_path: Path) -> None:
    source = f"self_signed {certificates.fingerprint(authority.certificate)}"
    now = certificates.now()
    there = {
        "names": ["www.example.com"],
        "not_after": now.timestamp() + 100,
        "due": now.timestamp() + 50,
        "source": source,
    }

    def stale(names: list[str], more: float = 0, **changed: Any) -> bool:
        found: bool = certificates.stale({**there, **changed}, names, authority, now + datetime.timedelta(seconds=more))
        return found

    assert not stale(["www.example.com"])
    assert stale(["www.example.com"], more=51)
    assert stale(["www.example.com", "new.example.com"])
    assert stale(["www.example.com"], source="acme")
    other = certificates.SiteAuthority.make(tmp_path / "ca", "another")
    assert certificates.stale(there, ["www.example.com"], other, now)
    # of hosts for each other
    inner = certificates.certificate_pem(authority.issue(["app1"], client=True).leaf)
    assert not certificates.stale_inner(inner, "app1", authority, now)
    assert certificates.stale_inner(inner, "app2", authority, now)
    assert certificates.stale_inner(inner, "app1", other, now)
    assert certificates.stale_inner(inner, "app1", authority, now + 244 * DAY)
    assert certificates.stale_inner("damaged", "app1", authority, now)
