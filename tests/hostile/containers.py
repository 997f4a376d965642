"""Hostile safetensors files, each made of a sound membrane's."""

import json
import pickle
import struct
import zipfile
from functools import cache
from io import BytesIO
from typing import Any

from tests.hostile.texts import DEEP, DEEP_OBJECT, LONG, MANY, NUMBERS, framed, unframed

Header = dict[str, Any]


@cache
def of(cat: bytes) -> dict[str, bytes]:
    """Return hostile files by what is wrong with them."""
    found = {**truncated(cat), **lengths(cat), **headers(cat), **offsets(cat), **names(cat), **others(cat)}
    return found | {what: data for what, data in (numbers(cat) | cards(cat)).items() if what not in NO_HARM}


# a file of another shape, or none, for readers of any safetensors file
SHAPES = (
    "header of 0", "header of 2**63", "header of 200 MB", "header is nested deep", "header is a list", "empty",
    "a pickle", "an archive of torch", "zeros", "a text", "layers are 30,000",
)  # fmt: skip


def without_harm(cat: bytes) -> dict[str, bytes]:
    """Return files that are odd and sound, by what is odd about them."""
    return {what: data for what, data in numbers(cat).items() if what in NO_HARM}


def adapters(cat: bytes) -> dict[str, bytes]:
    """Return hostile LoRAs of other tools, which have no card, by what is wrong with them."""
    header, body = unframed(cat)
    plain = framed(json.dumps({name: entry for name, entry in header.items() if name != "__metadata__"}), body)
    found = {**offsets(plain), **names(cat)}
    found |= {f"alpha is {number}": _with_alpha(plain, number) for number in ALPHAS}
    found |= {f"configuration {what}": _configured(plain, text) for what, text in CONFIGURATIONS.items()}
    return {what: data for what, data in found.items() if not what.startswith("layers are")}


ALPHAS = (0.0, float("nan"), float("inf"), float("-inf"))
RANKS = {what: f'{{"r": {number}, "lora_alpha": 1}}' for what, number in NUMBERS.items()}
CONFIGURATIONS = {
    **{f"of rank {what}": text for what, text in RANKS.items()},
    "that is no JSON": "{cat}",
    "that is a list": "[]",
    "that is a string": '"cat"',
    "that is nested deep": DEEP,
    "of objects nested deep": DEEP_OBJECT,
    "of a field twice": '{"r": 1, "lora_alpha": 1, "r": 1}',
    "of an endless expression": '{"r": 1, "lora_alpha": 1, "rank_pattern": {"(a+)+$": 1}}',
    "of two denoisers": '{"unet.r": 1, "unet.lora_alpha": 1, "transformer.r": 1, "transformer.lora_alpha": 1}',
    "of DoRA": '{"r": 1, "lora_alpha": 1, "use_dora": true}',
    "of a list of ranks": '{"r": 1, "lora_alpha": 1, "rank_pattern": [1]}',
}


def truncated(cat: bytes) -> dict[str, bytes]:
    """Cut at every boundary of the format, and a byte to either side."""
    header, body = unframed(cat)
    start = len(cat) - len(body)
    ends = sorted(end for name, entry in header.items() if name != "__metadata__" for end in _offsets(entry))
    some = [ends[0], ends[1], ends[len(ends) // 2], ends[-2]]
    text = cat[8:start]
    marks = {text.index(b"__metadata__"), text.index(b"semiperm.card"), text.index(b"data_offsets"), len(text) // 2}
    places = {0, 1, 4, 7, 8, 9, start - 1, start, start + 1, len(cat) - 1}
    places |= {8 + mark for mark in marks} | {start + end + shift for end in some for shift in (-1, 0, 1)}
    return {f"cut after {place} bytes": cat[:place] for place in sorted(places) if 0 <= place < len(cat)}


def lengths(cat: bytes) -> dict[str, bytes]:
    """Lie about the header's length."""
    (true,) = struct.unpack("<Q", cat[:8])
    lies = {
        "0": 0, "1": 1, "2": 2, "one less": true - 1, "one more": true + 1, "eight more": true + 8, "all": len(cat) - 8,
        "more than all": len(cat), "200 MB": 200 * 10**6, "4 GiB": 2**32, "2**63 - 1": 2**63 - 1, "2**63": 2**63,
        "2**64 - 1": 2**64 - 1, "2**64 - 8": 2**64 - 8,
    }  # fmt: skip
    return {f"header of {name}": struct.pack("<Q", length) + cat[8:] for name, length in lies.items()}


def headers(cat: bytes) -> dict[str, bytes]:
    """Put something else where the header should be."""
    header, body = unframed(cat)
    text = json.dumps(header)
    name, entry = next((name, entry) for name, entry in header.items() if name != "__metadata__")
    card = json.dumps(header["__metadata__"]["semiperm.card"])
    empty = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    shapeless = {"dtype": "F32", "data_offsets": entry["data_offsets"]}
    found = {
        "no JSON": "{not json}", "nothing": "", "spaces": " " * 64, "a list": "[1, 2]", "a string": '"cat"',
        "a number": "1", "null": "null", "true": "true", "an empty object": "{}", "nested deep": DEEP,
        "objects nested deep": DEEP_OBJECT, "nested deep in a tensor": f'{{"x": {DEEP_OBJECT}}}',
        "half an object": text[: len(text) // 2],
        "two objects": text + text, "an object and more": text + "cat", "an object in a list": f"[{text}]",
        "single quotes": text.replace('"', "'"), "a comment": "/* cat */" + text, "a byte order mark": "\ufeff" + text,
        "a tensor twice": text[:-1] + f", {json.dumps(name)}: {json.dumps(entry)}}}",
        "metadata twice": text[:-1] + ', "__metadata__": {"format": "pt"}}',
        "a card twice": text.replace('"semiperm.card":', f'"semiperm.card": {card}, "semiperm.card":', 1),
        "a zero byte": text + "\0",
        "30,000 tensors of no size": json.dumps(header | dict.fromkeys(MANY, empty)),
        "a name of a million characters": json.dumps(header | {LONG: empty}),
        "a metadata list": json.dumps(header | {"__metadata__": ["pt"]}),
        "a metadata string": json.dumps(header | {"__metadata__": "pt"}),
        "a metadata number": json.dumps(header | {"__metadata__": 1}),
        "metadata of numbers": json.dumps(header | {"__metadata__": {"format": 1}}),
        "metadata of nothing": json.dumps(header | {"__metadata__": {"format": None}}),
        "a tensor that is a list": json.dumps(header | {name: [1, 2]}),
        "a tensor that is null": json.dumps(header | {name: None}),
        "a tensor without a shape": json.dumps(header | {name: shapeless}),
    }  # fmt: skip
    made = {f"header is {what}": framed(header, body) for what, header in found.items()}
    return made | {
        "header in UTF-16": framed(text.encode("utf-16"), body),
        "header in Latin-1": framed(text.replace("cat", "caf\xe9").encode("latin-1"), body),
        "header has half a character": framed(text.replace("cat", "\\ud800"), body),
    }


def offsets(cat: bytes) -> dict[str, bytes]:
    """Lie about one tensor."""
    header, body = unframed(cat)
    first, second = [name for name in header if name.endswith(".lora_down.weight")][:2]
    begin, end = _offsets(header[first])
    size = end - begin
    lies: dict[str, Header] = {
        "past the end": {"data_offsets": [begin, len(body) + size]},
        "wholly past the end": {"data_offsets": [len(body), len(body) + size]},
        "of 2**63": {"data_offsets": [2**63, 2**63 + size]},
        "of 2**64": {"data_offsets": [2**64 - size, 2**64]},
        "backwards": {"data_offsets": [end, begin]},
        "negative": {"data_offsets": [-size, 0]},
        "as another's": {"data_offsets": header[second]["data_offsets"]},
        "a byte too far": {"data_offsets": [begin + 1, end + 1]},
        "alone": {"data_offsets": [begin]},
        "three": {"data_offsets": [begin, end, end]},
        "half": {"data_offsets": [begin + 0.5, end]},
        "strings": {"data_offsets": [str(begin), str(end)]},
        "nothing": {"data_offsets": None},
        "true": {"data_offsets": [False, True]},
    }
    shapes: dict[str, Header] = {
        "negative": {"shape": [-1, -size]},
        "that overflows": {"shape": [2**32, 2**32]},
        "that overflows to nothing": {"shape": [2**63, 2]},
        "of nothing": {"shape": [0, 2**62]},
        "of no axes": {"shape": []},
        "of a thousand axes": {"shape": [1] * 1000 + [size // 4]},
        "of one axis": {"shape": [size // 4]},
        "that is a number": {"shape": size // 4},
        "of halves": {"shape": [0.5, size / 2]},
        "of strings": {"shape": ["1", str(size // 4)]},
        "of one number more": {"shape": [size // 4 + 1]},
    }
    dtypes: dict[str, Header] = {
        **{f"type {kind}": {"dtype": kind} for kind in ("F64", "F16", "I32", "BOOL", "U8", "PICKLE", "f32", "")},
        "type 1": {"dtype": 1},
        "type null": {"dtype": None},
        "type I32 of the same size": {"dtype": "I32"},
        "type F8 of the same size": {"dtype": "F8_E4M3", "shape": [1, size]},
        "type C64 of the same size": {"dtype": "C64", "shape": [1, size // 8]},
    }
    found = {f"offsets {what}": lie for what, lie in lies.items()}
    found |= {f"shape {what}": lie for what, lie in shapes.items()} | dtypes
    made = {what: framed(json.dumps(header | {first: header[first] | lie}), body) for what, lie in found.items()}
    return made | {
        "offsets with bytes that no tensor owns": framed(json.dumps(header), body + bytes(64)),
        "offsets with a tensor less": framed(json.dumps({k: v for k, v in header.items() if k != second}), body),
        "numbers that are not finite": framed(json.dumps(header), struct.pack("<f", float("nan")) * (len(body) // 4)),
    }


def numbers(cat: bytes) -> dict[str, bytes]:
    """Put odd numbers on the card."""
    found: dict[str, bytes] = {}
    for what, number in NUMBERS.items():
        gate = f'{{"weight": [1], "bias": {number}, "threshold": 1}}'
        fields = {"layers": number, "rank": number, "seed": number, "gate": gate, "settings": number, "effect": number}
        found |= {f"{field} with {what}": _with_card(cat, field, value) for field, value in fields.items()}
    return found


# A seed may be any whole number or none, a bias any finite number, and settings and effects any object.
NO_HARM = {
    *(f"seed with {what}" for what in ("less than zero", "a huge integer", "two to the 63", "two to the 64", "null")),
    *(f"gate with {what}" for what in ("less than zero", "minus zero", "half", "two to the 63", "two to the 64")),
    "settings with an object",
    "effect with an object",
}


def names(cat: bytes) -> dict[str, bytes]:
    """Call layers by other names, by several, or by names that belong to others."""
    header, body = unframed(cat)
    tensors = {name: entry for name, entry in header.items() if name != "__metadata__"}
    down = next(name for name in tensors if name.endswith(".lora_down.weight"))
    layers = json.loads(header["__metadata__"]["semiperm.layers"])
    layer = next(layer for layer in layers if "lora_unet_" + layer.replace(".", "_") == down.partition(".")[0])
    size = _offsets(tensors[down])
    copy = {"dtype": "F32", "shape": tensors[down]["shape"], "data_offsets": [len(body), len(body) + size[1] - size[0]]}
    more = body + body[size[0] : size[1]]

    def also(name: str) -> bytes:
        return framed(json.dumps(header | {name: copy}), more)

    def listing(value: object) -> bytes:
        metadata = header["__metadata__"] | {"semiperm.layers": value if isinstance(value, str) else json.dumps(value)}
        return framed(json.dumps(header | {"__metadata__": metadata}), body)

    return {
        "a layer is stored in PEFT's name too": also(f"transformer.{layer}.lora_A.weight"),
        "a layer is stored in diffusers' old name too": also(f"unet.{layer}.lora.down.weight"),
        "a layer is stored with an adapter's name too": also(f"unet.{layer}.lora_A.default.weight"),
        "a layer is stored in another tool's name too": also("lycoris_" + down.removeprefix("lora_unet_")),
        "a layer is stored behind two prefixes too": also(f"base_model.model.unet.{layer}.lora_A.weight"),
        "a layer that no model has": also("lora_unet_cat.lora_down.weight"),
        "a layer of a text encoder": also("lora_te_text_model_encoder_layers_0_mlp_fc1.lora_down.weight"),
        "a tensor that is no pair's": also("cat"),
        "a tensor without a name": also(""),
        "a tensor whose name is an escape": also("\x1b[2J\x1b]0;cat\x07"),
        "a tensor whose name leads up": also("../../cat"),
        "a tensor whose name is a script": also("<script>alert(1)</script>"),
        "layers are listed twice": listing([*layers, layers[0]]),
        "layers are not all listed": listing(layers[1:]),
        "layers are none": listing([]),
        "layers are numbers": listing([1] * len(layers)),
        "layers are an object": listing({"cat": 1}),
        "layers are not JSON": listing("cat"),
        "layers are nested deep": listing(DEEP),
        "layers are 30,000": listing(MANY),
        "layers are a million characters": listing([LONG, *layers]),
        "layers are escapes": listing(["\x1b[2J" + layer for layer in layers]),
        "layers have one flattened name": listing([*layers, layers[0].replace(".", "_")]),
    }


def others(cat: bytes) -> dict[str, bytes]:
    """Files of another kind under the name of a membrane's."""
    archive = BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("archive/data.pkl", pickle.dumps(print))
    return {
        "empty": b"",
        "zeros": bytes(4096),
        "ones": b"\xff" * 4096,
        "a text": b"this is not a membrane, but a sentence of some length",
        "a text with a byte order mark": b"\xef\xbb\xbf" + b"this is not a membrane",
        "a text in UTF-16": "this is not a membrane".encode("utf-16"),
        "a web page": b"<!DOCTYPE html><html><body>404</body></html>",
        "a pointer of Git LFS": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
        "a pickle": pickle.dumps(print),
        "an archive of torch": archive.getvalue(),
        "a PNG": b"\x89PNG\r\n\x1a\n" + bytes(64),
        "compressed": b"\x1f\x8b\x08" + bytes(64),
        "a membrane after a byte order mark": b"\xef\xbb\xbf" + cat,
        "two membranes": cat + cat,
        "a membrane backwards": cat[::-1],
        "a membrane with Windows' line ends": cat.replace(b"\n", b"\r\n") + b"\r\n",
    }


def cards(cat: bytes) -> dict[str, bytes]:
    """Cards that are none."""
    many = json.dumps(MANY)
    other = '{"kind": "x", "weight": [1], "bias": 0, "threshold": 1}'
    return {
        "no JSON": _card(cat, "{cat}"),
        "a list": _card(cat, "[]"),
        "null": _card(cat, "null"),
        "a string": _card(cat, '"cat"'),
        "empty": _card(cat, ""),
        "nested deep": _card(cat, DEEP),
        "objects nested deep": _card(cat, DEEP_OBJECT),
        "without concepts": _card(cat, "{}"),
        "of no concepts": _with_card(cat, "concepts", "[]"),
        "of a concept without a name": _with_card(cat, "concepts", '[{"name": " "}]'),
        "of a concept that is a string": _with_card(cat, "concepts", '["cat"]'),
        "of a concept of another kind": _with_card(cat, "concepts", '[{"name": "cat", "kind": "person"}]'),
        "of a concept with unknown fields": _with_card(cat, "concepts", '[{"name": "cat", "code": "print(1)"}]'),
        "of another kind": _with_card(cat, "kind", '"adapter"'),
        "of a sampler": _with_card(cat, "kind", '"sampler"'),
        "of a weight delta": _with_card(cat, "kind", '"delta"'),
        "with an unknown field": _with_card(cat, "cat", "1"),
        "with 30,000 unknown fields": _card(cat, json.dumps(dict.fromkeys(MANY, 1))),
        "with a field of a million characters": _with_card(cat, LONG, "1"),
        "with an escape for a field": _with_card(cat, "\x1b[2J", "1"),
        "with 30,000 concepts of no kind": _with_card(cat, "concepts", many),
        "with a gate of strings": _with_card(cat, "gate", '{"weight": ["a"], "bias": 0, "threshold": 1}'),
        "with a gate of another kind": _with_card(cat, "gate", other),
        "with a gate that never opens": _with_card(cat, "gate", '{"weight": [1], "bias": 0, "threshold": Infinity}'),
        "with a gate of nothing": _with_card(cat, "gate", '{"weight": [NaN], "bias": 0, "threshold": 1}'),
        "with an effect of text": _with_card(cat, "effect", '{"found": "none"}'),
        "with an effect of nothing": _with_card(cat, "effect", '{"found": NaN}'),
        "with settings of nothing": _with_card(cat, "settings", '{"eta": NaN}'),
        "with settings of infinity": _with_card(cat, "settings", '{"eta": 1e999}'),
        "with settings twice": _with_card(cat, "settings", '{"eta": 1, "eta": 2}'),
        "with a field twice": _card(cat, '{"concepts": [{"name": "cat"}], "concepts": [{"name": "dog"}]}'),
    }  # fmt: skip


def named(cat: bytes, text: str) -> bytes:
    """Return a sound membrane on whose card every text is `text`."""
    facts = json.dumps(text)
    concept = f'[{{"name": {facts}, "targets": [{facts}], "surrogate": {facts}}}]'
    fields = {
        "concepts": concept, "base_model": facts, "architecture": facts, "method": facts, "date": facts,
        "licence": facts, "settings": f"{{{facts}: {facts}}}",
        "versions": f"{{{facts}: {facts}}}", "effect": f"{{{facts}: 1}}",
    }  # fmt: skip
    for field, value in fields.items():
        cat = _with_card(cat, field, value)
    return cat


def _card(cat: bytes, text: str) -> bytes:
    header, body = unframed(cat)
    metadata = header["__metadata__"] | {"semiperm.card": text}
    return framed(json.dumps(header | {"__metadata__": metadata}), body)


def _with_card(cat: bytes, field: str, value: str) -> bytes:
    """Return the file with a field of its card in this JSON, which need not be sound."""
    facts = json.loads(unframed(cat)[0]["__metadata__"]["semiperm.card"]) | {field: "HERE"}
    return _card(cat, json.dumps(facts).replace('"HERE"', value))


def _with_alpha(cat: bytes, number: float) -> bytes:
    header, body = unframed(cat)
    begin, end = next(_offsets(entry) for name, entry in header.items() if name.endswith(".alpha"))
    return framed(json.dumps(header), body[:begin] + struct.pack("<f", number) + body[end:])


def _configured(cat: bytes, text: str) -> bytes:
    """Return the file without alphas, with a configuration of PEFT in its metadata."""
    header, body = unframed(cat)
    kept, data = dict[str, Any](), b""
    for name, entry in header.items():
        if not name.endswith(".alpha"):
            begin, end = _offsets(entry)
            kept[name] = entry | {"data_offsets": [len(data), len(data) + end - begin]}
            data += body[begin:end]
    return framed(json.dumps(kept | {"__metadata__": {"lora_adapter_metadata": text}}), data)


def _offsets(entry: Any) -> list[int]:
    return entry["data_offsets"]
