"""Damaged and hostile variants of good inputs, each a function of a random.Random alone."""

import io
import json
import random
import re
import struct
import zipfile
import zlib
from collections.abc import Callable
from typing import Any

Mutation = Callable[[random.Random, bytes], bytes]

NUMBERS = (0, 1, 2, 7, 127, 128, 255, 256, 2**15, 2**16 - 1, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**62,
           2**63 - 1, 2**63, 2**64 - 1)  # fmt: skip


class Literal(str):
    """A piece of JSON as it stands, valid or not."""


VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 0.5, 1e308, -1e308, 2**31, 2**53 + 1, 2**62, 2**64, 10**12, 10**400, "", "x",
    "\0", "\n", "\ud800", "\udcff", "é" * 50, "../../etc/passwd", "/dev/zero", "a" * 100_000, [], {}, [[]], [None],
    {"": {}}, [1, 2, 3], ["a", 1], {"train": {}}, Literal("NaN"), Literal("Infinity"), Literal("-Infinity"),
    Literal("1e400"), Literal("9" * 5000), Literal("[" * 5000 + "]" * 5000), Literal('{"a":' * 3000 + "1" + "}" * 3000),
    Literal("[" * 90 + "]" * 90), Literal("tru"), Literal("'x'"), Literal(""),
)  # fmt: skip


def damaged(draw: random.Random, content: bytes) -> bytes:
    """Some bytes changed, inserted, repeated or gone."""
    data = bytearray(content)
    for _ in range(draw.choice((1, 1, 1, 2, 4, 16))):
        if not data:
            return draw.randbytes(draw.randrange(64))
        at = draw.randrange(len(data))
        kind = draw.randrange(9)
        if kind == 0:
            data[at] ^= 1 << draw.randrange(8)
        elif kind == 1:
            data[at] = draw.choice((0, 1, 127, 128, 255, draw.randrange(256)))
        elif kind in (2, 3):
            width, order = draw.choice((2, 4, 8)), draw.choice(("little", "big"))
            number = draw.choice(NUMBERS) % 256**width
            data[at : at + width] = number.to_bytes(width, order)
        elif kind == 4:
            del data[at:]
        elif kind == 5:
            del data[at : at + draw.randrange(1, 64)]
        elif kind == 6:
            data[at:at] = data[at : at + draw.randrange(1, 64)]
        elif kind == 7:
            data[at:at] = bytes([draw.choice((0, 255, 10, 34))]) * draw.randrange(1, 64)
        else:
            other = draw.randrange(len(data))
            data[at : at + 16] = data[other : other + 16]
    return bytes(data)


def json_value(draw: random.Random, value: Any) -> Any:
    """`value` with one or two of its parts replaced, removed or added."""
    for _ in range(draw.choice((1, 1, 2))):
        value = _changed(draw, value)
    return value


def _changed(draw: random.Random, value: Any) -> Any:
    if not isinstance(value, dict | list) or not value or draw.random() < 0.15:
        if isinstance(value, int | float) and not isinstance(value, bool) and draw.random() < 0.3:
            return draw.choice((-value, value + 1, value * 10**6, str(value)[:40]))
        return draw.choice(VALUES)
    if isinstance(value, dict):
        key = draw.choice(sorted(value))
        kind = draw.randrange(8)
        if kind == 0:
            return {k: v for k, v in value.items() if k != key}
        if kind == 1:
            return value | {draw.choice(("", "x", key + " ", "\0", "\ud800")): draw.choice(VALUES)}
        if kind == 2:
            renamed = draw.choice((key.upper(), key + "1", "../" + key, "__class__"))
            return {renamed if k == key else k: v for k, v in value.items()}
        return value | {key: _changed(draw, value[key])}
    at = draw.randrange(len(value))
    kind = draw.randrange(5)
    if kind == 0:
        return value[:at] + value[at + 1 :]
    if kind == 1:
        return value + [value[at]] * draw.choice((1, 1, 2000))
    return [*value[:at], _changed(draw, value[at]), *value[at + 1 :]]


def dumped(value: Any) -> bytes:
    """JSON, in which Literals stand as they are."""
    found: list[str] = []

    def marked(item: Any) -> Any:
        if isinstance(item, Literal):
            found.append(item)
            return f"@literal {len(found) - 1}@"
        if isinstance(item, dict):
            return {key: marked(one) for key, one in item.items()}
        return [marked(one) for one in item] if isinstance(item, list) else item

    text = json.dumps(marked(value))
    return re.sub(r'"@literal (\d+)@"', lambda match: found[int(match[1])], text).encode()


def json_file(draw: random.Random, content: bytes) -> bytes:
    if draw.random() < 0.25:
        return damaged(draw, content)
    return dumped(json_value(draw, json.loads(content)))


def json_lines(draw: random.Random, content: bytes) -> bytes:
    if draw.random() < 0.4:
        return damaged(draw, content)
    lines = content.splitlines()
    at = draw.randrange(len(lines))
    lines[at] = json_file(draw, lines[at])
    return b"\n".join(lines) + b"\n"


def safetensors(draw: random.Random, content: bytes) -> bytes:
    """Mostly changes of the header, and of the JSON in its metadata; its length is kept right."""
    if draw.random() < 0.3:
        return damaged(draw, content)
    size = int.from_bytes(content[:8], "little")
    header, data = json.loads(content[8 : 8 + size]), content[8 + size :]
    if draw.random() < 0.7:
        metadata = header["__metadata__"]
        key = draw.choice(sorted(metadata))
        with_json = key in ("config", "class_names", "step")
        changed = json_file(draw, metadata[key].encode()) if with_json else draw.choice(VALUES)
        text = changed.decode(errors="surrogateescape") if with_json else changed
        header["__metadata__"] = metadata | {key: text}
    elif draw.random() < 0.5:
        name = draw.choice([key for key in header if key != "__metadata__"])
        types = ("F64", "F16", "BF16", "F8_E4M3", "F8_E5M2", "F4", "I64", "U8", "BOOL", "C64", "x")
        header[name] = header[name] | {"dtype": draw.choice(types)}
    else:
        header = json_value(draw, header)
    encoded = dumped(header)
    return struct.pack("<Q", len(encoded)) + encoded + data


def npy(draw: random.Random, content: bytes) -> bytes:
    """An array whose header says something else, or whose values are odd."""
    kind = draw.randrange(4)
    length = int.from_bytes(content[8:10], "little")
    header, data = content[10 : 10 + length], content[10 + length :]
    if kind == 0:
        return damaged(draw, content)
    if kind == 1:  # values
        nan = draw.choice((b"\0\0\xc0\x7f", b"\0\0\x80\x7f", b"\xff\xff\xff\xff", b"\0\0\0\x80"))
        at = draw.randrange(max(len(data) // 4, 1)) * 4
        return content[: 10 + length] + data[:at] + nan + data[at + 4 :]
    if kind == 2:
        new = damaged(draw, header.rstrip())
    else:
        old = re.search(rb"\((.*?)\)", header)
        shapes = (b"-1", b"0", b"1", b"3, 3", b"9" * 30, b"99999999999", b"2**40", b"1,", b"", b"1.5", b"'a'",
                  b"4294967296, 4294967296", b"True", b"(" * 500)  # fmt: skip
        types = (b"'|O'", b"'<f8'", b"'<f2'", b"'>f4'", b"'|V4'", b"'<U99999999'", b"'<U1'", b"[('a', '<i4')]",
                 b"'<M8[s]'", b"'<i4'", b"''", b"'|b1'", b"'<c8'")  # fmt: skip
        if draw.random() < 0.5 and old:
            new = header.replace(old[0], b"(" + draw.choice(shapes) + b")")
        else:
            new = re.sub(
                rb"'descr': .*?, 'f", lambda _: b"'descr': " + draw.choice(types) + b", 'f", header
            )
    new = new.rstrip(b"\n ") + b"\n"
    if len(new) > 65535:
        new = new[:65535]
    return content[:8] + struct.pack("<H", len(new)) + new + data


def npz(draw: random.Random, content: bytes) -> bytes:
    """Members changed under sums that fit, or the archive damaged."""
    if draw.random() < 0.3:
        return damaged(draw, content)
    source, made = zipfile.ZipFile(io.BytesIO(content)), io.BytesIO()
    names = source.namelist()
    victim = draw.choice(names)
    with zipfile.ZipFile(
        made, "w", draw.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
    ) as archive:
        for name in names:
            data = source.read(name)
            if name == victim:
                kind = draw.randrange(6)
                if kind == 0:
                    continue
                if kind == 1:
                    name = draw.choice(("x.npy", name.removesuffix(".npy"), "../" + name))
                data = npy(draw, data)
                if draw.random() < 0.01:
                    data = data[:128] + bytes(2**27)
            archive.writestr(name, data)
    return made.getvalue()


def tar(draw: random.Random, content: bytes) -> bytes:
    """Fields of a header changed, with a checksum that fits."""
    if draw.random() < 0.3:
        return damaged(draw, content)
    data = bytearray(content)
    heads = [at for at in range(0, len(data), 512) if data[at + 257 : at + 262] == b"ustar"]
    at = draw.choice(heads)
    start, length = draw.choice(
        ((0, 100), (100, 8), (124, 12), (124, 12), (156, 1), (257, 8), (345, 155))
    )
    numbers = (b"-0000000512", b"+1", b"0o17", b"7777777_777", b" ", b"99999999999", b"77777777777", b"\xff" * 12,
               b"\x80" + b"\xff" * 11, b"\x80" + (2**63 - 1).to_bytes(11, "big"), b"\x80" + (2**62).to_bytes(11, "big"),
               b"00000000000", b"1", b"L", b"x", b"g", b"K", b"5", b"2", b"S", b"../x", b"/x", b"\xff\xfe",
               draw.randbytes(length))  # fmt: skip
    data[at + start : at + start + length] = draw.choice(numbers)[:length].ljust(length, b"\0")
    data[at + 148 : at + 156] = b" " * 8
    data[at + 148 : at + 156] = b"%06o\0 " % sum(data[at : at + 512])
    return bytes(data)


def zip_(draw: random.Random, content: bytes) -> bytes:
    """Fields of the directory and of headers set to numbers of any size, zip64 ones among them."""
    kind = draw.randrange(3)
    if kind == 0:
        return damaged(draw, content)
    data = bytearray(content)
    places = [m.start() for m in re.finditer(rb"PK\x01\x02|PK\x03\x04|PK\x05\x06", content)]
    at = draw.choice(places)
    if kind == 1:
        width = draw.choice((2, 4))
        place = at + draw.randrange(4, 44)
        data[place : place + width] = (draw.choice(NUMBERS) % 256**width).to_bytes(width, "little")
        return bytes(data)
    # A zip64 extra field with one, two or three numbers in the first entry of the directory.
    at = content.index(b"PK\1\2")
    count = draw.randrange(1, 4)
    extra = struct.pack("<2H", 1, 8 * count) + b"".join(
        struct.pack("<Q", draw.choice(NUMBERS)) for _ in range(count)
    )
    name_length = int.from_bytes(data[at + 28 : at + 30], "little")
    for field in draw.sample((20, 24, 42), count):
        data[at + field : at + field + 4] = b"\xff" * 4
    old = int.from_bytes(data[at + 30 : at + 32], "little")
    data[at + 30 : at + 32] = struct.pack("<H", old + len(extra))
    data[at + 46 + name_length : at + 46 + name_length] = extra
    end = data.rindex(b"PK\5\6")
    size = int.from_bytes(data[end + 12 : end + 16], "little") + len(extra)
    data[end + 12 : end + 16] = struct.pack("<L", size)
    return bytes(data)


def png(draw: random.Random, content: bytes) -> bytes:
    """A chunk changed, repeated or gone, with a sum that fits."""
    if content[:4] != b"\x89PNG" or draw.random() < 0.3:
        return damaged(draw, content)
    chunks, at = [], 8
    while at + 8 <= len(content):
        length = int.from_bytes(content[at : at + 4], "big")
        chunks.append((content[at + 4 : at + 8], content[at + 8 : at + 8 + length]))
        at += 12 + length
    i = draw.randrange(len(chunks))
    name, body = chunks[i]
    kind = draw.randrange(4)
    if kind == 0:
        del chunks[i]
    elif kind == 1:
        chunks.insert(i, chunks[i])
    elif kind == 2:
        chunks[i] = (
            draw.choice((b"tRNS", b"PLTE", b"eXIf", b"acTL", b"fcTL", b"gAMA", b"IDAT")),
            body,
        )
    else:
        chunks[i] = name, damaged(draw, body)
    encoded = (
        struct.pack(">L", len(b)) + n + b + struct.pack(">L", zlib.crc32(n + b)) for n, b in chunks
    )
    return content[:8] + b"".join(encoded)


def overrides(draw: random.Random, content: bytes) -> bytes:
    """Command lines of a config: arguments, a line each."""
    arguments = content.split(b"\n")
    chosen = draw.sample(arguments, draw.choice((1, 1, 1, 2, 3)))
    made = []
    for argument in chosen:
        key, _, value = argument.partition(b"=")
        values = (b"", b"0", b"-1", b"1e308", b"-1e308", b"1e999", b"nan", b"inf", b"-inf", b"2147483648", b"10" * 20,
                  b"9" * 5000, b"None", b"True", b"()", b"(1,", b"[1,2]", b"(" * 300, b"{}", b"\xff", b"\xed\xa0\x80",
                  b"1e6", b"9223372036854775808", b"x" * 9999, b"1_000", b"0x10", b"'", b'"', b"act")  # fmt: skip
        value = draw.choice(values) if draw.random() < 0.8 else damaged(draw, value)
        if draw.random() < 0.1:
            key = damaged(draw, key)
        made.append(key + b"=" + value.replace(b"\n", b" ") if draw.random() < 0.95 else key)
    return b"\n".join(one.replace(b"\n", b" ").replace(b"\0", b" ") for one in made)


def http(draw: random.Random, content: bytes) -> bytes:
    """Requests with other words and lengths."""
    if draw.random() < 0.4:
        return damaged(draw, content)
    head, _, body = content.partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    at = draw.randrange(len(lines))
    words = (b"GET / HTTP/1.1", b"POST /explain?class=99999999999 HTTP/1.0", b"PUT /explain HTTP/1.1",
             b"Content-Length: +5",
             b"GET /" + b"a" * 70_000, b"Content-Length: -1", b"Content-Length: 99999999999999999999",
             b"HEAD / HTTP/1.1", b"Content-Length: 1",
             b"Content-Length: 33554433", b"Host: evil.example", b"Host: ", b"Origin: null", b"Expect: 100-continue",
             b"Transfer-Encoding: chunked", b"X: " + b"y" * 70_000, b"\0", b"\xff" * 9, b" x: y")  # fmt: skip
    if draw.random() < 0.3:
        del lines[at]
    elif draw.random() < 0.3:
        lines.insert(at, lines[at])
    else:
        lines[at : at + draw.randrange(2)] = [draw.choice(words)] * draw.choice((1, 1, 200))
    return (
        b"\r\n".join(lines) + b"\r\n\r\n" + (damaged(draw, body) if draw.random() < 0.5 else body)
    )
