"""The rewards of the embedded model: the exact judge of scenes, and the small trained scorer."""

from __future__ import annotations

from torch import Tensor

from ..tiny.backbone import WEIGHTS
from ..tiny.score import score_images
from ..tiny.scorer import SceneScorer

PARTS = (
    "iou",
    "relation",
    "count",
    "attributes",
    "strict",
    "background",
    "clean",
    "foreign",
    "texture_std",
)


class SceneReward:
    """`scene` is the judge's whole reward, at most 3; `scene_iou` and so on its parts."""

    def __init__(self, names: tuple[str, ...]):
        self.names = names
        for name in names:
            if name != "scene" and name.removeprefix("scene_") not in PARTS:
                raise ValueError(
                    f"rewards.weights names {name!r}, expected scene or scene_ with one of "
                    f"{', '.join(PARTS)}."
                )

    def __call__(self, images: Tensor, prompts: list[str]) -> dict[str, Tensor]:
        scores = score_images(images, prompts)
        return {
            name: scores["reward" if name == "scene" else name.removeprefix("scene_")]
            for name in self.names
        }


class ScorerReward:
    """`scorer`: cosine of the small CLIP that was trained on scenes."""

    names = ("scorer",)

    def __init__(self) -> None:
        self.scorer = SceneScorer(WEIGHTS / "scorer.safetensors")

    def __call__(self, images: Tensor, prompts: list[str]) -> dict[str, Tensor]:
        return {"scorer": self.scorer(images, prompts)}
