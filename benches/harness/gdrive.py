"""`compare gdrive`: an archive of 1 GiB into a Google Drive in memory, beside plain PUTs of the same bytes to the same server."""
import json, os, subprocess, threading, time, urllib.parse, urllib.request
from http.client import HTTPConnection
from . import tables
from .measure import MIB, measured, median, say, settle, size_of, warm
from .tools import Ours

SIZE = 1024 * MIB
FILES = 16
VOLUME = 32 * MIB


class NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_):
        return None


class Drive:
    """The program `drive-server`, as a context; a fresh one for each run, since it keeps everything in memory."""

    def __init__(self, program):
        self.program = program

    def __enter__(self):
        self.child = subprocess.Popen([self.program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.told = json.loads(self.child.stdout.readline())
        self.url = self.told["url"]
        return self

    def __exit__(self, *_):
        self.child.stdin.close()
        self.child.wait()

    def requests(self):
        self.child.stdin.write("requests\n")
        self.child.stdin.flush()
        return {name: int(count) for name, count in json.loads(self.child.stdout.readline()).items()}

    def access_token(self):
        form = {"grant_type": "refresh_token", **{name: self.told[name] for name in ("client_id", "client_secret", "refresh_token")}}
        with urllib.request.urlopen(self.url + "/token", urllib.parse.urlencode(form).encode()) as answer:
            return json.load(answer)["access_token"]

    def plain(self, root):
        """The files in pieces as large as volumes, each by one PUT, two at once."""
        token, pieces, lock = self.access_token(), [], threading.Lock()
        for name in sorted(os.listdir(root)):
            path = os.path.join(root, name)
            pieces += [(path, at) for at in range(0, os.path.getsize(path), VOLUME)]

        def work():
            connection = HTTPConnection(self.url.removeprefix("http://"))
            while True:
                with lock:
                    if not pieces:
                        return
                    path, at = pieces.pop(0)
                with open(path, "rb", buffering=0) as file:
                    file.seek(at)
                    content = file.read(VOLUME)
                meta = json.dumps({"name": f"{at}", "parents": [self.told["folder"]]})
                head = {"authorization": f"Bearer {token}", "x-upload-content-length": str(len(content)), "content-type": "application/json"}
                connection.request("POST", "/upload/drive/v3/files?uploadType=resumable", meta, head)
                answer = connection.getresponse()
                answer.read()
                place = answer.headers["location"].removeprefix(self.url)
                connection.request("PUT", place, content, {"content-range": f"bytes 0-{len(content) - 1}/{len(content)}"})
                answer = connection.getresponse()
                answer.read()
                assert answer.status == 200, answer.status

        start = time.monotonic()
        threads = [threading.Thread(target=work) for _ in range(2)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
        return time.monotonic() - start


class OursDrive(Ours):
    """`backup create` into a folder, after signing in as a person does."""

    def env(self):
        return {**super().env(), "HOME": self.state, "XDG_DATA_HOME": "", "XDG_CONFIG_HOME": ""}

    def login(self, drive):
        client = os.path.join(self.state, "client.json")
        with open(client, "w") as file:
            json.dump({"installed": {name: drive.told[name] for name in ("client_id", "client_secret")}}, file)
        command = [self.program, "--json", "gdrive", "login", "--client", client, "--endpoint", drive.url]
        child = subprocess.Popen(command, env={**os.environ, **self.env()}, stdout=subprocess.PIPE, text=True)
        asked = json.loads(child.stdout.readline())["url"]
        try:
            urllib.request.build_opener(NoRedirect).open(asked)
        except urllib.error.HTTPError as error:
            urllib.request.urlopen(error.headers["location"]).read()
        self.locator = json.loads(child.stdout.readline())["locator"]
        assert child.wait() == 0

    def backup(self, data):
        return [self.program, "create", "--from", data, "--to", self.locator, "--codec", "none", "-q"]


def compare(scratch, program, server, runs):
    """Measures; yields Markdown."""
    data = scratch.path("data", "gdrive")
    if size_of(data) != SIZE:
        say("making 1 GiB of random bytes ...")
        os.makedirs(data, exist_ok=True)
        for number in range(FILES):
            with open(os.path.join(data, f"{number:02}"), "wb") as file:
                for _ in range(SIZE // FILES // MIB):
                    file.write(os.urandom(MIB))
    plain, ours, requests = [], [], {}
    for number in range(runs):
        for tool in ("plain", "ours") if number % 2 == 0 else ("ours", "plain"):
            warm(data)
            settle()
            with Drive(server) as drive:
                if tool == "plain":
                    plain.append(drive.plain(data))
                    say(f"  {number + 1}/{runs} plain PUTs {plain[-1]:6.2f} s")
                    continue
                tool = OursDrive(scratch.path("archives", "gdrive"), program)
                tool.prepare()
                tool.login(drive)
                drive.requests()
                run = measured(tool.backup(data), env=tool.env())
                ours.append(run)
                requests = drive.requests()
                say(f"  {number + 1}/{runs} backup     {run.wall:6.2f} s, cpu {run.cpu:6.2f} s, rss {run.rss >> 20} MiB, {requests}")
    wall, base = median([run.wall for run in ours]), median(plain)
    objects = requests["BeginUpload"]
    rows = [["plain PUTs", f"{base:.2f}", "1.00", "", ""],
            ["backup", f"{wall:.2f}", f"{wall / base:.2f}", f"{median([run.cpu for run in ours]):.2f}", max(run.rss for run in ours) >> 20]]
    yield f"### Google Drive (in memory, on this machine): an archive of {SIZE // MIB} MiB, not compressed, medians of {runs}"
    yield tables.table(["", "s", "of plain", "CPU s", "peak RSS, MiB"], rows)
    yield "Requests of a backup: " + ", ".join(f"{count} {name}" for name, count in requests.items() if count)
    yield tables.goals([("backup, of plain PUTs' time", wall / base, 1.2, "x"), ("peak RSS, MiB", max(run.rss for run in ours) / MIB, 256, ""),
                        # The probe, the folders and the looks at the whole archive come on top.
                        ("listings an object", requests["List"] / objects, 2, "")])
