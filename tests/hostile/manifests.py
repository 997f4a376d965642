"""Folders of pictures whose manifest or pictures somebody tampered with."""

import hashlib
import io
import json
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from semiperm.concept import Concept
from tests.hostile.texts import DEEP, DEEP_OBJECT, ESCAPES, LONG, NUMBERS, PATHS

CAT = Concept(name="cat")
ROW: dict[str, Any] = {"file": "cat.png", "prompt": "a cat", "seed": 0}


def png(width: int = 8, height: int = 8) -> bytes:
    """Return a sound picture."""
    data = io.BytesIO()
    Image.fromarray(np.full((height, width, 3), 128, np.uint8)).save(data, format="PNG")
    return data.getvalue()


def folder(path: Path, rows: str | bytes, picture: bytes | None = None) -> Path:
    """Make a folder of pictures."""
    path.mkdir(parents=True)
    (path / "manifest.jsonl").write_bytes(rows if isinstance(rows, bytes) else rows.encode(errors="surrogatepass"))
    if picture is not None:
        (path / "cat.png").write_bytes(picture)
    return path


def line(**changes: Any) -> str:
    return json.dumps(ROW | changes) + "\n"


def _with_number(field: str, number: str) -> str:
    return line(**{field: "HERE"}).replace('"HERE"', number)


SEEDS = ("less than zero", "a huge integer", "two to the 63", "two to the 64")
GUIDANCE = ("less than zero", "minus zero", "two to the 63", "two to the 64", "null", "half")
MANIFESTS: dict[str, str | bytes] = {
    "no JSON": "{cat}\n", "a list": "[]\n", "a string": '"cat"\n', "null": "null\n", "a number": "1\n",
    "nested deep": DEEP + "\n", "objects nested deep": DEEP_OBJECT + "\n", "a line that is cut": line() + line()[:-9],
    "a cut": line()[:-9], "an empty line": line() + "\n" + line(), "bytes": bytes(range(256)),
    "in UTF-16": line().encode("utf-16"), "in Latin-1": b'{"file": "caf\xe9.png", "prompt": "a cat", "seed": 0}\n',
    "without a file": '{"prompt": "a cat", "seed": 0}\n', "without a prompt": '{"file": "cat.png", "seed": 0}\n',
    "a field twice": '{"file": "cat.png", "file": "dog.png", "prompt": "a cat", "seed": 0}\n',
    "a prompt that is a list": line(prompt=["a cat"]), "a prompt that is null": line(prompt=None),
    "a file that is a list": line(file=["cat.png"]), "a file that is null": line(file=None),
    "a hash that is a number": line(sha256=1), "a hash of another file": line(sha256="0" * 64),
    "a negative prompt that is a number": line(negative=1), "a permeability that is a list": line(permeability=[1]),
    "a permeability that is text": line(permeability={"cat": "open"}),
    **{f"a seed of {what}": _with_number("seed", NUMBERS[what]) for what in NUMBERS if what not in SEEDS},
    **{f"a guidance of {what}": _with_number("guidance", NUMBERS[what]) for what in NUMBERS if what not in GUIDANCE},
    **{f"a file that {what}": line(file=text) for what, text in PATHS.items()},
    **{f"a file that {what}": line(file=text) for what, text in ESCAPES.items()},
    "a file of a million characters": line(file=LONG),
    "a prompt of a million characters in no JSON": f'{{"prompt": "{LONG}"\n',
}  # fmt: skip


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def claimed(width: int, height: int) -> bytes:
    """Return a PNG that claims a size and has almost nothing of it."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + _chunk(b"IHDR", header)
        + _chunk(b"IDAT", zlib.compress(bytes(64)))
        + _chunk(b"IEND", b"")
    )


SOUND = png()
PICTURES: dict[str, bytes] = {
    "empty": b"", "a text": b"this is no picture", "a web page": b"<!DOCTYPE html><html></html>",
    "a pickle": b"\x80\x04N.",
    "a program of PostScript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n",
    "a drawing": b'<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"/>',
    "a pixmap": b"P6\n8 8\n255\n" + bytes(192), "a GIF": b"GIF89a" + bytes(32), "a TIFF": b"II*\0" + bytes(32),
    "a JPEG that is cut": b"\xff\xd8\xff\xe0" + bytes(16), "a WEBP that is cut": b"RIFF\0\0\0\0WEBPVP8 " + bytes(16),
    "13,000 pixels": png(13_000, 1), "13,000 pixels high": png(1, 13_000),
    "claims 13,000 pixels": claimed(13_000, 13_000),
    "claims 8,193 pixels": claimed(8193, 8193), "claims billions": claimed(2**31 - 1, 2**31 - 1),
    "claims nothing": claimed(0, 0), "claims more than it has": claimed(64, 64),
    **{f"cut after {place} bytes": SOUND[:place] for place in (1, 8, 16, 33, 42, 48)},
    "a bit flipped in the header": SOUND[:20] + bytes([SOUND[20] ^ 1]) + SOUND[21:],
    "a bit flipped in the data": SOUND[:45] + bytes([SOUND[45] ^ 64]) + SOUND[46:],
    "a text chunk that explodes": SOUND[:33] + _chunk(b"zTXt", b"cat\0\0" + zlib.compress(bytes(10**8))) + SOUND[33:],
}  # fmt: skip


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
