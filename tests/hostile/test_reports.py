"""Reports that somebody tampered with, given to `compare`."""

import json
import re
from pathlib import Path

import pytest

from tests.cli.command import run
from tests.hostile import reports
from tests.hostile.law import accepts, in_time, refuses, spoken
from tests.hostile.texts import ESCAPES, MARKUP


@pytest.mark.parametrize("what", reports.TAMPERED)
def test_a_tampered_report_is_refused(here: Path, what: str) -> None:
    data = reports.TAMPERED[what]
    Path("sound.json").write_text(json.dumps(reports.SOUND))
    Path("odd.json").write_bytes(data if isinstance(data, bytes) else data.encode())
    refuses(here, "compare", "sound.json", "odd.json", names="odd.json")
    refuses(here, "compare", "odd.json", "sound.json", "--out", "page.html", names="odd.json")


@pytest.mark.parametrize("what", reports.ODD)
def test_an_odd_report_is_no_bug(here: Path, what: str) -> None:
    Path("sound.json").write_text(json.dumps(reports.SOUND))
    Path("odd.json").write_text(reports.ODD[what])
    for number, pair in enumerate((("sound.json", "odd.json"), ("odd.json", "sound.json"), ("odd.json", "odd.json"))):
        with in_time():
            spoken(run("compare", *pair, "--out", f"{number}.html"), 40_000)


@pytest.mark.parametrize("what", [*ESCAPES, *MARKUP])
def test_names_are_text_in_the_terminal_and_on_the_page(here: Path, what: str) -> None:
    Path("odd.json").write_text(reports.with_texts((ESCAPES | MARKUP)[what]))
    accepts(here, "compare", "odd.json", "odd.json")
    spoken(run("compare", "odd.json", "odd.json", "--out", "page.html"), 40_000)
    page = Path("page.html").read_text(encoding="utf-8")
    assert "<script>alert" not in page and "onerror=alert(1)>" not in page.replace("&gt;", "")
    assert not re.search(r"(href|src)\s*=\s*['\"]?\s*javascript", page, re.IGNORECASE)
