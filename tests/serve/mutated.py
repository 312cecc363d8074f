"""Images of each accepted format, changed by its structure and by bytes; a seed gives the file."""

import random
import struct
import zlib

from originals import PNG, originals, png_of

MOST_BYTES = 4_000_000
NUMBERS = [0, 1, 2, 3, 7, 8, 16, 100, 127, 128, 255, 256, 4000, 7000, 32767, 32768, 65535, 65536]
NUMBERS += [2**24, 2**31 - 1, 2**31, 2**32 - 2, 2**32 - 1]
TIMES = [1, 1, 1, 2, 3, 10, 100, 3000, 100_000]
CHUNKS = b"IHDR PLTE IDAT IEND tRNS gAMA cHRM sRGB iCCP tEXt zTXt iTXt eXIf pHYs acTL fcTL fdAT"
PIXELS = [b"", b"\0", *(bytes([marker]) for marker in range(0xD0, 0xD8))]  # after FF, in a JPEG
TYPES = {1: 1, 3: 2, 4: 4, 5: 8, 13: 4, 16: 8}  # bytes of a value in TIFF


def mutated(kind, seed):
    """The file of this format and seed."""
    chance = random.Random(f"{kind} {seed}")
    data = chance.choice(originals(kind))
    for _ in range(chance.choice([1, 1, 2, 4])):
        split, names, joined = FORMATS[kind]
        parts = split(data)
        if len(parts) > 1 and chance.random() < 0.75:
            change(parts, names, chance)
            data = joined(parts, data, chance)
        else:
            data = with_other_bytes(data, chance)
        data = data[:MOST_BYTES]
    return data


def change(parts, names, chance):
    """Repeat, move, remove or change chunks, segments or entries, which are names and bodies."""
    at = chance.randrange(len(parts))
    name, body = parts[at]
    match chance.choice(["repeat", "move", "remove", "fill", "new", *["other"] * 3]):
        case "repeat":
            times = min(chance.choice(TIMES), MOST_BYTES // (len(body) + 8))
            parts[at:at] = [(name, body)] * times
        case "move":
            parts.insert(chance.randrange(len(parts)), parts.pop(at))
        case "remove":
            del parts[at]
        case "new":
            parts.insert(at, (chance.choice(names), with_other_bytes(body, chance)))
        case "fill":
            parts[at] = name, with_long_content(body, chance)
        case _:
            parts[at] = name, with_other_bytes(body, chance)


def with_other_bytes(data, chance):
    """Flip a bit, write a number, insert, remove, cut or repeat."""
    at, length = chance.randrange(len(data) + 1), chance.choice([1, 2, 4, 8, 50, 1000])
    match chance.choice(["flip", "number", "number", "insert", "remove", "cut", "repeat"]):
        case "flip" if at < len(data):
            return data[:at] + bytes([data[at] ^ 1 << chance.randrange(8)]) + data[at + 1 :]
        case "number":
            size, order = chance.choice([1, 2, 4]), chance.choice(["little", "big"])
            number = chance.choice(NUMBERS) % 256**size
            return data[:at] + number.to_bytes(size, order) + data[at + size :]
        case "insert":
            return data[:at] + chance.randbytes(length) + data[at:]
        case "cut":
            return data[:at]
        case "repeat":
            times = min(chance.choice(TIMES), MOST_BYTES // length)
            return data[:at] + data[at : at + length] * times + data[at:]
    return data[:at] + data[at + length :]


def with_long_content(body, chance):
    content = bytes([chance.choice([0, 8, 255])]) * chance.choice([0, 10, 1000, 10**6, 10**8])
    start = chance.choice([b"", b"", body[:2], b"name\0\0"])
    return chance.choice([body + content[:MOST_BYTES], start + zlib.compress(content, 1)])


def png_parts(data):
    parts, at = [], len(PNG)
    while at + 8 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        parts.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += 12 + length
    return parts


def png_joined(parts, _, chance):
    data = png_of(parts)
    if chance.random() < 0.1:  # the length of a chunk, whose sum does not count it
        at = data.find(chance.choice(parts)[0])
        data = data[: at - 4] + struct.pack(">I", chance.choice(NUMBERS)) + data[at:]
    return data


def webp_parts(data):
    parts, at = [], 12
    while at + 8 <= len(data):
        (length,) = struct.unpack_from("<I", data, at + 4)
        parts.append((data[at : at + 4], data[at + 8 : at + 8 + length]))
        at += 8 + length + length % 2
    return parts


def webp_joined(parts, _, chance):
    pieces = [name + struct.pack("<I", len(b)) + b + b"\0" * (len(b) % 2) for name, b in parts]
    content = b"WEBP" + b"".join(pieces)
    length = len(content) if chance.random() < 0.9 else chance.choice(NUMBERS)
    return b"RIFF" + struct.pack("<I", length) + content


def jpeg_parts(data):
    """Segments, each with the pixels that follow it."""
    parts, at = [], 2
    while at + 4 <= len(data) and data[at + 1] != 0xD9:
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        while (end := data.find(b"\xff", end)) >= 0 and data[end + 1 : end + 2] in PIXELS:
            end += 1
        end = end if end > at else len(data)
        parts.append((data[at + 1 : at + 2], data[at + 4 : end]))
        at = end
    return parts


def jpeg_joined(parts, _, chance):
    pieces = []
    for name, body in parts:
        scan = name == b"\xda" and body  # pixels follow its head
        length = (4 + 2 * body[0] if scan else len(body)) + 2
        if chance.random() < 0.01:
            length = chance.choice(NUMBERS)
        fill = b"\xff" * (chance.choice(TIMES) if chance.random() < 0.01 else 1)
        pieces.append(fill + name + (length % 65536).to_bytes(2, "big") + body)
    return b"".join([b"\xff\xd8", *pieces, b"\xff\xd9"])


def tiff_parts(data):
    """Entries of the first directory, as tag and the other ten bytes; none of BigTIFF."""
    if data[:4] != b"II*\0" or len(data) < 8:
        return []
    at = int.from_bytes(data[4:8], "little")
    count = int.from_bytes(data[at : at + 2], "little")
    entries = [data[start : start + 12] for start in range(at + 2, at + 2 + 12 * count, 12)]
    return [(entry[:2], entry[2:]) for entry in entries if len(entry) == 12]


def tiff_joined(entries, data, chance):
    """The file with another directory at its end, and sometimes with many values for an entry."""
    if chance.random() < 0.4:
        at = chance.randrange(len(entries))
        kind, size = chance.choice([*TYPES.items()])
        value = (chance.choice([*NUMBERS, len(data) // 2]) % 256**size).to_bytes(size, "little")
        times = min(chance.choice(TIMES), MOST_BYTES // 2 // size)
        entries[at] = entries[at][0], struct.pack("<HII", kind, times, len(data))
        data += value * times
    following = chance.choice([0, 0, 8, len(data), chance.choice(NUMBERS)])
    directory = [name + (body + bytes(10))[:10] for name, body in entries[:65535]]
    count = struct.pack("<H", len(directory))
    start = data[:4] + struct.pack("<I", len(data)) + data[8:]
    return start + count + b"".join(directory) + struct.pack("<I", following)


FORMATS = {
    "JPEG": (jpeg_parts, [bytes([marker]) for marker in [*range(0xC0, 0xF0), 0xFE]], jpeg_joined),
    "PNG": (png_parts, CHUNKS.split(), png_joined),
    "TIFF": (tiff_parts, [tag.to_bytes(2, "little") for tag in range(254, 350)], tiff_joined),
    "WEBP": (webp_parts, [b"VP8 ", b"VP8L", b"VP8X", b"ALPH", b"ANIM", b"ANMF"], webp_joined),
}
"""The parts of a file, their possible names, and the file of parts, by format."""
