#!/usr/bin/env python3
"""Reads backup archives of format 1; written from FORMAT.md, independent of the library.

Needs Python 3.9 or newer on a POSIX system, and from PyPI: zstandard >= 0.22 (for zstd archives) and
cryptography (for sealed archives). Passphrases need cryptography >= 44, or argon2-cffi.

    read_archive.py list    DIR/ARCHIVE
    read_archive.py verify  DIR/ARCHIVE
    read_archive.py extract DIR/ARCHIVE --output DIR [NAME ...]

Sealed archives open with --key-file FILE or --passphrase-env VARIABLE. Exit code 0: all is well; 1: something is wrong.
"""

import argparse
import base64
import hashlib
import io
import json
import os
import re
import stat
import sys
import tarfile
import zlib

READER_VERSION = 1
FEATURES = set()
MAX_FRAME = 64 << 20
MAX_NAME = 64 << 10
WARNINGS_FILE = "BACKUP-WARNINGS.txt"


class ArchiveError(Exception):
    """Something is wrong with the archive, or with what was asked of it."""


def need(condition, message):
    if not condition:
        raise ArchiveError(message)


# ---- Common rules ------------------------------------------------------------------------------------------------


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def byte_string(value):
    """A JSON string, or {"b64": …}."""
    if isinstance(value, str):
        return value.encode()
    need(isinstance(value, dict) and isinstance(value.get("b64"), str), "a name is neither text nor base64")
    return base64.b64decode(value["b64"], validate=True)


def shown(name):
    """A name for people: nothing in it reaches the terminal raw."""
    return "".join(c if c.isprintable() else "".join("\\x%02x" % b for b in c.encode("utf-8", "surrogateescape"))
                   for c in name.decode("utf-8", "surrogateescape"))


def parse_document(data, what):
    """The members of a document whose last member is the SHA-256 of the bytes before it."""
    end = re.search(rb',"sha256":"([0-9a-f]{64})"}\n\Z', data)
    if end:
        need(sha256(data[: end.start()]) == end[1].decode(), f"{what}: its checksum is wrong, it was changed")
    try:
        members = json.loads(data)
    except ValueError:
        raise ArchiveError(f"{what}: it cannot be read") from None
    need(isinstance(members, dict), f"{what}: it is not an object")
    if "min_reader" in members:
        need(members["min_reader"] <= READER_VERSION,
             f"{what}: it asks for reader version {members['min_reader']}, this is {READER_VERSION}: use a newer reader")
        unknown = set(members["features"]) - FEATURES
        need(not unknown, f"{what}: unknown features {sorted(unknown)}: use a newer reader")
    need(end, f"{what}: it has no checksum at its end, it was cut off")
    return members


def check_object_name(name):
    parts = name.split("/")
    need(all(re.fullmatch(r"[A-Za-z0-9._-]+", p) and p not in (".", "..") for p in parts),
         f"the archive names an object that cannot exist: {name!r}")
    return name


# ---- Sealed objects ----------------------------------------------------------------------------------------------

MAGIC = b"BKSEALD1"
HEAD = 40
CHUNK = 65536
TAG = 16


def hkdf(key, salt, info):
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    return HKDF(hashes.SHA256(), 32, salt, info).derive(key)


def aes_gcm_open(key, nonce, data, aad, message):
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    try:
        return AESGCM(key).decrypt(nonce, data, aad)
    except InvalidTag:
        raise ArchiveError(message) from None


def sealed_length(plain):
    return HEAD + plain + TAG * max(1, -(-plain // CHUNK))


def plain_length(sealed, what):
    body = sealed - HEAD
    plain = body - TAG * -(-body // (CHUNK + TAG))
    need(body > 0 and plain >= 0 and sealed_length(plain) == sealed, f"{what}: no sealed object has {sealed} bytes")
    return plain


class Sealed:
    """Random access to the plaintext of a sealed file."""

    def __init__(self, file, size, key, archive_id, name):
        head = file.read(HEAD)
        need(len(head) == HEAD and head.startswith(MAGIC), f"{name}: this is not a sealed object")
        self.file, self.name, self.length = file, name, plain_length(size, name)
        self.key = hkdf(key, head[8:], MAGIC + f"{archive_id}/{name}".encode("ascii"))
        self.last = max(1, -(-self.length // CHUNK)) - 1

    def chunk(self, number):
        self.file.seek(HEAD + number * (CHUNK + TAG))
        length = self.length - number * CHUNK if number == self.last else CHUNK
        stored = self.file.read(length + TAG)
        nonce = bytes(7) + number.to_bytes(4, "big") + bytes([number == self.last])
        return aes_gcm_open(self.key, nonce, stored, None, f"{self.name}: it was changed, or belongs elsewhere")

    def read(self, start, length):
        if self.length == 0:
            self.chunk(0)
        first, end = start // CHUNK, -(-(start + length) // CHUNK)
        plain = b"".join(self.chunk(n) for n in range(first, end))
        return plain[start - first * CHUNK :][:length]


class Plain:
    """Random access to a file that is not sealed."""

    def __init__(self, file, size):
        self.file, self.length = file, size

    def read(self, start, length):
        self.file.seek(start)
        return self.file.read(length)


# ---- Keys --------------------------------------------------------------------------------------------------------


def read_key_file(text):
    match = re.fullmatch(r"(backup-key-1\.([A-Za-z0-9_-]{43}))\.([0-9a-f]{8})", text.strip())
    need(match, "not a key file of version 1")
    need(sha256(match[1].encode())[:8] == match[3], "the key file is incomplete: its checksum is wrong")
    return base64.urlsafe_b64decode(match[2] + "=")


def argon2id(passphrase, parameters):
    memory, passes, lanes = (parameters[k] for k in ("memory_kib", "passes", "lanes"))
    salt = base64.b64decode(parameters["salt"], validate=True)
    need(1 <= lanes <= 8 and 8 * lanes <= memory <= 131072 and 1 <= passes <= 16 and 8 <= len(salt) <= 64,
         "the key wrap asks for more work than is allowed")
    try:
        from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

        return Argon2id(salt=salt, length=32, iterations=passes, lanes=lanes, memory_cost=memory).derive(passphrase)
    except ImportError:
        from argon2.low_level import Type, hash_secret_raw

        return hash_secret_raw(passphrase, salt, passes, memory, lanes, 32, Type.ID, 0x13)


def unwrap(wrapped, wrapping_key, header, message):
    data = base64.b64decode(wrapped, validate=True)
    need(len(data) == 32 + 32 + TAG, message)
    return aes_gcm_open(hkdf(wrapping_key, data[:32], b"backup key wrap 1"), bytes(12), data[32:], header, message)


def open_wraps(document, header, key_file, passphrase):
    need(document["version"] == 1, "keys: use a newer reader")
    refused = None
    for wrap in document["wraps"]:
        try:
            if wrap["provider"] == "key-file" and key_file is not None:
                key = read_key_file(key_file)
                if sha256(b"backup key id 1\n" + key)[:16] == wrap["key_id"]:
                    return unwrap(wrap["wrapped"], key, header, "header.json or the key wrap was changed")
            elif wrap["provider"] == "passphrase" and passphrase is not None:
                key = argon2id(passphrase.encode(), wrap["parameters"])
                return unwrap(wrap["wrapped"], key, header, "the passphrase is wrong")
        except ArchiveError as error:
            refused = refused or error
    needed = [f"{w['provider']} {w['key_id']}".strip() for w in document["wraps"]]
    raise refused or ArchiveError(f"the archive is sealed; it opens with: {', '.join(needed)}")


# ---- Frames ------------------------------------------------------------------------------------------------------


def decompress(codec, frame, length, what):
    need(length <= MAX_FRAME, f"{what}: a frame is longer than the format allows")
    try:
        if codec == "zstd":
            import zstandard

            need(frame[:4] == b"\x28\xb5\x2f\xfd" and zstandard.frame_content_size(frame) == length,
                 f"{what}: a frame does not hold what the index says")
            raw = zstandard.ZstdDecompressor().decompress(
                frame, max_output_size=length, read_across_frames=False, allow_extra_data=False)
        elif codec == "gzip":
            member = zlib.decompressobj(wbits=31)
            raw = member.decompress(frame, length + 1)
            need(member.eof and not member.unused_data, f"{what}: a gzip member is cut short, or something follows it")
        else:
            raw = frame
    except ArchiveError:
        raise
    except Exception as error:
        raise ArchiveError(f"{what}: a frame is damaged: {error}") from None
    need(len(raw) == length, f"{what}: a frame does not hold what the index says")
    return raw


# ---- Tar paths ---------------------------------------------------------------------------------------------------


class TarPaths:
    """Names to tar paths, in the order of the entries."""

    def __init__(self):
        self.files = []

    def next(self, name, is_directory):
        self.files = [f for f in self.files if name.startswith(f)]
        path = self.path(name)
        if not is_directory and name not in self.files:
            self.files.append(name)
        return path

    def path(self, name):
        if not name:
            return "%"
        slashes = {len(f) for f in self.files if name.startswith(f) and name[len(f) : len(f) + 1] == b"/"}
        done, part, at = [], "", 0
        for c in name.decode("utf-8", "surrogateescape"):
            encoded = c.encode("utf-8", "surrogateescape")
            if c == "/" and part and at + 1 < len(name) and at not in slashes:
                done.append(self.component(part, not done))
                part = ""
            elif c in "/%" or ord(c) < 0x20 or 0x7F <= ord(c) < 0xA0 or 0xDC80 <= ord(c) <= 0xDCFF:
                part += "".join("%%%02X" % b for b in encoded)
            else:
                part += c
            at += len(encoded)
        return "/".join(done + [self.component(part, not done)])

    @staticmethod
    def component(part, is_first):
        if part in (".", ".."):
            return part.replace(".", "%2E")
        if part == WARNINGS_FILE and is_first:
            return "%42" + part[1:]
        if re.search(r"~[0-9a-f]{32}\Z", part):
            part = part[:-33] + "%7E" + part[-32:]
        data = part.encode()
        if len(data) <= 240:
            return part
        cut = data[:207].decode("utf-8", "ignore")
        cut = re.sub(r"%[0-9A-F]?\Z", "", cut)
        return cut + "~" + sha256(data)[:32]


# ---- The archive -------------------------------------------------------------------------------------------------


class Entry:
    def __init__(self, line, ordinal, expected):
        self.ordinal = ordinal
        self.name = byte_string(line["name"])
        need(1 <= len(self.name) <= MAX_NAME, "an entry has no name, or a too long one")
        self.kind = line.get("kind", "file")
        need(self.kind in ("file", "directory", "symlink", "hard-link", "slice"),
             f"{shown(self.name)}: unknown kind of entry {self.kind!r}: use a newer reader")
        self.target = byte_string(line["target"]) if "target" in line else None
        need((self.target is not None) == (self.kind in ("symlink", "hard-link")), f"{shown(self.name)}: a target is missing or too many")
        self.size = line.get("size", 0)
        self.sha256 = line.get("sha256")
        need((self.sha256 is not None) == self.has_content and (self.size == 0 or self.has_content),
             f"{shown(self.name)}: a digest without content, or the other way round")
        self.offset = line.get("offset", expected)
        need(self.offset is not None, f"{shown(self.name)}: the index does not say where it is")
        self.mtime_ns = None
        if line.get("mtime") is not None:
            seconds, _, nanos = line["mtime"].partition(".")
            self.mtime_ns = int(seconds) * 10**9 + int(nanos or 0)
        self.metadata = line.get("metadata", {})
        self.group = line.get("group")
        self.inconsistent = line.get("inconsistent", False)
        self.superseded = line.get("superseded", False)

    @property
    def has_content(self):
        return self.kind in ("file", "slice")

    @property
    def expected_next(self):
        return -(-(self.offset + self.size) // 512) * 512 + 512


class Archive:
    def __init__(self, path, key_file=None, passphrase=None):
        self.path = path
        header_bytes = self.stored("header.json")
        self.header = parse_document(header_bytes, "header.json")
        self.id = self.header["id"]
        need(re.fullmatch(r"\d{8}T\d{6}Z-[0-9a-f]{8}", self.id), "header.json: not an archive id")
        self.codec, self.sealed, self.key = self.header["codec"], self.header["sealed"], None
        need(self.codec in ("zstd", "gzip", "none"), f"unknown codec {self.codec!r}: use a newer reader")
        need(not os.path.lexists(os.path.join(path, "swept.json")), "the archive is being removed (swept.json)")
        if self.sealed:
            self.key = self.open_keys(header_bytes, key_file, passphrase)
        else:
            need(key_file is None and passphrase is None, "a key was given, but the archive is not sealed")
        name = "manifest.json" + (".sealed" if self.sealed else "")
        need(os.path.exists(os.path.join(path, name)), f"the archive is not complete: it has no {name}")
        self.manifest = parse_document(self.whole(name), name)
        for member in ("format", "min_reader", "features", "id", "source", "codec", "started_at"):
            need(self.manifest[member] == self.header[member], f"{name}: it belongs to another header.json ({member})")
        need(self.manifest["header_sha256"] == sha256(header_bytes), f"{name}: it belongs to another header.json")
        self.check_pieces()

    def stored(self, name):
        try:
            with open(os.path.join(self.path, check_object_name(name)), "rb") as file:
                return file.read()
        except FileNotFoundError:
            raise ArchiveError(f"{name}: it is missing") from None

    def open_keys(self, header_bytes, key_file, passphrase):
        """The archive key, from the newest object with wraps that opens; the error is that of the newest."""
        folder = os.path.join(self.path, "keys")
        names = os.listdir(folder) if os.path.isdir(folder) else []
        numbers = sorted((int(n[:-5]) for n in names if re.fullmatch(r"0\.json|[1-9]\d*\.json", n)), reverse=True)
        need(numbers, "the archive is sealed, but its keys are missing")
        refused = None
        for number in numbers:
            try:
                name = f"keys/{number}.json"
                return open_wraps(parse_document(self.stored(name), name), header_bytes, key_file, passphrase)
            except ArchiveError as error:
                refused = refused or error
        raise refused

    def whole(self, name):
        data = self.stored(name)
        if not self.sealed:
            return data
        sealed = Sealed(io.BytesIO(data), len(data), self.key, self.id, name)
        return sealed.read(0, sealed.length)

    def check_pieces(self):
        entries = volumes = raw = 0
        for piece in self.manifest["pieces"]:
            need((piece["first_entry"], piece["first_volume"], piece["raw"]["start"]) == (entries, volumes, raw),
                 f"{piece['name']}: it does not start where the piece before it ends")
            entries, volumes, raw = entries + piece["entries"], volumes + piece["volumes"], piece["raw"]["end"]
        totals = self.manifest["totals"]
        need((entries, volumes, raw) == tuple(totals.get(k, 0) for k in ("entries", "volumes", "raw_bytes")),
             "the index pieces do not make up the totals")

    def records(self):
        """All records of the index: ("volume", dict) and ("entry", Entry), in order."""
        raw = 0
        for piece in self.manifest["pieces"]:
            name = piece["name"]
            stored = self.stored(name)
            need(len(stored) == piece["size"] and sha256(stored) == piece["sha256"], f"{name}: it was changed")
            lines = decompress(self.codec, self.whole(name), piece["raw_size"], name)
            need(not lines or lines.endswith(b"\n"), f"{name}: it ends in the middle of a line")
            ordinal, expected, volumes, names = piece["first_entry"], None, 0, []
            for text in lines.split(b"\n")[:-1]:
                line = json.loads(text)
                if text.startswith(b'{"name":'):
                    entry = Entry(line, ordinal, expected)
                    names.append(entry.name)
                    ordinal, expected = ordinal + 1, entry.expected_next
                    yield "entry", entry
                elif text.startswith(b'{"volume":'):
                    self.check_volume(line, raw)
                    raw += sum(length for _, length in line["frames"])
                    volumes += 1
                    yield "volume", line
                else:
                    raise ArchiveError(f"{name}: a line of an unknown kind: use a newer reader")
            need(ordinal == piece["first_entry"] + piece["entries"] and volumes == piece["volumes"]
                 and raw == piece["raw"]["end"], f"{name}: it does not hold what the manifest says")
            if names:
                bounds = (byte_string(piece["first_name"]), byte_string(piece["last_name"]))
                need(bounds == (min(names), max(names)) and piece["sorted"] == (names == sorted(names)),
                     f"{name}: its names are not those that the manifest says")

    def check_volume(self, line, raw):
        check_object_name(line["volume"])
        stored = sum(length for length, _ in line["frames"])
        size = sealed_length(stored) if self.sealed else stored
        need(line["size"] == size and line["raw"] == raw and ("sha256" in line) != self.sealed,
             f"{line['volume']}: its record contradicts itself")

    def is_void(self, entry):
        return entry.superseded or any(
            s["group"] == entry.group and s["first"] <= entry.ordinal <= s["last"] for s in self.manifest.get("superseded", []))

    def open_volume(self, volume):
        name = volume["volume"]
        path = os.path.join(self.path, name)
        need(os.path.exists(path), f"{name}: it is missing")
        size = os.path.getsize(path)
        need(size == volume["size"], f"{name}: it has {size} bytes instead of {volume['size']}")
        file = open(path, "rb")
        return Sealed(file, size, self.key, self.id, name) if self.sealed else Plain(file, size)

    def frames(self, volume, start=0, end=None):
        """Raw bytes of the frames of a volume that touch a raw range, each with its raw offset."""
        stored, raw, opened = 0, volume["raw"], None
        try:
            for stored_length, raw_length in volume["frames"]:
                if raw + raw_length > start and (end is None or raw < end):
                    opened = opened or self.open_volume(volume)
                    frame = opened.read(stored, stored_length)
                    need(len(frame) == stored_length, f"{volume['volume']}: it was cut off")
                    yield raw, decompress(self.codec, frame, raw_length, volume["volume"])
                stored, raw = stored + stored_length, raw + raw_length
        finally:
            if opened:
                opened.file.close()


class Contents:
    """Contents of entries, by frames; keeps the last frame."""

    def __init__(self, archive):
        self.archive, self.volumes, self.cache = archive, [], (None, None)

    def read(self, entry):
        start, end = entry.offset, entry.offset + entry.size
        while start < end:
            at, frame = self.frame(start)
            part = frame[start - at : end - at]
            start += len(part)
            yield part

    def frame(self, position):
        at, frame = self.cache
        if at is None or not at <= position < at + len(frame):
            volume = self.volume(position)
            at, frame = next(self.archive.frames(volume, position, position + 1))
            self.cache = (at, frame)
        return at, frame

    def volume(self, position):
        low, high = 0, len(self.volumes)
        while low < high:
            middle = (low + high) // 2
            if self.volumes[middle]["raw"] <= position:
                low = middle + 1
            else:
                high = middle
        need(low > 0, "an entry lies outside of all volumes")
        volume = self.volumes[low - 1]
        need(position < volume["raw"] + sum(raw for _, raw in volume["frames"]), "an entry lies outside of all volumes")
        return volume


# ---- list --------------------------------------------------------------------------------------------------------


def list_entries(archive):
    letters = {"file": "-", "slice": "s", "directory": "d", "symlink": "l", "hard-link": "h"}
    for what, entry in archive.records():
        if what == "entry" and not archive.is_void(entry):
            target = f" -> {shown(entry.target)}" if entry.target is not None else ""
            print(f"{letters[entry.kind]} {entry.size:>15} {shown(entry.name)}{target}")


# ---- verify ------------------------------------------------------------------------------------------------------


class RawStream(io.RawIOBase):
    """The tar stream; checks each volume's digest on the way."""

    def __init__(self, archive, volumes):
        self.parts, self.rest = self.read_all(archive, volumes), b""

    @staticmethod
    def read_all(archive, volumes):
        for volume in volumes:
            if not archive.sealed:
                digest = hashlib.sha256()
                with archive.open_volume(volume).file as file:
                    for block in iter(lambda: file.read(1 << 20), b""):
                        digest.update(block)
                need(digest.hexdigest() == volume["sha256"], f"{volume['volume']}: it was changed")
            for _, frame in archive.frames(volume):
                yield frame

    def readable(self):
        return True

    def readinto(self, buffer):
        while not self.rest:
            try:
                self.rest = next(self.parts)
            except StopIteration:
                return 0
        count = min(len(buffer), len(self.rest))
        buffer[:count], self.rest = self.rest[:count], self.rest[count:]
        return count


def true_name(member):
    comment = member.pax_headers.get("comment")
    if comment is None:
        return member.name.encode("utf-8", "surrogateescape")
    if comment.startswith("b64:"):
        return base64.b64decode(comment[4:], validate=True)
    return comment.encode("utf-8", "surrogateescape")


def verify(archive):
    records = list(archive.records())
    volumes = [record for what, record in records if what == "volume"]
    entries = [record for what, record in records if what == "entry"]
    types = {"file": tarfile.REGTYPE, "slice": tarfile.REGTYPE, "directory": tarfile.DIRTYPE,
             "symlink": tarfile.SYMTYPE, "hard-link": tarfile.LNKTYPE}
    paths = TarPaths()
    stream = io.BufferedReader(RawStream(archive, volumes), 1 << 20)
    with tarfile.open(fileobj=stream, mode="r|", encoding="utf-8", errors="surrogateescape") as tar:
        members = iter(tar)
        for entry in entries:
            member = next(members, None)
            what = shown(entry.name)
            need(member is not None, f"{what}: the tar stream ends before it")
            path = paths.next(entry.name, entry.kind == "directory")
            link = paths.path(entry.target).encode() if entry.kind == "hard-link" else (entry.target or b"").replace(b"\0", b"%00")
            found = (true_name(member), member.name, member.type, member.size, member.offset_data)
            expected = (entry.name, path, types[entry.kind], entry.size, entry.offset)
            need(found == expected, f"{what}: the tar stream has {found} where the index has {expected}")
            # Python takes a slash at the end of a link away.
            need(member.linkname.encode("utf-8", "surrogateescape").rstrip(b"/") == link.rstrip(b"/"), f"{what}: its target differs")
            if entry.has_content:
                digest, content = hashlib.sha256(), tar.extractfile(member)
                for block in iter(lambda: content.read(1 << 20), b""):
                    digest.update(block)
                need(digest.hexdigest() == entry.sha256, f"{what}: its content is not what was backed up")
        rest = [member.name for member in members]
        need(rest in ([], [WARNINGS_FILE]), f"the tar stream has entries that the index does not know: {rest[:3]}")
    while stream.read(1 << 20):
        pass
    totals = archive.manifest["totals"]
    need(sum(e.size for e in entries) == totals.get("bytes", 0), "the contents do not make up the totals")
    print(f"{len(entries)} entries in {len(volumes)} volumes are as they were backed up; {totals.get('warnings', 0)} warnings")


# ---- extract -----------------------------------------------------------------------------------------------------


class Target:
    """A directory; nothing is ever written outside of it, nor through a symbolic link."""

    def __init__(self, path):
        os.makedirs(path, exist_ok=True)
        self.root = os.open(path, os.O_RDONLY | os.O_DIRECTORY)

    def parent(self, parts):
        """A descriptor of the directory that holds the last part; missing directories are made."""
        at = os.dup(self.root)
        for part in parts[:-1]:
            try:
                os.mkdir(part, 0o777, dir_fd=at)
            except FileExistsError:
                pass
            try:
                below = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=at)
            finally:
                os.close(at)
            at = below
        return at


def is_safe_name(name, paths):
    if b"\0" in name or any(p in (b"", b".", b"..") or len(p) > 255 for p in name.split(b"/")):
        return False
    below_file = any(name.startswith(f + b"/") for f in paths.files)
    return not below_file and name.split(b"/")[0] != WARNINGS_FILE.encode()


def place(name, paths):
    """Where an entry goes: its name, or its tar path when the name will not do."""
    return (name if is_safe_name(name, paths) else paths.path(name).encode()).split(b"/")


def owner(entry):
    """User and group id; -1, which changes nothing, for what is not known."""
    return tuple(entry.metadata.get(whose, {}).get("id", -1) for whose in ("user", "group"))


def apply_metadata(fd, entry, warn):
    metadata = entry.metadata
    if os.geteuid() == 0:
        os.fchown(fd, *owner(entry))
    for xattr in metadata.get("xattrs", []):
        try:
            os.setxattr(fd, byte_string(xattr["name"]), byte_string(xattr["value"]))
        except (OSError, AttributeError) as error:
            warn(f"{shown(entry.name)}: extended attribute: {error}")
    if "mode" in metadata:
        os.fchmod(fd, metadata["mode"] & 0o7777)
    if entry.mtime_ns is not None:
        os.utime(fd, ns=(entry.mtime_ns, entry.mtime_ns))


def extract(archive, output, wanted):
    target, paths, contents = Target(output), TarPaths(), Contents(archive)
    wanted = [os.fsencode(name).rstrip(b"/") for name in wanted]
    warnings, directories = [], []

    def warn(text):
        warnings.append(text)
        print(f"warning: {text}", file=sys.stderr)

    def is_wanted(name):
        return not wanted or any(name == w or name.startswith(w + b"/") for w in wanted)

    records = list(archive.records())
    contents.volumes = [record for what, record in records if what == "volume"]
    for entry in (record for what, record in records if what == "entry"):
        parts = place(entry.name, paths)
        paths.next(entry.name, entry.kind == "directory")
        if archive.is_void(entry) or not is_wanted(entry.name):
            continue
        try:
            extract_entry(target, entry, parts, paths, contents, directories, warn)
        except OSError as error:
            warn(f"{shown(entry.name)}: {error.strerror}")
    # Children change their directory's time; those below come first.
    for entry, parts in reversed(directories):
        parent = target.parent(parts + [b""])
        apply_metadata(parent, entry, warn)
        os.close(parent)
    need(not warnings, f"{len(warnings)} entries could not be extracted as they were")


def extract_entry(target, entry, parts, paths, contents, directories, warn):
    parent = target.parent(parts)
    try:
        if entry.kind == "directory":
            try:
                os.mkdir(parts[-1], 0o777, dir_fd=parent)
            except FileExistsError:
                need(stat.S_ISDIR(os.stat(parts[-1], dir_fd=parent, follow_symlinks=False).st_mode),
                     f"{shown(entry.name)}: something else is there")
            directories.append((entry, parts))
        elif entry.kind == "symlink":
            os.symlink(entry.target, parts[-1], dir_fd=parent)
            if os.geteuid() == 0:
                os.chown(parts[-1], *owner(entry), dir_fd=parent, follow_symlinks=False)
            if entry.mtime_ns is not None:
                os.utime(parts[-1], ns=(entry.mtime_ns, entry.mtime_ns), dir_fd=parent, follow_symlinks=False)
        elif entry.kind == "hard-link":
            earlier = place(entry.target, paths)
            source = target.parent(earlier)
            try:
                os.link(earlier[-1], parts[-1], src_dir_fd=source, dst_dir_fd=parent, follow_symlinks=False)
            finally:
                os.close(source)
        else:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
            with open(os.open(parts[-1], flags, 0o600, dir_fd=parent), "wb") as file:
                digest = hashlib.sha256()
                try:
                    for part in contents.read(entry):
                        digest.update(part)
                        file.write(part)
                    need(digest.hexdigest() == entry.sha256, f"{shown(entry.name)}: its content is not what was backed up")
                except BaseException:
                    os.unlink(parts[-1], dir_fd=parent)
                    raise
                file.flush()
                if "mode" not in entry.metadata:
                    os.fchmod(file.fileno(), 0o644)
                apply_metadata(file.fileno(), entry, warn)
    finally:
        os.close(parent)


def main():
    parser = argparse.ArgumentParser(description="Reads backup archives of format 1.")
    parser.add_argument("command", choices=["list", "verify", "extract"])
    parser.add_argument("archive", help="the archive's directory")
    parser.add_argument("names", nargs="*", help="extract: only these entries and what lies below them")
    parser.add_argument("--output", help="extract: where to; nothing that exists is overwritten")
    parser.add_argument("--key-file", help="file with the key of a sealed archive")
    parser.add_argument("--passphrase-env", metavar="VARIABLE", help="environment variable with the passphrase of a sealed archive")
    options = parser.parse_intermixed_args()
    if (options.command == "extract") != (options.output is not None):
        parser.error("extract needs --output, and only extract does")
    if options.command != "extract" and options.names:
        parser.error("only extract takes names")
    try:
        key_file = passphrase = None
        if options.key_file:
            with open(options.key_file, encoding="utf-8") as file:
                key_file = file.read()
        if options.passphrase_env:
            passphrase = os.environ.get(options.passphrase_env)
            need(passphrase, f"the environment variable {options.passphrase_env} is not set")
        archive = Archive(options.archive, key_file, passphrase)
        if options.command == "list":
            list_entries(archive)
        elif options.command == "verify":
            verify(archive)
        else:
            extract(archive, options.output, options.names)
    except (ArchiveError, OSError, tarfile.TarError) as error:
        sys.exit(f"error: {error}")
    except (KeyError, TypeError, ValueError) as error:
        sys.exit(f"error: the archive cannot be understood: {error!r}")


if __name__ == "__main__":
    main()
