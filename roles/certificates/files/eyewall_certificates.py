#!/usr/bin/python3
"""The certificates of a front door: installed in a running HAProxy without a reload, and renewed by ACME.

It is installed as /usr/local/sbin/eyewall-certificates. A certificate is one PEM file with its key, which root alone reads. A new
one is first written beside it and checked, then given to the running HAProxy (`set ssl cert`, `commit ssl cert`: no connection
ends), and then renamed, so that the next HAProxy finds it. A run that is killed in between is completed by the next one.

The ACME client is acme-tiny. It runs under a separate account, which can read the ACME account's key and the certificate request,
but no certificate's key. HAProxy answers the challenges, with the thumbprint of the account's key (RFC 8555, section 8.1).
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

CONFIG = Path(os.environ.get("EYEWALL_CERTIFICATES", "/etc/eyewall/certificates.json"))
LOCK_TIMEOUT = 600  # seconds
CLIENT_TIMEOUT = 300  # seconds that the ACME client has for one certificate
SOCKET_TIMEOUT = 10  # seconds
# A certificate is renewed when two thirds of its life are over, however long that is: Let's Encrypt's integration guide,
# and what its clients do. Public lifetimes go down to 47 days by 2029.
RENEWED_AFTER = 2 / 3
# A failed try is repeated after an hour, then after twice as long each time. Let's Encrypt allows five failed validations of a
# name in an hour.
FIRST_PAUSE, LONGEST_PAUSE = 3600, 12 * 3600  # seconds
WARN_BELOW = 1 / 5  # of its life
CLOCK_TOLERANCE = 300  # seconds
TEXTFILES = Path("/var/lib/prometheus/node-exporter")  # where Debian's node exporter looks for metrics of others


class CertificateError(Exception):
    """A certificate that cannot be used or had; the message is a sentence."""


@dataclass(frozen=True)
class Leaf:
    """A certificate: times in seconds since the epoch, `fingerprint` as HAProxy shows it (SHA-1 in upper-case hex)."""

    fingerprint: str
    serial: str
    issuer: str
    not_before: float
    not_after: float
    names: tuple[str, ...]

    @property
    def renewal(self) -> float:
        """When it is to be renewed."""
        return self.not_before + (self.not_after - self.not_before) * RENEWED_AFTER

    def covers(self, name: str) -> bool:
        """Whether it is for a name, a wildcard for one label (RFC 9525, section 6.3)."""
        parent = name.partition(".")[2]
        return name.lower() in self.names or bool(parent and f"*.{parent.lower()}" in self.names)


@dataclass(frozen=True)
class Wanted:
    """A certificate of the configuration, and its files."""

    name: str
    names: tuple[str, ...]
    path: Path
    record: Path

    @property
    def incoming(self) -> Path:
        """What was written and is not in place yet."""
        return self.path.with_name(f".{self.name}.pem.new")


def openssl(*words: str, data: bytes | None = None) -> str:
    """What openssl prints. Raises CertificateError with its first line."""
    done = subprocess.run(["openssl", *words], input=data, capture_output=True, check=False)
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines() or ["no reason"]
        raise CertificateError(f"openssl {words[0]}: {said[0]}")
    return done.stdout.decode()


def moment(text: str) -> float:
    """Seconds since the epoch of a time as openssl prints it (`-dateopt iso_8601`)."""
    return datetime.strptime(text.strip(), "%Y-%m-%d %H:%M:%SZ").replace(tzinfo=UTC).timestamp()


def read(path: Path) -> Leaf:
    """The certificate in a file, which has to have its key, too. Raises CertificateError."""
    try:
        path.read_bytes()
    except OSError as error:
        raise CertificateError(f"{path}: {error.strerror}.") from None
    words = [
        "-noout",
        "-fingerprint",
        "-sha1",
        "-serial",
        "-issuer",
        "-nameopt",
        "RFC2253",
        "-dates",
        "-dateopt",
        "iso_8601",
    ]
    try:
        said = openssl("x509", "-in", str(path), *words, "-ext", "subjectAltName")
        certified, own = (
            openssl("x509", "-in", str(path), "-noout", "-pubkey"),
            openssl("pkey", "-in", str(path), "-pubout"),
        )
    except CertificateError as error:
        raise CertificateError(f"{path}: got no certificate with its key ({error}).") from None
    if certified != own:
        raise CertificateError(f"{path}: got a key that is not the certificate's.")
    fields = dict(line.split("=", 1) for line in said.splitlines() if "=" in line)
    names = re.findall(r"(?:DNS|IP Address):([^\s,]+)", said)
    return Leaf(
        fingerprint=next(value for key, value in fields.items() if "ingerprint" in key).replace(":", "").upper(),
        serial=fields["serial"],
        issuer=fields["issuer"],
        not_before=moment(fields["notBefore"]),
        not_after=moment(fields["notAfter"]),
        names=tuple(name.lower() for name in names),
    )


def mistake(leaf: Leaf, wanted: Wanted, now: float) -> str | None:
    """Why a certificate cannot be served, in a sentence; None for one that can."""
    if leaf.not_after <= now:
        return f"got a certificate that expired on {day(leaf.not_after)}"
    if leaf.not_before > now + CLOCK_TOLERANCE:
        return f"got a certificate that is valid from {day(leaf.not_before)}, and here it is {day(now)}"
    missing = [name for name in wanted.names if not leaf.covers(name)]
    return f"got a certificate without {', '.join(missing)}" if missing else None


def day(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")


# ---- Files ----


def sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write(path: Path, data: bytes, mode: int) -> None:
    """Write a file whose content is on the disk when this returns. Raises OSError, and leaves none then."""
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        path.unlink(missing_ok=True)
        raise


def replace(path: Path, data: bytes, mode: int) -> None:
    """Replace a file in one step."""
    part = path.with_name(f".{path.name}.part")
    write(part, data, mode)
    part.rename(path)
    sync(path.parent)


class Site:
    """What the configuration says."""

    def __init__(self, config: Path = CONFIG) -> None:
        content = json.loads(config.read_text(encoding="utf-8"))
        self.directory = Path(content["directory"])
        self.state = Path(content["state"])
        self.socket = Path(content["socket"])
        self.acme: dict[str, Any] | None = content["acme"]
        self.wanted = [
            Wanted(
                one["name"],
                tuple(one["names"]),
                self.directory / f"{one['name']}.pem",
                self.state / f"{one['name']}.json",
            )
            for one in content["certificates"]
        ]

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """One run at a time changes certificates."""
        with (self.state / ".lock").open("w") as file:
            deadline = time.monotonic() + LOCK_TIMEOUT
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise CertificateError(f"another run has changed certificates for {LOCK_TIMEOUT} s") from None
                    time.sleep(0.2)
            yield

    def record(self, one: Wanted) -> dict[str, Any]:
        """What was noted of a certificate: its source, failed tries, when the next one is."""
        try:
            found = json.loads(one.record.read_text(encoding="utf-8"))
        except (OSError, ValueError):  # a damaged note is none: what is served is in the certificate itself
            return {}
        return found if isinstance(found, dict) else {}

    def note(self, one: Wanted, **said: Any) -> None:
        replace(one.record, json.dumps(said, indent=1).encode(), 0o644)


# ---- The running HAProxy ----


def runtime(site: Site, command: str) -> str | None:
    """What HAProxy answers on its runtime socket; None where none runs."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(SOCKET_TIMEOUT)
        try:
            connection.connect(str(site.socket))
        except OSError:
            return None
        connection.sendall(command.encode() + b"\n")
        return b"".join(iter(lambda: connection.recv(65536), b"")).decode(errors="replace")


def served(site: Site, path: Path) -> str | None:
    """The fingerprint of what HAProxy serves from a file; None if it does not run, or does not know the file."""
    said = runtime(site, f"show ssl cert {path}") or ""
    found = re.search(r"^SHA1 FingerPrint: ([0-9A-F]+)", said, re.MULTILINE)
    return found[1] if found else None


def give(site: Site, path: Path, pem: str) -> None:
    """Let the running HAProxy serve a certificate instead of the one in `path`. Raises CertificateError."""
    runtime(site, f"abort ssl cert {path}")  # what a run that was killed had begun
    # an empty line ends what is sent
    lines = "\n".join(line for line in pem.splitlines() if line.strip())
    said = runtime(site, f"set ssl cert {path} <<\n{lines}\n") or ""
    if "ransaction" in said:
        said = runtime(site, f"commit ssl cert {path}") or ""
    if "Success" not in said:
        runtime(site, f"abort ssl cert {path}")
        raise CertificateError(f"HAProxy did not take it: {' '.join(said.split()) or 'no answer'}")


def swap(site: Site, one: Wanted, leaf: Leaf) -> None:
    """Put `leaf`, which was written beside a certificate, in its place: in the running HAProxy first, then on the disk."""
    if served(site, one.path) not in (None, leaf.fingerprint):
        give(site, one.path, one.incoming.read_text(encoding="utf-8"))
    one.incoming.rename(one.path)
    sync(site.directory)
    agree(site, one, leaf)


def agree(site: Site, one: Wanted, leaf: Leaf) -> None:
    """Let HAProxy serve what is on the disk, also if it was reloaded in the middle and has read the file of before."""
    for _ in range(3):
        if served(site, one.path) in (None, leaf.fingerprint):
            return
        give(site, one.path, one.path.read_text(encoding="utf-8"))
    raise CertificateError(f"{one.path}: HAProxy serves another certificate than this file's.")


def complete(site: Site, one: Wanted) -> None:
    """Bring what a killed run has begun to its end, or remove it, and let HAProxy serve what is on the disk."""
    if one.incoming.exists():
        try:
            begun = read(one.incoming)
            if served(site, one.path) == begun.fingerprint:
                swap(site, one, begun)
        except CertificateError:
            pass  # it was cut while it was written, and is removed; whether HAProxy and the disk agree is asked below
        one.incoming.unlink(missing_ok=True)
    try:
        leaf = read(one.path)
    except CertificateError:
        return  # a damaged file is renewed, and what HAProxy has in memory goes on
    agree(site, one, leaf)


def install(site: Site, one: Wanted, pem: bytes, source: str, **more: str) -> bool:
    """Install a certificate with its key; whether it is another one. Raises CertificateError, and OSError.

    `source` and `more` are noted of it, in one step: a certificate without the CA that it is from would be due at once.
    """
    complete(site, one)
    with contextlib.suppress(OSError):
        if one.path.read_bytes() == pem and site.record(one).get("source") == source:
            return False
    write(one.incoming, pem, 0o600)
    try:
        leaf = read(one.incoming)
        if wrong := mistake(leaf, one, time.time()):
            raise CertificateError(f"{one.name}: {wrong}.")
        swap(site, one, leaf)
    finally:
        one.incoming.unlink(missing_ok=True)
    site.note(one, source=source, fingerprint=leaf.fingerprint, installed=time.time(), **more)
    return True


# ---- ACME ----


def due(site: Site, one: Wanted, now: float) -> str | None:
    """Why a certificate has to be had from the CA now, in words; None if it has not."""
    record = site.record(one)
    try:
        leaf = read(one.path)
    except CertificateError as error:
        return str(error)
    if record.get("source") != "acme" or record.get("directory") != (site.acme or {}).get("directory"):
        return "it is not from this CA"
    if missing := [name for name in one.names if not leaf.covers(name)]:
        return f"it is without {', '.join(missing)}"
    return "two thirds of its life are over" if now >= leaf.renewal else None


def ask_ca(site: Site, one: Wanted, request: str, scratch: Path) -> str:
    """The chain for a request, from the CA. Raises CertificateError."""
    acme = site.acme or {}
    (scratch / "request.pem").write_text(request, encoding="utf-8")
    challenges = scratch / "challenges"  # which nobody reads: HAProxy answers without
    challenges.mkdir()
    shutil.chown(challenges, acme["account"], acme["account"])
    words = ["acme-tiny", "--quiet", "--account-key", acme["key"], "--csr", str(scratch / "request.pem")]
    words += ["--acme-dir", str(challenges), "--disable-check", "--directory-url", acme["directory"]]
    words += ["--contact", f"mailto:{acme['email']}"] if acme["email"] else []
    # a deactivated or unknown name of the CA's own certificate: its bundle, or the system's
    environment = {"PATH": "/usr/bin:/bin", "HOME": "/nonexistent"} | (
        {"SSL_CERT_FILE": acme["ca"]} if acme["ca"] else {}
    )
    try:
        done = subprocess.run(
            words, user=acme["account"], group=acme["account"], extra_groups=[], env=environment, cwd="/",
            stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=CLIENT_TIMEOUT, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise CertificateError(f"the CA took longer than {CLIENT_TIMEOUT} s") from None
    except OSError as error:
        raise CertificateError(f"acme-tiny could not be started: {error.strerror}") from None
    if done.returncode:
        raise CertificateError(reason(done.stderr))
    return done.stdout


def reason(stderr: str) -> str:
    """What acme-tiny says at its end: the message of its exception, which may have several lines, or bytes of openssl's."""
    said = re.split(r"^\w+Error: ", stderr, flags=re.MULTILINE)[-1]
    said = re.sub(r"b'(.*?)(\\n.*)?'\s*$", r"\1", said.strip(), flags=re.DOTALL)
    return " ".join(said.split())[:400] or "no reason"


def from_ca(site: Site, one: Wanted) -> None:
    """Have a certificate with a new key from the CA, and install it. Raises CertificateError, and OSError."""
    key = openssl(
        "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-pkeyopt", "ec_param_enc:named_curve"
    )
    with tempfile.TemporaryDirectory(prefix="eyewall-certificate-") as name:
        scratch = Path(name)
        scratch.chmod(0o755)  # the account reads the request, which is public
        names = ",".join(f"DNS:{one}" for one in one.names)
        request = openssl(
            "req", "-new", "-key", "/dev/stdin", "-subj", "/", "-addext", f"subjectAltName={names}", data=key.encode()
        )
        chain = ask_ca(site, one, request, scratch)
    install(site, one, (key + chain).encode(), "acme", directory=(site.acme or {})["directory"])


def renew(site: Site, *, retry: bool, force: bool) -> list[str]:
    """Have every certificate that is due; a sentence for each that could not be had. What is served stays then."""
    sentences = []
    for one in site.wanted:
        now = time.time()
        try:
            complete(site, one)
            why = due(site, one, now)
        except (CertificateError, OSError) as error:
            sentences.append(f"{one.name}: {error}")
            continue
        record = site.record(one)
        if site.acme is None or not (force or (why and (retry or now >= record.get("next_try", 0)))):
            continue
        try:
            from_ca(site, one)
        except (CertificateError, OSError) as error:
            failures = int(record.get("failures", 0)) + 1
            pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** (failures - 1))
            said = str(error).rstrip(".")
            sentences.append(
                f"{one.name}: got no certificate from {site.acme['directory']}: {said}. What is served stays."
            )
            with contextlib.suppress(OSError):  # no space for a note, either
                site.note(
                    one,
                    **{**site.record(one), "failures": failures, "error": said, "failed": now, "next_try": now + pause},
                )
    return sentences


# ---- What there is ----


def told(site: Site, one: Wanted, now: float) -> dict[str, Any]:
    """What there is to know of a certificate, with a sentence for each problem."""
    record = site.record(one)
    found: dict[str, Any] = {
        "name": one.name,
        "wanted": list(one.names),
        "source": record.get("source"),
        "problems": [],
    }
    try:
        leaf = read(one.path)
    except CertificateError as error:
        return found | {"problems": [f"{error} Run site.yml."]}
    in_memory = served(site, one.path)
    problems: list[str] = []
    where = f"certificate {one.name}"
    if wrong := mistake(leaf, one, now):
        problems.append(f"{where}: {wrong}; expected one for {', '.join(one.names)} that is valid now.")
    elif leaf.not_after - now < (leaf.not_after - leaf.not_before) * WARN_BELOW:
        problems.append(
            f"{where}: got one that expires on {day(leaf.not_after)}; expected a fifth of its life or more."
        )
    if in_memory not in (None, leaf.fingerprint):
        problems.append(
            f"{where}: HAProxy serves another one than {one.path}. Run eyewall-certificates renew on the host."
        )
    next_try = None
    if site.acme:
        next_try = leaf.renewal if due(site, one, now) is None else max(record.get("next_try", 0), now)
        if record.get("error"):
            problems.append(
                f"{where}: got no new one from {site.acme['directory']} on {day(record['failed'])}: "
                f"{record['error']}; expected one. "
                f"The next try is after {day(next_try)}; playbooks/certificates.yml -e renew=true tries now."
            )
    return found | {
        "names": list(leaf.names), "serial": leaf.serial, "issuer": leaf.issuer, "not_before": leaf.not_before,
        "not_after": leaf.not_after, "fingerprint": leaf.fingerprint, "served": in_memory, "next_try": next_try,
        "failures": record.get("failures", 0), "due": leaf.renewal, "problems": problems,
    }  # fmt: skip


def metrics(certificates: list[dict[str, Any]]) -> str:
    """The same for Prometheus, in its text format."""
    families = (
        ("eyewall_certificate_not_after_timestamp_seconds", "When the certificate expires.", "not_after"),
        ("eyewall_certificate_renewal_timestamp_seconds", "When it is to be renewed.", "due"),
        (
            "eyewall_certificate_failed_renewals",
            "Tries to renew it that have failed since the last that succeeded.",
            "failures",
        ),
    )
    lines: list[str] = []
    for name, text, key in families:
        lines += [f"# HELP {name} {text}", f"# TYPE {name} gauge"]
        lines += [f'{name}{{certificate="{one["name"]}"}} {one[key]:.0f}' for one in certificates if key in one]
    return "\n".join(lines) + "\n"


def publish(site: Site) -> None:
    """Write the metrics where the node exporter finds them, if this host has one."""
    text = metrics([told(site, one, time.time()) for one in site.wanted]).encode()
    replace(site.state / "metrics.prom", text, 0o644)
    if TEXTFILES.is_dir():
        with contextlib.suppress(OSError):
            replace(TEXTFILES / "eyewall-certificates.prom", text, 0o644)


def prune(site: Site) -> bool:
    """Remove certificates that the configuration does not have; whether there was one."""
    kept = {one.path for one in site.wanted} | {one.record for one in site.wanted}
    found = [path for path in (*site.directory.glob("*.pem"), *site.state.glob("*.json")) if path not in kept]
    for path in found:
        path.unlink()
    return bool(found)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="eyewall-certificates", description="The certificates of this host's HAProxy."
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("status", help="what there is, as JSON")
    verbs.add_parser("prune", help="remove what the configuration has no more")
    add = verbs.add_parser("install", help="install a certificate with its chain and key, as PEM on stdin").add_argument
    add("name")
    add("--source", default="files")
    add = verbs.add_parser("renew", help="have from the CA what is due").add_argument
    add("--retry", action="store_true", help="also what failed a short time ago")
    add("--force", action="store_true", help="also what is not due")
    given = parser.parse_args()
    try:
        site = Site()
        if given.verb == "status":
            sys.stdout.write(json.dumps([told(site, one, time.time()) for one in site.wanted]) + "\n")
            return
        with site.locked():
            if given.verb == "prune":
                sys.stdout.write("changed\n" if prune(site) else "")
            elif given.verb == "install":
                one = next((one for one in site.wanted if one.name == given.name), None)
                if one is None:
                    sys.exit(f"name: got {given.name}; expected a certificate of {CONFIG}.")
                changed = install(site, one, sys.stdin.buffer.read(), given.source)
                sys.stdout.write("changed\n" if changed else "")
            else:
                before = [served(site, one.path) for one in site.wanted]
                sentences = renew(site, retry=given.retry, force=given.force)
                after = [served(site, one.path) for one in site.wanted]
                sys.stdout.write("changed\n" if before != after else "")
                sys.stderr.writelines(f"{sentence}\n" for sentence in sentences)
                publish(site)
                if sentences:
                    sys.exit(1)
            publish(site)
    except (CertificateError, OSError) as error:
        sys.exit(f"eyewall-certificates: {error}")


if __name__ == "__main__":
    main()
