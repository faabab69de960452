"""`compare s3-memory`: peak memory does not depend on the number of keys, and requests are as few as they can be.

The server computes its objects when they are asked for, and counts requests; each run moves the same bytes in 10^4, 10^5 or 10^6 objects.
"""
import json, os, subprocess
from . import tables, tools
from .measure import MIB, measured, say, settle

TOTAL = 512 * MIB
LIMIT = 256
SPREAD = 1.15
PAGE = 1000


class Counting:
    """The program `s3-server`, as a context."""

    def __init__(self, program, count, size):
        self.command = [program, str(count), str(size)]

    def __enter__(self):
        self.child = subprocess.Popen(self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        told = json.loads(self.child.stdout.readline())
        self.endpoint, self.region = told["endpoint"], told["region"]
        self.env = {"AWS_ACCESS_KEY_ID": told["access_key"], "AWS_SECRET_ACCESS_KEY": told["secret_key"], "AWS_REGION": told["region"]}
        return self

    def __exit__(self, *_):
        self.child.stdin.close()
        self.child.wait()

    def locator(self, bucket, prefix=""):
        return f"s3://{bucket}/{prefix}?endpoint={self.endpoint}&region={self.region}&path_style=true"

    def requests(self):
        """Requests by operation since the last time."""
        self.child.stdin.write("requests\n")
        self.child.stdin.flush()
        return json.loads(self.child.stdout.readline())


def compare(scratch, program, server, largest):
    """Measures each number of keys; yields Markdown."""
    counts = [count for count in (10**4, 10**5, 10**6) if count <= largest]
    runs, requests = [], []
    for count in counts:
        with Counting(server, count, TOTAL // count) as counting:
            ours = tools.Ours(scratch.path("archives", "s3-memory"), program)
            ours.prepare()
            settle()
            command = [program, "create", "--from", counting.locator("many"), "--to", counting.locator("archive", "backups"), "-q"]
            run = measured(command, env={**counting.env, **ours.env()})
            runs.append(run)
            requests.append(counting.requests())
            say(f"  {count} keys: {run.rss >> 20} MiB, {run.wall:.1f} s, {requests[-1]}")
    operations = sorted({operation for some in requests for operation in some})
    head = ["", *(f"{count:,} keys" for count in counts)]
    rows = [["peak RSS, MiB (seconds)", *(f"{run.rss / MIB:.0f} ({run.wall:.1f})" for run in runs)]]
    rows += [[f"requests {operation}", *(some.get(operation, 0) for some in requests)] for operation in operations]
    peaks = [run.rss for run in runs]
    goals = [("peak RSS, MiB", max(peaks) / MIB, LIMIT, ""), ("largest peak, of the smallest", max(peaks) / min(peaks), SPREAD, "x")]
    for count, some in zip(counts, requests):
        goals.append((f"GETs an object at {count:,} keys", some.get("GetObject", 0) / count, 1, "x"))
        # A last page may be empty, and the archive's own place is listed too.
        goals.append((f"listings at {count:,} keys, of the pages", some.get("ListObjectsV2", 0), count / PAGE + 10, ""))
    yield f"### s3-memory: {TOTAL >> 20} MiB of random bytes in different numbers of objects, bucket to bucket"
    yield tables.table(head, rows)
    yield tables.goals(goals)
