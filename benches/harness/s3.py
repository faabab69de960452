"""`compare s3`: backup of a bucket into an archive in another bucket, and back into a third, against plain copy tools."""
from . import tables
from .fs import against, rounds
from .measure import measured, median, say, settle
from .s3_server import Server
from .s3_tools import Backup, Pipe, RcloneCopy, Restore, RestoreUnverified, S5cmdGet

DATA_SETS = {
    "s3small": "20,000 objects of 16 KiB",
    "s3large": "16 objects of 64 MiB",
}


def compare(scratch, program, names, runs, scale):
    """Measures each data set; yields Markdown."""
    server = Server(scratch)
    try:
        yield f"{server.version}; {version(server, server.rclone)}; s5cmd {version(server, server.s5cmd)}"
        for name in names:
            options = [] if scale == 1 else ["--scale", str(scale)]
            data = scratch.data(name, *options, name=name if scale == 1 else f"{name}-{scale}")
            server.make(name)
            server.run(server.s5cmd, "cp", f"{data}/", f"s3://{name}/")
            yield report(name, scale, *measure(server, scratch, name, program, runs), runs)
            server.remove(name)
    finally:
        server.stop()


def version(server, program):
    return server.run(program, "version").splitlines()[0]


def measure(server, scratch, source, program, runs):
    backup = Backup(server, scratch, source, program)
    copies = [RcloneCopy(server, scratch, source), backup, (S5cmdGet if source == "s3small" else Pipe)(server, scratch, source)]
    backups = interleave(server, copies, runs)
    # The base once more, in rounds with the restores.
    restores = interleave(server, [copies[0], Restore(backup), RestoreUnverified(backup)], runs)
    server.remove(backup.bucket)
    return backups, restores


def interleave(server, movers, runs):
    """For each way its runs, and the server's processor time beside each."""
    results = {mover.label: [] for mover in movers}
    for number, mover in rounds(movers, runs):
        mover.before()
        settle()
        before = server.cpu()
        run = measured(mover.command(), env=mover.env())
        run.server = server.cpu() - before
        say(f"  {number + 1}/{runs} {mover.label:54} {run.wall:6.2f} s, cpu {run.cpu:6.2f} s, server {run.server:6.2f} s, rss {run.rss >> 20} MiB")
        results[mover.label].append(run)
        mover.after()
    return results


def rows(results):
    base = results[RcloneCopy.label]
    for label, some in results.items():
        walls = [run.wall for run in some]
        yield [label, f"{median(walls):.2f}", f"{min(walls):.2f} to {max(walls):.2f}", f"{against(some, base):.2f}",
               f"{median([run.cpu for run in some]):.2f}", f"{median([run.server for run in some]):.2f}", tables.mib(max(run.rss for run in some))]


def report(name, scale, backups, restores, runs):
    head = ["", "s", "from, to", "of rclone's", "CPU s", "server's CPU s", "peak RSS, MiB"]
    ratio = lambda results, one, other: against(results[one], results[other])
    if name == "s3small":
        goals = [("backup, of rclone copy's time", ratio(backups, Backup.label, RcloneCopy.label), 0.5, "x"),
                 ("backup, of s5cmd cp's time", ratio(backups, Backup.label, S5cmdGet.label), 1.1, "x")]
    else:
        goals = [("backup, of rclone copy's time", ratio(backups, Backup.label, RcloneCopy.label), 0.9, "x"),
                 ("backup, of the pipe's time", ratio(backups, Backup.label, Pipe.label), 0.9, "x")]
    goals += [
        ("restore --no-verify, of rclone copy's time", ratio(restores, RestoreUnverified.label, RcloneCopy.label), 1.0, "x"),
        ("peak RSS of a backup, MiB", max(run.rss for run in backups[Backup.label]) / (1 << 20), 256, ""),
        ("peak RSS of a restore, MiB", max(run.rss for run in restores[Restore.label]) / (1 << 20), 256, ""),
    ]
    return "\n\n".join([
        f"### {name}: {DATA_SETS[name]}" + ("" if scale == 1 else f", times {scale:g}"),
        f"Bucket to archive, medians of {runs}:",
        tables.table(head, rows(backups)),
        f"Archive to bucket, medians of {runs}; the copy again, in the same rounds:",
        tables.table(head, rows(restores)),
        tables.goals(goals),
        "What was restored has been compared with the source by `rclone check --download`. No temporary files.",
    ])
