"""Fetch PASCAL VOC 2012 (or 2007, with its test set), check it, unpack it, and say what to type next.

    python3 -m tools.download_voc --year 2012 --out voc

From the official address, a mirror (--mirror URL: a folder with the official file names, or a file) or archives that
you have (--tar FILE). A transfer that broke off goes on where it stopped, when the same command is typed again. Exit
status 0: the data set is there; 1: so it is, but the archive had members that were refused; 2: it is not.
"""

import argparse
import http.client
import sys
import tarfile
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from torchvision.datasets.utils import USER_AGENT, calculate_md5
from torchvision.datasets.voc import DATASET_YEAR_DICT
from tqdm import tqdm

from tools.data.devkit import check_folder
from tools.data.writing import print_next_commands
from tools.system.command_line import Parser
from tools.system.errors import UserError, run_main
from tools.system.files import read_json, reason, write_json

YEARS = {"2012": ("2012",), "2007": ("2007", "2007-test")}  # keys of torchvision's table
SPLITS = {"2012": ("train_aug", "val"), "2007": ("Main/trainval", "Main/test")}
RECORD = "download.json"
CHUNK = 1 << 20  # bytes
TIMEOUT = 60  # seconds without a byte
MAX_RETRIES = 5  # broken transfers one after another that brought nothing
WAYS_OUT = "type the command again to go on, or give --mirror URL, or --tar FILE with an archive that you have"


class BrokenOff(Exception):
    """A transfer ended before its end."""


@dataclass(frozen=True)
class Archive:
    """An archive to be had: its file name, address and MD5."""

    filename: str
    url: str
    md5: str


def archives_of(year: str, mirror: str | None = None, md5: list[str] | None = None) -> list[Archive]:
    """The archives of a year.

    Args:
        mirror: address of a folder with files of the official names, or, for a year of one archive, of the file.
        md5: sums that count instead of the official ones.

    Raises:
        UserError: not as many sums as archives.
    """
    entries = [DATASET_YEAR_DICT[key] for key in YEARS[year]]
    sums = md5 or [entry["md5"] for entry in entries]
    if len(sums) != len(entries):
        raise UserError(f"--md5: {len(sums)} sums, but --year {year} has {len(entries)} archives")
    if mirror and mirror.endswith(".tar") and len(entries) == 1:
        urls = [mirror]
    elif mirror:
        urls = [f"{mirror.rstrip('/')}/{entry['filename']}" for entry in entries]
    else:
        urls = [entry["url"] for entry in entries]
    return [Archive(entry["filename"], url, value) for entry, url, value in zip(entries, urls, sums)]


def fetch(archive: Archive, folder: Path) -> Path:
    """Download an archive into `folder`, going on with a part that is there; what is whole already is left alone.

    Raises:
        UserError: it cannot be had, or is not what its MD5 says.
    """
    path, part = folder / archive.filename, folder / f"{archive.filename}.part"
    if path.exists() and calculate_md5(path) == archive.md5:
        print(f"{path} is there already")
        return path
    failures = 0
    while True:
        before = part.stat().st_size if part.exists() else 0
        try:
            _transfer(archive.url, part)
            break
        except (BrokenOff, http.client.HTTPException, OSError, ValueError) as error:
            after = part.stat().st_size if part.exists() else 0
            failures = 0 if after > before else failures + 1
            if failures >= MAX_RETRIES or not _worth_another_try(error):
                where = f"after {after:,} bytes " if after else ""
                raise UserError(f"cannot download {archive.url} {where}({_why(error)}): {WAYS_OUT}") from error
        time.sleep(min(2**failures, 30) / 2)
    found = calculate_md5(part)
    if found != archive.md5:
        part.unlink()
        raise UserError(
            f"{archive.url} is damaged or another file (MD5 {found}, not {archive.md5}) and was removed: {WAYS_OUT}"
        )
    part.replace(path)
    return path


def _transfer(url: str, part: Path) -> None:
    """Append to `part` what it lacks of the file at `url`.

    Raises:
        BrokenOff: the connection ended too early; OSError, HTTPException, ValueError: it could not be made.
    """
    start = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"User-Agent": USER_AGENT})
    if start:
        request.add_header("Range", f"bytes={start}-")
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == 416 and start:  # nothing is left to send: the sum tells whether the part is the file
            return
        raise
    with response:
        goes_on = response.status == 206 and response.headers.get("Content-Range", "").startswith(f"bytes {start}-")
        start = start if goes_on else 0
        length = response.headers.get("Content-Length")
        total = start + int(length) if length else None
        bar = tqdm(total=total, initial=start, unit="B", unit_scale=True, desc=part.stem)
        with part.open("ab" if goes_on else "wb") as file, bar:
            while chunk := response.read(CHUNK):
                file.write(chunk)
                bar.update(len(chunk))
    size = part.stat().st_size
    if total is not None and size < total:
        raise BrokenOff(f"the connection ended at {size:,} of {total:,} bytes")


def _worth_another_try(error: Exception) -> bool:
    """Not where the server has answered that it will not, there is no such address, or the disk is full."""
    if isinstance(error, urllib.error.HTTPError):
        return error.code >= 500
    return isinstance(error, (BrokenOff, http.client.HTTPException, ConnectionError, TimeoutError))


def _why(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"the server says {error.code} {error.reason}"
    inner = getattr(error, "reason", None)
    return reason(inner if isinstance(inner, Exception) else error)


def local_archives(files: list[Path], archives: list[Archive]) -> list[Path]:
    """The given files, each of which has to be one of the year's archives.

    Raises:
        UserError: no such file, or another MD5 than any archive of the year.
    """
    sums = {archive.md5: archive.filename for archive in archives}
    for file in files:
        if not file.is_file():
            raise UserError(f"no file {file}: give an archive of the year as --tar")
        found = calculate_md5(file)
        if found not in sums:
            wanted = ", ".join(f"{name} {md5}" for md5, name in sums.items())
            raise UserError(f"{file} is damaged or another archive (MD5 {found}; wanted: {wanted}): download it anew")
    return files


def unpack(path: Path, folder: Path) -> list[str]:
    """Unpack an archive into `folder`; members that would leave it, or are no files, folders or links, are not.

    Returns:
        the refused members, each with the reason.

    Raises:
        UserError: it is no whole tar, or the disk does not take it.
    """
    if not hasattr(tarfile, "data_filter"):
        version = sys.version.split()[0]
        raise UserError(f"Python {version} cannot unpack archives safely: use 3.10.12, 3.11.4 or newer")
    refused = []

    def harmless(member: tarfile.TarInfo, destination: str) -> tarfile.TarInfo | None:
        bar.update()
        try:
            return tarfile.data_filter(member, destination)
        except tarfile.FilterError as error:
            refused.append(f"{member.name!r} ({reason(error)})")
            return None

    try:
        with tarfile.open(path) as tar, tqdm(desc=f"unpacking {path.name}", unit="file") as bar:
            tar.extractall(folder, filter=harmless)
    except (tarfile.TarError, EOFError) as error:
        raise UserError(f"{path} is no whole tar archive ({reason(error)}): download it anew") from error
    except OSError as error:
        raise UserError(f"cannot unpack {path} into {folder} ({reason(error)}): free some space") from error
    return refused


def download(args: argparse.Namespace) -> int:
    """Fetch and unpack what the arguments ask for; gives the exit status.

    Raises:
        UserError: it cannot be had; what is done already is kept.
    """
    archives = archives_of(args.year, args.mirror, args.md5)
    data_dir = args.out / DATASET_YEAR_DICT[args.year]["base_dir"]
    record = data_dir / RECORD
    done = read_json(record) if record.exists() else []
    refused: list[str] = []
    try:
        args.out.mkdir(parents=True, exist_ok=True)
        if args.tar:
            paths = local_archives(args.tar, archives)
        else:
            paths = [fetch(archive, args.out) for archive in archives if archive.md5 not in done]
        for path in paths:
            md5 = calculate_md5(path)
            if md5 in done:
                continue
            refused += unpack(path, args.out)
            check_folder(data_dir)
            done = [*done, md5]
            write_json(record, done)
    except OSError as error:
        raise UserError(
            f"cannot write {args.out} ({reason(error)}): free some space or choose another folder"
        ) from error
    report(args, data_dir, [] if args.tar else paths, refused)
    return 1 if refused else 0


def report(args: argparse.Namespace, data_dir: Path, archives: list[Path], refused: list[str]) -> None:
    """Where the data set is, what was refused, and the next command."""
    if refused:
        print(f"refused {len(refused):,} members of the archive:", *refused[:10], sep="\n  ")
    print(f"{data_dir}: {len(list((data_dir / 'JPEGImages').glob('*.jpg'))):,} images")
    if archives:
        print(f"no longer needed: {', '.join(map(str, archives))}")
    print_next_commands(data_dir, None, *SPLITS[args.year])


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = Parser(description=__doc__)
    parser.add_argument("--year", choices=tuple(YEARS), default="2012", help="2007 comes with its labeled test set")
    parser.add_argument("--out", type=Path, required=True, help="folder; the data set is in its VOCdevkit/VOC<year>")
    parser.add_argument(
        "--mirror", metavar="URL", help="folder of another server, or its .tar (default: official server)"
    )
    parser.add_argument(
        "--tar", type=Path, nargs="+", metavar="FILE", help="archives that you have; nothing is downloaded"
    )
    parser.add_argument("--md5", nargs="+", help="MD5 sums of other archives than the official ones (default: theirs)")
    args = parser.parse_args()
    if args.mirror and not args.mirror.startswith(("http://", "https://")):
        raise UserError(f"--mirror {args.mirror}: must begin with http:// or https://")
    if args.mirror and args.tar:
        raise UserError("--mirror and --tar exclude each other")
    return args


def main() -> None:
    """Download what the command line asks for."""
    sys.exit(download(parse_arguments()))


if __name__ == "__main__":
    run_main(main)
