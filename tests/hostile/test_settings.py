"""Settings files and settings on the command line that are no settings."""

from itertools import pairwise
from pathlib import Path

import pytest

from tests.hostile.law import refuses
from tests.hostile.texts import ESCAPES, LONG, MANY, NUMBERS

LETTERS = "abcdefghijklmnopq"
LAUGHS = "a: &a [x, x]\n" + "".join(f"{b}: &{b} [*{a}, *{a}]\n" for a, b in pairwise(LETTERS))
# any number above zero, whatever its spelling, and the default
NO_HARM = ("a huge integer", "two to the 63", "two to the 64", "true", "a string", "half")
HOSTILE: dict[str, str | bytes] = {
    "a list": "- rank: 1",
    "a string": "rank",
    "a number": "1",
    "a date": "2026-01-01",
    "no YAML": "rank: [1",
    "a tab": "rank:\n\t1",
    "two documents": "rank: 1\n---\nrank: 2",
    "a setting twice": "rank: 1\nrank: 2",
    "a setting without a value": "rank:",
    "an unknown setting": "ranks: 1",
    "30,000 unknown settings": "\n".join(f"{name}: 1" for name in MANY[:3000]),
    "a setting of a million characters": f"{LONG}: 1",
    "a value of a million characters": f"rank: {LONG}",
    "a number for a name": "1: 1",
    "a list for a name": "? [a]\n: 1",
    "nested deep": "[" * 20_000 + "]" * 20_000,
    "objects nested deep": '{"a": ' * 20_000 + "1" + "}" * 20_000,
    "laughs": LAUGHS,
    "itself": "rank: &a [*a]",
    "merged": "a: &a {rank: 1}\n<<: *a",
    "a date that is none": "rank: 2026-99-99",
    "a time that is none": "rank: 2026-01-01 99:99:99",
    "an integer of 5,000 digits": f"rank: {'9' * 5000}",
    "a float that is none": "rank: !!float cat",
    "an integer that is none": "rank: !!int cat",
    "a boolean that is none": "rank: !!bool cat",
    "a date that has a tag": "rank: !!timestamp cat",
    "bytes that are none": "rank: !!binary cat",
    "a set": "rank: !!set {a, b}",
    "pairs that are none": "rank: !!pairs cat",
    "an object of Python": "!!python/object/apply:os.system [id]",
    "a name of Python": "rank: !!python/name:os.system",
    "a tag that is none": "rank: !<!>",
    "a version that is none": "%YAML 9.9\n---\nrank: 1",
    "an anchor without a place": "rank: *b",
    "hexadecimals that are none": "rank: 0x",
    "sexagesimals": "rank: 1:99:99",
    "in Latin-1": b"surrogate: caf\xe9",
    "zero bytes": b"rank: 1\0",
    "bytes": bytes(range(256)),
    "an image": b"\x89PNG\r\n\x1a\n",
    "infinity in YAML": "eta: .inf",
    "nothing in YAML": "eta: .nan",
    "a trajectory too long": "trajectory_steps: 1000000000000",
    **{f"a ridge of {what}": f"instant_ridge: {number}" for what, number in NUMBERS.items() if what not in NO_HARM},
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_settings_file_is_refused(here: Path, what: str) -> None:
    text = HOSTILE[what]
    Path("mine.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    refuses(here, "erase", "cat", "--settings", "mine.yaml", "--out", "cat.safetensors", names="mine.yaml")


@pytest.mark.parametrize("what", ESCAPES)
def test_escapes_in_a_settings_file_are_not_printed(here: Path, what: str) -> None:
    Path("mine.yaml").write_text(f"{ESCAPES[what]!r}: 1")
    refuses(here, "erase", "cat", "--settings", "mine.yaml", "--out", "cat.safetensors", names="mine.yaml")


SETS = (
    "rank", "=1", "rank=[", "rank=" + "[" * 5000, "rank=2026-99-99", "rank=" + "9" * 5000, "rank=!!int cat",
    "rank=&a [*a]", "rank=NaN", "rank=.nan", "rank=-1", "rank=\x1b[2J", "\x1b[2J=1", f"{LONG[:100_000]}=1",
    f"rank={LONG[:100_000]}", "rank=\0", "rank=\ud800", "seed=1.5", "seed=.inf", "steps=1e999",
)  # fmt: skip


@pytest.mark.parametrize("text", SETS, ids=[ascii(text)[:30] for text in SETS])
def test_a_hostile_setting_is_refused(here: Path, text: str) -> None:
    refuses(here, "erase", "cat", "--set", text, "--out", "cat.safetensors", names="--set")
