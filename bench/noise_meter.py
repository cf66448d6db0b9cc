"""Does the noise meter tell structured detail from added noise? And what do other metrics say?

    python bench/noise_meter.py --out docs

Prints the tables and draws noise_meter.png. Images: photographs that scikit-image ships, in tiles
of 128 pixels, and rendered scenes. Each is changed in known ways, so every change has its original
and is either noise or not. Then a sweep of the deviation on the embedded model.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import shlex
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tpm.noise import MAP_WHITE, noise_residual  # noqa: E402
from tpm.policies import Constant  # noqa: E402
from training.backbones.tiny import TinyFlow  # noqa: E402
from training.config import BackboneConfig, GRPOConfig  # noqa: E402
from training.grpo import advantages  # noqa: E402
from training.rewards import RewardSet  # noqa: E402
from training.rewards.noise import NoiseReward  # noqa: E402
from training.rewards.scene import SceneReward, ScorerReward  # noqa: E402
from training.sampling import sample  # noqa: E402
from training.tiny.scenes import held_out_scenes, render, sample_scene  # noqa: E402

PHOTOGRAPHS = ("astronaut", "camera", "chelsea", "coffee", "immunohistochemistry", "rocket")
PHOTOGRAPHS += ("stereo_motorcycle", "brick", "grass", "gravel")
TILE = 128
WHITE = (0.01, 0.02, 0.04)
DEVIATIONS = (-0.5, -0.25, 0.0, 0.25, 0.5, 0.75, 1.0)
PENALTIES = (0.0, 0.25, 0.5, 1.0)
SHARPNESS = ("Laplacian variance", "total variation", "gradient", "JPEG bytes")


@dataclasses.dataclass
class Change:
    """Images (n, 3, H, W) in [0, 1] before and after; `noisy`: is noise what was added?"""

    noisy: bool
    before: Tensor
    after: Tensor
    captions: tuple[list[str], list[str]] | None = None


def photograph_tiles() -> tuple[Tensor, Tensor, Tensor]:
    """Tiles (n, 3, 128, 128); twice as wide a view around each, shrunk to as many pixels (more
    detail a pixel); and which photograph (n,)."""
    try:
        from skimage import data
    except ImportError as error:
        raise SystemExit(
            "The photographs come with scikit-image, which is not installed: "
            "pip install scikit-image."
        ) from error
    tiles, wide, source = [], [], []
    for number, name in enumerate(PHOTOGRAPHS):
        pixels = getattr(data, name)()
        pixels = torch.tensor(pixels[0] if isinstance(pixels, tuple) else pixels) / 255
        pixels = pixels.permute(2, 0, 1) if pixels.ndim == 3 else pixels.expand(3, -1, -1)
        views = pixels.unfold(1, 2 * TILE, TILE).unfold(2, 2 * TILE, TILE)
        views = views.permute(1, 2, 0, 3, 4).flatten(0, 1)
        half = TILE // 2
        tiles.append(views[..., half:-half, half:-half])
        wide.append(F.avg_pool2d(views, 2))
        source += [number] * len(views)
    return torch.cat(tiles), torch.cat(wide), torch.tensor(source)


def sharpened(images: Tensor, sigma: float, amount: float) -> Tensor:
    """Unsharp mask: the difference to a Gaussian blur, added `amount` times."""
    reach = int(3 * sigma)
    taps = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / sigma) ** 2)
    taps = taps / taps.sum()
    blurred = F.pad(images.flatten(0, 1)[:, None], (reach,) * 4, mode="reflect")
    blurred = F.conv2d(F.conv2d(blurred, taps.view(1, 1, 1, -1)), taps.view(1, 1, -1, 1))
    return (images + amount * (images - blurred.view_as(images))).clamp(0, 1)


def changes(images: Tensor, seed: int) -> dict[str, Change]:
    """The changes that any image can have; noise is drawn anew for each."""
    rng = torch.Generator().manual_seed(seed)
    count, _, height, width = images.shape

    def drawn(divisor: int = 1) -> Tensor:
        return torch.randn(count, 3, height // divisor, width // divisor, generator=rng)

    noisy = {f"white noise {std}": images + std * drawn() for std in WHITE}
    chroma = drawn()
    chroma = chroma - (chroma * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1, True)
    noisy["chroma noise 0.04"] = images + 0.04 * chroma / chroma.std()
    for cell in (2, 4):
        coarse = F.interpolate(drawn(cell), (height, width), mode="bicubic")
        noisy[f"latent noise 0.04, {cell}x{cell}"] = images + 0.04 * coarse / coarse.std()
    for share in (0.01, 0.05):
        where = torch.rand(count, 1, height, width, generator=rng) < share
        grains = (torch.rand(count, 1, height, width, generator=rng) < 0.5).float()
        noisy[f"salt and pepper {share:.0%}"] = torch.where(where, grains, images)
    noisy["sharpening 0.5 + white noise 0.02"] = sharpened(images, 1.5, 0.5) + 0.02 * drawn()
    detail = {
        "sharpening 0.5": sharpened(images, 1.5, 0.5),
        "sharpening 1.5": sharpened(images, 1.5, 1.5),
        "local contrast": sharpened(images, 8.0, 0.6),
        "gamma 0.8": images**0.8,
    }
    parts = ((name, kind, image) for kind, group in ((True, noisy), (False, detail))
             for name, image in group.items())  # fmt: skip
    return {name: Change(kind, images, image.clamp(0, 1)) for name, kind, image in parts}


def scene_changes(count: int, seed: int) -> tuple[dict[str, Change], Tensor]:
    """Rendered scenes, changed as photographs and by other captions of the same layout."""

    def drawn(scenes: list) -> Tensor:  # a generator a scene: the layout is drawn first
        rngs = [torch.Generator().manual_seed(seed + i) for i in range(count)]
        return torch.cat([render([s], rng)[0] for s, rng in zip(scenes, rngs, strict=True)])

    usual = held_out_scenes(count, seed)
    found = changes(drawn(usual), seed)
    for change in found.values():
        change.captions = ([scene.caption for scene in usual],) * 2
    rng = torch.Generator().manual_seed(seed)
    ones = [sample_scene(rng, weights=(1.0, 0, 0, 0, 0)) for _ in usual]
    threes = [sample_scene(rng, weights=(0, 0, 0, 0, 1.0)) for _ in usual]
    other = {"one object to three": (ones, [
        dataclasses.replace(three, tone=one.tone, texture=one.texture)
        for one, three in zip(ones, threes, strict=True)
    ])}  # fmt: skip
    plain = [dataclasses.replace(scene, texture="plain") for scene in usual]
    for texture in ("striped", "dotted", "rough"):
        same = [dataclasses.replace(scene, texture=texture) for scene in usual]
        other[f"plain to {texture}"] = (plain, same)
    for name, (old, new) in other.items():
        captions = ([s.caption for s in old], [s.caption for s in new])
        found[name] = Change(False, drawn(old), drawn(new), captions)
    return found, torch.arange(count)


def metrics(images: Tensor, captions: list[str] | None, judges: list) -> dict[str, Tensor]:
    """Metric -> (n,). `quietest tenth` is no part of the pack: the noise map where it is lowest."""
    grey = images.mean(1, keepdim=True)
    dx, dy = grey.diff(dim=3)[:, :, :-1], grey.diff(dim=2)[..., :-1]
    kernel = torch.tensor([[0.0, 1, 0], [1, -4, 1], [0, 1, 0]])
    level, where = noise_residual(images.movedim(1, -1))
    sizes = []
    for image in (images * 255).round().byte().movedim(1, -1).numpy():
        Image.fromarray(image).save(file := io.BytesIO(), "JPEG", quality=90)
        sizes.append(float(file.tell()))
    found = {
        "noise meter": level,
        "quietest tenth": MAP_WHITE * where.flatten(1).quantile(0.1, dim=1),
        "Laplacian variance": F.conv2d(grey, kernel[None, None]).flatten(1).var(1),
        "total variation": (dx.abs() + dy.abs()).mean((1, 2, 3)),
        "gradient": (dx.square() + dy.square()).sqrt().mean((1, 2, 3)),
        "JPEG bytes": torch.tensor(sizes),
    }
    for judge in judges:
        found |= {name: -value for name, value in judge(images, captions).items()}  # low is bad
    return {name: value.double() for name, value in found.items()}


class Measured:
    """All metrics of all changes of one kind of image, and what they say as detectors of noise."""

    def __init__(self, found: dict[str, Change], source: Tensor, judges: list, resamples: int):
        self.noisy = [name for name, change in found.items() if change.noisy]
        self.detail = [name for name in found if name not in self.noisy]
        captions = {name: change.captions or (None, None) for name, change in found.items()}
        self.before = {n: metrics(c.before, captions[n][0], judges) for n, c in found.items()}
        self.after = {n: metrics(c.after, captions[n][1], judges) for n, c in found.items()}
        self.names, groups = list(self.before[self.noisy[0]]), int(source.max()) + 1
        rng = torch.Generator().manual_seed(0)  # a photograph, or a scene, is drawn as a whole
        draws = torch.randint(groups, (resamples, groups), generator=rng)
        counts = F.one_hot(draws, groups).sum(1)
        self.weights = torch.cat([torch.ones(1, len(source)), counts[:, source]]).double()

    def mean(self, metric: str, name: str) -> Tensor:
        """Mean change of all images, and of every resample."""
        return self.weights @ self.change(metric, name) / self.weights.sum(1)

    def like_white(self, values: Tensor) -> tuple[float, float, float]:
        """Std of the white noise with the same mean change, between those that were measured."""
        at = [self.mean("noise meter", f"white noise {std}") for std in WHITE]
        known = torch.stack([torch.zeros_like(at[0]), *at])
        equal = [np.interp(v, known[:, i], (0.0, *WHITE)) for i, v in enumerate(values)]
        return self.interval(torch.tensor(equal))

    def curve(self, metric: str, noisy: str, paired: bool) -> tuple[Tensor, Tensor]:
        """False alarms and found, for every threshold."""
        value = self.change if paired else lambda metric, name: self.after[name][metric]
        loud, quiet = value(metric, noisy), torch.cat([value(metric, n) for n in self.detail])
        every = torch.cat([loud, quiet, loud.new_tensor([torch.inf])]).sort(descending=True).values
        return tuple((group >= every[:, None]).double().mean(1) for group in (quiet, loud))

    def change(self, metric: str, name: str) -> Tensor:
        return self.after[name][metric] - self.before[name][metric]

    def interval(self, values: Tensor) -> tuple[float, float, float]:
        """Statistic of all images, and 95 % of its (1 + resamples,) values."""
        return float(values[0]), *values[1:].quantile(torch.tensor([0.025, 0.975]).double()).tolist()

    def detect(self, metric: str, noisy: list[str], calm: list[str], paired: bool) -> tuple:
        """ROC AUC with its interval, and the false alarms where 95 % of the noisy are found.
        calm: changes that are no noise; "clean" is the originals."""

        def value(name: str) -> Tensor:
            clean, name = name == "clean", self.noisy[0] if name == "clean" else name
            if paired:
                return self.change(metric, name) * (not clean)
            return (self.before if clean else self.after)[name][metric]

        loud, quiet = (torch.stack([value(name) for name in group]) for group in (noisy, calm))
        above = loud[:, :, None, None] > quiet
        wins = (above + 0.5 * (loud[:, :, None, None] == quiet)).double().mean((0, 2))
        area = torch.einsum("ri,ij,rj->r", self.weights, wins, self.weights)
        area = area / self.weights.sum(1).square()
        alarms = float((quiet >= loud.flatten().quantile(0.05)).double().mean())
        return self.interval(area), alarms


def row(*cells) -> str:
    def text(cell) -> str:
        return f"{cell[0]:.2f} ({cell[1]:.2f}-{cell[2]:.2f})" if isinstance(cell, tuple) else cell

    return "| " + " | ".join(f"{c:.0%}" if isinstance(c, float) else text(c) for c in cells) + " |"

def tables(kind: str, found: Measured) -> None:
    """Every table of one kind of image."""
    calm, meter = ["clean", *found.detail], "noise meter"
    print(f"\n## {kind.capitalize()}\n\n| added noise | level, AUC | false alarms | change, AUC |"
          " false alarms | change, AUC against detail only |\n|---|---|---|---|---|---|")  # fmt: skip
    for name in found.noisy:
        seen = [found.detect(meter, [name], group, paired) for group, paired in
                ((calm, False), (calm, True), (found.detail, True))]  # fmt: skip
        print(row(name, *seen[0], *seen[1], seen[2][0]))

    white = [f"white noise {std}" for std in WHITE]
    print("\n| more detail | like white noise of |", " | ".join(f"AUC of {w}" for w in white), "|")
    print("|---" * 5 + "|")
    for name in found.detail:
        equal = found.like_white(found.mean(meter, name))
        seen = [found.detect(meter, [w], [name], True)[0] for w in white]
        print(row(name, f"{equal[0]:.4f} ({equal[1]:.4f}-{equal[2]:.4f})", *seen))

    groups = {"all noise": found.noisy, white[1]: white[1:2]}
    print("\n| change of |", " | ".join(f"{g}, AUC | false alarms" for g in groups), "|")
    print("|---" * 5 + "|")
    for metric in found.names:
        cells = [c for g in groups.values() for c in found.detect(metric, g, found.detail, True)]
        print(row(metric, *cells))

    print(f"\n| mean change | {' | '.join(found.names)} |\n{'|---' * (len(found.names) + 1)}|")
    for name in (*found.noisy, *found.detail):
        cells = []
        for metric in found.names:
            mean, low, high = found.interval(found.mean(metric, name))
            if metric in SHARPNESS:
                cells.append(f"{mean / float(found.before[name][metric].mean()):+.0%}")
            else:
                cells.append(f"{mean:+.4f} ({low:+.4f} to {high:+.4f})")
        print(row(name, *cells))


def sweep(prompts: int, steps: int, seed: int) -> None:
    """Texture, noise and rewards against a constant deviation, on rough prompts; and the mean
    advantage that a penalty would give to each."""
    rng = torch.Generator().manual_seed(seed)
    captions = [sample_scene(rng, True, "rough").caption for _ in range(prompts)]
    backbone = TinyFlow(BackboneConfig(precision="bf16"), torch.device("cpu"))
    noise = backbone.noise([torch.Generator().manual_seed(seed + i) for i in range(prompts)])
    asked, sigmas = backbone.encode(captions), backbone.sigmas(steps)
    parts = ("scene", "scene_texture_std", "scene_clean")
    rewards = [SceneReward(parts), ScorerReward(), NoiseReward()]
    score = RewardSet(rewards, dict.fromkeys((*parts, "scorer", "noise"), 1.0))
    runs = [score(backbone.decode(sample(backbone, asked, noise, sigmas, Constant(d))), captions)
            for d in DEVIATIONS]  # fmt: skip
    scores = {name: torch.stack([run[name] for run in runs], dim=1) for name in score.names}
    print(f"\n## Deviation, {steps} steps, {prompts} rough prompts\n\n| D |", " | ".join(scores),
          *(f"| advantage, noise {-w:g}" for w in PENALTIES), "|")  # fmt: skip
    print("|---" * (1 + len(scores) + len(PENALTIES)) + "|")
    zero, config = DEVIATIONS.index(0.0), GRPOConfig()
    gains = [advantages(scores, {"scene": 1.0, "noise": -w}, config)[0].mean(0) for w in PENALTIES]
    for i, deviation in enumerate(DEVIATIONS):
        cells = []
        for values in scores.values():
            error = 1.96 * (values[:, i] - values[:, zero]).std() / prompts**0.5
            cells.append(f"{values[:, i].mean():.4f} ± {error:.4f}")
        print(row(f"{deviation:+g}", *cells, *(f"{gain[i]:+.2f}" for gain in gains)))


def plot(found: Measured, path: Path) -> None:
    """ROC curves at white noise 0.02, and the AUC of the meter by kind of noise."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 5.12), layout="constrained")
    for metric, paired in (("noise meter", True), ("noise meter", False), *(
        (metric, True) for metric in ("quietest tenth", "Laplacian variance", "JPEG bytes")
    )):  # fmt: skip
        curve = found.curve(metric, "white noise 0.02", paired)
        label = f"{metric}, {'change' if paired else 'level'}"
        left.plot(*curve, label=label, linewidth=2.2, linestyle="-" if paired else "--")
    left.plot([0, 1], [0, 1], color="grey", linewidth=0.8)
    left.set(xlabel="false alarms (images with more detail)", ylabel="noisy images found",
             title="White noise of std 0.02 against more detail")  # fmt: skip
    left.legend(fontsize=10, loc="lower right")
    for k, (paired, colour) in enumerate(((True, "tab:blue"), (False, "tab:orange"))):
        seen = [found.detect("noise meter", [n], found.detail, paired)[0] for n in found.noisy]
        error = [[a - low for a, low, _ in seen], [high - a for a, _, high in seen]]
        at = [i + 0.4 * k - 0.2 for i in range(len(seen))]
        label = "change from the original" if paired else "level of the image alone"
        right.barh(at, [s[0] for s in seen], 0.38, xerr=error, color=colour, label=label)
    right.set_yticks(range(len(found.noisy)), found.noisy)
    right.invert_yaxis()
    right.axvline(0.5, color="black", linewidth=0.8)
    right.set(xlim=(0, 1.02), xlabel="AUC against more detail (0.5: blind)", title="Noise meter")
    right.legend(fontsize=10, loc="lower left")
    figure.savefig(path, dpi=100)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for noise_meter.png")
    parser.add_argument("--scenes", type=int, default=64, help="rendered scenes")
    parser.add_argument("--prompts", type=int, default=64, help="of the sweep; 0 leaves it out")
    parser.add_argument("--steps", type=int, default=4, help="K of the sweep")
    parser.add_argument("--resamples", type=int, default=1000, help="of the bootstrap")
    parser.add_argument("--seed", type=int, default=7)
    args = parser.parse_args()
    print(f"`python bench/noise_meter.py {shlex.join(sys.argv[1:])}`")
    tiles, wide, source = photograph_tiles()
    found = changes(tiles, args.seed) | {"twice the detail a pixel": Change(False, tiles, wide)}
    photographs = Measured(found, source, [], args.resamples)
    levels = photographs.before["white noise 0.02"]["noise meter"]
    print("\nLevel of the clean tiles, mean: ", ", ".join(
        f"{name} {levels[source == i].mean():.4f}" for i, name in enumerate(PHOTOGRAPHS)
    ))  # fmt: skip
    tables("photographs", photographs)
    judges = [SceneReward(("scene", "scene_clean")), ScorerReward()]
    tables("scenes", Measured(*scene_changes(args.scenes, args.seed), judges, args.resamples))
    if args.prompts:
        sweep(args.prompts, args.steps, args.seed)
    plot(photographs, args.out / "noise_meter.png")


if __name__ == "__main__":
    main()
