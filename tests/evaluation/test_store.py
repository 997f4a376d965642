"""Pictures on disk: found again, made once, and never another one's."""

import json
from pathlib import Path

import numpy as np
import pytest

from semiperm.errors import StoreError
from semiperm.evaluation.store import Store, batches, fill
from semiperm.pictures import Shot


def picture(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (6, 5, 3)).astype(np.uint8)


def made(shots: list[Shot]) -> tuple[np.ndarray, list[dict[str, float]]]:
    return np.stack([picture(shot.seed) for shot in shots]), [{"cat": shot.seed / 10} for shot in shots]


SHOTS = [Shot("a cat", 1), Shot("a cat", 2), Shot("a dog", 1, guidance=3.0), Shot("a dog", 1, negative="blurry")]


def test_what_was_written_is_read_bit_for_bit_by_another_run(tmp_path: Path) -> None:
    fill(Store(tmp_path, {"steps": 4}), SHOTS, made, batch=2)
    again = Store(tmp_path, {"steps": 4})
    for shot in SHOTS:
        assert shot in again
        assert np.array_equal(again.load(shot), picture(shot.seed))
        assert again.entries[shot].permeability == {"cat": shot.seed / 10}
    assert Shot("a cat", 3) not in again
    lines = [json.loads(line) for line in (tmp_path / "manifest.jsonl").read_text().splitlines()]
    assert [(line["prompt"], line["seed"]) for line in lines] == [(shot.prompt, shot.seed) for shot in SHOTS]
    assert all({"file", "sha256", "permeability"} <= line.keys() for line in lines)


def test_other_settings_are_refused(tmp_path: Path) -> None:
    Store(tmp_path, {"steps": 4, "size": (1, 2)})
    Store(tmp_path, {"steps": 4, "size": (1, 2)})
    with pytest.raises(StoreError, match="another steps"):
        Store(tmp_path, {"steps": 5, "size": (1, 2)})


def test_a_stopped_run_makes_the_same_batches_and_nothing_twice(tmp_path: Path) -> None:
    asked: list[list[int]] = []

    def make(shots: list[Shot]) -> tuple[np.ndarray, list[dict[str, float]]]:
        asked.append([shot.seed for shot in shots])
        if len(asked) == 2:
            raise KeyboardInterrupt
        return made(shots)

    shots = [Shot("a", seed) for seed in range(7)]
    told: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        fill(Store(tmp_path), shots, make, batch=3, done=told.append)
    fill(Store(tmp_path), shots, make, batch=3, done=told.append)
    assert asked == [[0, 1, 2], [3, 4, 5], [3, 4, 5], [6]]
    assert sum(told) == 3 + 7
    fill(Store(tmp_path), shots, make, batch=3)
    assert len(asked) == 4


def test_shots_in_a_batch_agree_in_guidance_and_negative_prompt() -> None:
    groups = batches([*SHOTS, *SHOTS, Shot("a fox", 9)], 8)
    assert sorted(len(group) for group in groups) == [1, 1, 3]
    for group in groups:
        assert len({(shot.guidance, bool(shot.negative)) for shot in group}) == 1


def test_a_line_that_was_cut_off_is_forgotten(tmp_path: Path) -> None:
    fill(Store(tmp_path, {}), SHOTS[:2], made, batch=1)
    manifest = tmp_path / "manifest.jsonl"
    manifest.write_text(manifest.read_text() + '{"file": "x.png", "pro')
    # Another tool's folder is only read.
    with pytest.raises(StoreError, match="line 3"):
        Store(tmp_path)
    again = Store(tmp_path, {})
    assert set(again.entries) == set(SHOTS[:2])
    fill(again, SHOTS, made, batch=1)
    assert set(Store(tmp_path).entries) == set(SHOTS)


def test_a_malformed_line_is_named(tmp_path: Path) -> None:
    (tmp_path / "manifest.jsonl").write_text('{"file": "x.png", "prompt": "a"}\n')
    with pytest.raises(StoreError, match=r"line 1: .*seed"):
        Store(tmp_path)


def test_a_changed_or_missing_picture_is_no_picture(tmp_path: Path) -> None:
    store = Store(tmp_path)
    fill(store, SHOTS[:2], made, batch=2)
    first, second = (tmp_path / store.entries[shot].file for shot in SHOTS[:2])
    first.write_bytes(second.read_bytes())
    with pytest.raises(StoreError, match="changed since"):
        store.load(SHOTS[0])
    second.unlink()
    assert SHOTS[1] not in store
    with pytest.raises(StoreError, match="file is missing"):
        store.load(SHOTS[1])
    with pytest.raises(StoreError, match="no picture of 'a dog' with seed 1"):
        store.load(SHOTS[2])
