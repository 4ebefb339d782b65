"""What cannot be shown costs words, never the program: closed pipes, full disks, other encodings, no stream at all."""

import io
import subprocess
import sys

import pytest

from tests.helpers.command_line import ROOT
from tools.system.console import ForgivingStream
from tools.system.errors import UserError, printable

PROGRAM = """
import sys
from pathlib import Path
from tqdm import tqdm
from tools.system.errors import UserError, run_main

def main():
    for number in tqdm(range(3)):
        tqdm.write(f"line {number} of Kätzchen, 犬 and \\udcff …")
        print("x" * 100_000, flush=True)
        print("words", file=sys.stderr)
    opened = open("written.txt", "w")
    opened.write("results")
    opened.close()
    assert opened.fileno is not None
    if len(sys.argv) > 1:
        raise UserError("a mistake with 犬")

run_main(main)
"""


def program(folder, redirected: str, *words: str, **variables: str) -> subprocess.CompletedProcess:
    (folder / "program.py").write_text(PROGRAM)
    typed = f"{sys.executable} program.py {' '.join(words)} {redirected}"
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), **variables}
    shell = ["bash", "-c", f"set -o pipefail; {typed}"]
    return subprocess.run(shell, cwd=folder, capture_output=True, env=environment, timeout=60)


@pytest.mark.parametrize(
    "redirected",
    ["| head -1", "2>&1 | head -1", "> /dev/full", "2> /dev/full", "> /dev/full 2>&1", ">&-", "2>&-", ">&- 2>&- <&-"],
)
@pytest.mark.parametrize("fails", [False, True])
def test_no_stream_ends_a_program(tmp_path, redirected, fails):
    result = program(tmp_path, redirected, *(["fail"] if fails else []))
    assert result.returncode == (2 if fails else 0), result.stderr
    assert b"Traceback" not in result.stderr and b"lost sys" not in result.stderr
    assert (tmp_path / "written.txt").read_text() == "results"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8", "cp1252"])
def test_characters_that_the_terminal_lacks_are_escaped(tmp_path, encoding):
    result = program(tmp_path, "", PYTHONIOENCODING=encoding)
    assert result.returncode == 0, result.stderr
    assert b"\\udcff" in result.stdout and ("犬".encode() if encoding == "utf-8" else b"\\u72ac") in result.stdout
    assert "Kätzchen".encode(encoding, "backslashreplace") in result.stdout


def test_a_closed_descriptor_is_not_given_to_a_file(tmp_path):
    code = "from tools.system.errors import run_main; run_main(lambda: print(open('x', 'w').fileno()))"
    shell = f'{sys.executable} -c "{code}" 2>&- <&-'
    result = subprocess.run(["bash", "-c", shell], cwd=tmp_path, capture_output=True, env={"PYTHONPATH": str(ROOT)})
    assert int(result.stdout) > 2


def test_printable_keeps_letters_and_escapes_what_a_terminal_would_obey():
    assert printable("Straße 犬 فارسی") == "Straße 犬 فارسی"
    assert printable("a\x1b]0;x\x07\r\n\t\x9b2J\u202e\u2028\udcff") == (
        "a\\x1b]0;x\\x07\\r\\n\\t\\x9b2J\\u202e\\u2028\\udcff"
    )
    assert str(UserError("one\nline \x1b[31m")) == "one line \\x1b[31m"


@pytest.mark.parametrize(
    "written, seen",
    [
        ("written: e\x1b]0;pwned\x07_again.txt\n", "written: e\\x1b]0;pwned\\x07_again.txt\n"),
        ("a\rb\n", "a\\rb\n"),
        ("\r犬: 100%|█| 3/3\n", "\r犬: 100%|█| 3/3\n"),  # a progress bar
        ("\n\x1b[A", "\n\x1b[A"),  # the cursor of one
    ],
)
def test_text_of_files_does_not_steer_the_terminal(written, seen):
    screen = io.StringIO()
    ForgivingStream(screen).write(written)
    assert screen.getvalue() == seen


def test_a_line_that_is_begun_is_ended_once():
    screen = io.StringIO()
    stream = ForgivingStream(screen)
    for text in ("\rbar", "", "\n", "\r   \r"):
        stream.write(text)
        stream.end_line()
    assert screen.getvalue() == "\rbar\n\n\r   \r"
