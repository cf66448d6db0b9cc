"""Trains the scene scorer (a small CLIP) on rendered scenes. One CPU core and eight minutes are
enough.

    python training/make_tiny.py scorer --out training/tiny/weights --minutes 8

InfoNCE both ways over the batch; every image also stands against HARD captions of its own scene
with one thing wrong: colours or shapes swapped between objects, one colour or shape changed, the
relation turned round, another count, another background. Half of the images pass through the
autoencoder and half get mild noise, as generated ones do. The held-out combinations are never
shown, not even as wrong captions. Writes scorer.safetensors (fp16), whose metadata state the
accuracy on held-out captions, and scorer_log.jsonl.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from ..run.atomic import whole_file
from .backbone import WEIGHTS
from .scenes import COLOURS, RELATIONS, SHAPES, TEXTURES, TONES, Scene, render, sample_scene
from .scorer import FORMAT, ScorerNetwork, caption_ids
from .text import TextTable
from .vae import LinearVAE

HARD = 6  # wrong captions an image
OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}


def wrong_scenes(scene: Scene) -> list[Scene]:
    """Every scene that differs from `scene` in one aspect, so that its picture differs too."""
    objects, found = scene.objects, []

    def swap(values):
        return found.append(replace(scene, objects=tuple(values)))

    for i in range(len(objects)):
        for j in range(i):
            (ci, si), (cj, sj) = objects[i], objects[j]
            swap(
                (cj, s) if k == i else (ci, s) if k == j else (c, s)
                for k, (c, s) in enumerate(objects)
            )
            swap(
                (c, sj) if k == i else (c, si) if k == j else (c, s)
                for k, (c, s) in enumerate(objects)
            )
        for colour in COLOURS:
            swap((colour, s) if k == i else (c, s) for k, (c, s) in enumerate(objects))
        for shape in SHAPES:
            swap((c, shape) if k == i else (c, s) for k, (c, s) in enumerate(objects))
    if scene.relation:
        found += [replace(scene, relation=relation) for relation in RELATIONS]
        found += [replace(scene, relation=OPPOSITE[scene.relation])] * 3  # as often as the swaps
    if scene.kind == "count":
        found.append(replace(scene, count=5 - scene.count))
    found += [replace(scene, tone=tone) for tone in TONES]
    found += [replace(scene, texture=texture) for texture in TEXTURES]
    return [s for s in found if s != scene and len(set(s.objects)) == len(s.objects)]


def pick_wrong(scene: Scene, count: int, rng: torch.Generator, held_out: bool) -> list[str]:
    """`count` wrong captions drawn from `wrong_scenes`; without held-out combinations unless asked
    for."""
    options = [s.caption for s in wrong_scenes(scene) if held_out or not s.held_out]
    return [options[i] for i in torch.randint(len(options), (count,), generator=rng).tolist()]


def disturbed(images: torch.Tensor, vae: LinearVAE, rng: torch.Generator) -> torch.Tensor:
    """Half of the images through the autoencoder, half with noise of up to 0.06."""
    through = torch.rand(len(images), 1, 1, 1, generator=rng) < 0.5
    images = torch.where(through, vae.decode(vae.encode(images)), images)
    level = 0.06 * torch.rand(len(images), 1, 1, 1, generator=rng)
    level = level * (torch.rand(len(images), 1, 1, 1, generator=rng) < 0.5)
    return (images + level * torch.randn(images.shape, generator=rng)).clamp(0, 1)


def contrastive_loss(network: ScorerNetwork, images, ids, wrong) -> torch.Tensor:
    """InfoNCE: image -> caption over batch and own wrong captions, caption -> image over batch."""
    scale = network.log_scale.clamp(max=4.6).exp()
    pictures = network.images(images)
    texts = network.captions(torch.cat([ids[:, None], wrong], 1))  # (B, 1 + HARD, EMBED)
    across = scale * pictures @ texts[:, 0].T
    hard = scale * torch.einsum("bd,bhd->bh", pictures, texts[:, 1:])
    # a wrong caption that is drawn twice counts twice; harmless
    target = torch.arange(len(images))
    return (
        F.cross_entropy(torch.cat([across, hard], 1), target) + F.cross_entropy(across.T, target)
    ) / 2


@torch.inference_mode()
def held_out_accuracy(
    network: ScorerNetwork, rows, vae: LinearVAE, groups: int = 16
) -> dict[str, float]:
    """Retrieval on held-out combinations after an autoencoder round trip: the right caption of 64
    random held-out ones, and the right caption against all that have one thing wrong (and by kind
    of fault)."""
    rng = torch.Generator().manual_seed(2**31 + 5)
    hits, hard = [], []
    for _ in range(groups):
        scenes = [sample_scene(rng, held_out=True) for _ in range(64)]
        images = render(scenes, rng)[0]
        pictures = network.images(vae.decode(vae.encode(images)))
        texts = network.captions(torch.tensor([caption_ids(rows, s.caption) for s in scenes]))
        hits.append((pictures @ texts.T).argmax(1) == torch.arange(64))
        for scene, picture, text in zip(scenes, pictures, texts, strict=True):
            wrong = sorted({s.caption for s in wrong_scenes(scene)})
            others = network.captions(
                torch.tensor([caption_ids(rows, caption) for caption in wrong])
            )
            hard.append(float((picture @ others.T).max() < picture @ text))
    return {
        "held_out_1_of_64": float(torch.cat(hits).float().mean()),
        "held_out_hard": sum(hard) / len(hard),
    }


def export(network: ScorerNetwork, out: Path, metadata: dict[str, str]) -> None:
    """Writes the fp16 file atomically."""
    tensors = {
        name: value.detach().half().contiguous() for name, value in network.state_dict().items()
    }
    with whole_file(out / "scorer.safetensors") as temporary:
        save_file(tensors, temporary, metadata={"format": FORMAT, **metadata})


def train(
    out: Path, weights: Path, minutes: float, batch: int, lr: float, seed: int
) -> dict[str, float]:
    """Trains for `minutes` of wall time and exports. Returns the held-out accuracies."""
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    rng = torch.Generator().manual_seed(seed)
    rows, vae = TextTable(weights / "text.safetensors").rows, LinearVAE(weights / "vae.safetensors")
    network = ScorerNetwork(max(rows.values()) + 1)
    optimizer = torch.optim.AdamW(network.parameters(), lr=lr, betas=(0.9, 0.98), weight_decay=0.01)
    start, step, losses = time.monotonic(), 0, []
    while (progress := (time.monotonic() - start) / (60 * minutes)) < 1:
        for group in optimizer.param_groups:
            group["lr"] = (
                lr * min(1.0, (step + 1) / 100) * min(1.0, max(0.02, (1 - progress) / 0.5))
            )
        scenes = [sample_scene(rng, held_out=False) for _ in range(batch)]
        images = disturbed(render(scenes, rng)[0], vae, rng)
        ids = torch.tensor([caption_ids(rows, s.caption) for s in scenes])
        wrong = torch.tensor(
            [
                [caption_ids(rows, caption) for caption in pick_wrong(s, HARD, rng, held_out=False)]
                for s in scenes
            ]
        )
        loss = contrastive_loss(network, images, ids, wrong)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        losses.append(float(loss.detach()))
        step += 1
        if step % 100 == 0:
            line = {
                "step": step,
                "minutes": round(progress * minutes, 2),
                "loss": round(sum(losses[-100:]) / 100, 4),
            }
            if step % 500 == 0:
                line |= {
                    k: round(v, 4)
                    for k, v in held_out_accuracy(network, rows, vae, groups=2).items()
                }
            print(json.dumps(line), flush=True)
            with open(out / "scorer_log.jsonl", "a") as log:
                log.write(json.dumps(line) + "\n")
    accuracy = held_out_accuracy(network.train(False), rows, vae)
    facts = {
        "steps": str(step),
        "seed": str(seed),
        "minutes": f"{minutes:g}",
        "vocabulary": json.dumps(rows),
    }
    export(network, out, {**facts, **{name: f"{value:.4f}" for name, value in accuracy.items()}})
    return accuracy


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="folder for scorer.safetensors and its log"
    )
    parser.add_argument(
        "--weights", type=Path, default=WEIGHTS, help="folder of text and vae.safetensors"
    )
    parser.add_argument("--minutes", type=float, default=8, help="wall time to train for")
    parser.add_argument("--batch", type=int, default=64, help="images a step")
    parser.add_argument("--lr", type=float, default=2e-3, help="peak learning rate")
    parser.add_argument("--seed", type=int, default=11, help="seed of data and initial weights")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    accuracy = train(args.out, args.weights, args.minutes, args.batch, args.lr, args.seed)
    print("Done: " + ", ".join(f"{name} {value:.3f}" for name, value in accuracy.items()))
