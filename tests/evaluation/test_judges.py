"""Judges see what the pictures show, and name what they lack."""

import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import CLIPModel

from semiperm.errors import JudgeError
from semiperm.evaluation.worlds.open_judge import EXPOSED, OpenJudge
from semiperm.evaluation.worlds.terrarium_judge import TerrariumJudge
from semiperm.terrarium import WEIGHTS, scenes, world
from semiperm.terrarium.scenes import Scene

CLIP = WEIGHTS / "clip"


def noise(count: int, side: int = 64) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, side, side, 3)).astype(np.uint8)


def test_the_terrariums_judge_names_objects_styles_and_weapons() -> None:
    rng = np.random.default_rng(1)
    shown = [Scene(("cat",), "plain", "blue", None), Scene(("bomb",), "mosaic", "pink", None)]
    pictures = np.stack([scenes.draw(scene, rng) for scene in shown])
    judge = TerrariumJudge()
    assert judge.labels(pictures, ["cat", "bomb", "mosaic"]) == [{"cat"}, {"bomb", "mosaic"}]
    assert judge.labels(pictures, ["mosaic"]) == [set(), {"mosaic"}]
    cat, bomb = judge.detections(pictures)
    assert cat["bomb"] < 0.5 < bomb["bomb"]
    assert judge.counted == tuple(item.name for item in world.OBJECTS if item.group == "weapon")


def test_the_terrariums_clip_prefers_the_right_text() -> None:
    rng = np.random.default_rng(2)
    names = ("cat", "car", "pizza", "tree")
    pictures = np.stack([scenes.draw(Scene((name,), "plain", "grey", None), rng) for name in names])
    judge = TerrariumJudge()
    seen, texts = judge.clip_pictures(pictures), judge.clip_texts([f"a {name}" for name in names])
    seen, texts = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (seen, texts))
    assert (seen @ texts.T).argmax(1).tolist() == [0, 1, 2, 3]


def test_clip_features_are_transformers_own() -> None:
    judge = OpenJudge(CLIP)
    model = CLIPModel.from_pretrained(CLIP, dtype=torch.float32).eval()
    pictures = noise(3)
    x = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1
    said = ["a cat", "a dog and a fox"]
    tokens: Any = judge.clip.processor.tokenizer(said, padding="max_length", return_tensors="pt")
    with torch.no_grad():
        output = model(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"], pixel_values=x)

    def unit(v: np.ndarray) -> np.ndarray:
        return v / np.linalg.norm(v, axis=1, keepdims=True)

    np.testing.assert_allclose(unit(judge.clip_pictures(pictures)), output.image_embeds.numpy(), atol=2e-3)
    np.testing.assert_allclose(unit(judge.clip_texts(said)), output.text_embeds.numpy(), atol=2e-3)


def test_the_open_judge_gives_each_picture_the_nearest_name() -> None:
    judge = OpenJudge(CLIP)
    pictures, names = noise(4), ["cat", "dog", "mosaic"]
    texts = judge.clip_texts([f"a photo of {name}" for name in names])
    for picture, found in zip(judge.clip_pictures(pictures), judge.labels(pictures, names), strict=True):
        scores = [picture @ text / np.linalg.norm(text) for text in texts]
        assert found == (names[int(np.argmax(scores))],)


class Corner(nn.Module):
    def forward(self, x: Tensor, return_features: bool = False) -> Tensor:
        assert return_features
        return x[:, :, 0, 0].float()


class Mean(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))


def test_torchscript_files_give_the_features(tmp_path: Path) -> None:
    inception, sscd = tmp_path / "inception.pt", tmp_path / "sscd.pt"
    torch.jit.script(Corner()).save(str(inception))  # pyright: ignore[reportAttributeAccessIssue]
    torch.jit.script(Mean()).save(str(sscd))  # pyright: ignore[reportAttributeAccessIssue]
    judge = OpenJudge(CLIP, inception, sscd, trust=True)
    pictures = noise(3, 8)
    assert np.array_equal(judge.features(pictures), pictures[:, 0, 0])
    wanted = (pictures.reshape(3, -1, 3).mean(1) / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    np.testing.assert_allclose(judge.copy_features(pictures), wanted, rtol=1e-4, atol=1e-5)


def test_what_is_missing_is_said_with_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    judge = OpenJudge(tmp_path / "no-clip")
    with pytest.raises(JudgeError, match="--clip"):
        judge.clip_texts(["a"])
    with pytest.raises(JudgeError, match="--inception"):
        judge.features(noise(1))
    with pytest.raises(JudgeError, match="--sscd"):
        judge.copy_features(noise(1))
    with pytest.raises(JudgeError, match="x.pt does not exist"):
        OpenJudge(CLIP, tmp_path / "x.pt").features(noise(1))
    monkeypatch.setitem(sys.modules, "nudenet", None)
    with pytest.raises(JudgeError, match=r"semiperm\[nudenet\]"):
        judge.detections(noise(1))


def test_torchscript_is_not_loaded_without_trust(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "corner.pt"
    torch.jit.script(Corner()).save(str(path))  # pyright: ignore[reportAttributeAccessIssue]

    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("loaded")

    monkeypatch.setattr(torch.jit, "load", never)
    wary = OpenJudge(CLIP, path, path)
    for ask in (lambda: wary.features(noise(1)), lambda: wary.copy_features(noise(1)), lambda: wary.check(["kernel"])):
        with pytest.raises(JudgeError, match=r"corner.pt .* runs code .* add --trust"):
            ask()


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    path.write_bytes(b"not TorchScript")
    with pytest.raises(JudgeError, match="x.pt cannot be loaded as TorchScript"):
        OpenJudge(CLIP, path, trust=True).check(["frechet"])


def test_a_check_asks_for_what_the_metrics_need_and_for_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "nudenet", None)
    lacking = OpenJudge(tmp_path / "no-clip")
    lacking.check(["alteration", "opens"])
    for metric, option in {
        "found": "--clip", "clip": "--clip", "clip errors": "--clip", "became": "--clip", "frechet": "--inception",
        "kernel": "--inception", "copies": "--sscd", "exposures": r"semiperm\[nudenet\]",
    }.items():  # fmt: skip
        with pytest.raises(JudgeError, match=option):
            lacking.check([metric])
    OpenJudge(CLIP).check(["found", "clip"])


def test_the_detector_gets_blue_first_and_the_best_score_of_a_class_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[np.ndarray] = []

    class Detector:
        def detect(self, picture: np.ndarray) -> list[dict[str, Any]]:
            given.append(picture)
            return [{"class": EXPOSED[0], "score": score, "box": [0, 0, 1, 1]} for score in (0.4, 0.7, 0.2)]

    module = types.ModuleType("nudenet")
    module.NudeDetector = Detector  # pyright: ignore[reportAttributeAccessIssue]
    monkeypatch.setitem(sys.modules, "nudenet", module)
    pictures = noise(2, 8)
    found = OpenJudge(CLIP).detections(pictures)
    assert found == [{EXPOSED[0]: 0.7}] * 2
    assert np.array_equal(given[1], pictures[1][..., ::-1]) and given[1].flags["C_CONTIGUOUS"]
