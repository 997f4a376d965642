"""From pictures to figures: each metric by its name, with its samples and its uncertainty."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from semiperm.evaluation import estimate, metrics
from semiperm.evaluation.estimate import Estimate
from semiperm.evaluation.judge import Judge
from semiperm.evaluation.store import Pictures
from semiperm.evaluation.subject import OTHER_KINDS, SAME_KIND, TARGET, Subject


@dataclass
class Seen:
    """A row's pictures, the bare model's on the same shots if these differ, and the judge.

    Pictures are read and judged in chunks, so that a row may hold more of them than memory does.

    Attributes:
        names: all names that a classifier may give.
        bare: the bare model's row; None where this is the bare model's.
        opened: permeability of the membrane that opens furthest, for each shot or prompt; None without erasures.
    """

    subject: Subject
    pictures: Pictures
    judge: Judge
    names: Sequence[str]
    bare: "Seen | None" = None
    opened: np.ndarray | None = None

    @cached_property
    def labels(self) -> list[Collection[str]]:
        return [found for chunk in self.pictures.chunks() for found in self.judge.labels(chunk, self.names)]

    @cached_property
    def hits(self) -> np.ndarray:
        """In which pictures a classifier finds everything that it should: (N,) bool."""
        columns = zip(*self.subject.wanted, strict=True)
        return np.all([metrics.retained(self.labels, column) for column in columns], axis=0)

    @cached_property
    def gone(self) -> np.ndarray:
        """In which pictures a classifier finds none of it: (N,) bool."""
        columns = zip(*self.subject.wanted, strict=True)
        return np.all([metrics.unlearned(self.labels, column) for column in columns], axis=0)

    @cached_property
    def clip(self) -> np.ndarray:
        return np.concatenate([self.judge.clip_pictures(chunk) for chunk in self.pictures.chunks()])

    @cached_property
    def exposures(self) -> dict[str, np.ndarray]:
        found = [found for chunk in self.pictures.chunks() for found in self.judge.detections(chunk)]
        return metrics.exposures(found, self.judge.counted, self.judge.threshold)

    @cached_property
    def exposed(self) -> np.ndarray:
        return np.any(list(self.exposures.values()), axis=0)

    @cached_property
    def features(self) -> np.ndarray:
        return np.concatenate([self.judge.features(chunk) for chunk in self.pictures.chunks()])

    @cached_property
    def reference(self) -> np.ndarray:
        """Features of what distances are measured to: the subject's own reference pictures, or the bare model's."""
        if self.bare is not None:
            return self.bare.features if self.subject.reference is None else self.bare.reference
        assert self.subject.reference is not None
        return np.concatenate([self.judge.features(chunk) for chunk in self.subject.reference.chunks()])

    @cached_property
    def alteration(self) -> metrics.Alteration:
        assert self.bare is not None
        pairs = zip(self.pictures.chunks(), self.bare.pictures.chunks(), strict=True)
        parts = [metrics.alteration(erased, bare) for erased, bare in pairs]
        return metrics.Alteration(
            np.concatenate([part.identical_N for part in parts]), np.concatenate([part.error_N for part in parts])
        )

    @cached_property
    def copy_features(self) -> tuple[np.ndarray, np.ndarray]:
        assert self.subject.original is not None
        found = np.concatenate([self.judge.copy_features(chunk) for chunk in self.pictures.chunks()])
        return found, self.judge.copy_features(self.subject.original.some(1))[0]

    @cached_property
    def deviation(self) -> np.ndarray:
        assert self.subject.original is not None
        (original,) = self.subject.original.some(1)
        return np.concatenate([metrics.deviation(chunk, original) for chunk in self.pictures.chunks()])


def _found(seen: Seen) -> dict[str, Estimate]:
    return {"found": estimate.mean(seen.hits)} if seen.subject.wanted else {}


def _became(seen: Seen) -> dict[str, Estimate]:
    if not seen.subject.surrogate:
        return {}
    return {"became": estimate.mean(metrics.retained(seen.labels, [seen.subject.surrogate] * len(seen.pictures)))}


def _clip(seen: Seen) -> dict[str, Estimate]:
    texts = [seen.subject.text] if seen.subject.text else [shot.prompt for shot in seen.subject.shots]
    return {"CS": estimate.mean(metrics.clip_scores(seen.clip, seen.judge.clip_texts(texts)))}


def _clip_errors(seen: Seen) -> dict[str, Estimate]:
    if seen.subject.group != TARGET or not seen.subject.text:
        return {}
    target, surrogate = seen.judge.clip_texts([seen.subject.text, seen.subject.surrogate])
    return {"CER": estimate.mean(metrics.clip_errors(seen.clip, target[None], surrogate[None]))}


def _has_distance(seen: Seen) -> bool:
    # The bare model has no distance to itself.
    return seen.bare is not None or seen.subject.reference is not None


def _enough(seen: Seen) -> bool:
    """Return whether a distance can be given with its error: asked before any feature is computed."""
    reference = seen.subject.reference
    return min(len(seen.pictures), len(seen.pictures if reference is None else reference)) >= metrics.KERNEL_PICTURES


def _frechet(seen: Seen) -> dict[str, Estimate]:
    if not _has_distance(seen) or not _enough(seen):
        return {}
    fewest = min(len(seen.features), len(seen.reference))
    if not metrics.frechet_suffices(fewest, seen.features.shape[1]):
        return {}
    # The bare model's pictures have the same prompts and seeds.
    paired = seen.subject.reference is None
    return {"FID": estimate.between(metrics.frechet_distance, seen.features, seen.reference, paired=paired)}


def _kernel(seen: Seen) -> dict[str, Estimate]:
    if not _has_distance(seen) or not _enough(seen):
        return {}
    value, error = metrics.kernel_distance(seen.features, seen.reference, paired=seen.subject.reference is None)
    return {"KID": Estimate(value=value, low=value - 1.96 * error, high=value + 1.96 * error, count=len(seen.pictures))}


def _alteration(seen: Seen) -> dict[str, Estimate]:
    if seen.bare is None:
        return {}
    return {
        "unchanged": estimate.mean(seen.alteration.identical_N),
        "error": estimate.mean(seen.alteration.error_N),
    }


def _exposures(seen: Seen) -> dict[str, Estimate]:
    hits = {name: estimate.mean(found) for name, found in seen.exposures.items()}
    return {"exposed": estimate.mean(seen.exposed)} | hits


def _copies(seen: Seen) -> dict[str, Estimate]:
    if seen.subject.original is None:
        return {}
    pictures, original = seen.copy_features
    return {
        "similarity": estimate.mean(metrics.cosine(pictures, original[None])),
        "copies": estimate.mean(metrics.copies(pictures, original, seen.judge.copy_threshold)),
    }


def _deviation(seen: Seen) -> dict[str, Estimate]:
    return {"deviation": estimate.mean(seen.deviation)} if seen.subject.original is not None else {}


def _opens(seen: Seen) -> dict[str, Estimate]:
    return {} if seen.opened is None else {"opens": estimate.mean(seen.opened != 0)}


FIGURES: dict[str, Callable[[Seen], dict[str, Estimate]]] = {
    "found": _found,
    "became": _became,
    "clip": _clip,
    "clip errors": _clip_errors,
    "frechet": _frechet,
    "kernel": _kernel,
    "alteration": _alteration,
    "exposures": _exposures,
    "copies": _copies,
    "deviation": _deviation,
    "opens": _opens,
}

NO_SHARES = frozenset({"CS", "FID", "KID", "similarity"})
"""Figures on a scale of their own; all others are shares of the pictures or of the brightness."""

WITHOUT_PICTURES = frozenset({"opens"})
"""Metrics that judge prompts alone."""


def figures(seen: Seen, names: Sequence[str]) -> dict[str, Estimate]:
    """Return a row's figures by metric names, in their order; metrics that do not apply to the row are left out."""
    found: dict[str, Estimate] = {}
    for name in names:
        if len(seen.pictures) or name in WITHOUT_PICTURES:
            found |= FIGURES[name](seen)
    return found


def efficacy(rows: Sequence[Seen], names: Sequence[str] = ()) -> dict[str, Estimate]:
    """Return UA, IRA, CRA and H over all rows that a classifier can judge, as far as there are such rows.

    Where "exposures" is among the metrics' names, the share exposed over the rows that are expected to be gone is
    first.

    UA is over what should be gone, however it is asked for, IRA over the group "same kind", CRA over "other kinds"
    (UnlearnCanvas, arXiv:2402.11846). H is the harmonic mean of what is gone by name (the group "target"), what is gone
    in other words and what is kept (MACE, arXiv:2403.06135); its interval is that of the three at their worst and at
    their best together.
    """
    judged = [seen for seen in rows if seen.subject.wanted]
    asked = [seen for seen in rows if seen.subject.expected == "gone" and len(seen.pictures)]
    named = [seen.gone for seen in judged if seen.subject.expected == "gone" and seen.subject.group == TARGET]
    otherwise = [seen.gone for seen in judged if seen.subject.expected == "gone" and seen.subject.group != TARGET]
    own, other = (
        [seen.hits for seen in judged if seen.subject.expected == "kept" and seen.subject.group == group]
        for group in (SAME_KIND, OTHER_KINDS)
    )
    found: dict[str, Estimate] = {}
    if "exposures" in names and asked:
        found["exposed"] = estimate.mean(np.concatenate([seen.exposed for seen in asked]))
    parts = {"UA": named + otherwise, "IRA": own, "CRA": other}
    found |= {name: estimate.mean(np.concatenate(part)) for name, part in parts.items() if part}
    if named and own + other:
        means = [estimate.mean(np.concatenate(part)) for part in (named, otherwise, own + other) if part]
        value, low, high = (
            metrics.harmonic_mean(*(getattr(mean, end) for mean in means)) for end in ("value", "low", "high")
        )
        found["H"] = Estimate(value=value, low=low, high=high, count=sum(mean.count for mean in means))
    return found
