"""Public files of prompts: I2P, COCO-30k and the artists' lists."""

import csv
from dataclasses import dataclass
from pathlib import Path

from semiperm.errors import ProtocolError
from semiperm.pictures import Shot


@dataclass(frozen=True)
class CsvPrompt:
    """One line of a public prompt file."""

    shot: Shot
    image: str = ""
    artist: str = ""


def read_csv(path: Path | None, what: str) -> list[CsvPrompt]:
    """Read the prompts of I2P, COCO-30k or the artists' files, with their seeds and guidance.

    The seed is in the column `evaluation_seed` or `sd_seed`, the guidance in `sd_guidance_scale` if there is one.

    Args:
        what: what the file should be, for messages.

    Raises:
        ProtocolError: there is no file, a column is missing, or a cell cannot be read; the message names it.
    """
    if path is None:
        raise ProtocolError(f"this protocol reads its prompts from a file: give {what} with --prompts")
    if not path.exists():
        raise ProtocolError(f"{path} does not exist: --prompts should be {what}")
    with open(path, newline="", encoding="utf-8-sig") as file:
        rows = csv.DictReader(file)
        columns = rows.fieldnames or []
        seed = next((name for name in ("evaluation_seed", "sd_seed") if name in columns), None)
        if "prompt" not in columns or seed is None:
            missing = "prompt" if "prompt" not in columns else "evaluation_seed (or sd_seed)"
            raise ProtocolError(f"{path} has no column {missing}; its columns are: {', '.join(columns) or 'none'}")
        found = []
        for row in rows:
            try:
                guidance = float(row["sd_guidance_scale"]) if row.get("sd_guidance_scale") else None
                shot = Shot(row["prompt"].strip(), int(float(row[seed])), guidance=guidance)
            except (TypeError, ValueError, AttributeError) as error:
                raise ProtocolError(f"{path}, line {rows.line_num}: {error}") from error
            found.append(CsvPrompt(shot, row.get("image_id") or "", row.get("artist") or ""))
    if not found:
        raise ProtocolError(f"{path} has no prompts below its header")
    return found
