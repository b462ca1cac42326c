"""Whatever an application says, what is shown of it is plain, without secrets, and not too long."""

import json
import os
from pathlib import Path
from urllib.parse import quote

import pytest
from support import REPOSITORY
from support.product import helper, load_module, plugin

load_module("migrate")
text = helper("text")
as_root = pytest.mark.skipif(os.getuid() != 0, reason="only root may give a file away (chown)")

SECRET = 'corr"ect horse\\\nb&ttery-stäple'


@pytest.mark.parametrize(
    ("said", "is_shown"),
    [
        ("\x1b[1;31mERROR\x1b[0m no database", "ERROR no database"),
        ("\x9b31mERROR\x9bm \x9d0;title\x9cno database", "ERROR no database"),
        ("\x1b]0;title\x07no\x1b]8;;https://example.net/\x1b\\ database\x1b]8;;\x1b\\", "no database"),
        ("\x1bP1;1|what a key types\x1b\\no\x1b_x\x1b\\ database\x1bc\x1b(B", "no database"),
        ("no \x1b]0;title without an end\ndatabase", "no 0;title without an end\ndatabase"),
        ("\x1b\x1b[0m[31m", r"\x1b[31m"),
        ("no database\rall is well\r\nand more", "no database\nall is well\nand more"),
        ("no\x00 data\x08base\x7f", r"no\x00 data\x08base\x7f"),
        ("a\x85b\u2028c\u2029d\x0be\x0cf\x1cg", r"a\x85b\u2028c\u2029d\x0be\x0cf\x1cg"),
        ("nur \u202egelesen\u202c \u2066\ufeff\u200b", r"nur \u202egelesen\u202c \u2066\ufeff\u200b"),
        ("\ud800 alone \udcff", r"\ud800 alone \udcff"),
        (b"caf\xe9 \xff\xc2\x9b2J", rb"caf\xe9 \xff".decode()),
        ("\tdéjà vu: 数 🦅\n\n\tindented", "déjà vu: 数 🦅\n\n\tindented"),
    ],
)
def test_what_a_terminal_would_obey_is_not_shown(said: str | bytes, is_shown: str) -> None:
    found = text.shown(said)
    assert found == is_shown
    assert all(one.isprintable() or one in "\n\t" for one in found)
    # and so it can be written down, sent and read again anywhere
    assert json.loads(json.dumps(found).encode()) == found


def test_every_character_is_shown_or_named() -> None:
    found = text.plain("".join(map(chr, range(0x30000))))
    assert all(one.isprintable() or one in "\n\t" for one in found)


@pytest.mark.parametrize(
    "form",
    [
        SECRET,
        repr(SECRET),
        ascii(SECRET),
        json.dumps({"key": SECRET}),
        json.dumps({"key": SECRET}, ensure_ascii=False),
        f"https://app:{quote(SECRET, safe='')}@db/?key={quote(SECRET)}",
        f"{SECRET[:6]}\x1b[1m{SECRET[6:]}",
        SECRET.encode(),
        "b&ttery-stäple",  # a line of it, by itself
    ],
)
def test_a_secret_is_shown_in_none_of_its_forms(form: str | bytes) -> None:
    found = text.shown(b"uses " + form + b", today" if isinstance(form, bytes) else f"uses {form}, today", [SECRET])
    assert "ttery" not in found
    assert text.MASK in found
    assert found.startswith("uses ")
    assert found.endswith(", today")


def test_of_two_secrets_the_longer_one_is_masked_as_a_whole() -> None:
    assert text.shown("hunter2 hunter2-hunter2 hunter", ["hunter2", "hunter2-hunter2"]) == "******** ******** hunter"


def test_the_last_lines_are_shown_and_none_is_endless() -> None:
    lines = text.shown("\n".join(map(str, range(99))), lines=3)
    assert lines == "96\n97\n98"
    long = text.shown(f"ValueError: {'x' * 100_000} is too long")
    assert long.startswith("ValueError: xxx")
    assert " … 99524 characters … " in long
    assert long.endswith("xxx is too long")
    assert len(long) < 600


# ---- The file ----


def test_the_end_of_a_log_is_whole_lines(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    log.write_bytes(b"".join(b"line %d\n" % number for number in range(1000)))
    assert text.tail(log, 20) == b"line 998\nline 999\n"
    assert text.tail(log).startswith(b"line 0\n")
    # what is left of a line may begin in the middle of a secret
    log.write_bytes(b"hunter2" * 100)
    assert text.tail(log, 20) == b"(a line of more than 20 bytes)"


def test_what_was_rotated_a_moment_ago_is_there(tmp_path: Path) -> None:
    log, before = tmp_path / "a.log", tmp_path / "a.log.1"
    before.write_bytes(b"".join(b"line %d\n" % number for number in range(1000)))
    log.write_bytes(b"Traceback\n")
    assert text.tail(log, 30) == b"line 998\nline 999\nTraceback\n"
    log.write_bytes(b"")
    assert text.tail(log, 20) == b"line 998\nline 999\n"


def test_a_log_is_a_file_of_roots_own_and_nothing_else_is_read(tmp_path: Path) -> None:
    secret, log = tmp_path / "shadow", tmp_path / "a.log"
    secret.write_text("root:x\n")

    def refused() -> bool:
        try:
            text.tail(log)
        except OSError:
            log.unlink()
            return True
        return False

    with pytest.raises(FileNotFoundError):
        text.tail(log)
    log.symlink_to(secret)
    assert refused()
    log.hardlink_to(secret)
    assert refused()
    os.mkfifo(log)  # nobody writes there: it would be waited for
    assert refused()
    # nor is one put in the place of the file before
    log.write_text("short\n")
    (tmp_path / "a.log.1").symlink_to(secret)
    assert text.tail(log) == b"short\n"


@as_root
def test_a_file_of_somebody_elses_is_no_log(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    log.write_text("x\n")
    os.chown(log, 65534, 65534)
    with pytest.raises(PermissionError, match="not a file that supervisord made"):
        text.tail(log)


# ---- In a playbook ----


def test_it_is_a_filter_too() -> None:
    assert plugin("filter", "text").FilterModule().filters() == {"plain": text.plain}


@pytest.mark.parametrize("file", ["roles/tornado_app/tasks/rolling_update.yml", "playbooks/status.yml"])
def test_whatever_is_said_of_hosts_goes_through_it(file: str) -> None:
    lines = map(str.strip, (REPOSITORY / file).read_text().splitlines())
    said = [line for line in lines if line.startswith(('msg: "{{', 'fail_msg: "{{'))]
    assert said
    assert all(line.endswith('| eyewall.tornado.plain }}"') for line in said)
