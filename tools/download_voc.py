"""Download PASCAL VOC 2012 (or 2007, with its test set), check it, unpack it, and print the next commands.

    python3 -m tools.download_voc --year 2012 --out voc

From the official server, a mirror (--mirror URL: a folder with the official file names, or a file) or archives on disk
(--tar FILE). Running the same command again resumes a broken transfer. Exit status 0: the data set is complete; 1: it
is, but members of the archive were refused; 2: it is not.
"""

import http.client
import re
import shutil
import sys
import tarfile
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import ModuleType
from typing import NamedTuple

from tqdm import tqdm

from tools.data.devkit import UNPRINTABLE
from tools.data.writing import print_next_commands
from tools.system.command_line import Arguments, argument, parse
from tools.system.errors import UserError, printable, quoted, reason, run_main, shorten
from tools.system.files import read_json, write_json, writing

YEARS = {"2012": ("2012",), "2007": ("2007", "2007-test")}  # keys of torchvision's table
SPLITS = {"2012": ("train_aug", "val"), "2007": ("Main/trainval", "Main/test")}
RECORD = "download.json"  # in the data set's folder: MD5 sums of the archives unpacked there
CHUNK = 1 << 20  # bytes
TIMEOUT = 60  # seconds without a byte
MAX_MEMBERS, MAX_BYTES = 200_000, 1 << 33  # of an archive, far above VOC's (2 GB)
MAX_PATH_BYTES, MAX_NAME_BYTES = 1000, 255
MAX_RETRIES = 5  # transfers in a row that brought nothing
ALTERNATIVES = "run the command again to resume, or give --mirror URL, or --tar FILE with an archive that you have"


@dataclass(frozen=True)
class Config(Arguments):
    year: str = argument("2012", "2007 comes with its labeled test set", choices=tuple(YEARS))
    out: Path = argument(help="folder; the data set is in its VOCdevkit/VOC<year>")
    mirror: str | None = argument(None, "another server's folder or .tar", metavar="URL", at_most_one_of="source")
    tar: list[Path] | None = argument(None, "archives on disk", metavar="FILE", at_most_one_of="source")
    md5: list[str] | None = argument(None, "MD5 sums of archives other than the official ones (default: theirs)")

    def check(self) -> None:
        if self.mirror and not self.mirror.startswith(("http://", "https://")):
            raise UserError(f"--mirror {self.mirror}: must begin with http:// or https://")
        archives = len(YEARS[self.year])
        if self.md5 and len(self.md5) != archives:
            raise UserError(f"--md5: {len(self.md5)} sums, but --year {self.year} has {archives} archives")


def datasets() -> ModuleType:
    """Return torchvision's data sets; importing them takes seconds, and --help does not wait for it."""
    import torchvision.datasets

    return torchvision.datasets


class Archive(NamedTuple):
    filename: str
    url: str
    md5: str


def archives_of(year: str, mirror: str | None = None, md5: list[str] | None = None) -> list[Archive]:
    """Return the archives of a year. `mirror` is a folder of files with the official names, or the only archive."""
    entries = [datasets().voc.DATASET_YEAR_DICT[key] for key in YEARS[year]]
    sums = [each.lower() for each in md5 or []] or [entry["md5"] for entry in entries]
    archives = [Archive(entry["filename"], entry["url"], each) for entry, each in zip(entries, sums, strict=True)]
    if mirror and mirror.endswith(".tar") and len(archives) == 1:
        return [archives[0]._replace(url=mirror)]
    if mirror:
        return [archive._replace(url=f"{mirror.rstrip('/')}/{archive.filename}") for archive in archives]
    return archives


def fetch(archive: Archive, folder: Path) -> Path:
    """Download an archive into `folder`; resume a partial download, skip a complete one."""
    path, part = folder / archive.filename, folder / f"{archive.filename}.part"
    if datasets().utils.check_integrity(path, archive.md5):
        print(f"{path} already exists")
        return path
    failures = 0
    while True:
        before = _size(part)
        try:
            _transfer(archive.url, part)
            break
        except (http.client.HTTPException, OSError, ValueError) as error:
            after = _size(part)
            failures = 0 if after > before else failures + 1
            cause, may_pass = _explain(error)
            if failures >= MAX_RETRIES or not may_pass:
                where = f"after {after:,} bytes " if after else ""
                raise UserError(f"cannot download {archive.url} {where}({cause}): {ALTERNATIVES}") from error
        time.sleep(min(2**failures, 30) / 2)
    found = datasets().utils.calculate_md5(part)
    if found != archive.md5:
        part.unlink()
        problem = f"is damaged or another file (MD5 {found}, not {archive.md5}) and was removed"
        raise UserError(f"{archive.url} {problem}: {ALTERNATIVES}")
    part.replace(path)
    return path


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _transfer(url: str, part: Path) -> None:
    """Append to `part` what it lacks of the file at `url`; raise an error if the connection ends too early."""
    start = _size(part)
    request = urllib.request.Request(url, headers={"User-Agent": datasets().utils.USER_AGENT})
    if start:
        request.add_header("Range", f"bytes={start}-")
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == 416 and start:  # nothing is left to send: the MD5 tells whether the part is the file
            return
        raise
    with response:
        # A server without ranges sends the whole file again.
        resumes = response.status == 206 and response.headers.get("Content-Range", "").startswith(f"bytes {start}-")
        start = start if resumes else 0
        total = None if response.length is None else start + response.length
        bar = tqdm.wrapattr(response, "read", total, initial=start, desc=part.stem, disable=None)
        with part.open("ab" if resumes else "wb") as file, bar as stream:
            shutil.copyfileobj(stream, file, CHUNK)
    if total is not None and _size(part) < total:
        raise ConnectionError(f"the connection ended at {_size(part):,} of {total:,} bytes")


def _explain(error: Exception) -> tuple[str, bool]:
    """Return why a transfer failed, and whether a retry can help: not if the server refuses or the disk is full."""
    if isinstance(error, urllib.error.HTTPError):
        return f"the server says {error.code} {shorten(printable(str(error.reason)))}", error.code >= 500
    inner = getattr(error, "reason", None)
    is_temporary = isinstance(error, (http.client.HTTPException, ConnectionError, TimeoutError))
    return reason(inner if isinstance(inner, Exception) else error), is_temporary


def check_local(file: Path, archives: list[Archive]) -> str:
    """Return the MD5 sum of a file, which has to be one of the archives."""
    if not file.is_file():
        raise UserError(f"no file {file}: give an archive of the year as --tar")
    found = datasets().utils.calculate_md5(file)
    if found not in [archive.md5 for archive in archives]:
        wanted = ", ".join(f"{archive.filename} {archive.md5}" for archive in archives)
        raise UserError(f"{file} is damaged or another archive (MD5 {found}; wanted: {wanted}): download it again")
    return found


def unpack(path: Path, folder: Path) -> list[str]:
    """Unpack the files and folders of an archive into `folder`; return the refused members (see `member_problem`)."""
    refused: list[str] = []
    written: set[PurePosixPath] = set()
    size = 0
    try:
        with tarfile.open(path) as tar, tqdm(desc=f"unpacking {path.name}", unit="file", disable=None) as bar:
            for number, member in enumerate(tar, start=1):
                bar.update()
                size += max(member.size, 0)
                if number > MAX_MEMBERS or size > MAX_BYTES:
                    raise UserError(f"{path} holds more than VOC does: choose another archive")
                inside = PurePosixPath(member.name)
                if problem := member_problem(member, written):
                    refused.append(f"{quoted(member.name)} ({problem})")
                elif member.isdir():
                    (folder / inside).mkdir(parents=True, exist_ok=True)
                else:
                    (folder / inside).parent.mkdir(parents=True, exist_ok=True)
                    with tar.extractfile(member) as source, (folder / inside).open("wb") as target:
                        shutil.copyfileobj(source, target, CHUNK)
                    written.add(inside)
    except (UserError, OSError):
        raise
    except Exception as error:  # a damaged archive can raise anything
        raise UserError(f"{path} is not a complete tar archive ({reason(error)}): download it again") from error
    return refused


def member_problem(member: tarfile.TarInfo, written: set[PurePosixPath]) -> str | None:
    """Return why a member is not unpacked, or None. VOC's archives hold plain files and folders alone.

    Links are refused: a later member could be written through them, and tarfile's filters are evaded (CVE-2025-4517).
    """
    path = PurePosixPath(member.name)
    if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.DIRTYPE) or member.issparse():
        return "neither a file nor a folder"
    if path.is_absolute() or ".." in path.parts or not path.parts:
        return "outside the folder"
    if re.search(f"[{UNPRINTABLE}]", member.name):
        return "control characters in its name"
    if len(member.name.encode()) > MAX_PATH_BYTES or max(len(part.encode()) for part in path.parts) > MAX_NAME_BYTES:
        return "its path is too long"
    if not written.isdisjoint([path, *path.parents]):
        return "it repeats an earlier file"
    return None


def main() -> None:
    args = parse(Config, __doc__)
    archives = archives_of(args.year, args.mirror, args.md5)
    data_dir = args.out / datasets().voc.DATASET_YEAR_DICT[args.year]["base_dir"]
    record = data_dir / RECORD
    done = read_json(record) if record.exists() else []
    done = done if isinstance(done, list) else []
    refused: list[str] = []
    with writing(args.out):
        args.out.mkdir(parents=True, exist_ok=True)
        if args.tar:
            paths = {check_local(file, archives): file for file in args.tar}
        else:
            paths = {archive.md5: fetch(archive, args.out) for archive in archives if archive.md5 not in done}
        for md5, path in paths.items():
            if md5 in done:
                continue
            refused += unpack(path, args.out)
            if not all((data_dir / name).is_dir() for name in ("JPEGImages", "Annotations")):
                raise UserError(f"{path} holds no images and annotations of VOC {args.year}: choose another archive")
            done = [*done, md5]
            write_json(record, done)  # an error of a later archive keeps this one
    if refused:
        print(f"refused {len(refused):,} members of the archive:", *refused[:10], sep="\n  ")
    print(f"{data_dir}: {len(list((data_dir / 'JPEGImages').glob('*.jpg'))):,} images")
    if paths and not args.tar:
        print(f"no longer needed: {', '.join(map(str, paths.values()))}")
    print_next_commands(data_dir, None, *SPLITS[args.year])
    sys.exit(1 if refused else 0)


if __name__ == "__main__":
    run_main(main)
