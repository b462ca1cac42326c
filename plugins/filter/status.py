"""What hosts said, as text for a person: tables of processes and deploys, and how a deploy went."""

import math
import time
from collections.abc import Iterable, Mapping
from typing import Any

HOSTS = ("host", "entry point", "services", "HAProxy says", "disk left", "memory left", "clock")
PROCESSES = ("host", "port", "state", "release", "pid", "uptime", "connections", "requests", "open files / limit")
CERTIFICATES = ("host", "certificate", "names", "from", "issuer", "serial ends", "expires (UTC)", "next try (UTC)")
STRANGERS = ("host", "pid", "account", "since (UTC)", "listens on", "what it is", "command")
# What app_info says of a process of the account that supervisord does not know.
KINDS = {
    "left": "left by a release (the next deploy ends it)",
    "foreign": "not started by supervisord (no deploy while it is there)",
}
DEPLOYS = ("when (UTC)", "hosts", "who", "verb", "release", "from", "to", "outcome", "seconds", "why")

# These take the lock of a host: the first one of several, to decide between two runs; each of them, before anything else.
BEGUN, STAGED, TESTED = "__tornado_app_begun", "__tornado_app_staged", "__tornado_app_tested"
# What the steps of a deploy register on a host, and what the host was doing then.
STEPS = {
    BEGUN: "the deploy was to begin",
    STAGED: "the release was installed and smoke-tested",
    TESTED: "the smoke test ran",
    "__tornado_app_migrated": "the migration ran",
    "__tornado_app_move": "processes changed hands",
    "__tornado_app_look": "its processes were looked at again",
}
# Of these, Ansible registers the first host's result on every host (run_once).
ONCE = {BEGUN, "__tornado_app_migrated"}

Hosts = Iterable[str]
HostVars = Mapping[str, Mapping[str, Any]]
Infos = list[tuple[str, str, Mapping[str, Any]]]  # host, application, and what app_info said of it


def duration(seconds: object) -> str:
    """A time in the two largest of its units."""
    if not isinstance(seconds, int | float) or not math.isfinite(seconds):
        return "-"
    rest = int(seconds)
    parts: list[str] = []
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        count, rest = divmod(rest, length)
        if count or parts or unit == "s":
            parts.append(f"{count}{unit}")
    return " ".join(parts[:2])


def utc(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(seconds))


def table(headings: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [headings, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(headings))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def by_text(texts: Iterable[tuple[str, str]]) -> dict[str, str]:
    """The hosts that a text is true of, joined, for each text once; from (host, text)."""
    found: dict[str, list[str]] = {}
    for host, text in texts:
        found.setdefault(text, []).append(host)
    return {text: ", ".join(hosts) for text, hosts in found.items()}


def share(one: Mapping[str, Any], what: str) -> float:
    """How much of something is left, in hundredths."""
    return 100 * float(one[f"{what}_left"]) / float(one[what]) if one[what] else 100.0


def host_row(host: str, told: Mapping[str, Any]) -> tuple[str, ...]:
    if "entries" not in told:  # the host did not answer, as is said below
        return (host, "unreachable" if told.get("unreachable") else "failed", *["-"] * (len(HOSTS) - 2))
    entries = [
        f"{one['service']}{' (TLS)' if one.get('tls') else ''}: "
        + (f"{one['status']} in {1000 * one['seconds']:.0f} ms" if one["status"] else one["why"])
        for one in told["entries"]
    ]
    services = ", ".join(name if state == "active" else f"{name} {state}" for name, state in told["services"].items())
    balancer = ", ".join(f"{name} {state}" for name, state in (told["balancer"] or {}).items())
    left = [min(share(one, "bytes"), share(one, "inodes")) for one in told["space"]]
    return (
        host,
        ", ".join(entries) or "-",
        services or "-",
        balancer or "-",
        f"{min(left, default=100):.0f} %",
        f"{share(told['memory'], 'bytes'):.0f} %",
        "as here" if abs(told["clock"]) < 1 else f"{told['clock']:+.0f} s",
    )


def host_table(hosts: Hosts, hostvars: HostVars) -> str:
    """A line for each host, from what host_status registered."""
    return table(HOSTS, (host_row(host, hostvars[host]["__host_status"]) for host in hosts))


def certificate_row(host: str, one: Mapping[str, Any]) -> tuple[str, ...]:
    source = str(one["source"] or "-").partition(" ")[0]
    if "not_after" not in one:
        return (host, one["name"], ", ".join(one["wanted"]) or "-", source, *["-"] * 4)
    return (
        host, one["name"], ", ".join(one["names"]), source, one["issuer"], one["serial"][-8:].lower(), utc(one["not_after"])[:-3],
        utc(one["next_try"])[:-3] if one["next_try"] else "-",
    )  # fmt: skip


def certificate_table(hosts: Hosts, hostvars: HostVars) -> str:
    """A line for each certificate of each front door, from host_status; "" where there is none."""
    told = ((host, hostvars[host]["__host_status"].get("certificates", [])) for host in hosts)
    rows = [certificate_row(host, one) for host, found in told for one in found]
    return table(CERTIFICATES, rows) if rows else ""


def host_problems(results: Mapping[str, Any]) -> Iterable[str]:
    """What is not well on a host, a sentence each: from host_status, and app_info where the application is."""
    told = results["__host_status"]
    if told.get("unreachable"):
        yield f"got no answer to Ansible ({one_line(told)}); expected one. See the host's console, and its way here."
        return
    if "entries" not in told:
        yield f"could not be asked: {one_line(told)}."
    yield from told.get("problems", [])
    for app, info in results.get("site_infos", {}).items():
        if info.get("unreachable"):
            return
        if "processes" not in info:
            yield f"the application {app} could not be asked: {one_line(info)}."
        elif info["silence"] and told.get("services", {}).get("supervisor") == "active":  # else it has been said
            yield f"{info['silence']} Nothing can start or stop a process. Run site.yml."
        yield from info.get("problems", [])


def one_line(result: Mapping[str, Any]) -> str:
    """What a task that failed says, in a line."""
    return " ".join(str(result.get("msg", "no reason")).split()).removeprefix("Task failed: ").rstrip(".")


def problem_list(hosts: Hosts, hostvars: HostVars) -> str:
    """A line for each thing that is not well, with its hosts; "" where all is well."""
    told = [(host, sentence) for host in hosts for sentence in host_problems(hostvars[host])]
    by_app: dict[str, dict[str, Mapping[str, Any]]] = {}
    for host, app, info in said_of_apps(hosts, hostvars):
        by_app.setdefault(app, {})[host] = info
    for app, infos in by_app.items():
        current = {
            host: one["release"]
            for host, info in infos.items()
            for one in info.get("generations", [])
            if one["current"]
        }
        # while one of them is locked, hosts have their turns
        if len({*current.values()}) > 1 and not any(info.get("lock") for info in infos.values()):
            releases = "; ".join(f"{names} {release}" for release, names in by_text(current.items()).items())
            told.append(("all", f"releases of {app}: got {releases}; expected one. Run deploy.yml."))
    return "\n".join(f"{names}: {text}" for text, names in by_text(told).items())


def said_of_apps(hosts: Hosts, hostvars: HostVars) -> Infos:
    """What app_info said of each application on each host."""
    return [(host, app, info) for host in hosts for app, info in hostvars[host].get("site_infos", {}).items()]


def several(infos: Infos) -> bool:
    """Whether a table has to say which application a line is of."""
    return len({app for _, app, _ in infos}) > 1


def app_table(headings: tuple[str, ...], rows: Iterable[tuple[str, tuple[str, ...]]], *, named: bool) -> str:
    """A table of rows that are of an application each, which is the second column where there are several."""
    lines = [((*row[:1], app, *row[1:]) if named else row) for app, row in rows]
    return table((*headings[:1], "application", *headings[1:]) if named else headings, lines)


def process_row(host: str, process: Mapping[str, Any]) -> tuple[str, ...]:
    files = " / ".join(str(process[name]) for name in ("open_files", "open_files_limit") if name in process) or "-"
    return (
        host,
        *(str(process.get(name, "-")) for name in ("port", "state", "release", "pid")),
        duration(process.get("uptime_seconds")),
        *(str(process.get(name, "-")) for name in ("connections", "requests")),
        files,
    )


def answered(hosts: Hosts, hostvars: HostVars) -> Infos:
    """What app_info said, on hosts that it could ask."""
    return [one for one in said_of_apps(hosts, hostvars) if "processes" in one[2]]


def process_table(hosts: Hosts, hostvars: HostVars) -> str:
    """A line for each process of `hosts`, from what app_info registered."""
    infos = answered(hosts, hostvars)
    rows = ((app, process_row(host, process)) for host, app, info in infos for process in info["processes"])
    return app_table(PROCESSES, rows, named=several(infos))


def stranger_row(host: str, stranger: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        host,
        str(stranger["pid"] or "unknown"),
        stranger["account"],
        stranger["since"].replace("T", " ").rstrip("Z") if stranger["pid"] else "-",
        ", ".join(map(str, stranger["ports"])) or "-",
        KINDS.get(stranger["kind"], f"detached, as it says, from {stranger['of']}"),
        stranger["command"],
    )


def stranger_table(hosts: Hosts, hostvars: HostVars) -> str:
    """A line for each process that supervisord does not know, from what app_info registered; "" for none."""
    told = [(host, info["strangers"]) for host, _, info in answered(hosts, hostvars)]
    rows = [stranger_row(host, stranger) for host, found in told for stranger in found or []]
    silent = ", ".join(dict.fromkeys(host for host, found in told if found is None))
    parts = [table(STRANGERS, rows)] if rows else []
    return "\n".join(
        [*parts, *([f"{silent}: supervisord does not answer, so who else is there is not known"] if silent else [])]
    )


def deploy_row(hosts: str, records: list[Mapping[str, Any]]) -> tuple[str, ...]:
    """What one run did on hosts where it did the same: from its first moment there, as long as on the slowest."""
    one = records[0]
    seconds = [record["seconds"] for record in records if record["seconds"] is not None]
    return (
        utc(min(record["started"] for record in records)),
        hosts,
        *(str(one[name] or "-") for name in ("owner", "verb", "release", "from_release", "to_release", "outcome")),
        str(max(seconds, default="-")),
        one["message"],
    )


def deploy_table(hosts: Hosts, hostvars: HostVars) -> str:
    """A line for each of the last deploys, then who holds hosts now; "" where there was none. From app_info."""
    told = answered(hosts, hostvars)
    same: dict[tuple[Any, ...], list[tuple[str, Mapping[str, Any]]]] = {}
    for host, app, info in told:
        for record in info["deploys"]:
            what = ("id", "verb", "wanted", "from", "to", "outcome", "message")
            same.setdefault((app, *(record[name] for name in what)), []).append((host, record))
    rows = [
        # a run may have tried twice on a host
        (str(what[0]), deploy_row(", ".join(dict.fromkeys(host for host, _ in group)), [record for _, record in group]))
        for what, group in same.items()
    ]
    held = by_text(
        (
            host,
            f"held by {lock['owner']} for the {lock['verb']} of {f'{app} ' if several(told) else ''}{lock['release']}, "
            f"until {utc(lock['expires'])} UTC",
        )
        for host, app, info in told
        if (lock := info["lock"])
    )
    parts = [app_table(DEPLOYS, sorted(rows, key=lambda row: row[1]), named=several(told))] if rows else []
    return "\n".join([*parts, *(f"{names}: {text}" for text, names in held.items())])


def result_of(results: Mapping[str, Any], step: str) -> Mapping[str, Any]:
    """What a step registered; empty for one that did not take place."""
    result: Mapping[str, Any] = results.get(step) or {}
    return {} if result.get("skipped") else result


def went_wrong(result: Mapping[str, Any]) -> bool:
    return bool(result.get("failed") or result.get("unreachable"))


def words(results: Mapping[str, Any], result: Mapping[str, Any]) -> str:
    """What a task of a host that failed says, unless that is hidden (no_log).

    Ansible tells a rescue whether it is, and leaves it out of what a task registers.
    """
    if (results.get("ansible_failed_result") or {}).get("_ansible_no_log"):
        return "What it says is hidden: it has no_log."
    # of a loop, the turn that failed; of a command, what it printed
    one = next((turn for turn in result.get("results") or [] if went_wrong(turn)), result)
    return "\n".join(str(text) for text in (one.get("msg"), one.get("stderr") or one.get("stdout")) if text)


def broken_step(results: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]] | None:
    """What a host was doing when the first thing went wrong on it, and the result of that."""
    for step in STEPS:
        if went_wrong(result := result_of(results, step)):
            # "lock" is another run's, which has refused this one
            return BEGUN if "lock" in result else step, result
    # any other task of the block, as the site's own: Ansible gives a rescue these two. A way back that failed has a rescue, too
    if results.get("ansible_failed_result") and not went_wrong(result_of(results, "__tornado_app_back")):
        return f"the task '{results['ansible_failed_task']['name']}' ran", results["ansible_failed_result"]
    return None


def subject(told: Mapping[str, Mapping[str, Any]]) -> tuple[str, str, str]:
    """Name of the application, what was to be done with it, and the release: every plan says it."""
    results = next(iter(told.values()))
    return results["tornado_app_name"], results["tornado_app_plan"]["verb"], results["tornado_app_plan"]["release"]


def locking(results: Mapping[str, Any]) -> Mapping[str, Any]:
    """What the step registered that takes the lock: of a deploy, or of a rollback."""
    return result_of(results, STAGED) or result_of(results, TESTED)


def begun(results: Mapping[str, Any]) -> Mapping[str, Any]:
    """What the lock says that a host gave to this run; empty for none."""
    taken: Mapping[str, Any] = locking(results).get("begun") or {}
    return taken


def runs_now(results: Mapping[str, Any], release: str) -> str:
    """What a host runs after a deploy of `release` that failed somewhere."""
    move, back = (result_of(results, f"__tornado_app_{step}") for step in ("move", "back"))
    taken = begun(results)
    if not taken:
        unreachable = locking(results).get("unreachable")
        return "did not answer; what runs was not touched" if unreachable else "was not touched"
    old = taken["from_release"]
    moved = move and (went_wrong(move) or move["changed"])
    if not moved and not went_wrong(back) and not back.get("changed"):
        return f"never left {old}" if old else "nothing runs there yet"
    if not old:
        return "nothing to go back to"
    # `current`, and with it what starts at boot, changes at the very end of a move
    at_boot = f"{old}, or {release} if its move has ended," if move.get("unreachable") else release
    if not moved or move.get("failed"):
        at_boot = old
    last = back or move
    if last.get("unreachable"):
        return f"did not answer; it starts {at_boot} at boot"
    if back.get("failed"):
        return f"could not go back to {old}; it starts {at_boot} at boot: {words(results, back)}"
    # a move that fails has given the ports back by itself
    return f"back on {old}" if back or move.get("failed") else f"runs {release}"


def indented(text: str, by: int) -> str:
    """A text of several lines below a line."""
    return "\n".join(" " * by + line for line in text.strip().splitlines())


def deploy_summary(hosts: Hosts, hostvars: HostVars) -> str:
    """Why a deploy failed, and what each host runs now: from what STEPS and `__tornado_app_back` registered."""
    told = {host: hostvars[host] for host in hosts}
    name, verb, release = subject(told)
    broken: dict[str, tuple[str, Mapping[str, Any]]] = {}
    for host, results in told.items():
        found = broken_step(results)
        if found and not (found[0] in ONCE and found in broken.values()):
            broken[host] = found
    causes = by_text(
        (host, f"{'could not be reached' if result.get('unreachable') else 'failed'} while {STEPS.get(step, step)}")
        for host, (step, result) in broken.items()
    )
    messages = by_text((host, words(told[host], result)) for host, (_, result) in broken.items())
    states = by_text((host, runs_now(results, release)) for host, results in told.items())
    what = f"{name} {release} was not deployed" if verb == "deploy" else f"{name} was not rolled back to {release}"
    why = "; ".join(f"{names} {cause}" for cause, names in causes.items()) or "no host says why"
    said = [f"  {names}:\n{indented(text, 4)}" for text, names in messages.items() if text]
    now = [f"  {indented(f'{names}: {text}', 4).strip()}" for text, names in states.items()]
    return "\n".join([f"{what}: {why}.", *said, "Now:", *now])


def span(seconds: list[float]) -> str:
    low, high = f"{min(seconds):.1f}", f"{max(seconds):.1f}"
    return f"{low} s" if low == high else f"{low} to {high} s"


def deploy_report(hosts: Hosts, hostvars: HostVars) -> str:
    """What a deploy that succeeded brought where, from what, and how long the processes took."""
    told = {host: hostvars[host] for host in hosts}
    name, _, release = subject(told)
    moved = {host: results for host, results in told.items() if results["__tornado_app_move"]["changed"]}

    def origin(results: Mapping[str, Any]) -> str:
        old = begun(results)["from_release"]
        return f"from {old}" if old and old != release else "from other settings" if old else "the first release there"

    places = [f"{names} ({old})" for old, names in by_text((host, origin(moved[host])) for host in moved).items()]
    stayed = ", ".join(host for host in told if host not in moved)
    if stayed:
        places.append(f"{stayed} (where it was)")
    times = [process for results in moved.values() for process in results["__tornado_app_move"]["processes"]]
    ready = [process["ready_seconds"] for process in times if "ready_seconds" in process]
    drained = [process["drained_seconds"] for process in times if "drained_seconds" in process]
    facts = []
    if ready:
        facts = [f"{len(ready)} {'process' if len(ready) == 1 else 'processes'}", f"each ready in {span(ready)}"]
    if drained:
        facts.append(f"the old ones drained in {span(drained)}")
    said = [f"{name} {release} is on {', '.join(places)}" + (f": {', '.join(facts)}." if facts else ".")]
    for what, sentence in (
        ("ended", "what a release had left was ended"),
        ("strangers", "a stranger runs there, which was not started by supervisord"),
    ):
        by_host = by_text((host, one) for host, results in moved.items() for one in results["__tornado_app_move"][what])
        said += [f"  {names}: {sentence}: {one}" for one, names in by_host.items()]
    return "\n".join(said)


def removal_report(hosts: Hosts, hostvars: HostVars, app: str) -> str:
    """What was removed from which host, and what stays there; from M(eyewall.tornado.remove_app)."""
    told = {host: result_of(hostvars[host], "site_removed") for host in hosts}
    changed = {host: one for host, one in told.items() if one.get("changed")}
    if not changed:
        return f"{app} is on none of these hosts."
    kept = by_text((host, ", ".join(one["kept"]) or "nothing") for host, one in changed.items())
    lines = [f"{app} was removed from {', '.join(changed)}."]
    return "\n".join([*lines, *(f"  {names}: what stays is {what}" for what, names in kept.items())])


class FilterModule:
    def filters(self) -> dict[str, Any]:
        return {
            "process_table": process_table,
            "certificate_table": certificate_table,
            "host_table": host_table,
            "problem_list": problem_list,
            "deploy_table": deploy_table,
            "stranger_table": stranger_table,
            "deploy_summary": deploy_summary,
            "deploy_report": deploy_report,
            "removal_report": removal_report,
        }
