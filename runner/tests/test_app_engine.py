"""The entrypoints of examples/app-engine, run as App Engine runs them: with $PORT, and nothing else."""

import http.client
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import venv
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from support.net import free_port
from support.runner import PATIENCE
from support.waiting import until

RUNNER = Path(__file__).parents[1]
EXAMPLE = RUNNER.parent / "examples" / "app-engine"
FRONT_END = {
    "Host": "board.example",
    "X-Forwarded-Proto": "https",
    "X-Forwarded-For": "192.0.2.1",
    "X-Appengine-User-Ip": "192.0.2.1",
}


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Deploy: the directory, with a virtualenv of what requirements.txt names, from the documented command."""
    directory = tmp_path_factory.mktemp("app-engine")
    shutil.copytree(EXAMPLE, directory / "srv", ignore=shutil.ignore_patterns("*.whl"))
    command = re.search(r"`(uv build .*)`", (EXAMPLE / "requirements.txt").read_text())
    assert command is not None
    arguments = command[1].replace("examples/app-engine", str(directory / "srv")).split()
    subprocess.run([*arguments, "--offline", "--quiet"], cwd=RUNNER.parent, check=True)
    (wheel,) = (directory / "srv").glob("*.whl")
    assert f"./{wheel.name}\n" in (EXAMPLE / "requirements.txt").read_text()

    venv.create(directory / "venv", with_pip=False, symlinks=True)
    (packages,) = (directory / "venv" / "lib").glob("python*/site-packages")
    zipfile.ZipFile(wheel).extractall(packages)
    # Instead of an installation of everything else: where it is installed already.
    (packages / "others.pth").write_text("\n".join(path for path in sys.path if path.endswith("site-packages")))
    return directory


@contextmanager
def running(deployed: Path, file: str) -> Iterator[tuple[subprocess.Popen[bytes], int, Path]]:
    entrypoint = yaml.safe_load((EXAMPLE / file).read_text())["entrypoint"]
    port, log = free_port(), deployed / f"{file}.log"
    path = os.pathsep.join([str(deployed / "venv" / "bin"), "/usr/bin", "/bin"])
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["sh", "-c", f"exec {entrypoint}"],
            env={"PATH": path, "PORT": str(port)}, cwd=deployed / "srv", stdout=output, stderr=output,
            start_new_session=True,
        )  # fmt: skip
    try:
        yield process, port, log
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        sys.stdout.write(log.read_text())


def get(port: int, path: str, headers: dict[str, str]) -> tuple[int, bytes]:
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    try:
        client.request("GET", path, headers=headers)
        response = client.getresponse()
        return response.status, response.read()
    except ConnectionError:
        return 0, b""
    finally:
        client.close()


@pytest.mark.parametrize("file", ["app.yaml", "app-wsgi.yaml"])
def test_entrypoint(deployed: Path, file: str) -> None:
    with running(deployed, file) as (process, port, log):

        def warm() -> bool:
            assert process.poll() is None, log.read_text()
            return get(port, "/_ah/warmup", {})[0] == 200

        until(warm, file)
        status, body = get(port, "/", FRONT_END)
        assert (status, json.loads(body)) == (
            200,
            {"version": "-", "url": "https://board.example/", "client": "192.0.2.1"},
        )
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0
