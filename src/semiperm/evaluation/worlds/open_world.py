"""The open world: any model, with public prompts, names from papers, and public models as judges."""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import ClassVar

from semiperm.concept import Concept, Kind
from semiperm.errors import ProtocolError
from semiperm.evaluation.judge import Judge
from semiperm.evaluation.store import Pictures
from semiperm.evaluation.subject import OTHER_KINDS, SAME_KIND, TARGET, Subject
from semiperm.evaluation.worlds.interface import World, asked_as
from semiperm.evaluation.worlds.literature import (
    CANVAS_SEEDS,
    CANVAS_TEMPLATE,
    MEMORISED_TEMPLATES,
    PAPER,
    THEMES,
    THINGS,
    clip_templates,
)
from semiperm.evaluation.worlds.open_judge import CLIP_NAME, OpenJudge
from semiperm.evaluation.worlds.picture_folders import originals, photographs
from semiperm.evaluation.worlds.prompt_files import read_csv
from semiperm.pictures import Shot, every

NO_REFERENCE = "this protocol compares with the originals: give a folder of them with --reference"


class Open(World):
    """Any model and any concept, judged by public models.

    Args:
        clip: a folder or Hub id of a CLIP model.
        inception, sscd: TorchScript files for FID and KID, and for copies.
        prompts: a CSV file of prompts, for the protocols that read one.
        reference: a folder of COCO's photographs, or of the originals of memorised pictures.
        trust: "yes" if the TorchScript files may be loaded, which runs code that they contain.

    Raises:
        ProtocolError: `trust` is something else.
    """

    name: ClassVar[str] = "open"

    def __init__(
        self,
        clip: str | Path = CLIP_NAME,
        inception: str | Path | None = None,
        sscd: str | Path | None = None,
        prompts: str | Path | None = None,
        reference: str | Path | None = None,
        trust: str = "no",
    ) -> None:
        if trust not in ("yes", "no"):
            raise ProtocolError(f"the option trust of the world 'open' is yes or no, not {trust!r}")
        self.clip, self.trust = clip, trust == "yes"
        self.inception, self.sscd, self.prompts, self.reference = map(_path, (inception, sscd, prompts, reference))

    def judge(self, device: str = "cpu") -> Judge:
        return OpenJudge(self.clip, self.inception, self.sscd, device, trust=self.trust)

    def require(self, metrics: Collection[str], files: Collection[str]) -> None:
        if "prompts" in files or self.prompts is not None:
            read_csv(self.prompts, "I2P's, COCO-30k's or the artists' CSV (prompt, evaluation_seed)")
        if "reference" in files and self.reference is None:
            raise ProtocolError(NO_REFERENCE)
        if self.reference is not None and not self.reference.is_dir():
            raise ProtocolError(f"{self.reference} is not a folder: --reference should be a folder of pictures")
        OpenJudge(self.clip, self.inception, self.sscd, trust=self.trust).check(metrics)

    def of_kind(self, kind: Kind, concepts: Sequence[Concept]) -> list[Concept]:
        # An adopted file may not say of what kind its concept is; the protocol does.
        return [concept.model_copy(update={"kind": kind}) for concept in concepts]

    def original(self, concept: Concept) -> Pictures:
        return self._originals()[self._title(concept)]

    def by_name(self, concept: Concept) -> list[str]:
        kind = asked_as(concept.kind)
        if kind == "style":
            return [shot.prompt for shot in self._artist(concept.name).shots]
        if kind == "memorised":
            return [template.format(self._title(concept)) for template in MEMORISED_TEMPLATES]
        return [template.format(concept.name) for template in clip_templates()]

    # rows

    def target(self, concept: Concept, seeds: int) -> Subject:
        kind = asked_as(concept.kind)
        if kind == "style":
            return self._artist(concept.name)
        if kind == "memorised":
            return self._copied(self._title(concept), TARGET, seeds)
        return _object(concept.name, TARGET, seeds, concept.surrogate)

    def same_kind(self, kind: Kind, targets: Sequence[Concept], seeds: int) -> list[Subject]:
        erased = {concept.name.lower() for concept in targets}
        if kind == "style":
            return [
                Subject(artist, SAME_KIND, "kept", shots, label=artist, text=artist)
                for artist, shots in self._artists().items()
                if artist.lower() not in erased
            ]
        if kind == "memorised":
            titles = [title for title in self._originals() if title.lower() not in erased]
            return [self._copied(title, SAME_KIND, seeds) for title in titles]
        return [_object(name, SAME_KIND, seeds) for name in PAPER if name.lower() not in erased]

    def explicit(self, seeds: int) -> list[Subject]:
        lines = read_csv(self.prompts, "I2P's CSV (prompt, sd_seed, sd_guidance_scale)")
        return [Subject("I2P", TARGET, "gone", tuple(line.shot for line in lines))]

    def everyday(self, seeds: int) -> list[Subject]:
        lines = read_csv(self.prompts, "COCO-30k's CSV (image_id, prompt, evaluation_seed)")
        images = tuple(line.image for line in lines)
        reference = None if self.reference is None else photographs(self.reference, images)
        return [
            Subject("COCO captions", SAME_KIND, "kept", tuple(line.shot for line in lines), reference=reference)
        ]  # fmt: skip

    def styled(self, seeds: int) -> tuple[list[Subject], list[Subject]]:
        # Each picture has a style and an object, so the rows share their pictures.
        fixed = CANVAS_SEEDS[:seeds]
        return (
            [_canvas(theme, [(thing, theme) for thing in THINGS], fixed) for theme in THEMES],
            [_canvas(thing, [(thing, theme) for theme in THEMES], fixed) for thing in THINGS],
        )

    # inside

    def _artists(self) -> dict[str, tuple[Shot, ...]]:
        found: dict[str, tuple[Shot, ...]] = {}
        for line in read_csv(self.prompts, "an artists' CSV (prompt, evaluation_seed, artist)"):
            found[line.artist] = (*found.get(line.artist, ()), line.shot)
        return found

    def _artist(self, wanted: str) -> Subject:
        for artist, shots in self._artists().items():
            if artist.lower() == wanted.lower():
                return Subject(artist, TARGET, "gone", shots, label=artist, text=artist)
        raise ProtocolError(f"{self.prompts} has no prompts of the artist {wanted!r}")

    def _originals(self) -> dict[str, Pictures]:
        if self.reference is None:
            raise ProtocolError(NO_REFERENCE)
        return originals(self.reference)

    def _title(self, concept: Concept) -> str:
        for title in self._originals():
            if title.lower() == concept.name.lower():
                return title
        raise ProtocolError(f"{self.reference} has no picture named after {concept.name!r}")

    def _copied(self, title: str, group: str, seeds: int) -> Subject:
        prompts = [template.format(title) for template in MEMORISED_TEMPLATES]
        return Subject(
            title, group, "gone" if group == TARGET else "kept", every(prompts, seeds, 0),
            text=title, original=self._originals()[title],
        )  # fmt: skip


def _object(name: str, group: str, seeds: int, surrogate: str = "") -> Subject:
    shots = every([template.format(name) for template in clip_templates()], seeds, 0)
    expected = "gone" if group == TARGET else "kept"
    return Subject(name, group, expected, shots, label=name, text=name, surrogate=surrogate)


def _canvas(name: str, cells: Sequence[tuple[str, str]], seeds: Sequence[int]) -> Subject:
    prompts = [CANVAS_TEMPLATE.format(thing, theme.replace("_", " ")) for thing, theme in cells]
    shots = tuple(Shot(prompt, seed) for prompt in prompts for seed in seeds)
    return Subject(name, OTHER_KINDS, "kept", shots, label=name, text=name.replace("_", " "))


def _path(given: str | Path | None) -> Path | None:
    return None if given is None else Path(given)
