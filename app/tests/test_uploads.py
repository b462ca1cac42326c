import asyncio
import hashlib
import json
import os
import socket
import time
import tracemalloc
from pathlib import Path
from typing import ClassVar
from urllib.parse import quote

import pytest
from board import store, uploads
from board.store import Store, Upload, safe_name
from support.board import BoardTestCase
from support.waiting import until_async
from tornado.httpclient import AsyncHTTPClient, HTTPRequest, HTTPResponse
from tornado.testing import gen_test
from tornado.web import create_signed_value

MB = 1024 * 1024


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("notes.txt", "notes.txt"),
        ("Überblick (2).pdf", "Überblick (2).pdf"),
        ("U\u0308ber.pdf", "Über.pdf"),
        ("../../etc/passwd", "passwd"),
        ("C:\\Users\\me\\photo.jpg", "photo.jpg"),
        (".bashrc", "bashrc"),
        ("...", "upload"),
        ("", "upload"),
        ("a\r\nb\0c.txt", "a__b_c.txt"),
        ('"><script>.html', "___script_.html"),
        ("trailing. . ", "trailing"),
        ("a/b/", "upload"),
    ],
)
def test_names(given: str, kept: str) -> None:
    assert safe_name(given) == kept
    assert safe_name(kept) == kept


@pytest.mark.parametrize("name", ["x" * 500 + ".txt", "ü" * 500 + ".tar.gz", "y." + "z" * 500, "é" * 300])
def test_long_names_keep_their_ending(name: str) -> None:
    kept = safe_name(name)
    assert len(kept.encode()) <= store.MAX_NAME
    assert safe_name(kept) == kept
    if name.endswith((".txt", ".gz")):
        assert kept.endswith(name[-3:])


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    kept = Store(tmp_path)
    now = time.time()
    for age in range(store.KEEP + 5):
        path = tmp_path / f"{age:02}.txt"
        path.write_text("x")
        os.utime(path, (now - age, now - age))
    (tmp_path / ".fresh.part").touch()
    (tmp_path / ".left.part").touch()
    os.utime(tmp_path / ".left.part", (now - 7200, now - 7200))
    kept.prune()
    assert [file.name for file in kept.files()] == [f"{age:02}.txt" for age in range(store.KEEP)]
    assert (tmp_path / ".fresh.part").exists()
    assert not (tmp_path / ".left.part").exists()


def test_a_discarded_upload_stays_discarded(tmp_path: Path) -> None:
    upload = Upload(Store(tmp_path), "a.txt")
    upload.write(b"abc")
    upload.discard()
    upload.write(b"def")
    with pytest.raises(FileNotFoundError):
        upload.commit()
    upload.discard()
    assert list(tmp_path.iterdir()) == []


class UploadCase(BoardTestCase):
    def send(self, name: str, body: bytes, method: str = "PUT", **headers: str) -> HTTPResponse:
        all_headers = {"X-XSRFToken": self.xsrf(), **headers}
        return self.ask(f"/upload?name={quote(name)}", method, body=body, headers=all_headers)

    async def log_in_async(self) -> dict[str, str]:
        passwords = self._app.settings["board"].passwords
        client = AsyncHTTPClient()
        page = await client.fetch(self.get_url("/login"))
        token = page.body.decode().partition('name="_xsrf" value="')[2].partition('"')[0]
        xsrf = page.headers["Set-Cookie"].partition(";")[0]
        session = create_signed_value(self._app.settings["cookie_secret"], "board_session", passwords.fingerprint)
        return {"Cookie": f"{xsrf}; board_session={session.decode()}", "X-XSRFToken": token}


class UploadTest(UploadCase):
    def test_stored_and_listed_and_sent_back(self) -> None:
        self.log_in()
        body = os.urandom(300_000)
        response = self.send("Überblick 1.bin", body)
        assert response.code == 201, response.body
        answer = json.loads(response.body)
        assert 0 <= answer.pop("seconds") < 5
        assert answer == {
            "name": "Überblick 1.bin",
            "size": len(body),
            "sha256": hashlib.sha256(body).hexdigest(),
        }
        assert self.on_disk() == ["Überblick 1.bin"]
        assert "Überblick 1.bin" in self.ask("/").body.decode()
        download = self.ask(response.headers["Location"])
        assert download.code == 200
        assert download.body == body
        assert download.headers["Content-Type"] == "application/octet-stream"
        assert download.headers["Content-Disposition"].startswith("attachment;")
        assert download.headers["Cache-Control"] == "private, no-cache"
        assert "sandbox" in download.headers["Content-Security-Policy"]

    def test_post_and_an_empty_file(self) -> None:
        self.log_in()
        assert self.send("empty.txt", b"", "POST").code == 201
        assert (self.data / "empty.txt").read_bytes() == b""

    def test_the_same_name_again_replaces_it(self) -> None:
        self.log_in()
        self.send("a.txt", b"old")
        old = self.ask("/files/a.txt").headers["Etag"]
        self.send("a.txt", b"newer")
        assert self.ask("/files/a.txt", headers={"If-None-Match": old}).body == b"newer"
        assert self.on_disk() == ["a.txt"]

    def test_ranges_and_revalidation(self) -> None:
        self.log_in()
        self.send("a.txt", b"0123456789")
        part = self.ask("/files/a.txt", headers={"Range": "bytes=2-4"})
        assert (part.code, part.body) == (206, b"234")
        etag = self.ask("/files/a.txt").headers["Etag"]
        assert self.ask("/files/a.txt", headers={"If-None-Match": etag}).code == 304
        head = self.ask("/files/a.txt", "HEAD")
        assert (head.code, head.body, head.headers["Content-Length"]) == (200, b"", "10")

    def test_a_client_chooses_no_path(self) -> None:
        self.log_in()
        assert json.loads(self.send("../../escape.txt", b"x").body)["name"] == "escape.txt"
        assert self.on_disk() == ["escape.txt"]
        assert not (self.data.parent / "escape.txt").exists()
        (self.data / ".hidden.part").write_text("x")
        for path in ("/files/.hidden.part", "/files/..%2F..%2Fetc%2Fpasswd", "/files/none.txt"):
            assert self.ask(path).code == 404, path

    def test_login_is_required(self) -> None:
        self.data.joinpath("a.txt").write_text("x")
        response = self.ask("/files/a.txt")
        assert (response.code, response.headers["Location"]) == (302, "/login?next=%2Ffiles%2Fa.txt")
        response = self.send("b.txt", b"x" * 3 * MB)
        assert response.code == 403
        assert "Log in first" in json.loads(response.body)["error"]
        assert self.on_disk() == ["a.txt"]

    def test_xsrf_is_required(self) -> None:
        self.log_in()
        for headers in ({}, {"X-XSRFToken": "2|00|00|1"}):
            response = self.ask("/upload?name=a.txt", "PUT", body=b"x" * 3 * MB, headers=headers)
            assert response.code == 403
            assert "not sent from a page" in json.loads(response.body)["error"]
        assert self.on_disk() == []

    def test_a_full_disk_is_told(self) -> None:
        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        self.log_in()
        for method in ("write", "commit"):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(Upload, method, full)
                response = self.send("a.txt", b"x" * 3 * MB)
            assert response.code == 507
            assert "No space left" in json.loads(response.body)["error"]
            assert self.on_disk() == []

    def test_the_oldest_make_room(self) -> None:
        self.log_in()
        for number in range(store.KEEP):
            path = self.data / f"{number:02}.txt"
            path.write_text("x")
            os.utime(path, (1000 + number, 1000 + number))
        self.send("new.txt", b"x")
        assert self.on_disk() == [f"{number:02}.txt" for number in range(1, store.KEEP)] + ["new.txt"]

    @gen_test(timeout=30)
    async def test_twenty_megabytes_pass_through_and_are_never_held(self) -> None:
        await asyncio.to_thread(lambda: None)  # the pool's first thread is not part of the measurement
        sizes: list[int] = []
        write = Upload.write

        def watched(upload: Upload, data: bytes | bytearray) -> None:
            sizes.append(len(data))
            write(upload, data)

        block = os.urandom(256 * 1024)
        digest = hashlib.sha256(block * 80).hexdigest()

        async def produce(send: object) -> None:
            for _ in range(80):
                await send(block)

        headers = await self.log_in_async()
        headers["Content-Length"] = str(20 * MB)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Upload, "write", watched)
            tracemalloc.start()
            try:
                response = await AsyncHTTPClient().fetch(
                    HTTPRequest(
                        self.get_url("/upload?name=big.bin"),
                        "PUT",
                        headers,
                        body_producer=produce,
                        request_timeout=25,
                    )
                )
                _, peak = tracemalloc.get_traced_memory()
            finally:
                tracemalloc.stop()
        assert json.loads(response.body)["sha256"] == digest
        assert sum(sizes) == 20 * MB
        assert max(sizes) < uploads.BATCH + 128 * 1024
        assert len(sizes) >= 18
        assert peak < 8 * MB, f"{peak / MB:.1f} MB were held at once, client included"

    @gen_test
    async def test_a_client_that_goes_away_leaves_nothing(self) -> None:
        headers = await self.log_in_async()
        _, writer = await asyncio.open_connection("127.0.0.1", self.get_http_port())
        headers |= {"Host": "board", "Content-Length": str(8 * MB)}
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        writer.write(f"PUT /upload?name=half.bin HTTP/1.1\r\n{lines}\r\n".encode())
        writer.write(b"x" * 3 * MB)
        await writer.drain()
        await until_async(lambda: any(path.stat().st_size >= 2 * MB for path in self.data.iterdir()))
        assert all(name.startswith(".") for name in self.on_disk())
        writer.close()
        await writer.wait_closed()
        await until_async(lambda: not self.on_disk())


class LimitTest(UploadCase):
    """What is too large gets a clean answer, however it is sent."""

    extra: ClassVar = {"BOARD_MAX_UPLOAD": str(4 * MB)}

    def exchange(self, head: str, *parts: bytes) -> bytes:
        """Send bytes as they are, all of them, and return all that comes back."""

        def talk() -> bytes:
            with socket.create_connection(("127.0.0.1", self.get_http_port()), 5) as connection:
                connection.sendall(head.replace("\n", "\r\n").encode())
                for part in parts:
                    connection.sendall(part)
                answer = b""
                while chunk := connection.recv(65536):
                    answer += chunk
                return answer

        return self.io_loop.run_sync(lambda: self.io_loop.run_in_executor(None, talk))

    def head(self, **more: str) -> str:
        headers = self.io_loop.run_sync(self.log_in_async) | {"Host": "board", "Connection": "close"} | more
        lines = "".join(f"{name.replace('_', '-')}: {value}\n" for name, value in headers.items())
        return f"PUT /upload?name=big.bin HTTP/1.1\n{lines}\n"

    def test_exactly_the_limit_passes(self) -> None:
        self.log_in()
        assert self.send("fits.bin", b"x" * 4 * MB).code == 201

    def test_one_byte_more_does_not(self) -> None:
        self.log_in()
        response = self.send("big.bin", b"x" * (4 * MB + 1))
        assert response.code == 413
        assert "up to 4,194,304 bytes" in json.loads(response.body)["error"]
        assert self.on_disk() == []

    def test_the_answer_comes_after_the_whole_body(self) -> None:
        answer = self.exchange(self.head(Content_Length=str(6 * MB)), *[b"x" * MB] * 6)
        assert answer.startswith(b"HTTP/1.1 413 ")
        assert answer.count(b"HTTP/1.1") == 1
        assert self.on_disk() == []

    def test_chunks_without_a_length(self) -> None:
        chunk = b"100000\r\n" + b"x" * MB + b"\r\n"
        fits = self.exchange(self.head(Transfer_Encoding="chunked"), *[chunk] * 4, b"0\r\n\r\n")
        assert fits.startswith(b"HTTP/1.1 201 ")
        (self.data / "big.bin").unlink()
        answer = self.exchange(self.head(Transfer_Encoding="chunked"), *[chunk] * 5, b"0\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 413 ")
        assert self.on_disk() == []

    def test_a_client_that_asks_first_need_not_send(self) -> None:
        answer = self.exchange(self.head(Content_Length=str(6 * MB), Expect="100-continue"))
        assert answer.startswith(b"HTTP/1.1 413 ")
        welcome = self.exchange(self.head(Content_Length="3", Expect="100-continue"), b"abc")
        assert welcome.startswith(b"HTTP/1.1 100 ")
        assert b"HTTP/1.1 201 " in welcome

    def test_far_too_large_is_not_read_at_all(self) -> None:
        answer = self.exchange(self.head(Content_Length=str(10**12)))
        assert answer.startswith(b"HTTP/1.1 413 ")
        assert answer.count(b"HTTP/1.1") == 1

    def test_a_length_that_is_none(self) -> None:
        for length in ("-5", "many", "5, 6"):
            assert self.exchange(self.head(Content_Length=length)).startswith(b"HTTP/1.1 400 ")
        assert self.on_disk() == []
