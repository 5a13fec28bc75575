#!/usr/bin/env python3
"""Reads a tiled transparency log and checks it: an independent reader, written from the specifications alone.

Specifications: C2SP signed-note, tlog-checkpoint, tlog-tiles, tlog-proof; RFC 6962 section 2.1 (hashes); RFC 9162
sections 2.1.3.2 and 2.1.4.2 (checking proofs); RFC 8032 (Ed25519). It knows nothing of Wardmesh: neither of its segments
nor of what an entry means. Standard library only.

    tlog_reader.py LOG --key VKEY              check checkpoint, entry bundles, tiles, and proofs made from the tiles
    tlog_reader.py --batch --key VKEY          the same for each folder named on standard input, one answer a line
    tlog_reader.py --proof FILE --key VKEY [--record FILE]    check a tlog-proof of a record (else of its extra data)

Each answer is one JSON object: {"ok": true, "origin": ..., "size": ..., "root": ...} or {"ok": false, "what": ...}.
Exit codes: 0 all is well, 1 something is not, 2 wrong usage.
"""

import argparse
import base64
import binascii
import hashlib
import json
import pathlib
import sys

WIDTH = 256


class Wrong(Exception):
    """What does not fit."""


# RFC 8032 section 5.1: Ed25519 over edwards25519, in extended coordinates.

P = 2**255 - 19
L = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, P - 2, P) % P
SQRT_M1 = pow(2, (P - 1) // 4, P)


def point_add(a, b):
    u = (a[1] - a[0]) * (b[1] - b[0]) % P
    v = (a[1] + a[0]) * (b[1] + b[0]) % P
    w = 2 * a[3] * b[3] * D % P
    z = 2 * a[2] * b[2] % P
    e, f, g, h = v - u, z - w, z + w, v + u
    return (e * f % P, g * h % P, f * g % P, e * h % P)


def point_mul(scalar, point):
    result = (0, 1, 1, 0)
    while scalar:
        if scalar & 1:
            result = point_add(result, point)
        point = point_add(point, point)
        scalar >>= 1
    return result


def point_decode(data):
    y = int.from_bytes(data, "little")
    sign, y = y >> 255, y & (1 << 255) - 1
    if y >= P:
        return None
    x2 = (y * y - 1) * pow(D * y * y + 1, P - 2, P) % P
    x = pow(x2, (P + 3) // 8, P)
    if (x * x - x2) % P:
        x = x * SQRT_M1 % P
    if (x * x - x2) % P or (x == 0 and sign):
        return None
    if x & 1 != sign:
        x = P - x
    return (x, y, 1, x * y % P)


def point_encode(point):
    inverse = pow(point[2], P - 2, P)
    x, y = point[0] * inverse % P, point[1] * inverse % P
    return (y | (x & 1) << 255).to_bytes(32, "little")


BASE = point_decode((4 * pow(5, P - 2, P) % P).to_bytes(32, "little"))


def ed25519_verifies(public, message, signature):
    if len(signature) != 64:
        return False
    r, s = signature[:32], int.from_bytes(signature[32:], "little")
    a = point_decode(public)
    if a is None or s >= L:
        return False
    k = int.from_bytes(hashlib.sha512(r + public + message).digest(), "little") % L
    minus_a = (P - a[0], a[1], a[2], P - a[3])
    return point_encode(point_add(point_mul(s, BASE), point_mul(k, minus_a))) == r


# C2SP signed-note and tlog-checkpoint.


def from_base64(text):
    """RFC 4648 section 4, and nothing that decodes to the same bytes."""
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise Wrong("not base64") from error
    if base64.b64encode(data).decode() != text:
        raise Wrong("not canonical base64")
    return data


def is_key_name(name):
    return bool(name) and "+" not in name and not any(c.isspace() for c in name)


class Key:
    """A verifier key: name+hash+key."""

    def __init__(self, text):
        name, hash_, key = text.strip().split("+", 2)
        data = from_base64(key)
        if not is_key_name(name) or len(data) != 33 or data[0] != 1:
            raise Wrong("the verifier key is no Ed25519 key with a name")
        self.name, self.public = name, data[1:]
        self.id = hashlib.sha256(name.encode() + b"\n" + data).digest()[:4]
        if self.id.hex() != hash_:
            raise Wrong("the verifier key's hash is not its own")


def open_checkpoint(data, key):
    """Origin, size and root of a checkpoint that the key signed."""
    try:
        note = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Wrong("the checkpoint is not text") from error
    if any(c < " " and c != "\n" for c in note):
        raise Wrong("the note has a control character")
    at = note.rfind("\n\n")
    if at < 0 or not note.endswith("\n"):
        raise Wrong("the note has no signatures")
    text, signed = note[: at + 1], False
    for line in note[at + 2 : -1].split("\n"):
        fields = line.split(" ")
        if len(fields) != 3 or fields[0] != "\u2014" or not is_key_name(fields[1]):
            raise Wrong("a line of the note is no signature")
        signature = from_base64(fields[2])
        if len(signature) < 5:
            raise Wrong("a signature is too short")
        if fields[1] == key.name and signature[:4] == key.id:
            if not ed25519_verifies(key.public, text.encode(), signature[4:]):
                raise Wrong("the signature is not by the key")
            signed = True
    if not signed:
        raise Wrong("the key did not sign the checkpoint")
    lines = text[:-1].split("\n")
    if len(lines) < 3 or not all(lines):
        raise Wrong("the checkpoint has not its lines")
    if not lines[1].isascii() or not lines[1].isdigit() or str(int(lines[1])) != lines[1] or int(lines[1]) >= 2**64:
        raise Wrong("the checkpoint's size is no number")
    root = from_base64(lines[2])
    if len(root) != 32:
        raise Wrong("the checkpoint's root is no hash")
    return lines[0], int(lines[1]), root


# RFC 6962 section 2.1.


def leaf_hash(data):
    return hashlib.sha256(b"\0" + data).digest()


def node_hash(left, right):
    return hashlib.sha256(b"\1" + left + right).digest()


def split(n):
    """The largest power of two below n."""
    return 1 << (n - 1).bit_length() - 1


# RFC 9162 section 2.1.3.2 and 2.1.4.2.


def includes(leaf, index, size, path, root):
    if index >= size:
        return False
    fn, sn, r = index, size - 1, leaf
    for p in path:
        if sn == 0:
            return False
        if fn & 1 or fn == sn:
            r = node_hash(p, r)
            while not fn & 1 and fn:
                fn, sn = fn >> 1, sn >> 1
        else:
            r = node_hash(r, p)
        fn, sn = fn >> 1, sn >> 1
    return sn == 0 and r == root


def extends(first, first_root, second, second_root, path):
    if first == second:
        return not path and first_root == second_root
    path = [first_root] + path if first & (first - 1) == 0 else list(path)
    if not path:
        return False
    fn, sn = first - 1, second - 1
    while fn & 1:
        fn, sn = fn >> 1, sn >> 1
    fr = sr = path[0]
    for c in path[1:]:
        if sn == 0:
            return False
        if fn & 1 or fn == sn:
            fr, sr = node_hash(c, fr), node_hash(c, sr)
            while not fn & 1 and fn:
                fn, sn = fn >> 1, sn >> 1
        else:
            sr = node_hash(sr, c)
        fn, sn = fn >> 1, sn >> 1
    return fr == first_root and sr == second_root and sn == 0


# C2SP tlog-tiles.


def tile_path(kind, number):
    parts = [f"{number % 1000:03}"]
    while number >= 1000:
        number //= 1000
        parts.insert(0, f"x{number % 1000:03}")
    return "/".join(["tile", str(kind)] + parts)


class Log:
    def __init__(self, folder, key):
        self.folder = pathlib.Path(folder)
        self.origin, self.size, self.root = open_checkpoint(self.read("checkpoint"), key)
        self.tiles = {}

    def read(self, name):
        try:
            return (self.folder / name).read_bytes()
        except (FileNotFoundError, NotADirectoryError) as error:
            raise Wrong(f"{name} is missing") from error

    def resource(self, kind, number, width):
        """A tile or bundle that the checkpoint requires: the full one, or where it is partial the one of this width."""
        full = tile_path(kind, number)
        if width == WIDTH or (self.folder / full).exists():
            return full, self.read(full)
        partial = f"{full}.p/{width}"
        return partial, self.read(partial)

    def partials(self, kind, number):
        """Every partial form of a tile that is still there, with its width."""
        folder = self.folder / (tile_path(kind, number) + ".p")
        if folder.is_dir():
            for path in folder.iterdir():
                if path.name.isascii() and path.name.isdigit() and str(int(path.name)) == path.name:
                    if 1 <= int(path.name) < WIDTH:
                        yield int(path.name), path

    def check_forms(self, kind, number, whole, ends):
        """All forms of a tile say the same, as far as the checkpoint reaches."""
        full = self.folder / tile_path(kind, number)
        forms = list(self.partials(kind, number)) + ([(WIDTH, full)] if full.exists() else [])
        for width, path in forms:
            data, end = path.read_bytes(), ends[min(width, len(ends) - 1)]
            if data[:end] != whole[:end] or (width < len(ends) and len(data) != end):
                raise Wrong(f"{path.relative_to(self.folder)} does not hold what it must")

    def widths(self, level):
        """Number and width of each tile of a level."""
        hashes = self.size >> 8 * level
        for number in range((hashes + WIDTH - 1) // WIDTH):
            yield number, min(WIDTH, hashes - number * WIDTH)

    def check(self):
        below = []
        for number, width in self.widths(0):
            name, bundle = self.resource("entries", number, width)
            ends = [0]
            while len(ends) <= width:
                at = ends[-1]
                end = at + 2 + int.from_bytes(bundle[at : at + 2], "big")
                if len(bundle) < at + 2 or end > len(bundle):
                    raise Wrong(f"{name} ends inside an entry")
                below.append(leaf_hash(bundle[at + 2 : end]))
                ends.append(end)
            self.check_forms("entries", number, bundle, ends)
        level = 0
        while below:
            for number, width in self.widths(level):
                name, tile = self.resource(level, number, width)
                expected = b"".join(below[number * WIDTH : number * WIDTH + width])
                if tile[: len(expected)] != expected:
                    raise Wrong(f"{name} does not hold the hashes of what is below")
                self.tiles[level, number] = expected
                self.check_forms(level, number, expected, [32 * n for n in range(width + 1)])
            full = len(below) // WIDTH
            below = [self.subtree(level, number * WIDTH, WIDTH) for number in range(full)]
            level += 1
        if self.tree(0, self.size) != self.root:
            raise Wrong("the tiles do not have the root in the checkpoint")
        self.check_proofs()

    def subtree(self, level, first, n):
        """The root over n hashes of a level within one tile; n is a power of two."""
        tile = self.tiles[level, first // WIDTH]
        row = [tile[32 * i : 32 * i + 32] for i in range(first % WIDTH, first % WIDTH + n)]
        while len(row) > 1:
            row = [node_hash(row[i], row[i + 1]) for i in range(0, len(row), 2)]
        return row[0]

    def tree(self, start, n):
        """MTH(D[start:start + n]) from the tiles."""
        if n == 0:
            return hashlib.sha256(b"").digest()
        if n & (n - 1) == 0:
            level = (n.bit_length() - 1) // 8
            return self.subtree(level, start >> 8 * level, n >> 8 * level)
        k = split(n)
        return node_hash(self.tree(start, k), self.tree(start + k, n - k))

    def inclusion(self, m, start, n):
        """PATH(m, D[start:start + n])."""
        if n == 1:
            return []
        k = split(n)
        if m < k:
            return self.inclusion(m, start, k) + [self.tree(start + k, n - k)]
        return self.inclusion(m - k, start + k, n - k) + [self.tree(start, k)]

    def consistency(self, m, start, n, whole):
        """SUBPROOF(m, D[start:start + n], whole)."""
        if m == n:
            return [] if whole else [self.tree(start, n)]
        k = split(n)
        if m <= k:
            return self.consistency(m, start, k, whole) + [self.tree(start + k, n - k)]
        return self.consistency(m - k, start + k, n - k, False) + [self.tree(start, k)]

    def check_proofs(self):
        """Some proofs of each kind, at the borders and between."""
        some = {0, 1, self.size // 3, self.size // 2, self.size - 2, self.size - 1, 255, 256, 257}
        for index in sorted(i for i in some if 0 <= i < self.size):
            leaf, path = self.tree(index, 1), self.inclusion(index, 0, self.size)
            if not includes(leaf, index, self.size, path, self.root):
                raise Wrong(f"entry {index} has no inclusion proof")
            if index > 0:
                path = self.consistency(index, 0, self.size, True)
                if not extends(index, self.tree(0, index), self.size, self.root, path):
                    raise Wrong(f"size {index} has no consistency proof")


def check_log(folder, key):
    try:
        log = Log(folder, key)
        log.check()
        return {"ok": True, "origin": log.origin, "size": log.size, "root": base64.b64encode(log.root).decode()}
    except Wrong as wrong:
        return {"ok": False, "what": str(wrong)}


def check_proof(data, record, key):
    """C2SP tlog-proof."""
    try:
        head, _, checkpoint = data.partition(b"\n\n")
        lines = head.decode("utf-8").split("\n")
        if lines.pop(0) != "c2sp.org/tlog-proof@v1":
            raise Wrong("the file is no tlog-proof")
        extra = from_base64(lines.pop(0)[len("extra ") :]) if lines and lines[0].startswith("extra ") else None
        word, _, digits = lines.pop(0).partition(" ") if lines else ("", "", "")
        if word != "index" or not digits.isdigit() or str(int(digits)) != digits:
            raise Wrong("the proof has no index")
        origin, size, root = open_checkpoint(checkpoint, key)
        record = extra if record is None else record
        if record is None or not includes(leaf_hash(record), int(digits), size, [from_base64(l) for l in lines], root):
            raise Wrong("the proof does not lead from the record to the checkpoint")
        return {"ok": True, "origin": origin, "size": size, "index": int(digits)}
    except Wrong as wrong:
        return {"ok": False, "what": str(wrong)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("log", nargs="?")
    parser.add_argument("--key", required=True)
    parser.add_argument("--batch", action="store_true")
    parser.add_argument("--proof")
    parser.add_argument("--record")
    args = parser.parse_args()
    key = Key(args.key)
    if args.batch:
        answers = (check_log(line.rstrip("\n"), key) for line in sys.stdin)
    elif args.proof:
        record = pathlib.Path(args.record).read_bytes() if args.record else None
        answers = iter([check_proof(pathlib.Path(args.proof).read_bytes(), record, key)])
    elif args.log:
        answers = iter([check_log(args.log, key)])
    else:
        parser.error("which log?")
    good = True
    for answer in answers:
        print(json.dumps(answer), flush=True)
        good &= answer["ok"]
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
