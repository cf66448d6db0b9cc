"""Does the noise meter tell structured detail from added noise? And what do other metrics say?

    python bench/noise_meter.py --out docs

Photographs that scikit-image ships and rendered scenes are changed in known ways, each of which is
noise or is not. Prints tables, of a sweep of the deviation too, and draws noise_meter.png.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter
from torch import Tensor
from torch.nn import functional as F

from async_timestep.bench.parts import frame
from async_timestep.report.noise import LUMINANCE, noise_residual
from async_timestep.report.tables import markdown
from async_timestep.tpm.policies import Constant
from async_timestep.training.backbones.tiny import TinyFlow
from async_timestep.training.grpo.update import advantages
from async_timestep.training.rewards import RewardSet
from async_timestep.training.rewards.noise import NoiseReward
from async_timestep.training.rewards.scene import SceneReward, ScorerReward
from async_timestep.training.run.config import BackboneConfig, GRPOConfig
from async_timestep.training.tiny.scenes import TEXTURES, held_out_scenes, render, sample_scene

PHOTOGRAPHS = "astronaut camera chelsea coffee immunohistochemistry rocket stereo_motorcycle brick"
PHOTOGRAPHS = (*PHOTOGRAPHS.split(), "grass", "gravel")
SCENES, PROMPTS, STEPS, RESAMPLES, SEED = 64, 64, 4, 1000, 7
TILE = 128  # pixels
METER, WHITE = "noise meter", [f"white noise {std}" for std in (0.01, 0.02, 0.04)]
DEVIATIONS = (0.0, -0.5, -0.25, 0.25, 0.5, 0.75, 1.0)
PENALTIES = (0.0, 0.25, 0.5, 1.0)


@dataclass
class Change:
    """Images (n, 3, H, W) in [0, 1] before and after; `noisy`: was it noise that was added?"""

    noisy: bool
    before: Tensor
    after: Tensor
    captions: tuple[list[str], list[str]] = ([], [])


def photographs() -> tuple[dict[str, Change], Tensor]:
    """Changes of tiles of 128 pixels, and which photograph each is from (n,)."""
    try:
        from skimage import data
    except ImportError as error:
        raise SystemExit("The photographs need scikit-image: pip install scikit-image.") from error
    views, source = [], []
    for number, name in enumerate(PHOTOGRAPHS):
        image = getattr(data, name)()
        image = torch.tensor(image[0] if isinstance(image, tuple) else image) / 255
        image = image.movedim(-1, 0) if image.ndim == 3 else image.expand(3, -1, -1)
        found = image.unfold(1, 2 * TILE, TILE).unfold(2, 2 * TILE, TILE)
        views.append(found.movedim(0, 2).flatten(0, 1))
        source += [number] * len(views[-1])
    views, half = torch.cat(views), TILE // 2
    tiles = views[..., half:-half, half:-half]
    denser = Change(False, tiles, F.avg_pool2d(views, 2))  # twice as wide, on as many pixels
    return changes(tiles) | {"twice the detail a pixel": denser}, torch.tensor(source)


def sharpened(images: Tensor, sigma: float, amount: float) -> Tensor:
    """Unsharp mask: the difference to a Gaussian blur, added `amount` times."""
    blurred = torch.from_numpy(gaussian_filter(images.numpy(), (0, 0, sigma, sigma)))
    return (images + amount * (images - blurred)).clamp(0, 1)


def changes(images: Tensor, captions: tuple = ([], [])) -> dict[str, Change]:
    """The changes that any image can have; noise is drawn anew for each."""
    rng, (count, _, *size) = torch.Generator().manual_seed(SEED), images.shape

    def latent(cell: int) -> Tensor:
        coarse = torch.randn(count, 3, *(side // cell for side in size), generator=rng)
        fine = F.interpolate(coarse, tuple(size), mode="bicubic")
        return fine / fine.std()

    noisy = {name: images + float(name.split()[-1]) * latent(1) for name in WHITE}
    chroma = latent(1)
    chroma = chroma - torch.einsum("bchw,c->bhw", chroma, torch.tensor(LUMINANCE))[:, None]
    noisy["chroma noise 0.04"] = images + 0.04 * chroma / chroma.std()
    for cell in (2, 4):
        noisy[f"latent noise 0.04, {cell}x{cell}"] = images + 0.04 * latent(cell)
    for share in (0.01, 0.05):
        grain = torch.rand(count, 1, *size, generator=rng) / share  # below 1: black, or white
        noisy[f"salt and pepper {share:.0%}"] = torch.where(grain < 1, grain.round(), images)
    noisy["sharpening 0.5 + white 0.02"] = sharpened(images, 1.5, 0.5) + 0.02 * latent(1)
    every = noisy | {
        "sharpening 0.5": sharpened(images, 1.5, 0.5),
        "sharpening 1.5": sharpened(images, 1.5, 1.5),
        "local contrast": sharpened(images, 8.0, 0.6),
        "gamma 0.8": images**0.8,
    }
    return {n: Change(n in noisy, images, v.clamp(0, 1), captions) for n, v in every.items()}


def rendered() -> tuple[dict[str, Change], Tensor]:
    """Changes of rendered scenes; more detail is also another caption with the same layout."""

    def drawn(scenes: list) -> Tensor:  # a generator a scene: the layout is drawn first
        each = [torch.Generator().manual_seed(SEED + i) for i in range(SCENES)]
        return torch.cat([render([s], rng)[0] for s, rng in zip(scenes, each, strict=True)])

    usual, rng = held_out_scenes(SCENES, SEED), torch.Generator().manual_seed(SEED)
    found = changes(drawn(usual), ([scene.caption for scene in usual],) * 2)
    ones = [sample_scene(rng, weights=(1.0, 0, 0, 0, 0)) for _ in usual]
    threes = [sample_scene(rng, weights=(0, 0, 0, 0, 1.0)) for _ in usual]
    threes = [replace(b, tone=a.tone, texture=a.texture) for a, b in zip(ones, threes, strict=True)]
    plain, *textured = ([replace(scene, texture=name) for scene in usual] for name in TEXTURES)
    others = {f"plain to {scenes[0].texture}": (plain, scenes) for scenes in textured}
    for name, pair in (others | {"one object to three": (ones, threes)}).items():
        captions = tuple([scene.caption for scene in scenes] for scenes in pair)
        found[name] = Change(False, *map(drawn, pair), captions)
    return found, torch.arange(SCENES)


def metrics(images: Tensor, captions: list[str]) -> dict[str, Tensor]:
    """Metric -> (n,)."""
    level, _ = noise_residual(images.movedim(1, -1))
    grey, sizes = images.mean(1), []
    dx, dy = grey.diff(dim=2)[:, :-1], grey.diff(dim=1)[..., :-1]
    curvature = dx.diff(dim=2)[:, :-1] + dy.diff(dim=1)[..., :-1]
    for image in (images * 255).round().byte().movedim(1, -1).numpy():
        Image.fromarray(image).save(file := io.BytesIO(), "JPEG", quality=90)
        sizes.append(file.tell())
    found = {
        METER: level,
        "noise_floor": NoiseReward(("noise_floor",))(images, captions)["noise_floor"],
        "Laplacian variance": curvature.flatten(1).var(1),
        "total variation": (dx.abs() + dy.abs()).mean((1, 2)),
        "gradient": (dx.square() + dy.square()).sqrt().mean((1, 2)),
        "JPEG bytes": torch.tensor(sizes),
    }
    for judge in (SceneReward(("scene", "scene_clean")), ScorerReward()) if captions else ():
        found |= {f"-{name}": -v for name, v in judge(images, captions).items()}  # less is worse
    return {name: value.double() for name, value in found.items()}


class Measured:
    """All metrics of all changes of one kind of image, and what they say as detectors of noise."""

    def __init__(self, found: dict[str, Change], source: Tensor):
        self.noisy = [name for name, change in found.items() if change.noisy]
        self.detail = [name for name in found if name not in self.noisy]
        self.before = {name: metrics(c.before, c.captions[0]) for name, c in found.items()}
        self.after = {name: metrics(c.after, c.captions[1]) for name, c in found.items()}
        self.source, self.names = source, list(self.after[WHITE[0]])
        groups = int(source.max()) + 1
        rng = torch.Generator().manual_seed(SEED)  # a photograph, or scene, is drawn as a whole
        draws = torch.randint(groups, (RESAMPLES, groups), generator=rng)
        counts = F.one_hot(draws, groups).sum(1)[:, source]
        self.weights = torch.cat([torch.ones(1, len(source)), counts]).double()  # row 0: as it is

    def mean(self, metric: str, name: str) -> Tensor:
        """Mean change of all images, and of every resample, (1 + RESAMPLES,)."""
        change = self.after[name][metric] - self.before[name][metric]
        return self.weights @ change / self.weights.sum(1)

    def detect(self, metric: str, noisy: list[str], calm: list[str], paired: bool) -> tuple:
        """ROC AUC (1 + RESAMPLES,), and what a table says: it, and the false alarms where 95 % of
        the noisy are found."""

        def value(name: str) -> Tensor:
            old = self.before[WHITE[0] if name == "clean" else name][metric]
            return (old if name == "clean" else self.after[name][metric]) - paired * old

        loud, quiet = (torch.stack([value(name) for name in group]) for group in (noisy, calm))
        a, b = loud[:, :, None, None], quiet
        wins = ((a > b).double() + 0.5 * (a == b)).mean((0, 2))
        area = torch.einsum("ri,ij,rj->r", self.weights, wins, self.weights)
        alarms = (quiet >= loud.flatten().quantile(0.05)).double().mean()
        area = area / self.weights.sum(1).square()
        return area, [shown(area), f"{float(alarms):.0%}"]


def shown(values: Tensor, form: str = ".2f") -> str:
    low, high = (format(v, form) for v in np.quantile(values[1:], (0.025, 0.975)))
    return f"{values[0]:{form}} ({low} to {high})"


def table(head: list[str], rows: list[list[str]]) -> None:
    print("\n" + markdown(head, rows), end="")


def tables(found: Measured, groups: tuple[str, ...]) -> None:
    """Every table of one kind of image; `groups`: what the images are called, in turn."""
    every, unit, rows = [*found.noisy, *found.detail], WHITE[1], []
    for i, group in enumerate(groups):
        here = found.source % len(groups) == i
        old, new = found.before[unit], [found.after[name] for name in (*WHITE, "sharpening 0.5")]
        rows.append([group, *(f"{v[METER][here].mean():.4f}" for v in (old, *new))])
    table(["mean level", "clean", *WHITE, "sharpening 0.5"], rows)

    rows = []
    for name in every:  # detail: white noise 0.02 against it
        noise = name in found.noisy
        sets = ([name], found.detail) if noise else ([unit], [name])
        clean = found.detect(METER, [name], ["clean"], False)[1][0] if noise else ""
        alone, pair = (found.detect(METER, *sets, paired)[1] for paired in (False, True))
        ratio = shown(found.mean(METER, name) / found.mean(METER, unit))
        rows.append([name, ratio, clean, *alone, *pair])
    head = ["level against clean", "level against detail", "alarms", "change, same", "alarms"]
    table(["", f"change, in that by {unit}", *head], rows)

    rows = []
    for metric in found.names:
        sets = (found.noisy, [unit])
        full, one = (found.detect(metric, n, found.detail, True)[1] for n in sets)
        rows.append([metric, *full, *one])
    table(["change of", "all noise", "alarms", unit, "alarms"], rows)

    rows = [[name] for name in every]  # those of the judges as they are, others in that by `unit`
    for row, metric in ((row, metric) for row in rows for metric in found.names):
        mean, one = found.mean(metric, row[0]), found.mean(metric, unit)
        row.append(shown(mean, "+.3f") if metric[0] == "-" else f"{float(mean[0] / one[0]):+.2f}")
    table(["mean change", *found.names], rows)


def sweep() -> None:
    """Texture, noise and rewards of deviations on rough prompts, and the mean advantage that a
    penalty would give to each (a group: one prompt, one noise)."""
    rng = torch.Generator().manual_seed(SEED)
    scenes = [sample_scene(rng, True, "rough") for _ in range(PROMPTS)]
    captions = [scene.caption for scene in scenes]
    backbone = TinyFlow(BackboneConfig(precision="bf16"), torch.device("cpu"))
    vae, real = backbone.model.vae, render(scenes, rng)[0]
    noise = backbone.noise([torch.Generator().manual_seed(SEED + i) for i in range(PROMPTS)])
    inputs = (backbone.encode(captions), noise, backbone.sigmas(STEPS))
    images = {f"{d:+g}": backbone.decode(backbone.sample(*inputs, Constant(d))) for d in DEVIATIONS}
    images |= {"rendered": real, "rendered, autoencoder": vae.decode(vae.encode(real))}
    names = ("scene", "scene_texture_std", "scene_clean", "scorer", "noise")
    judges = [SceneReward(names[:3]), ScorerReward(), NoiseReward()]
    score = RewardSet(judges, dict.fromkeys(names, 1.0))
    found = [score(batch, captions) for batch in images.values()]
    scores = {n: torch.stack([f[n] for f in found[: len(DEVIATIONS)]], 1) for n in names}
    pulls = [{"scene": 1.0, "noise": -weight} for weight in PENALTIES]
    gains = [advantages(scores, pull, GRPOConfig())[0].mean(0) for pull in pulls]
    rows = []
    for i, (label, here) in enumerate(zip(images, found, strict=True)):
        errors = [1.96 * float((here[n] - found[0][n]).std()) / PROMPTS**0.5 for n in names]
        means = [f"{here[n].mean():.4f} ± {e:.4f}" for n, e in zip(names, errors, strict=True)]
        rows.append([label, *means, *(f"{g[i]:+.2f}" if i < len(g) else "" for g in gains)])
    print(f"\n## Deviation, {STEPS} steps, {PROMPTS} rough prompts (± of the difference to D = 0)")
    table(["D", *names, *(f"advantage, noise {-w:g}" for w in PENALTIES)], rows)


def plot(kinds: dict[str, Measured], path: Path) -> None:
    """AUC of the meter by kind of noise, against images with more detail."""
    figure, (axes,) = frame.drawing(2, (11, 5.12), layout="constrained", sharey=True)
    for axis, (kind, found) in zip(axes, kinds.items(), strict=True):
        for paired, label in ((True, "change from the original"), (False, "level of the image")):
            areas = [found.detect(METER, [n], found.detail, paired)[0] for n in found.noisy]
            here, *ends = np.array([[a[0], *np.quantile(a[1:], (0.025, 0.975))] for a in areas]).T
            at, error = np.arange(len(areas)) + 0.2 - 0.4 * paired, np.abs(np.array(ends) - here)
            axis.barh(at, here, 0.38, xerr=error, label=label)
        axis.axvline(0.5, color="black", linewidth=1)
        axis.set(xlim=(0, 1), title=kind, xlabel="AUC against more detail (0.5 is chance)")
    axes[0].set_yticks(range(len(found.noisy)), found.noisy)
    axes[0].invert_yaxis()
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=2)
    frame.save(figure, path, dpi=100)


def main() -> None:
    parser = frame.parser(__doc__)
    frame.folder_option(parser, "noise_meter.png")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    print(f"`{frame.command('noise_meter')}`")
    kinds = {"Photographs": Measured(*photographs()), "Rendered scenes": Measured(*rendered())}
    for (kind, found), groups in zip(kinds.items(), (PHOTOGRAPHS, TEXTURES), strict=True):
        print(f"\n## {kind}")
        tables(found, groups)
    sweep()
    plot(kinds, args.out / "noise_meter.png")


if __name__ == "__main__":
    main()
