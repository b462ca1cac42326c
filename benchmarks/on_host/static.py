"""Part `static`: files of 1 KB, 30 KB and 1 MB; Eyewall, the recipe of Tornado's guide, and Tornado's own handler.

Printed as JSON. As root on a host that the roles deployed benchmarks/application.py on.
"""

import gzip
import hashlib
from functools import partial

from deployed import Deployed, find, versions
from results import Results, version
from servers import Servers
from side_by_side import CPU, P99, RATE, Answer, Options, Subject, compare

EYEWALL, RECIPE, GZIP_RECIPE, TORNADO = "Eyewall", "recipe", "recipe, gzip of scripts switched on", "StaticFileHandler"
PLAIN_FILES = ("1k.txt", "30k.js", "1m.bin")
SCRIPT = "30k.js"
# what a client asks for, and what a recipe that knows no brotli answers then
ENCODINGS = {"gzip": "gzip", "gzip, br": "br"}
# of Eyewall's requests per second to the recipe's, plain and compressed, and to those of Tornado's handler (issue 5)
WANTED_PLAIN, WANTED_COMPRESSED, WANTED_TORNADO = 1.1, 6, 15


def wrong(deployed: Deployed, file: str, encoding: str, answer: Answer) -> str:
    """Return a sentence if the answer is not `file` in this encoding, byte for byte, else ""."""
    if answer.status != 200 or answer.encoding != encoding:
        return f"answered status {answer.status} in the encoding {answer.encoding!r}, not 200 in {encoding!r}"
    if encoding == "br":
        # no brotli in Debian's Python: what was published is what is compared with
        body, right = answer.body, deployed.static / f"{file}.br"
    else:
        body = gzip.decompress(answer.body) if encoding == "gzip" else answer.body
        right = deployed.static / file
    if hashlib.sha512(body).digest() != hashlib.sha512(right.read_bytes()).digest():
        return f"answered {len(body)} bytes that are not those of {right.name}"
    return ""


def main() -> None:
    options = Options.parse(__doc__)
    deployed = find()
    results = Results("static", options.method, versions(deployed) | {"wrk": version("wrk", "-v")})
    with Servers(deployed) as servers:
        handler_port, handler = servers.tornado("--static", str(deployed.static))
        recipe_port, recipe = servers.recipe([handler_port])
        gzip_port, gzip_recipe = servers.recipe([handler_port], gzip_scripts=True)
        where = {
            EYEWALL: (deployed.nginx_port, {"nginx": [deployed.nginx_pid]}),
            RECIPE: (recipe_port, {"nginx": [recipe]}),
            GZIP_RECIPE: (gzip_port, {"nginx": [gzip_recipe]}),
            TORNADO: (handler_port, {"Tornado": [handler]}),
        }

        def subject(name: str, file: str, query: str, encoding: str = "", accepted: str = "") -> Subject:
            port, groups = where[name]
            return Subject(
                name,
                f"http://127.0.0.1:{port}/static/{file}{query}",
                groups,
                partial(wrong, deployed, file, encoding),
                {"Accept-Encoding": accepted} if accepted else {},
            )

        for file in PLAIN_FILES:
            digest = hashlib.sha512((deployed.static / file).read_bytes()).hexdigest()
            for suffix, query in (("", ""), (", versioned", f"?v={digest}")):
                case = f"{file}{suffix}"
                compare(results, case, [subject(name, file, query) for name in (EYEWALL, RECIPE, TORNADO)], options)
                results.add_ratio(case, EYEWALL, RECIPE, RATE, wanted=WANTED_PLAIN)
                results.add_ratio(case, EYEWALL, TORNADO, RATE, wanted=WANTED_TORNADO)
                results.add_ratio(case, EYEWALL, RECIPE, P99, better="less")
                results.add_ratio(case, EYEWALL, RECIPE, CPU, better="less")
                if file != SCRIPT:
                    continue
                for accepted, encoding in ENCODINGS.items():
                    case = f"{file}, {encoding}{suffix}"
                    ours = subject(EYEWALL, file, query, encoding, accepted)
                    theirs = subject(GZIP_RECIPE, file, query, "gzip", accepted)
                    compare(results, case, [ours, theirs], options)
                    results.add_ratio(case, EYEWALL, GZIP_RECIPE, RATE, wanted=WANTED_COMPRESSED)
                    results.add_ratio(case, EYEWALL, GZIP_RECIPE, CPU, better="less")
    results.notes += [
        f"{TORNADO} is one Tornado process with static_path and nothing else.",
        f"{RECIPE} is the nginx file of Tornado's guide, which has one worker; Eyewall's has one per CPU.",
        f"{GZIP_RECIPE}: the guide's gzip_types do not have application/javascript, which is Debian's name for scripts."
        " It compresses on the fly, at nginx's own level; it has no brotli, so it answers a client that takes both with gzip.",
        "Each server's first answer was compared with the published file, byte for byte (gzip: decompressed).",
    ]
    results.write()


if __name__ == "__main__":
    main()
