"""Hostile texts: what steers a terminal, a page or a file system where only a name was asked for."""

import json
import struct
from typing import Any

# by what they would do to a terminal that prints them raw
ESCAPES = {
    "clears the screen": "cat\x1b[2J\x1b[H",
    "sets the title": "cat\x1b]0;root\x07",
    "is a link": "\x1b]8;;http://example.org\x1b\\cat\x1b]8;;\x1b\\",
    "has an eight-bit escape": "cat\x9b2J",
    "has every C1 control": "cat" + "".join(map(chr, range(0x80, 0xA0))),
    "runs backwards": "cat\u202egnp.exe\u202c",
    "isolates a direction": "cat\u2066 dog \u2069",
    "has a zero byte": "cat\0dog",
    "has a carriage return": "error: none\rcat",
    "has new lines": "cat\nerror: none\n\ndog",
    "has line separators": "cat\u2028dog\u2029\x85\x0b\x0c",
    "rings": "cat\a\b\b\b",
    "has invisible characters": "c\u200bat\u200d\ufeff",
    "has a byte order mark": "\ufeffcat",
    "is a private character": "cat\ue000\U000f0000",
}
# by what they would do to a web page
MARKUP = {
    "is a script": "<script>alert(1)</script>",
    "is an image": '"><img src=x onerror=alert(1)>',
    "is a link": "[cat](javascript:alert(1))",
    "is a link with a colon in disguise": "[cat](java&#115;cript&colon;alert(1))",
    "is an automatic link": "<javascript:alert(1)>",
    "is a reference": "[cat]\n\n[cat]: javascript:alert(1)",
    "is a picture": "![cat](https://example.org/track.png)",
    "ends a code block": "cat\n```\n<script>alert(1)</script>\n```",
    "ends the front matter": "cat\n---\nlicense: mit\n---\n# dog",
    "ends a table cell": "cat | dog | <b>bird</b>",
    "is a template": "{{ 7 * 7 }}{% include '/etc/passwd' %}",
    "is an entity": "&lt;script&gt;&#x6A;avascript:",
    "is a comment": "<!-- cat",
    "is a YAML tag": "!!python/object/apply:os.system [id]",
}
# by what they would do to a file system
PATHS = {
    "leads up": "../outside.safetensors",
    "leads far up": "../../../../../../../../tmp/outside.safetensors",
    "is absolute": "/tmp/outside.safetensors",
    "leads down and up": "inside/../../outside.safetensors",
    "leads down": "inside/cat.safetensors",
    "is a folder": ".",
    "is the folder above": "..",
    "is empty": "",
    "has a zero byte": "cat\0.safetensors",
    "has an escape": "cat\x1b[2J.safetensors",
    "is of another system": "C:\\outside.safetensors",
    "is too long": "c" * 300 + ".safetensors",
    "is much too long": "c" * 100_000 + ".safetensors",
    "is half a character": "cat\ud800.safetensors",
    "is a stream": "cat.safetensors::$DATA",
    "is in another folder's name": "\u2024\u2024/cat.safetensors",
}
LONG = "c" * 1_000_000
MANY = [f"concept number {number}" for number in range(30_000)]
DEEP = "[" * 100_000 + "]" * 100_000
DEEP_OBJECT = '{"a":' * 100_000 + "1" + "}" * 100_000

# where a number belongs, as JSON
NUMBERS = {
    "NaN": "NaN",
    "infinity": "Infinity",
    "minus infinity": "-Infinity",
    "more than a float": "1e999",
    "less than zero": "-1",
    "minus zero": "-0.0",
    "a huge integer": "9" * 400,
    "an integer that Python does not convert": "9" * 5000,
    "two to the 63": str(2**63),
    "two to the 64": str(2**64),
    "true": "true",
    "null": "null",
    "a string": '"1"',
    "half": "0.5",
    "a list": "[1]",
    "an object": '{"a": 1}',
}


def framed(header: bytes | str, body: bytes = b"", length: int | None = None) -> bytes:
    """Return a safetensors file of any header."""
    text = header.encode() if isinstance(header, str) else header
    return struct.pack("<Q", len(text) if length is None else length) + text + body


def unframed(data: bytes) -> tuple[dict[str, Any], bytes]:
    """Return the header of a sound safetensors file, and its body."""
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length]), data[8 + length :]
