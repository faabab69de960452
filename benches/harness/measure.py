"""Runs commands and measures them; keeps caches warm and the file system quiet between runs."""
import os, statistics, subprocess, sys, time
from dataclasses import dataclass

KIB, MIB = 1 << 10, 1 << 20
CHUNK = 4 * MIB


@dataclass
class Run:
    """One measured command."""
    wall: float  # seconds
    cpu: float   # seconds of user and system time, of all its processes
    rss: int     # bytes: the largest peak among its processes (what the kernel calls VmHWM)


def say(text):
    print(text, file=sys.stderr, flush=True)


def measured(command, *, env=None, cwd=None, ok=(0,)):
    """Runs a command (a list, or a string for `bash`) to its end.

    The kernel's account of a child includes the children that it waited for, so a pipeline counts as a whole; of memory, it is the largest
    process that counts, and never less than the about 15 MiB of this program itself, out of which the command is started.
    """
    if isinstance(command, str):
        command = ["bash", "-o", "pipefail", "-ec", command]
    env = {**os.environ, **(env or {})}
    start = time.monotonic()
    child = subprocess.Popen(command, env=env, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    output = child.stdout.read()
    _, status, usage = os.wait4(child.pid, 0)
    wall = time.monotonic() - start
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode not in ok:
        raise SystemExit(f"{command} ended with {child.returncode}:\n{output.decode(errors='replace')}")
    return Run(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * KIB)


def median(values):
    return statistics.median(values)


def files_below(root):
    for path, _, names in os.walk(root):
        for name in names:
            yield os.path.join(path, name)


def size_of(root):
    """Bytes of the files below a directory, or of one file."""
    if os.path.isfile(root):
        return os.path.getsize(root)
    return sum(os.path.getsize(path) for path in files_below(root))


def warm(root):
    """Reads everything below a directory (or one file), so that the run that follows finds it in the page cache."""
    buffer = bytearray(CHUNK)
    for path in [root] if os.path.isfile(root) else files_below(root):
        with open(path, "rb", buffering=0) as file:
            while file.readinto(buffer):
                pass


def settle():
    """Lets nothing that an earlier run left unwritten disturb the next one."""
    os.sync()
    time.sleep(0.3)


def empty(root):
    """Gives the space of a tree back but keeps its files.

    A file system without a journal (ext4 can be one) does not use inodes again that were freed in the last minutes, and looks at each of them
    whenever it makes a file: trees of many files that are deleted between two runs make the second one up to ten times slower.
    """
    for path in files_below(root):
        if not os.path.islink(path):
            os.truncate(path, 0)
