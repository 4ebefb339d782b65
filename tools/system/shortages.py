"""What is wrong with the machine, from the many errors in which libraries say it: memory, loader processes, files."""

import errno
import traceback

MEMORY = (
    *("out of memory", "can't allocate memory", "Cannot allocate memory", "ALLOC_FAILED", "bad_alloc"),
    *("can't start new thread", "failed to create thread", "failed to map segment", "Insufficient memory"),
)
KILLED = ("killed by signal", "exited unexpectedly")
SHARED_MEMORY = ("shared memory", "bus error", "torch_shm")
LOADER = "DataLoader worker"


def shortage(error: Exception, memory: str = ": lower --batch_size or --num_workers") -> str | None:
    """Return in one line what the machine lacks and what to do, or None for an error of another kind.

    Args:
        memory: appended where memory is short: what to do.
    """
    text, number = str(error), getattr(error, "errno", None)
    if number in (errno.EMFILE, errno.ENFILE) or "Too many open files" in text:
        return "too many open files: lower --num_workers, or raise the limit (ulimit -n)"
    if isinstance(error, MemoryError) or number in (errno.ENOMEM, errno.EAGAIN) or _any(MEMORY, text):
        return f"out of memory{memory}"
    if _any(SHARED_MEMORY, text) or (number == errno.ENOSPC and _in_multiprocessing(error)):
        return "shared memory is full (/dev/shm): give it more space (Docker: --shm-size), or use --num_workers 0"
    lost = isinstance(error, (ConnectionError, EOFError, FileNotFoundError)) and _in_multiprocessing(error)
    if lost or (LOADER in text and _any(KILLED, text)):
        said = (text or type(error).__name__).splitlines()[0]
        return f"a loader process was killed ({said}): memory may be short, lower --num_workers"
    if "deterministic implementation" in text:
        return f"--deterministic: {text.split('.')[0]}: leave it out, or use --device cpu"
    if LOADER in text:
        return f"an error in a loader process: {text.strip().splitlines()[-1]}"
    return None


def _any(words: tuple[str, ...], text: str) -> bool:
    return any(word.lower() in text.lower() for word in words)


def _in_multiprocessing(error: Exception) -> bool:
    """Whether Python's or PyTorch's exchange between processes raised it, perhaps in a thread, whose report is text."""
    files = [frame.f_code.co_filename for frame, _ in traceback.walk_tb(error.__traceback__)]
    return any("multiprocessing" in text for text in (str(error), *files))
