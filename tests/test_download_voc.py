"""The VOC download against a local file server: complete, interrupted, wrong, hostile, unreachable."""

import contextlib
import http.server
import io
import os
import random
import sys
import tarfile
import threading
from pathlib import Path

import pytest
from torchvision.datasets.utils import calculate_md5

from tools import download_voc
from tools.system.errors import UserError

NAME = "VOCtrainval_11-May-2012.tar"


class Server(http.server.BaseHTTPRequestHandler):
    """Serve `content` with ranges; interrupt `breaks` transfers after 40 %."""

    content, breaks, ranges, requests, phrase = b"", 0, True, [], None

    def do_GET(self):
        asked = self.headers.get("Range")
        type(self).requests.append(asked)
        if not self.path.endswith(NAME):
            self.send_error(404, self.phrase)
            return
        start = int(asked.split("=")[1].rstrip("-")) if asked and self.ranges else 0
        if start >= len(self.content):
            self.send_error(416)
            return
        rest = self.content[start:]
        self.send_response(206 if asked and self.ranges else 200)
        if asked and self.ranges:
            self.send_header("Content-Range", f"bytes {start}-{len(self.content) - 1}/{len(self.content)}")
        self.send_header("Content-Length", str(len(rest)))
        self.end_headers()
        if self.breaks:
            type(self).breaks -= 1
            rest = rest[: 2 * len(rest) // 5]
        self.wfile.write(rest)

    def log_message(self, *_):
        pass


def archive(path: Path, *extra: str) -> bytes:
    """Return a tar of a devkit with one image; `extra` members hold a word."""
    members = {f"VOCdevkit/VOC2012/{name}": os.urandom(20000) for name in ("JPEGImages/a.jpg", "Annotations/a.xml")}
    with tarfile.open(path, "w") as tar:
        for name, content in {**members, **dict.fromkeys(extra, b"evil")}.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path.read_bytes()


@pytest.fixture
def server(tmp_path, monkeypatch):
    handler = type("Handler", (Server,), {"content": archive(tmp_path / "source.tar"), "requests": []})
    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    monkeypatch.setattr(download_voc.time, "sleep", lambda _: None)
    handler.address = f"http://127.0.0.1:{httpd.server_port}"
    yield handler
    httpd.shutdown()
    httpd.server_close()


@pytest.fixture
def download(server, tmp_path, monkeypatch):
    """Run the tool with the server as mirror and the archive's MD5 as the official one."""

    def run(*words: object) -> int:
        if not {"--mirror", "--tar"} & set(words):
            words += ("--mirror", server.address)
        if "--md5" not in words:
            words += ("--md5", calculate_md5(tmp_path / "source.tar"))
        monkeypatch.setattr(sys, "argv", ["download_voc", "--out", str(tmp_path / "voc"), *map(str, words)])
        with pytest.raises(SystemExit) as end:
            download_voc.main()
        return end.value.code

    return run


def test_a_download_is_unpacked_once_and_prints_the_next_command(download, server, tmp_path, capsys):
    assert download() == 0
    folder = tmp_path / "voc/VOCdevkit/VOC2012"
    assert (folder / "JPEGImages/a.jpg").stat().st_size == 20000
    text = capsys.readouterr().out
    assert f"--data_dir {folder}" in text and "--train_split train_aug --val_split val" in text
    assert f"no longer needed: {tmp_path / 'voc' / NAME}" in text
    (tmp_path / "voc" / NAME).unlink()
    assert download() == 0
    assert len(server.requests) == 1


@pytest.mark.parametrize("ranges", [True, False])
def test_an_interrupted_transfer_is_resumed(download, server, tmp_path, ranges):
    server.breaks, server.ranges = 2, ranges
    assert download() == 0
    assert (tmp_path / "voc" / NAME).read_bytes() == server.content
    first = 2 * len(server.content) // 5
    assert server.requests[:2] == [None, f"bytes={first}-"]


def test_a_partial_file_of_an_earlier_start_is_resumed(download, server, tmp_path):
    (tmp_path / "voc").mkdir()
    (tmp_path / "voc" / f"{NAME}.part").write_bytes(server.content[:12345])
    assert download() == 0
    assert server.requests == ["bytes=12345-"]


def test_a_complete_partial_file_needs_no_more_bytes(download, server, tmp_path):
    (tmp_path / "voc").mkdir()
    (tmp_path / "voc" / f"{NAME}.part").write_bytes(server.content)
    assert download() == 0


def test_a_wrong_md5_removes_the_file(download, server, tmp_path):
    with pytest.raises(UserError, match="damaged or another file"):
        download("--md5", "0" * 32)
    assert os.listdir(tmp_path / "voc") == []


def test_members_that_lead_out_are_refused_and_named(download, server, tmp_path, capsys):
    server.content = archive(tmp_path / "source.tar", "../escaped.txt", "VOCdevkit/../../escaped.txt")
    assert download() == 1
    assert "refused 2 members" in capsys.readouterr().out
    assert not (tmp_path / "escaped.txt").exists() and (tmp_path / "voc/VOCdevkit/VOC2012/JPEGImages/a.jpg").exists()


def evil_archive(path: Path) -> None:
    """Write an archive whose links lead out of the folder past tarfile's own filter (CVE-2025-4517)."""
    component, steps, deep = "d" * 247, "abcdefghijklmnop", ""
    with tarfile.open(path, "w") as tar:

        def add(name: str, kind: bytes, link: str = "", data: bytes = b"") -> None:
            member = tarfile.TarInfo(name)
            member.type, member.linkname, member.size, member.mode = kind, link, len(data), 0o755
            tar.addfile(member, io.BytesIO(data))

        for name in ("", "JPEGImages", "Annotations"):
            add("VOCdevkit/VOC2012/" + name, tarfile.DIRTYPE)
        for step in steps:
            add(os.path.join(deep, component), tarfile.DIRTYPE)
            add(os.path.join(deep, step), tarfile.SYMTYPE, component)
            deep = os.path.join(deep, component)
        link = os.path.join("/".join(steps), "l" * 254)
        add(link, tarfile.SYMTYPE, "../" * len(steps))
        add("escape", tarfile.SYMTYPE, link + "/../")
        add("escape/pwned", tarfile.REGTYPE, data=b"outside\n")


def test_no_link_of_an_archive_is_followed_out_of_the_folder(download, tmp_path, capsys):
    evil_archive(tmp_path / "evil.tar")
    assert download("--tar", tmp_path / "evil.tar", "--md5", calculate_md5(tmp_path / "evil.tar")) == 1
    assert "refused 30 members" in capsys.readouterr().out
    assert not list(tmp_path.glob("pwned")) and not any(path.is_symlink() for path in tmp_path.rglob("*"))
    assert (tmp_path / "voc/escape/pwned").read_text() == "outside\n"  # a plain file at its plain path


DEVKIT = "VOCdevkit/VOC2012"


@pytest.mark.parametrize(
    "name, kind, problem",
    [
        (f"{DEVKIT}/link", tarfile.SYMTYPE, "neither a file nor a folder"),
        (f"{DEVKIT}/link", tarfile.LNKTYPE, "neither a file nor a folder"),
        (f"{DEVKIT}/pipe", tarfile.FIFOTYPE, "neither a file nor a folder"),
        (f"{DEVKIT}/device", tarfile.CHRTYPE, "neither a file nor a folder"),
        ("/tmp/absolute-e", tarfile.REGTYPE, "outside the folder"),
        (f"{DEVKIT}/a/../../../../x", tarfile.REGTYPE, "outside the folder"),
        (f"{DEVKIT}/{'n' * 256}", tarfile.REGTYPE, "its path is too long"),
        ("/".join(["n" * 200] * 6), tarfile.REGTYPE, "its path is too long"),
        (f"{DEVKIT}/JPEGImages/a.jpg", tarfile.REGTYPE, "it repeats an earlier file"),
        (f"{DEVKIT}/./JPEGImages/a.jpg", tarfile.REGTYPE, "it repeats an earlier file"),
        (f"{DEVKIT}/JPEGImages/a.jpg/inside", tarfile.REGTYPE, "it repeats an earlier file"),
        (f"{DEVKIT}/esc\x1b[2J", tarfile.REGTYPE, "control characters in its name"),
        (f"{DEVKIT}/bytes\udcff", tarfile.REGTYPE, "control characters in its name"),
    ],
)
def test_members_that_are_refused(download, tmp_path, capsys, name, kind, problem):
    archive(tmp_path / "source.tar")
    with tarfile.open(tmp_path / "source.tar", "a") as tar:
        member = tarfile.TarInfo(name)
        member.type, member.linkname = kind, "/etc/passwd"
        tar.addfile(member)
    assert download("--tar", tmp_path / "source.tar") == 1
    printed = capsys.readouterr().out
    assert "refused 1 members" in printed and problem in printed and "\x1b" not in printed
    written = sorted(path.relative_to(tmp_path / "voc").as_posix() for path in (tmp_path / "voc").rglob("*.*"))
    assert [name for name in written if "." in name.rsplit("/", 1)[-1]] == [
        f"{DEVKIT}/Annotations/a.xml",
        f"{DEVKIT}/JPEGImages/a.jpg",
        f"{DEVKIT}/download.json",
    ]
    assert (tmp_path / f"voc/{DEVKIT}/JPEGImages/a.jpg").stat().st_size == 20000


@pytest.mark.parametrize("limit, value", [("MAX_MEMBERS", 1), ("MAX_BYTES", 30_000)])
def test_an_archive_larger_than_voc_is_an_error(download, tmp_path, monkeypatch, limit, value):
    monkeypatch.setattr(download_voc, limit, value)
    with pytest.raises(UserError, match="holds more than VOC does"):
        download("--tar", tmp_path / "source.tar")


def test_a_servers_words_are_shown_without_control_characters(download, server):
    server.phrase = "No\x1b]0;pwned\x07 " + "x" * 5000
    with pytest.raises(UserError) as error:
        download("--mirror", f"{server.address}/nothing.tar")
    assert "404 No" in str(error.value) and "\x1b" not in str(error.value) and len(str(error.value)) < 400


@pytest.mark.parametrize("cases", [30, pytest.param(300, marks=pytest.mark.slow)])
def test_damaged_archives_are_one_line_or_unpacked_inside(tmp_path, cases):
    content, generator = archive(tmp_path / "source.tar", "VOCdevkit/VOC2012/x"), random.Random(0)
    headers = [index for index in range(0, len(content), 512) if content[index : index + 9] == b"VOCdevkit"]
    for case in range(cases):
        damaged = bytearray(content)
        start = generator.choice(headers)
        for _ in range(3):
            damaged[start + generator.randrange(512)] = generator.choice(b"/.0712345LSgx\xff\0")
        damaged[start + 148 : start + 156] = b" " * 8
        damaged[start + 148 : start + 156] = b"%06o\0 " % sum(damaged[start : start + 512])  # a valid checksum
        (tmp_path / "damaged.tar").write_bytes(damaged[: generator.choice((len(damaged), 1500, 21000))])
        with contextlib.suppress(UserError):
            download_voc.unpack(tmp_path / "damaged.tar", tmp_path / f"out/{case}/inside")
        assert not [path for path in tmp_path.glob("out/*/*") if path.name != "inside"]
        assert not any(path.is_symlink() for path in tmp_path.rglob("*"))
    assert {path.name for path in tmp_path.iterdir()} <= {"source.tar", "damaged.tar", "out"}


def test_a_local_archive_needs_no_server(download, server, tmp_path):
    assert download("--tar", tmp_path / "source.tar") == 0
    assert server.requests == [] and (tmp_path / "source.tar").exists()
    (tmp_path / "other.tar").write_bytes(b"other")
    with pytest.raises(UserError, match="wanted: VOCtrainval_11-May-2012.tar"):
        download("--tar", tmp_path / "other.tar")
    with tarfile.open(tmp_path / "empty.tar", "w"):
        pass
    with pytest.raises(UserError, match="holds no images and annotations of VOC 2012"):
        download(
            "--tar", tmp_path / "empty.tar", "--md5", calculate_md5(tmp_path / "empty.tar"), "--out", tmp_path / "b"
        )
    with pytest.raises(UserError, match="not a complete tar"):
        download("--tar", tmp_path / "other.tar", "--md5", calculate_md5(tmp_path / "other.tar"))


@pytest.mark.parametrize("mirror, cause", [("http://127.0.0.1:9", "refused"), ("/nothing", "the server says 404")])
def test_without_a_network_the_alternatives_are_named(download, server, mirror, cause):
    mirror = mirror if mirror.startswith("http") else f"{server.address}{mirror}.tar"
    with pytest.raises(UserError) as error:
        download("--mirror", mirror)
    assert cause in str(error.value) and "--mirror URL, or --tar FILE" in str(error.value)


def test_contradicting_arguments_are_refused(download, tmp_path):
    with pytest.raises(UserError, match="--mirror ftp://x: must begin with http"):
        download("--mirror", "ftp://x")
    with pytest.raises(UserError, match="not allowed with argument"):
        download("--mirror", "http://x", "--tar", tmp_path / "source.tar")
    with pytest.raises(UserError, match="2 sums, but --year 2012 has 1 archives"):
        download("--md5", "a", "b")


def test_the_official_archives_are_those_of_torchvision():
    (voc2012,) = download_voc.archives_of("2012")
    assert voc2012.url.endswith(f"/voc2012/{NAME}") and voc2012.md5 == "6cd6e144f989b92b3379bac3b3de84fd"
    assert [archive.filename[:10] for archive in download_voc.archives_of("2007")] == ["VOCtrainva", "VOCtest_06"]
