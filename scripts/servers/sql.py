"""PostgreSQL and MariaDB: real servers from the system's packages `postgresql` and `mariadb-server`, on data of their own."""
import glob, os, pwd, secrets, shutil, socket, subprocess, tempfile
from . import process


class SqlServer:
    """One server. Its data is below the system's temporary directory, where its user can reach it whoever owns the source tree."""

    def __init__(self, root):
        self.process = process.Process(os.path.join(root, self.name))

    def start(self):
        """Starts it unless it runs; the environment for its clients."""
        noted = self.process.running()
        if noted and self.process.wait(lambda: self.answers(noted)):
            return self.env(noted)
        self.stop()
        for _ in range(5):
            os.makedirs(self.process.directory, exist_ok=True)
            noted = {"port": process.free_ports([0]), "password": secrets.token_hex(12)}
            data = tempfile.mkdtemp(prefix=f"backup-test-{self.name}-")
            self.prepare(noted, data)
            noted = self.launch(noted, data)
            # Another program may have taken the port in the meantime.
            if self.process.wait(lambda: self.answers(noted)):
                return self.env(noted)
            shutil.rmtree(data, ignore_errors=True)
        raise SystemExit(f"{self.name} did not start; its log is {self.process.log}")

    def restart(self):
        """Kills it as a crash would and starts it on the same data and port."""
        noted = self.process.kill()
        if not noted:
            raise SystemExit(f"{self.name} does not run")
        noted = self.launch(noted, noted["data"])
        if not self.process.wait(lambda: self.answers(noted)):
            raise SystemExit(f"{self.name} did not start again; its log is {self.process.log}")
        return self.env(noted)

    def stop(self):
        noted = self.process.kill()
        if noted:
            shutil.rmtree(noted["data"], ignore_errors=True)
        self.process.stop()

    def run(self, command, user=None):
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, user=user, cwd="/")
        if done.returncode != 0:
            raise SystemExit(f"{command[0]} failed:\n{done.stdout}")


class Postgres(SqlServer):
    name = "postgres"
    # With this variable a developer names a server of their own.
    variable = "BACKUP_TEST_POSTGRES"

    def program(self, name):
        # The newest of those that are installed.
        found = sorted(glob.glob(f"/usr/lib/postgresql/*/bin/{name}"), key=lambda path: int(path.split("/")[4].split(".")[0]))
        path = found[-1] if found else shutil.which(name)
        return path or missing("postgresql")

    def user(self):
        # It refuses to run as root.
        return "postgres" if os.geteuid() == 0 else None

    def prepare(self, noted, data):
        file = os.path.join(data, "password")
        with open(file, "w") as out:
            out.write(noted["password"])
        if self.user():
            entry = pwd.getpwnam(self.user())
            for path in (data, file):
                os.chown(path, entry.pw_uid, entry.pw_gid)
        command = [self.program("initdb"), "-D", os.path.join(data, "cluster"), "-U", "tester", "--auth=scram-sha-256", f"--pwfile={file}"]
        self.run([*command, "--encoding=UTF8", "--locale=C", "--no-sync"], self.user())

    def launch(self, noted, data):
        settings = {
            "listen_addresses": "127.0.0.1", "port": noted["port"], "unix_socket_directories": "", "max_connections": 200,
            # Data need not outlive a power failure; that of a killed process does.
            "fsync": "off",
        }
        command = [self.program("postgres"), "-D", os.path.join(data, "cluster"), *(part for name, value in settings.items() for part in ("-c", f"{name}={value}"))]
        return self.process.start(command, {}, noted, data, self.user())

    def answers(self, noted):
        ready = [self.program("pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(noted["port"])]
        return subprocess.run(ready, stdin=subprocess.DEVNULL).returncode == 0

    def env(self, noted):
        return {self.variable: f"postgres://tester:{noted['password']}@127.0.0.1:{noted['port']}"}


class MariaDB(SqlServer):
    name = "mariadb"
    variable = "BACKUP_TEST_MYSQL"

    def program(self, name):
        return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin") or missing("mariadb-server")

    def prepare(self, noted, data):
        with open(os.path.join(data, "init.sql"), "w") as out:
            user = "'tester'@'127.0.0.1'"
            out.write(f"CREATE USER IF NOT EXISTS {user} IDENTIFIED BY '{noted['password']}';\nGRANT ALL ON *.* TO {user} WITH GRANT OPTION;\n")
        command = [self.program("mariadb-install-db"), "--no-defaults", f"--datadir={os.path.join(data, 'data')}", "--skip-test-db"]
        self.run([*command, "--auth-root-authentication-method=normal", *self.as_user()])

    def as_user(self):
        return ["--user=root"] if os.geteuid() == 0 else []

    def launch(self, noted, data):
        command = [
            self.program("mariadbd"), "--no-defaults", f"--datadir={os.path.join(data, 'data')}", f"--port={noted['port']}",
            "--bind-address=127.0.0.1", "--skip-name-resolve", "--socket=server.sock", f"--init-file={os.path.join(data, 'init.sql')}",
            "--max-connections=200", "--innodb-flush-log-at-trx-commit=2", *self.as_user(),
        ]
        return self.process.start(command, {}, noted, data)

    def answers(self, noted):
        """Its greeting begins with the version of the protocol, behind four bytes of length and number."""
        try:
            with socket.create_connection(("127.0.0.1", noted["port"]), timeout=5) as connection:
                return connection.recv(5)[4:] == b"\x0a"
        except OSError:
            return False

    def env(self, noted):
        return {self.variable: f"mysql://tester:{noted['password']}@127.0.0.1:{noted['port']}"}


def missing(package):
    raise SystemExit(f"please install the package {package} (scripts/test does), or name a server of your own: docs/TESTING.md")
