"""The rewards of the embedded model: the exact judge of scenes, and the small trained scorer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from torch import Tensor
from torch.nn import functional as F

from ..tiny.backbone import WEIGHTS
from ..tiny.scenes import SIZE
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


Judge = Callable[[Tensor, list[str]], dict[str, Tensor]]


def score_scenes(images: Tensor, prompts: list[str]) -> dict[str, Tensor]:
    return score_images(own_size(images), prompts)


class SceneReward:
    """`scene` is the judge's whole reward, at most 3; `scene_iou` and so on its parts.

    score: the judge, the exact one of the embedded model's scenes or another with the same parts.
    """

    def __init__(self, names: tuple[str, ...], score: Judge | None = None):
        self.names, self.score = names, score or score_scenes
        for name in names:
            if name != "scene" and name.removeprefix("scene_") not in PARTS:
                raise ValueError(
                    f"rewards.weights names {name!r}, expected scene or scene_ with one of "
                    f"{', '.join(PARTS)}."
                )

    def __call__(self, images: Tensor, prompts: list[str]) -> dict[str, Tensor]:
        scores = self.score(images, prompts)
        return {
            name: scores["reward" if name == "scene" else name.removeprefix("scene_")]
            for name in self.names
        }


def own_size(images: Tensor) -> Tensor:
    """Images of n times the judge's side, as the demo model's decoder in ComfyUI makes them, at its
    own: means of n x n pixels. Others are left as they are, for the judge to refuse."""
    times, rest = divmod(images.shape[-1], SIZE)
    square = images.shape[-1] == images.shape[-2]
    return F.avg_pool2d(images, times) if square and times > 1 and not rest else images


class ScorerReward:
    """`scorer`: cosine of the small CLIP that was trained on scenes."""

    names = ("scorer",)

    def __init__(self, path: Path = WEIGHTS / "scorer.safetensors") -> None:
        self.scorer = SceneScorer(path)

    def __call__(self, images: Tensor, prompts: list[str]) -> dict[str, Tensor]:
        return {"scorer": self.scorer(own_size(images), prompts)}
