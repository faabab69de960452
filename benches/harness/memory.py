"""`compare memory`: peak memory does not depend on the number of entries. Each run moves the same 1 GiB, cut into 10^4, 10^5 or 10^6 entries."""
import shutil
from . import tables, tools
from .measure import MIB, empty, measured, say, settle

TOTAL = 1 << 30
LIMIT = 256
SPREAD = 1.15


def compare(scratch, program, synthetic, largest):
    """Measures each number of entries; yields Markdown."""
    counts = [count for count in (10**4, 10**5, 10**6) if count <= largest]
    columns = {"synthetic source, backup": [], "directory, backup": [], "directory, restore and verify": []}
    for count in counts:
        for column, run in zip(columns, runs(scratch, program, synthetic, count)):
            say(f"  {count} entries, {column}: {run.rss >> 20} MiB, {run.wall:.1f} s")
            columns[column].append(run)
    head = ["peak RSS, MiB (seconds)", *(f"{count:,} entries" for count in counts)]
    rows = [[column, *(f"{run.rss / MIB:.0f} ({run.wall:.1f})" for run in some)] for column, some in columns.items()]
    goals = []
    for column, some in columns.items():
        peaks = [run.rss for run in some]
        goals.append((f"{column}: largest, MiB", max(peaks) / MIB, LIMIT, ""))
        goals.append((f"{column}: largest, of the smallest", max(peaks) / min(peaks), SPREAD, "x"))
    yield "### memory: 1 GiB of random bytes in different numbers of entries"
    yield tables.table(head, rows)
    yield tables.goals(goals)


def runs(scratch, program, synthetic, count):
    """The three runs with so many entries, each measured."""
    size = TOTAL // count
    place = scratch.path("archives", "synthetic")
    shutil.rmtree(place, ignore_errors=True)
    settle()
    yield measured([synthetic, str(count), str(size), place])
    shutil.rmtree(place)

    data = scratch.data("many", "--files", str(count), "--size", str(size), name=f"many-{count}")
    ours = tools.Ours(scratch.path("archives", "memory"), program)
    ours.prepare()
    settle()
    yield measured(ours.backup(data), env=ours.env())

    target = scratch.fresh(f"many-{count}")
    ours.prepare_restore(target)
    settle()
    yield measured(ours.restore(target), env=ours.env())
    empty(target)
