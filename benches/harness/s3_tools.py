"""How each tool moves the objects of a bucket: `command` is what is measured, `before` and `after` are not."""
import os, shutil
from .tools import Ours


class Mover:
    """One way. Buckets that it writes are fresh for each run, so that no run meets what an earlier one left."""
    label = ""

    def __init__(self, server, scratch, source):
        self.server, self.scratch, self.source = server, scratch, source
        self.bucket = f"{type(self).__name__.lower()}-{source}"

    def before(self):
        self.server.make(self.bucket)

    def after(self):
        self.server.remove(self.bucket)

    def env(self):
        return self.server.env()


class RcloneCopy(Mover):
    """The base: a plain copy through the client. The server's own copy would move no bytes."""
    label = "rclone copy, bucket to bucket"

    def command(self):
        return [self.server.rclone, "copy", "--transfers", "16", "--disable", "copy", f"s3:{self.source}", f"s3:{self.bucket}"]


class S5cmdGet(Mover):
    """Reading alone, to the disk."""
    label = "s5cmd cp, to disk"

    def before(self):
        self.directory = self.scratch.fresh("s5cmd")
        shutil.rmtree(self.directory, ignore_errors=True)
        os.makedirs(self.directory)

    def after(self):
        shutil.rmtree(self.directory)

    def command(self):
        return [self.server.s5cmd, "cp", f"s3://{self.source}/*", f"{self.directory}/"]


class Pipe(S5cmdGet):
    """What people type who want an archive in a bucket: they need disk for all of it."""
    label = "s5cmd cp to disk, then tar, zstd -3 -T2, rclone rcat"

    def before(self):
        super().before()
        self.server.make(self.bucket)

    def after(self):
        super().after()
        self.server.remove(self.bucket)

    def command(self):
        get = f"'{self.server.s5cmd}' cp 's3://{self.source}/*' '{self.directory}/' >/dev/null"
        return f"{get} && tar -C '{self.directory}' -cf - . | zstd -q -3 -T2 | '{self.server.rclone}' rcat 's3:{self.bucket}/all.tar.zst'"


class Backup(Mover):
    label = "backup"

    def __init__(self, server, scratch, source, program):
        super().__init__(server, scratch, source)
        self.ours = Ours(scratch.path("archives", self.bucket), program)
        self.kept = False

    @property
    def place(self):
        return self.server.locator(self.bucket, "backups")

    def env(self):
        return {**self.server.env(), **self.ours.env()}

    def before(self):
        if self.kept:
            self.server.remove(self.bucket)
        self.server.make(self.bucket)
        self.ours.prepare()

    def after(self):
        """The last archive stays, for the restores."""
        self.kept = True
        if self.ours.made_temporary_files():
            raise SystemExit("backup made temporary files in TMPDIR")

    def command(self):
        return [self.ours.program, "create", "--from", self.server.locator(self.source), "--to", self.place, "-q"]


class Restore(Mover):
    label = "restore"
    options = []

    def __init__(self, backup):
        super().__init__(backup.server, backup.scratch, backup.source)
        self.backup = backup
        self.checked = False

    def env(self):
        return self.backup.env()

    def command(self):
        program = self.backup.ours.program
        return [program, "restore", "latest", "--at", self.backup.place, "--to", self.server.locator(self.bucket), "-q", *self.options]

    def after(self):
        if not self.checked:
            self.server.run(self.server.rclone, "check", "--download", f"s3:{self.source}", f"s3:{self.bucket}")
            self.checked = True
        super().after()


class RestoreUnverified(Restore):
    label = "restore --no-verify"
    options = ["--no-verify"]
