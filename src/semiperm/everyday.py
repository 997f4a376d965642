"""The built-in list of everyday concepts: anchors for erasing, common English for the terrarium's tokenizer."""

from functools import lru_cache
from pathlib import Path


@lru_cache(maxsize=1)
def everyday() -> tuple[str, ...]:
    """Return the everyday concepts, one or two words each."""
    return tuple(Path(__file__).with_suffix(".txt").read_text(encoding="utf-8").splitlines())
