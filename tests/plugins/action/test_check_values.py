"""Every value of a role that is wrong is said in one message, and nothing of a secret."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from support import REPOSITORY

RULES = [
    {"name": "shop_port", "that": "{{ shop_port | int >= 1024 }}", "expected": "1024 or more ({{ shop_name }})"},
    {"name": "shop_key", "that": "{{ shop_key | length >= 16 }}", "expected": "16 characters", "secret": True},
    {"name": "shop_name", "that": "{{ shop_name is match('[a-z]+$') }}", "expected": "lowercase letters"},
]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"shop_port": "80", "shop_key": "hunter2", "shop_name": "{{ 'b' ~ 'oard' }}"}, (
            "shop_port: got '80'; expected 1024 or more (board). shop_key: expected 16 characters."
        )),
        ({"shop_port": 8080, "shop_key": "hunter2" * 3, "shop_name": "{{ 'B' ~ 'oard' }}"}, (
            "shop_name: got 'Board'; expected lowercase letters."
        )),
        ({"shop_port": 8080, "shop_key": "hunter2" * 3, "shop_name": "board"}, None),
    ],
)  # fmt: skip
def test_mistakes_are_said_together(tmp_path: Path, values: dict[str, str], said: str | None) -> None:
    task = {"name": "Check", "eyewall.tornado.check_values": {"rules": RULES}}
    play = {"name": "Check", "hosts": "localhost", "gather_facts": False, "vars": values, "tasks": [task]}
    (tmp_path / "play.yml").write_text(yaml.safe_dump([play]))
    done = subprocess.run(
        [Path(sys.executable).with_name("ansible-playbook"), "-i", "localhost,", tmp_path / "play.yml"],
        env=os.environ | {"ANSIBLE_CONFIG": str(REPOSITORY / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"},
        cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    text = " ".join((done.stdout + done.stderr).split())
    assert (done.returncode == 0) == (said is None), text
    assert said is None or said in text
    assert "hunter2" not in text
