#!/usr/bin/env python3
"""Deterministic file-system data sets for backup benchmarks. Only the standard library; same seed -> same bytes, modes, mtimes.

Usage: fs_dataset.py DEST {src|mixed|tiny|many|s3small|s3large|all} [--seed 42] [--scale 1.0] [--jobs 2] [--digest]
  src      ~1 GiB, ~41,000 source-like text files in 800 "crates"; 1 crate in 8 is an edited copy (next version) of the crate before it
           (most files the same, some with changed lines), every crate carries the same 2 licence files
  mixed    1 GiB: 4 x 128 MiB seeded random (incompressible) + 4 x 128 MiB log/JSON text
  tiny     100,000 files of 1-4 KiB in 500 directories (4 of 5 text, 1 of 5 random)
  many     --files random files of --size bytes, 1,000 in a directory
  s3small  20,000 files of 16 KiB (half text, half random);  s3large  16 files of 64 MiB (8 text, 8 random)
--digest prints sha256 over (relative path, size, content) in sorted order, to compare machines.
"""
import argparse, hashlib, os, random, sys
from multiprocessing import Pool

MTIME = 1_700_000_000
SYL = "ba co de fi gu ha in jo ka lo me nu or pa qui re si ta un ve wi xa yo ze str tri con pre sub ex".split()
KW = "let mut fn pub impl self match if else return for in while use struct enum Some None Ok Err Result Option usize u64 String Vec async await".split()


def vocab(r, n):
    return ["".join(r.choices(SYL, k=r.randint(1, 4))) for _ in range(n)]


def put(path, data):
    with open(path, "wb") as f:
        f.write(data)
    os.chmod(path, 0o644)
    os.utime(path, (MTIME, MTIME))


def code_line(r, v, w):
    a, b, c, d = r.choices(v, cum_weights=w, k=4)
    k = r.random()
    ind = "    " * int(r.random() * 5)
    if k < .18: return f"{ind}let {a}_{b} = self.{c}.{d}()?;"
    if k < .30: return f"{ind}if {a}.{b}_{c}() != {int(r.random() * 4096)} {{"
    if k < .42: return f"{ind}}}"
    if k < .55: return f"{ind}pub fn {a}_{b}(&self, {c}: &{d.title()}) -> Result<{b.title()}, Error> {{"
    if k < .67: return f"{ind}/// " + " ".join(r.choices(v, cum_weights=w, k=9)) + "."
    if k < .75: return f"{ind}{a.title()}::{b.title()} => {c}({d}, 0x{int(r.random() * 2**32):08x}),"
    if k < .83: return f"{ind}assert_eq!({a}.{b}({int(r.random() * 100)}), \"{c} {d}\");"
    if k < .90: return ""
    return f"{ind}{r.choice(KW)} {a}::{b}::{{{c}, {d}}};"


def crate_files(seed, i):
    """list of (name, list of lines) for crate i, before the 'edited copy' rule"""
    r = random.Random(f"{seed}:src:{i}")
    v = vocab(r, 700) + KW
    w = []; t = 0.0
    for n in range(len(v)):
        t += 1.0 / (n + 3); w.append(t)
    pool = [code_line(r, v, w) for _ in range(2500)]
    out = []
    for f in range(int(30 + r.random() * 40)):
        n = min(6000, int(40 + r.expovariate(1 / 550.0)))
        fresh = [code_line(r, v, w) for _ in range(int(n * .35))]
        out.append((f"src/{v[f % 700]}_{f}.rs" if f % 5 else f"tests/{v[f % 700]}_{f}.rs", r.choices(pool, k=n - len(fresh)) + fresh))
        r.shuffle(out[-1][1])
    return out


def make_crate(a):
    dest, seed, i = a
    base = i - 1 if i % 8 == 7 else i
    files = crate_files(seed, base)
    d = f"{dest}/src/crate{base:04d}-1.0.{i - base}"
    for s in ("src", "tests"):
        os.makedirs(f"{d}/{s}", exist_ok=True)
    if base != i:
        r = random.Random(f"{seed}:edit:{i}")
        for _, lines in files:
            if r.random() < .3:
                for _ in range(1 + len(lines) // 100):
                    lines[int(r.random() * len(lines))] = f"    // changed {int(r.random() * 10**9)}"
    for n, lines in files:
        put(f"{d}/{n}", ("\n".join(lines) + "\n").encode())
    lr = random.Random(f"{seed}:licence")
    v = vocab(lr, 400)
    for n, k in (("LICENSE-APACHE", 1500), ("LICENSE-MIT", 160)):
        put(f"{d}/{n}", " ".join(lr.choices(v, k=k)).encode())


def log_text(r, size):
    v = vocab(r, 400); parts = []; have = 0; ts = 1_700_000_000.0
    while have < size:
        ts += r.random()
        a = r.choices(v, k=6)
        s = ('{"ts":%.3f,"level":"%s","svc":"%s","req":"%08x","ms":%d,"msg":"%s %s %s","user":%d,"path":"/%s/%s"}\n'
             % (ts, "info" if r.random() < .9 else "warn", v[int(r.random() * 20)], int(r.random() * 2**32), int(r.random() * 2000),
                a[0], a[1], a[2], int(r.random() * 50000), a[3], a[4])).encode()
        parts.append(s); have += len(s)
    return b"".join(parts)[:size]


def blob(a):
    path, key, size, text = a
    r = random.Random(key)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as f:
        left = size
        while left:
            n = min(left, 8 << 20)
            f.write(log_text(r, n) if text else r.randbytes(n)); left -= n
    os.chmod(path, 0o644); os.utime(path, (MTIME, MTIME))


def many(a):  # a directory of small files
    d, key, names, lo, hi, rnd_every = a
    os.makedirs(d, exist_ok=True)
    r = random.Random(key)
    for j, n in enumerate(names):
        size = lo + int(r.random() * (hi - lo + 1))
        put(f"{d}/{n}", r.randbytes(size) if j % rnd_every == 0 else (log_text_small(r, size)))


VS = None


def log_text_small(r, size):
    global VS
    if VS is None:
        VS = vocab(random.Random("vs"), 2000)
    out = []; have = 0
    while have < size:
        s = '{"id":%d,"name":"%s","val":%.6f,"tag":"%s %s %s"}\n' % ((int(r.random() * 10**9), r.choice(VS), r.random()) + tuple(r.choices(VS, k=3)))
        out.append(s); have += len(s)
    return "".join(out)[:size].encode()


def digest(root):
    h = hashlib.sha256(); n = b = 0
    for p, ds, fs in sorted(os.walk(root)):
        for f in sorted(fs):
            q = os.path.join(p, f); c = open(q, "rb").read()
            h.update(f"{os.path.relpath(q, root)}\0{len(c)}\0".encode()); h.update(c); n += 1; b += len(c)
    return f"{h.hexdigest()} files={n} bytes={b}"


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("dest"); p.add_argument("what", choices="src mixed tiny many s3small s3large all".split())
    p.add_argument("--seed", type=int, default=42); p.add_argument("--scale", type=float, default=1.0)
    p.add_argument("--files", type=int, default=100_000); p.add_argument("--size", type=int, default=1024)
    p.add_argument("--jobs", type=int, default=2); p.add_argument("--digest", action="store_true")
    a = p.parse_args(); D, S = a.dest, a.seed
    for w in (["src", "mixed", "tiny", "s3small", "s3large"] if a.what == "all" else [a.what]):
        with Pool(a.jobs) as pool:
            if w == "src":
                pool.map(make_crate, [(D, S, i) for i in range(int(800 * a.scale))], 4)
            elif w == "mixed":
                pool.map(blob, [(f"{D}/mixed/{'text' if i % 2 else 'random'}{i}.bin", f"{S}:mixed:{i}", int(a.scale * 128) << 20, i % 2) for i in range(8)], 1)
            elif w == "tiny":
                pool.map(many, [(f"{D}/tiny/d{i:03d}", f"{S}:tiny:{i}", [f"f{j:03d}.json" for j in range(int(200 * a.scale))], 1024, 4096, 5) for i in range(500)], 4)
            elif w == "many":
                pool.map(many, [(f"{D}/many/d{i:04d}", f"{S}:many:{i}", [f"f{j:03d}" for j in range(min(1000, a.files - i * 1000))], a.size, a.size, 1)
                                for i in range(-(-a.files // 1000))], 4)
            elif w == "s3small":
                pool.map(many, [(f"{D}/s3small/p{i:02d}", f"{S}:s3:{i}", [f"o{j:04d}" for j in range(int(1000 * a.scale))], 16384, 16384, 2) for i in range(20)], 1)
            else:
                pool.map(blob, [(f"{D}/s3large/big{i:02d}", f"{S}:s3l:{i}", int(a.scale * 64) << 20, i % 2) for i in range(16)], 1)
        if a.digest:
            print(w, digest(f"{D}/{w}"), flush=True)


main()
