"""A server's process: free ports, a record on disk by which a later call finds it, and its end."""
import json, os, random, shutil, signal, socket, subprocess, tempfile, time

# Below the ports that systems give to clients, with room for +10000.
FIRST_PORT, LAST_PORT = 12000, 20000
PATIENCE = 60  # seconds until a server has to answer


def is_free(port):
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
            return True
        except OSError:
            return False


def free_ports(offsets):
    """A port P such that P plus each offset is free."""
    for _ in range(1000):
        port = random.randrange(FIRST_PORT, LAST_PORT)
        if all(is_free(port + offset) for offset in offsets):
            return port
    raise SystemExit("no free ports on 127.0.0.1")


def started_at(pid):
    """When a process was started, in the kernel's ticks; tells it from a later one with the same number. None if it is gone."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            fields = file.read().rsplit(")", 1)[1].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else int(fields[19])


class Process:
    """One server, with a directory of its own under target/servers."""

    def __init__(self, directory):
        self.directory = directory
        self.record = os.path.join(directory, "running.json")
        self.log = os.path.join(directory, "log.txt")

    def running(self):
        """What `start` noted, if the process lives."""
        try:
            with open(self.record) as file:
                noted = json.load(file)
        except (OSError, ValueError):
            return None
        return noted if started_at(noted["pid"]) == noted["started_at"] else None

    def start(self, command, env, noted, data=None, user=None):
        """Starts a process, detached. `noted` is kept for later calls, together with its data directory."""
        os.makedirs(self.directory, exist_ok=True)
        with open(self.log, "ab") as log:
            child = subprocess.Popen(command, env={**os.environ, **env}, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, user=user)
        noted = {**noted, "pid": child.pid, "started_at": started_at(child.pid), "data": data}
        temporary = self.record + ".new"
        with open(temporary, "w") as file:
            json.dump(noted, file)
        os.replace(temporary, self.record)
        return noted

    def new_data(self):
        """A fresh data directory, and with it a fresh log."""
        os.makedirs(self.directory, exist_ok=True)
        if os.path.exists(self.log):
            os.remove(self.log)
        return tempfile.mkdtemp(prefix="data-", dir=self.directory)

    def wait(self, answers):
        """Waits until the server answers; False if it ended instead."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            if not self.running():
                return False
            if answers():
                return True
            time.sleep(0.05)
        raise SystemExit(f"the server does not answer; its log is {self.log}")

    def kill(self):
        """Ends the process by SIGKILL; its data stays."""
        noted = self.running()
        if noted:
            os.kill(noted["pid"], signal.SIGKILL)
            while self.running():
                time.sleep(0.01)
                try:
                    os.waitpid(noted["pid"], os.WNOHANG)  # if it is a child of this very process
                except ChildProcessError:
                    pass
        return noted

    def stop(self):
        """Ends the process and removes its data, and that of earlier ones; the log stays until the next start."""
        self.kill()
        if not os.path.isdir(self.directory):
            return
        for name in os.listdir(self.directory):
            if name.startswith("data-"):
                shutil.rmtree(os.path.join(self.directory, name), ignore_errors=True)
        if os.path.exists(self.record):
            os.remove(self.record)
