"""`compare mongo`: backup and restore of a database on a server of this machine."""
import os, shutil, subprocess
from servers import mongodb
from . import tables
from .fs import against, rounds, rows
from .measure import MIB, measured, median, say, settle, size_of
from .tools import Ours, Tool

SOURCE, TARGET = "shop", "restored"


def cpu_of(pid):
    """Seconds of user and system time of a process so far."""
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Dump(Tool):
    """`mongodump` into one file, and `mongorestore` from it."""
    label, program, more = "mongodump", "mongodump", []

    def __init__(self, home, server):
        super().__init__(home)
        self.server = server

    def backup(self, _):
        return ["mongodump", "--quiet", "--uri", self.server.of(SOURCE), f"--archive={self.stored}", *self.more]

    def restore(self, _):
        return ["mongorestore", "--quiet", "--uri", self.server.uri, f"--archive={self.stored}", *self.more,
                "--nsFrom", f"{SOURCE}.*", "--nsTo", f"{TARGET}.*"]


class DumpGzip(Dump):
    label, more = "mongodump --gzip", ["--gzip"]


class OursMongo(Ours):
    """`backup create` and `backup restore` of a database."""
    codec = []

    def __init__(self, home, program, server):
        super().__init__(home, program)
        self.server = server

    def backup(self, _):
        return [self.program, "create", "--from", self.server.of(SOURCE), "--to", self.stored, "-q", *self.codec]

    def restore(self, *more):
        return [self.program, "restore", "latest", "--at", self.stored, "--to", self.server.of(TARGET), "-q", *more]


class OursMongoGzip(OursMongo):
    label, codec = "backup, gzip", ["--codec", "gzip"]


class Server:
    """The server, started here and stopped at the end."""

    def __init__(self, scratch, dataset):
        self.kind = mongodb.Standalone(scratch.path("servers"))
        self.dataset = dataset

    def __enter__(self):
        self.uri = self.kind.start()[self.kind.variable].rstrip("/")
        self.pid = self.kind.process.running()["pid"]
        return self

    def __exit__(self, *_):
        self.kind.stop()

    def of(self, database):
        return f"{self.uri}/{database}"

    def fill(self, orders):
        done = subprocess.run([self.dataset, self.uri, SOURCE, str(orders)], check=True, capture_output=True, text=True)
        objects, size = done.stdout.split()
        return int(float(objects)), int(float(size))

    def drop_target(self):
        subprocess.run([self.dataset, self.uri, TARGET, "drop"], check=True)


def one(server, command, env, text):
    settle()
    before = cpu_of(server.pid)
    run = measured(command, env=env)
    run.server = cpu_of(server.pid) - before
    say(f"  {text} {run.wall:6.2f} s, cpu {run.cpu:6.2f} s, server's cpu {run.server:6.2f} s, rss {run.rss >> 20} MiB")
    return run


def compare(scratch, program, dataset, orders, runs, with_peers):
    """Measures; yields Markdown."""
    with_peers = with_peers and all(shutil.which(name) for name in ("mongodump", "mongorestore"))
    with Server(scratch, dataset) as server:
        say(f"making the data set of {orders} orders ...")
        objects, size = server.fill(orders)
        home = lambda name: scratch.path("archives", name)
        ours, gzip = OursMongo(home("mongo-backup"), program, server), OursMongoGzip(home("mongo-gzip"), program, server)
        peers = [Dump(home("mongo-dump"), server), DumpGzip(home("mongo-dump-gzip"), server)] if with_peers else []
        made = [*peers, ours, gzip]
        backups = {tool.label: [] for tool in made}
        for number, tool in rounds(made, runs):
            tool.prepare()
            backups[tool.label].append(one(server, tool.backup(None), tool.env(), f"backup  {number + 1}/{runs} {tool.label:24}"))
        variants = [(tool.label.replace("dump", "restore"), tool, []) for tool in peers[:1]]
        variants += [("backup, --no-verify", ours, ["--no-verify"]), ("backup", ours, [])]
        restores = {label: [] for label, _, _ in variants}
        for number, (label, tool, more) in rounds(variants, runs):
            server.drop_target()
            command = tool.restore(*more) if tool is ours else tool.restore(None)
            restores[label].append(one(server, command, tool.env(), f"restore {number + 1}/{runs} {label:24}"))
        server.drop_target()
        for tool in (ours, gzip):
            if tool.made_temporary_files():
                raise SystemExit(f"{tool.label} made temporary files in TMPDIR")
    yield report(orders, objects, size, made, backups, restores, runs, with_peers)


def with_server(results, base, stored=None):
    for row, runs in zip(rows(results, base, stored), results.values()):
        yield [*row[:5], f"{median([run.server for run in runs]):.2f}", *row[5:]]


def report(orders, objects, size, made, backups, restores, runs, with_peers):
    base, restored = made[0].label, next(iter(restores))
    stored = {tool.label: size_of(tool.stored) for tool in made}
    head = ["", "s", "from, to", f"of {base}'s", "CPU s", "server's CPU s", "peak RSS, MiB"]
    ratio = lambda results, one, other: against(results[one], results[other])
    server = lambda label: median([run.server for run in backups[label]])
    goals = [("peak RSS, MiB", max(run.rss for some in (backups, restores) for label, all in some.items() if "backup" in label for run in all) / MIB, 256, "")]
    goals.append(("verify, of the restore without", ratio(restores, "backup", "backup, --no-verify"), 1.25, "x"))
    if with_peers:
        goals = [
            ("backup, of mongodump's time", ratio(backups, "backup", "mongodump"), 1.0, "x"),
            ("backup, of mongodump --gzip's time", ratio(backups, "backup", "mongodump --gzip"), 0.3, "x"),
            ("backup with gzip, of mongodump --gzip's time", ratio(backups, "backup, gzip", "mongodump --gzip"), 0.6, "x"),
            ("stored, of mongodump --gzip's size", stored["backup"] / stored["mongodump --gzip"], 1.0, "x"),
            ("the server's CPU, of that of mongodump", server("backup") / max(server("mongodump"), 0.01), 1.0, "x"),
            ("restore --no-verify, of mongorestore's time", ratio(restores, "backup, --no-verify", "mongorestore"), 0.6, "x"),
            *goals,
        ]
    missing = "" if with_peers else "\n\nNot measured, because not installed or not wanted: mongodump, mongorestore."
    return "\n\n".join([
        f"### MongoDB: {objects} documents, {size / MIB:.0f} MiB, {orders} of them orders of 1 KiB",
        f"Backup to the local disk, medians of {runs}:",
        tables.table([*head, "stored, MiB"], with_server(backups, backups[base], stored)),
        f"Restore with indexes, medians of {runs}:",
        tables.table([*head[:3], f"of {restored}'s", *head[4:]], with_server(restores, restores[restored])),
        tables.goals(goals) + missing,
    ])
