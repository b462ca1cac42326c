"""Part `dynamic`: /hello and the reference page; Eyewall, the recipe of Tornado's guide, and bare Tornado.

Printed as JSON. As root on a host that the roles deployed benchmarks/application.py on.
"""

from functools import partial

from browser import CHROME
from deployed import find, versions
from results import Results, version
from servers import Servers
from side_by_side import CPU, P50, P99, RATE, Answer, Options, Subject, compare

EYEWALL, RECIPE = "Eyewall", "recipe"
REUSE_PORT, FORK = "Tornado, SO_REUSEPORT", "Tornado, fork"
RUNNER, SAME_LOOP = "runner direct", "Tornado, same loop"

CASES: dict[str, tuple[str, bytes, dict[str, str]]] = {
    "hello": ("/hello", b"hello, world\n", CHROME),
    "hello, one header": ("/hello", b"hello, world\n", {}),
    "page": ("/", b"</html>", CHROME),
}
# of Eyewall's requests per second to the recipe's, and to those of bare Tornado
WANTED = {"hello": (2.2, 1.0), "hello, one header": (1.6, 0.8), "page": (1.25, 0.85)}


def wrong(text: bytes, answer: Answer) -> str:
    """Return a sentence if it is not the answer that has `text`, else ""."""
    if answer.status != 200 or text not in answer.body:
        return f"answered status {answer.status} and {len(answer.body)} bytes without {text!r}"
    return ""


def main() -> None:
    options = Options.parse(__doc__)
    deployed = find()
    results = Results("dynamic", options.method, versions(deployed) | {"wrk": version("wrk", "-v")})
    processes = len(deployed.ports)
    with Servers(deployed) as servers:
        behind = [servers.tornado("--xheaders") for _ in deployed.ports]
        recipe_port, recipe_nginx = servers.recipe([port for port, _ in behind])
        shared_port, first = servers.tornado("--reuse-port")
        shared = [first, *(servers.tornado("--reuse-port", port=shared_port)[1] for _ in deployed.ports[1:])]
        fork_port, fork = servers.tornado("--fork", str(processes))
        loop_port, loop = servers.tornado("--as-the-runner")
        where: dict[str, tuple[int, dict[str, list[int]]]] = {
            EYEWALL: (deployed.nginx_port, {"nginx": [deployed.nginx_pid], "Tornado": deployed.pids}),
            RECIPE: (recipe_port, {"nginx": [recipe_nginx], "Tornado": [pid for _, pid in behind]}),
            REUSE_PORT: (shared_port, {"Tornado": shared}),
            FORK: (fork_port, {"Tornado": [fork]}),
            RUNNER: (deployed.ports[0], {"Tornado": deployed.pids[:1]}),
            SAME_LOOP: (loop_port, {"Tornado": [loop]}),
        }
        for case, (path, text, headers) in CASES.items():
            subjects = [
                Subject(name, f"http://127.0.0.1:{port}{path}", groups, partial(wrong, text), headers)
                for name, (port, groups) in where.items()
            ]
            compare(results, case, subjects, options)
            recipe, direct = WANTED[case]
            results.add_ratio(case, EYEWALL, RECIPE, RATE, wanted=recipe)
            results.add_ratio(case, EYEWALL, REUSE_PORT, RATE, wanted=direct)
            results.add_ratio(case, EYEWALL, FORK, RATE)
            results.add_ratio(case, EYEWALL, RECIPE, P50, better="less")
            results.add_ratio(case, EYEWALL, RECIPE, P99, wanted=1, better="less")
            results.add_ratio(case, EYEWALL, RECIPE, CPU, better="less")
            results.add_ratio(case, EYEWALL, REUSE_PORT, CPU, better="less")
            results.add_ratio(case, RUNNER, SAME_LOOP, RATE, wanted=0.97)
            results.add_ratio(case, RUNNER, SAME_LOOP, CPU, wanted=1.03, better="less")
    results.notes += [
        f"Each request has the {len(CHROME) + 1} headers that Chrome sends, but for the case with one, which is Host.",
        f"{EYEWALL}, {RECIPE}, {REUSE_PORT} and {FORK} have {processes} Tornado processes; {RUNNER} and {SAME_LOOP} have 1.",
        f"{SAME_LOOP} is bare Tornado on uvloop, without an access log and with the garbage collector frozen after"
        " loading, as the runner has it: the difference is what the runner does for each request, and what it spares Tornado.",
        f"{FORK} includes the parent process, which does nothing.",
        f"{RECIPE} is the nginx file of Tornado's guide with other ports and paths, and the guide's main() with xheaders.",
    ]
    results.write()


if __name__ == "__main__":
    main()
