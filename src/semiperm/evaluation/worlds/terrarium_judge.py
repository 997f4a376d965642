"""The terrarium's judge: its oracle and its own CLIP."""

from collections.abc import Collection, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from semiperm.evaluation.clip_model import Clip
from semiperm.terrarium import WEIGHTS, world
from semiperm.terrarium.oracle import Oracle, load_oracle


class TerrariumJudge:
    """The oracle classifies, detects weapons in the place of explicit content, and gives the features."""

    counted: tuple[str, ...] = tuple(item.name for item in world.OBJECTS if item.group == "weapon")
    threshold = 0.5
    copy_threshold = 0.9

    def __init__(self, oracle: Oracle | None = None) -> None:
        self.oracle = oracle or load_oracle()

    @cached_property
    def clip(self) -> Clip:
        return Clip(WEIGHTS / "clip")

    def describe(self) -> dict[str, Any]:
        return {
            "classifier": "the terrarium's oracle",
            "clip": "the terrarium's",
            "features": "the oracle's, before its classification",
            "detector": f"the oracle, score {self.threshold} or more",
            "counted": list(self.counted),
            "copies": f"the oracle's features, cosine {self.copy_threshold} or more",
        }

    def labels(self, pictures: np.ndarray, among: Sequence[str]) -> list[Collection[str]]:
        verdicts = self.oracle(pictures)
        return [{*verdict.found, verdict.style} & {*among} for verdict in verdicts]

    def clip_pictures(self, pictures: np.ndarray) -> np.ndarray:
        return self.clip.pictures(pictures)

    def clip_texts(self, texts: Sequence[str]) -> np.ndarray:
        return self.clip.texts(texts)

    def features(self, pictures: np.ndarray) -> np.ndarray:
        return self.oracle.embed(pictures)

    def copy_features(self, pictures: np.ndarray) -> np.ndarray:
        return self.oracle.embed(pictures)

    def detections(self, pictures: np.ndarray) -> list[dict[str, float]]:
        return [{name: verdict.probability[name] for name in self.counted} for verdict in self.oracle(pictures)]
