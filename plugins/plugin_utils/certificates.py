"""Certificates on the controller: what is wrong with those of an inventory, and a certificate authority of the site's own."""

from __future__ import annotations

import base64
import datetime
import hashlib
import ipaddress
import itertools
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

# What Apple's systems take at most of a CA that a user has installed is 825 days (support.apple.com/103769).
LEAF_DAYS = 365
CA_DAYS = 3650
RENEWED_AFTER = 2 / 3  # of its life, as with every other certificate (roles/certificates/files)
WARN_BELOW = 1 / 5
SKEW = datetime.timedelta(hours=1)  # clocks of hosts that are behind the controller's


class CertificateError(Exception):
    """What is wrong with a certificate or its key; the message is the rest of a sentence."""


@dataclass(frozen=True)
class Pair:
    """A certificate with its chain, and its key."""

    chain: tuple[x509.Certificate, ...]
    key: Any

    @property
    def leaf(self) -> x509.Certificate:
        return self.chain[0]

    @property
    def names(self) -> frozenset[str]:
        return names_of(self.leaf)

    def pem(self) -> str:
        """What HAProxy reads: the key, the certificate, the chain."""
        return key_pem(self.key) + "".join(map(certificate_pem, self.chain))


def now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


def certificate_pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def key_pem(key: Any) -> str:
    pem: bytes = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return pem.decode()


def names_of(certificate: x509.Certificate) -> frozenset[str]:
    """The host names and addresses that a certificate is for, in lower case."""
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return frozenset()
    addresses = map(str, found.get_values_for_type(x509.IPAddress))
    return frozenset(name.lower() for name in (*found.get_values_for_type(x509.DNSName), *addresses))


def covers(names: Iterable[str], name: str) -> bool:
    """Whether a certificate for `names` is for a name: a wildcard is for one label (RFC 9525, section 6.3)."""
    parent = name.lower().partition(".")[2]
    return name.lower() in names or bool(parent and f"*.{parent}" in names)


def certified_names(server_names: Iterable[str]) -> list[str]:
    """What a certificate can be for, of an application's names: no regular expression, and not just any name."""
    found: list[str] = []
    for name in map(str, server_names):
        if name.startswith("~") or name == "_" or name.endswith(".*"):
            continue
        # nginx's .example.com is the name itself and everything below it
        found += [name[1:], f"*{name}"] if name.startswith(".") else [name.strip("[]")]
    return list(dict.fromkeys(found))


def read_key(text: str) -> Any:
    """A private key from PEM. Raises CertificateError, which does not show it."""
    try:
        return serialization.load_pem_private_key(text.encode(), password=None)
    except TypeError:
        raise CertificateError(
            "got an encrypted key; expected one without a passphrase, as the vault keeps it"
        ) from None
    except ValueError:
        raise CertificateError("got no private key; expected one in PEM (-----BEGIN PRIVATE KEY-----)") from None


def read_chain(text: str) -> tuple[x509.Certificate, ...]:
    """Certificates from PEM. Raises CertificateError."""
    try:
        return tuple(x509.load_pem_x509_certificates(text.encode()))
    except ValueError:
        raise CertificateError("got no certificate; expected one in PEM (-----BEGIN CERTIFICATE-----)") from None


def content(value: str) -> str:
    """PEM as it is, or what is in the file of that path. Raises CertificateError."""
    if value.lstrip().startswith("-----BEGIN"):
        return value
    path = Path(value)
    if not path.is_absolute():
        raise CertificateError(f"got '{value}'; expected an absolute path on the controller, or PEM")
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CertificateError(f"got '{value}' ({error}); expected a file in PEM") from None


def pair_of(certificate: str, key: str) -> Pair:
    """A certificate and its key from PEM. Raises CertificateError."""
    pair = Pair(read_chain(certificate), read_key(key))
    public = [part.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
              for part in (pair.leaf.public_key(), pair.key.public_key())]  # fmt: skip
    if public[0] != public[1]:
        raise CertificateError("got a key that is not the certificate's; expected the one that it was made for")
    return pair


def incomplete(chain: Sequence[x509.Certificate]) -> bool:
    """Whether a client would miss a certificate between this one and a root that it may know.

    The last one is a root's own, or is signed by one that is not sent. What cannot be known here is whether that is a root: a
    certificate alone that is no root's is taken for one whose issuer is missing.
    """
    for one, issuer in itertools.pairwise(chain):
        try:
            one.verify_directly_issued_by(issuer)
        except (ValueError, TypeError, InvalidSignature):
            return True
    return len(chain) == 1 and chain[0].issuer != chain[0].subject


def left(certificate: x509.Certificate, at: datetime.datetime) -> float:
    """Which share of its life a certificate still has; 0 or less of one that has expired."""
    life = certificate.not_valid_after_utc - certificate.not_valid_before_utc
    return (certificate.not_valid_after_utc - at) / life


def mistaken_pair(
    where: str, given: Mapping[str, str], at: datetime.datetime
) -> tuple[list[str], list[str], Pair | None]:
    """What is wrong with a certificate of the inventory, what will be soon, and the pair, if it can be read."""
    for part in ("certificate", "key"):
        try:
            text = content(str(given[part]))
            read_key(text) if part == "key" else read_chain(text)
        except CertificateError as error:
            return [f"{where}.{part}: {error}."], [], None
    try:
        pair = pair_of(content(str(given["certificate"])), content(str(given["key"])))
    except CertificateError as error:
        return [f"{where}: {error}."], [], None
    wrong, soon = [], []
    last = f"{pair.leaf.not_valid_after_utc:%Y-%m-%d}"
    if pair.leaf.not_valid_after_utc <= at:
        wrong.append(f"{where}: got a certificate that expired on {last}; expected one that is valid.")
    elif pair.leaf.not_valid_before_utc > at:
        first = f"{pair.leaf.not_valid_before_utc:%Y-%m-%d %H:%M} UTC"
        wrong.append(f"{where}: got a certificate that is valid from {first}; expected one that is valid now.")
    elif left(pair.leaf, at) < WARN_BELOW:
        soon.append(
            f"{where}: got a certificate that expires on {last}; expected a fifth of its life or more. Bring the next one."
        )
    if incomplete(pair.chain):
        wrong.append(
            f"{where}: got an incomplete chain; expected every certificate between it and the root, in this order."
        )
    return wrong, soon, pair


def mistaken_files(
    files: Sequence[Mapping[str, str]], wanted: Sequence[Mapping[str, Any]], at: datetime.datetime
) -> tuple[list[str], list[str], list[Pair]]:
    """What is wrong with `site_certificates`, what will be soon, and the pairs."""
    if not files:
        return ["site_certificates: got nothing; expected one certificate or more, because site_tls is files."], [], []
    wrong: list[str] = []
    soon: list[str] = []
    pairs: list[Pair] = []
    for number, given in enumerate(files):
        mistakes, warnings, pair = mistaken_pair(f"site_certificates[{number}]", given, at)
        wrong += mistakes
        soon += warnings
        pairs += [pair] if pair else []
    if not wrong:
        names = frozenset().union(*(pair.names for pair in pairs))
        for one in wanted:
            missing = [name for name in one["names"] if not covers(names, name)]
            if missing:
                where = f"site_apps.{one['name']}.server_names"
                wrong.append(f"site_certificates: got none for {', '.join(missing)}; expected every name of {where}.")
    return wrong, soon, pairs


def is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def mistaken_acme(wanted: Sequence[Mapping[str, Any]], account_key: str, directory: str, acme_ca: str) -> Iterator[str]:
    """What is wrong with what ACME needs, a sentence each."""
    for one in wanted:
        where = f"site_apps.{one['name']}.server_names"
        if not one["names"]:
            yield f"{where}: got no whole name; expected one or more, because site_tls is acme."
        for name in one["names"]:
            if "*" in name or is_address(name) or "." not in name.strip("."):
                yield f"{where}: got {name}; expected whole names with a dot, because site_tls is acme (http-01)."
    try:
        key = read_key(account_key)
    except CertificateError as error:
        yield f"site_acme_account_key: {error}."
    else:
        if not isinstance(key, rsa.RSAPrivateKey) or key.key_size < 2048:
            yield "site_acme_account_key: got another key; expected RSA of 2048 bits or more (openssl genrsa 4096)."
    if not directory.startswith("https://"):
        yield f"site_acme_directory: got '{directory}'; expected a URL that begins with https://."
    if acme_ca:
        try:
            read_chain(content(acme_ca))
        except CertificateError as error:
            yield f"site_acme_ca: {error}."


def thumbprint(account_key: str) -> str:
    """What an answer to http-01 ends with, of an RSA key in PEM (RFC 8555, section 8.1; RFC 7638). Raises CertificateError."""
    key = read_key(account_key)
    if not isinstance(key, rsa.RSAPrivateKey):
        raise CertificateError("got another kind of key; expected RSA")
    numbers = key.public_key().public_numbers()

    def encoded(data: bytes) -> str:
        return base64.urlsafe_b64encode(data).rstrip(b"=").decode()

    def number(value: int) -> str:
        return encoded(value.to_bytes((value.bit_length() + 7) // 8, "big"))

    jwk = {"e": number(numbers.e), "kty": "RSA", "n": number(numbers.n)}
    return encoded(hashlib.sha256(json.dumps(jwk, sort_keys=True, separators=(",", ":")).encode()).digest())


# ---- The site's own CA ----


def general_names(names: Iterable[str]) -> list[x509.GeneralName]:
    return [x509.IPAddress(ipaddress.ip_address(name)) if is_address(name) else x509.DNSName(name) for name in names]


def builder(subject: str, issuer: x509.Name, key: Any, days: int) -> x509.CertificateBuilder:
    at = now()
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)]))
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(at - SKEW)
        .not_valid_after(at - SKEW + datetime.timedelta(days=days))
    )


class SiteAuthority:
    """A certificate authority of the site's own, in a directory of the controller that git leaves alone."""

    def __init__(self, certificate: x509.Certificate, key: Any) -> None:
        self.certificate, self.key = certificate, key

    @classmethod
    def load(cls, directory: Path) -> SiteAuthority | None:
        """The one that is there. Raises CertificateError if it cannot be used."""
        certificate, key = directory / "ca.pem", directory / "ca.key"
        if not certificate.exists() and not key.exists():
            return None
        try:
            pair = pair_of(certificate.read_text(encoding="utf-8"), key.read_text(encoding="utf-8"))
        except (OSError, CertificateError) as error:
            raise CertificateError(
                f"{directory}: got a CA that cannot be used ({error}); expected ca.pem and ca.key"
            ) from None
        return cls(pair.leaf, pair.key)

    @classmethod
    def make(cls, directory: Path, subject: str) -> SiteAuthority:
        """A new one: P-256, ten years, for servers and clients of this site alone."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)])
        usage = x509.KeyUsage(
            digital_signature=False, content_commitment=False, key_encipherment=False, data_encipherment=False,
            key_agreement=False, key_cert_sign=True, crl_sign=True, encipher_only=False, decipher_only=False,
        )  # fmt: skip
        certificate = (
            builder(subject, name, key, CA_DAYS)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .sign(key, hashes.SHA256())
        )
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        (directory / ".gitignore").write_text("# the key signs for this site\n*\n", encoding="utf-8")
        # the key first: a certificate without it would be taken for a CA that is there
        for path, text, mode in (
            (directory / "ca.key", key_pem(key), 0o600),
            (directory / "ca.pem", certificate_pem(certificate), 0o644),
        ):
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
        return cls(certificate, key)

    def issue(self, names: Sequence[str], *, client: bool = False) -> Pair:
        """A certificate for these names, with a new key; `client` if this site's hosts believe it of who connects, too."""
        key = ec.generate_private_key(ec.SECP256R1())
        usage = [ExtendedKeyUsageOID.SERVER_AUTH, *([ExtendedKeyUsageOID.CLIENT_AUTH] if client else [])]
        # a name is in the subject for people; the longest that it takes has 64 letters (RFC 5280, appendix A.1)
        certificate = (
            builder(names[0][:64], self.certificate.subject, key, LEAF_DAYS)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName(general_names(names)), critical=False)
            .add_extension(x509.ExtendedKeyUsage(usage), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .sign(self.key, hashes.SHA256())
        )
        return Pair((certificate, self.certificate), key)


def stale(installed: Mapping[str, Any], names: Iterable[str], authority: SiteAuthority, at: datetime.datetime) -> bool:
    """Whether a certificate on a host, as eyewall-certificates describes it, has to be issued again by the site's CA."""
    if "not_after" not in installed or at.timestamp() >= installed["due"]:
        return True
    of_this_ca = installed.get("source") == f"self_signed {fingerprint(authority.certificate)}"
    return not of_this_ca or any(not covers(installed["names"], name.lower()) for name in names)


def stale_inner(pem: str, name: str, authority: SiteAuthority, at: datetime.datetime) -> bool:
    """Whether a host's certificate for the site's other hosts has to be issued again."""
    try:
        leaf = read_chain(pem)[0]
        leaf.verify_directly_issued_by(authority.certificate)
    except (CertificateError, ValueError, TypeError, InvalidSignature):
        return True
    return left(leaf, at) < 1 - RENEWED_AFTER or not covers(names_of(leaf), name)


def fingerprint(certificate: x509.Certificate) -> str:
    return certificate.fingerprint(hashes.SHA256()).hex()[:16]


def certified_applications(apps: Iterable[Mapping[str, Any]], hosts: Sequence[str]) -> list[dict[str, Any]]:
    """The certificate of each application, from P(eyewall.tornado.apps#lookup): its names, or `hosts` for any name."""
    return [{"name": app["name"], "names": certified_names(app["server_names"]) or list(hosts)} for app in apps]


def files_of(
    source: str, wanted: Sequence[Mapping[str, Any]], files: Sequence[Any], directory: str = "/etc/haproxy/certificates"
) -> list[dict[str, Any]]:
    """The files of certificates on a host, each with the names that have to be in it: one for each application.

    Those that a site has itself are chosen by name, and a name may be in any of them.
    """
    found = [(str(one["name"]), list(one["names"])) for one in wanted]
    if source == "files":
        found = [(f"site-{number}", []) for number in range(1, len(files) + 1)]
    return [{"name": name, "names": names, "path": f"{directory}/{name}.pem"} for name, names in found]
