"""Ansible module: whether the sites that others have in this host's nginx can stand beside ours."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.eyewall.tornado.plugins.module_utils.packaged import as_packaged, conffiles_of

DOCUMENTATION = r"""
module: nginx_preflight
short_description: Refuse sites of others that cannot stand beside ours, before anything is changed
description:
  - What others have in C(/etc/nginx/conf.d) and C(/etc/nginx/sites-enabled) goes on beside our site. nginx itself is asked
    whether the configuration to come is one (C(nginx -T), from a copy that is gone again). Then no server of others may take our
    requests, nor we theirs, and none may need what the sandbox closes.
options:
  content: {type: str, required: true, description: The configuration to come.}
  name: {type: str, required: true, description: Name of the application.}
  application: {type: str, required: true, description: "Its part of the configuration, which C(content) includes."}
  port: {type: int, required: true, description: The port of our site.}
  names: {type: list, elements: str, required: true, description: Names of the application.}
  sandbox: {type: bool, required: true, description: Whether nginx is to be held in the sandbox.}
"""

NGINX = Path("/usr/sbin/nginx")
# Relative names in included files are looked for beside the file that nginx is started with.
DIRECTORY = Path("/etc/nginx")
# Debian's own page, which the role takes out.
DEFAULT = DIRECTORY / "sites-enabled/default"
INCLUDED = "include /etc/nginx/sites-enabled/*;"
APPLICATIONS = "include /etc/nginx/eyewall-app-*.conf;"
OTHERS = re.compile(r"/etc/nginx/(conf\.d|sites-enabled)/")
TOKEN = re.compile(r"""\s+|\#[^\n]*|("(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|[{};]|(?:\$\{[^}]*\}|[^\s{};])+)""", re.DOTALL)
# ProtectHome= and ProtectSystem=strict with ReadWritePaths= of the service
HIDDEN = re.compile(r"(unix:)?/(home|root|run/user)(/|$)")
WRITTEN = re.compile(r"(access_log|error_log|\w+_cache_path|\w+_temp_path|\w+_store)$")
WRITABLE = re.compile(r"/(run|var/run|var/log/nginx|var/lib/nginx|tmp|var/tmp|dev/(null|stdout|stderr))(/|$)|[^/]")


class Directive(NamedTuple):
    """A directive of an included file; `server` counts the server blocks of its file, 0 is outside of any."""

    file: str
    server: int
    words: list[str]


def files(dump: str) -> Iterator[tuple[str, str]]:
    """Name and text of each file in what `nginx -T` prints."""
    parts = re.split(r"^# configuration file (.+):\n", dump, flags=re.MULTILINE)
    yield from zip(parts[1::2], parts[2::2], strict=True)


def directives(file: str, text: str) -> Iterator[Directive]:
    """Each directive, also of blocks, of a text that nginx takes."""
    words: list[str] = []
    inside: list[bool] = []  # for each open block, whether it is a server
    servers = 0
    for match in TOKEN.finditer(text):
        match match[1]:
            case None:
                continue
            case "{":
                inside.append(words == ["server"] and not any(inside))
                servers += inside[-1]
                if inside[-1]:
                    yield Directive(file, servers, ["server"])
                words = []
            case "}":
                inside and inside.pop()
                words = []
            case ";":
                yield Directive(file, servers if any(inside) else 0, words)
                words = []
            case word:
                words.append(word.strip("\"'"))


def listened(words: list[str]) -> tuple[str, int]:
    """Address ('' for any) and port of a `listen`; port 0 for a Unix socket."""
    where = words[1]
    if where.startswith("unix:"):
        return where, 0
    if where.isdigit():
        return "", int(where)
    address, _, port = where.rpartition(":") if re.search(r":\d+$", where) else (where, "", "80")
    return ("" if address in ("", "*", "0.0.0.0", "[::]") else address), int(port)  # noqa: S104 -- compared alone


def server_mistakes(found: list[Directive], port: int, names: list[str]) -> Iterator[str]:
    """What is wrong with one server of others, a sentence each."""
    host, file = socket.gethostname(), found[0].file
    listens = [one.words for one in found if one.words[0] == "listen"] or [["listen", "80"]]
    ours = [words for words in listens if listened(words)[1] == port]
    if not ours:
        return
    named = [name.lower() for one in found if one.words[0] == "server_name" for name in one.words[1:]]
    for words in ours:
        if listened(words)[0]:
            yield (
                f"nginx_port: got {port} on {host}, where {file} listens on {words[1]} alone and would take our requests there; "
                "expected another port, or a site that listens on the port of every address."
            )
        if {"default_server", "default"} & {*words[2:]}:
            yield (
                f"nginx_port: got {port} on {host}, where {file} is the default_server; expected a port without one: our site "
                "answers unknown names. Take the word out of its listen, or choose another port."
            )
    if not set(named) - {"", "_"}:
        yield (
            f"nginx_port: got {port} on {host}, where {file} has a server without a server_name, which would get no request any "
            "more; expected another port, or a name for it."
        )
    if taken := sorted(set(named) & {name.lower() for name in names} - {"", "_"}):
        yield (
            f"nginx_server_name: got {', '.join(taken)} on {host}, which {file} has on port {port} too; expected names that no "
            "other site has."
        )


def sandbox_mistakes(found: list[Directive]) -> Iterator[str]:
    """What sites of others need that the sandbox closes, a sentence each."""
    for one in found:
        for word in one.words[1:]:
            written = WRITTEN.match(one.words[0]) and word.startswith("/") and not WRITABLE.match(word)
            if HIDDEN.match(word) or written:
                yield (
                    f"nginx_sandbox: got true on {socket.gethostname()}, where {one.file} has '{' '.join(one.words[:2])}', "
                    "which the sandbox closes; expected false, or another place for it."
                )
                break


def has_debians_page(module: AnsibleModule) -> bool:
    """Whether Debian's own page is among the sites."""
    available = DIRECTORY / "sites-available/default"
    linked = DEFAULT.is_symlink() and DEFAULT.resolve() == available and available.exists()
    return linked and as_packaged(available, conffiles_of(module))


def asked(module: AnsibleModule, content: str, name: str, application: str) -> tuple[int, str, str]:
    """What nginx says of the configuration to come: status, the whole configuration, complaints."""
    copy, part = DIRECTORY / ".eyewall-preflight.conf", DIRECTORY / ".eyewall-preflight-app.conf"
    # what is there of other applications stays as it is
    parts = [path for path in sorted(DIRECTORY.glob("eyewall-app-*.conf")) if path.name != f"eyewall-app-{name}.conf"]
    content = content.replace(APPLICATIONS, "\n".join(f"include {path};" for path in [*parts, part]))
    if has_debians_page(module):
        sites = sorted(set((DIRECTORY / "sites-enabled").glob("[!.]*")) - {DEFAULT})
        content = content.replace(INCLUDED, "\n".join(f"include {site};" for site in sites))
    # the package that has the directive comes later
    if not any((DIRECTORY / "modules-enabled").glob("*brotli-static*")):
        application = re.sub(r"brotli_static \w+;", "", application)
    try:
        copy.write_text(content)
        part.write_text(application)
        status, dump, said = module.run_command([str(NGINX), "-T", "-c", str(copy)])
    finally:
        copy.unlink(missing_ok=True)
        part.unlink(missing_ok=True)
    said = said.replace(str(part), str(DIRECTORY / f"eyewall-app-{name}.conf"))
    return status, dump, said.replace(str(copy), str(DIRECTORY / "nginx.conf"))


def mistakes(dump: str, params: dict[str, Any]) -> list[str]:
    """What is wrong with the sites of others in a configuration that nginx takes, a sentence each."""
    servers: dict[tuple[str, int], list[Directive]] = {}
    for file, text in files(dump):
        for one in directives(file, text) if OTHERS.match(file) else ():
            servers.setdefault((one.file, one.server), []).append(one)
    found: list[str] = []
    for (_, number), theirs in servers.items():
        if number:
            found += server_mistakes(theirs, params["port"], params["names"])
        if params["sandbox"]:
            found += sandbox_mistakes(theirs)
    return found


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "content": {"type": "str", "required": True},
            "name": {"type": "str", "required": True},
            "application": {"type": "str", "required": True},
            "port": {"type": "int", "required": True},
            "names": {"type": "list", "elements": "str", "required": True},
            "sandbox": {"type": "bool", "required": True},
        },
        supports_check_mode=True,
    )
    if not NGINX.exists():
        module.exit_json(changed=False)
    status, dump, said = asked(module, *(module.params[name] for name in ("content", "name", "application")))
    found = mistakes(dump, module.params) if status == 0 else []
    if status:
        why = next((line for line in said.splitlines() if "[emerg]" in line), said.strip())
        found = [
            f"nginx on {socket.gethostname()}: got '{why}' with our nginx.conf and what others have in {DIRECTORY}; "
            "expected files that go together. A setting of theirs goes into the server that needs it."
        ]
    if found:
        module.fail_json(msg=" ".join(found))
    module.exit_json(changed=False)


if __name__ == "__main__":
    main()
