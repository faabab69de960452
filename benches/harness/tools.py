"""Ours and the peers: how each makes a backup of a directory and puts it back. Each keeps what it writes inside one directory `home`."""
import json, os, shutil, subprocess


class Tool:
    """A tool: `backup` and `restore` are the commands that are measured, `prepare` is not."""
    label = ""
    program = ""

    def __init__(self, home):
        self.home = home

    @property
    def stored(self):
        """What the archive occupies."""
        return os.path.join(self.home, "archive")

    def env(self):
        return {}

    def prepare(self):
        """A fresh and empty place for an archive."""
        shutil.rmtree(self.home, ignore_errors=True)
        os.makedirs(self.home)

    def version(self):
        out = subprocess.run([self.program, "--version"], capture_output=True, text=True, check=True)
        return out.stdout.splitlines()[0]

    def prepare_restore(self, target):
        os.makedirs(target)

    def restore_variants(self, _target):
        """What is added to the label, and to the arguments of `restore`."""
        return {"": []}

    def run(self, *args):
        done = subprocess.run(args, env={**os.environ, **self.env()}, capture_output=True, text=True)
        if done.returncode != 0:
            raise SystemExit(f"{args} ended with {done.returncode}:\n{done.stderr}")


class Tar(Tool):
    """The base: what a careful person types. Data and pipe are on disk when it ends."""
    label, program = "tar, zstd -3 -T2", "tar"

    def prepare(self):
        super().prepare()
        os.makedirs(self.stored)
        self.file = os.path.join(self.stored, "all.tar.zst")

    def backup(self, data):
        parent, name = os.path.split(data)
        return f"tar -C '{parent}' -cf - '{name}' | zstd -q -3 -T2 -o '{self.file}' && sync '{self.file}'"

    def restore(self, target, *more):
        return " ".join([f"zstd -q -dc '{self.file}' | tar -xf - -C '{target}'", *more])

    def restore_variants(self, target):
        """Ours ends when what it restored is durable; the plain pipe does not."""
        return {"": [], ", sync": [f"&& sync -f '{target}'"]}

    def version(self):
        zstd = subprocess.run(["zstd", "--version"], capture_output=True, text=True, check=True).stdout.split()
        return f"{super().version()}, zstd {next(word for word in zstd if word.startswith('v')).strip(',')}"


class Ours(Tool):
    """`backup`, with a fresh store, and no place for temporary files but an empty directory."""
    label = "backup"
    sealed = False

    def __init__(self, home, program):
        super().__init__(home)
        self.program = program
        self.state = home + "-state"

    def env(self):
        return {"TMPDIR": os.path.join(self.state, "tmp"), "BACKUP_STORE": os.path.join(self.state, "store.db")}

    def prepare(self):
        super().prepare()
        shutil.rmtree(self.state, ignore_errors=True)
        self.tmp = os.path.join(self.state, "tmp")
        os.makedirs(self.tmp)
        self.tmp_before = os.stat(self.tmp).st_mtime_ns
        if self.sealed:
            self.run(self.program, "keygen", os.path.join(self.state, "key"))

    def key(self):
        return ["--key-file", os.path.join(self.state, "key")] if self.sealed else []

    def backup(self, data):
        return [self.program, "create", "--from", data, "--to", self.stored, "-q", *self.key()]

    def restore(self, target, *more):
        return [self.program, "restore", "latest", "--at", self.stored, "--to", target, "-q", *self.key(), *more]

    def prepare_restore(self, target):
        """It makes its target."""

    def restore_variants(self, _target):
        return {"": [], ", --no-verify": ["--no-verify"]}

    def made_temporary_files(self):
        """Whether there was ever anything where temporary files would be."""
        return os.stat(self.tmp).st_mtime_ns != self.tmp_before

    def figures(self):
        """Entries, bytes of the volumes and bytes of the index of its archive."""
        (archive,) = os.listdir(self.stored)
        root = os.path.join(self.stored, archive)
        size = lambda part: sum(f.stat().st_size for f in os.scandir(os.path.join(root, part)))
        entries = None
        manifest = os.path.join(root, "manifest.json")
        if os.path.exists(manifest):
            with open(manifest) as file:
                entries = json.load(file)["totals"]["entries"]
        return entries, size("data"), size("index")


class OursSealed(Ours):
    label, sealed = "backup, sealed", True


class Restic(Tool):
    label, program = "restic", "restic"

    def env(self):
        return {"RESTIC_PASSWORD": "benchmark", "RESTIC_REPOSITORY": self.stored, "RESTIC_CACHE_DIR": self.home + "/cache"}

    def prepare(self):
        super().prepare()
        self.run("restic", "init", "-q")

    def backup(self, data):
        return ["restic", "backup", "-q", data]

    def restore(self, target):
        return ["restic", "restore", "-q", "latest", "--target", target]

    def version(self):
        return subprocess.run(["restic", "version"], capture_output=True, text=True, check=True).stdout.strip()


class Rustic(Tool):
    label, program = "rustic", "rustic"

    def env(self):
        return {"RUSTIC_PASSWORD": "benchmark", "RUSTIC_REPOSITORY": self.stored, "RUSTIC_CACHE_DIR": self.home + "/cache",
                "RUSTIC_NO_PROGRESS": "true", "RUSTIC_LOG_LEVEL": "error"}

    def prepare(self):
        super().prepare()
        self.run("rustic", "init")

    def backup(self, data):
        return ["rustic", "backup", data]

    def restore(self, target):
        return ["rustic", "restore", "latest", target]


class Borg(Tool):
    label, program = "borg, zstd 3", "borg"

    def env(self):
        return {"BORG_BASE_DIR": self.home + "/base", "BORG_REPO": self.stored, "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK": "yes"}

    def prepare(self):
        super().prepare()
        self.run("borg", "init", "-e", "none")

    def backup(self, data):
        return ["borg", "create", "-C", "zstd,3", "::a", data]

    def restore(self, target):
        return f"cd '{target}' && borg extract ::a"


PEERS = [Restic, Rustic, Borg]


def peers_on_path():
    return [peer for peer in PEERS if shutil.which(peer.program)]
