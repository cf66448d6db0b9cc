"""What the images of the suite are scored with, and the cache that a rerun goes on from.

| metric         | how                                                                           |
|----------------|-------------------------------------------------------------------------------|
| rewards        | training/rewards: clip (CLIPScore), image_reward, hps, pick; scene, noise ...   |
| bert           | BERTScore F1 of a VLM's caption and the prompt: own greedy matching, no idf, no |
|                | rescaling; start and end tokens can be matched, but count nothing themselves    |
| judge          | a VLM's own grade of the match, 0 to 10                                       |

The paper does not say which model its BERTScore has; compare differences, not levels.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import re
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ...report.tables import markdown
from ..evaluation.statistics import difference, mean_error
from ..evaluation.tables import digits
from ..rewards import RewardError, built_in, load_rewards
from ..rewards.weights import from_hub
from ..run.config import RewardsConfig
from ..run.offline import offline
from ..run.rows import read_rows, write_rows

# images and their prompts -> metric -> (score, what the model said) an image
Scores = dict[str, list[tuple[float, str]]]
Scorer = Callable[[list[Image.Image], list[str]], Scores]

CAPTION = "Describe this image in one sentence. Name every object, what it does, and how many."
JUDGE = (
    "How well does this image match the description {prompt!r}? Look at every object, its number, "
    "its attributes and what it does. Answer with one number from 0 (nothing matches) to 10 "
    "(everything matches), and nothing else."
)
GRADE = re.compile(r"\d+(?:\.\d+)?")
CAPTION_TOKENS, GRADE_TOKENS = 80, 8


@dataclass(frozen=True)
class Metric:
    """load() takes the weights into memory. source: what they are; another one scores anew."""

    name: str
    source: str
    load: Callable[[], Scorer]


def pixels_of(image: Image.Image) -> Tensor:
    """(3, H, W) in [0, 1]."""
    return torch.from_numpy(np.array(image)).movedim(-1, 0) / 255


def reward_scorer(config: RewardsConfig, device: torch.device) -> Scorer:
    """One reward of training/rewards."""
    rewards = load_rewards(config, device)

    def score(images: list[Image.Image], prompts: list[str]) -> Scores:
        found = rewards(torch.stack([pixels_of(image) for image in images]), prompts)
        return {name: [(float(v), "") for v in values] for name, values in found.items()}

    return score


class VisionLanguage:
    """An image-text model of transformers (Qwen2.5-VL) in a local folder, answering greedily."""

    def __init__(self, folder: str, device: torch.device):
        from transformers import AutoModelForImageTextToText, AutoProcessor

        if not Path(folder).is_dir():
            raise FileNotFoundError(
                f"There is no folder {folder}; --caption_model and --judge_model take one that "
                "holds a Qwen2.5-VL as transformers saves it."
            )
        self.device = device
        dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        with offline():
            self.processor = AutoProcessor.from_pretrained(folder, local_files_only=True)
            self.model = AutoModelForImageTextToText.from_pretrained(
                folder, local_files_only=True, dtype=dtype
            )
        self.model.requires_grad_(False).train(False).to(device)

    @torch.inference_mode()
    def ask(self, image: Image.Image, question: str, tokens: int) -> str:
        content = [{"type": "image", "image": image}, {"type": "text", "text": question}]
        inputs = self.processor.apply_chat_template(
            [{"role": "user", "content": content}],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        ).to(self.device)
        made = self.model.generate(**inputs, max_new_tokens=tokens, do_sample=False)
        new = made[:, inputs["input_ids"].shape[1] :]
        return self.processor.batch_decode(new, skip_special_tokens=True)[0].strip()


class TextVectors:
    """Token vectors of one layer of a text model (BERTScore: layer 17 of roberta-large)."""

    def __init__(self, where: str, layer: int, device: torch.device):
        from transformers import AutoModel, AutoTokenizer

        what, setting = "of BERTScore", "--bert_model"
        self.tokenizer = from_hub(
            AutoTokenizer.from_pretrained, where, f"The tokenizer {what}", setting
        )
        model = from_hub(AutoModel.from_pretrained, where, f"The text model {what}", setting)
        self.model = model.train(False).to(device)
        self.layer, self.device = layer, device
        if not 0 <= layer <= self.model.config.num_hidden_layers:
            raise ValueError(
                f"--bert_layer is {layer}, but {where} has {self.model.config.num_hidden_layers} "
                "layers; give one of them."
            )

    @torch.inference_mode()
    def __call__(self, text: str) -> tuple[Tensor, Tensor]:
        """(L, E) vectors of length 1, and (L,) True where a token is no start or end."""
        inputs = self.tokenizer(
            text.strip(), truncation=True, return_tensors="pt", return_special_tokens_mask=True
        ).to(self.device)
        counts = ~inputs.pop("special_tokens_mask")[0].bool()
        hidden = self.model(**inputs, output_hidden_states=True).hidden_states[self.layer][0]
        return F.normalize(hidden.float(), dim=-1), counts


def bert_f1(candidate: tuple[Tensor, Tensor], reference: tuple[Tensor, Tensor]) -> float:
    """F1 of the greedy cosine matching (Zhang et al. 2020), each a pair of `TextVectors`."""
    (a, a_counts), (b, b_counts) = candidate, reference
    cosines = a @ b.T  # (A, B)
    precision = float(cosines.amax(1)[a_counts].mean())
    recall = float(cosines.amax(0)[b_counts].mean())
    return 2 * precision * recall / (precision + recall)


def caption_scorer(folder: str, bert: str, layer: int, device: torch.device) -> Scorer:
    vision, vectors = VisionLanguage(folder, device), TextVectors(bert, layer, device)

    def score(images: list[Image.Image], prompts: list[str]) -> Scores:
        captions = [vision.ask(image, CAPTION, CAPTION_TOKENS) for image in images]
        return {
            "bert": [
                (bert_f1(vectors(caption), vectors(prompt)), caption)
                for caption, prompt in zip(captions, prompts, strict=True)
            ]
        }

    return score


def judge_scorer(folder: str, device: torch.device) -> Scorer:
    vision = VisionLanguage(folder, device)

    def score(images: list[Image.Image], prompts: list[str]) -> Scores:
        answers = [
            vision.ask(image, JUDGE.format(prompt=prompt.strip()), GRADE_TOKENS)
            for image, prompt in zip(images, prompts, strict=True)
        ]
        return {"judge": [(read_grade(answer), answer) for answer in answers]}

    return score


def read_grade(answer: str) -> float:
    """The grade in a judge's answer. Raises RewardError when there is none from 0 to 10."""
    found = GRADE.search(answer)
    if not found or float(found[0]) > 10:
        raise RewardError(
            f"The judge of --judge_model answered {answer!r}, expected a number from 0 to 10; "
            "use an instruction-tuned model."
        )
    return float(found[0])


def metrics(config: RewardsConfig, rest: argparse.Namespace, device: torch.device) -> list[Metric]:
    """All metrics that the settings and options ask for; nothing is loaded yet."""
    sources = {
        "clip": config.clip_model,
        "image_reward": config.image_reward_path or "hub",
        "hps": config.hps_path or config.hps_version,
        "pick": config.pick_path,
    }
    found = []
    for name in config.weights:
        plugin = "" if built_in(name) else config.plugin
        own = replace(config, weights={name: 1.0}, plugin=plugin)
        source = sources.get(name, plugin or "published")
        found.append(Metric(name, source, partial(reward_scorer, own, device)))
    if rest.caption_model:
        wanted = (rest.caption_model, rest.bert_model, rest.bert_layer)
        source = "{} {} layer {}".format(*wanted)
        found.append(Metric("bert", source, partial(caption_scorer, *wanted, device)))
    if judge := rest.judge_model:
        found.append(Metric("judge", judge, partial(judge_scorer, judge, device)))
    return found


class Cache:
    """scores.csv: every score that was ever made, rewritten whole, so that a kill leaves no half.

    A picture that was made again is scored again: a score is of the file's content. Columns: image,
    sha256, metric, source, score, note (a caption, a judge's answer). A file with a line that is
    no such row is refused with a RunFolderError, and left as it is.
    """

    COLUMNS = ("image", "sha256", "metric", "source", "score", "note")

    def __init__(self, folder: Path):
        self.folder, self.path, self.digests = folder, folder / "scores.csv", {}
        self.rows = {tuple(row[name] for name in self.COLUMNS[:4]): row for row in self.read()}

    def read(self) -> list[dict[str, str]]:
        return read_rows(self.path, self.COLUMNS, numbers=("score",))

    def key(self, image: str, metric: Metric) -> tuple[str, str, str, str]:
        if image not in self.digests:
            content = (self.folder / image).read_bytes()
            self.digests[image] = hashlib.sha256(content).hexdigest()[:16]
        return image, self.digests[image], metric.name, metric.source

    def get(self, image: str, metric: Metric) -> float | None:
        row = self.rows.get(self.key(image, metric))
        return row and float(row["score"])

    def put(self, images: list[str], metric: Metric, scores: list[tuple[float, str]]) -> None:
        for image, (score, note) in zip(images, scores, strict=True):
            key = self.key(image, metric)
            self.rows[key] = dict(zip(self.COLUMNS, (*key, repr(score), note), strict=True))
        write_rows(self.path, [*self.rows.values()])


def unscored(images: dict[str, str], metric: Metric, cache: Cache) -> list[str]:
    return [name for name in images if cache.get(name, metric) is None]


def score_all(
    folder: Path, images: dict[str, str], metric: Metric, scorer: Scorer, cache: Cache, batch: int
) -> Iterator[int]:
    """Scores the images (path below folder -> prompt) that have none yet; yields how many were
    done after each batch. Raises RewardError when a score cannot be made.
    """
    todo = unscored(images, metric, cache)
    for i in range(0, len(todo), batch):
        names = todo[i : i + batch]
        pictures = [Image.open(folder / name).convert("RGB") for name in names]
        scores = scorer(pictures, [images[name] for name in names])
        cache.put(names, metric, scores[metric.name])
        yield len(names)


def set_table(rows: list[dict], methods: list[str], names: list[str], plain: str) -> str:
    """One set: mean and paired difference to plain of every metric, median seconds and ratio."""
    groups = {m: [row for row in rows if row["method"] == m] for m in methods}
    header = ["method"]
    for name in names:
        header += [name, f"{name} - {plain}"]
    median = {
        m: statistics.median([r["seconds"] for r in group if r["seconds"] == r["seconds"]] or [0])
        for m, group in groups.items()
    }
    lines = []
    for method, group in groups.items():
        line = [method]
        for name in names:
            base = torch.tensor([row[name] for row in groups[plain]])
            own, d = torch.tensor([row[name] for row in group]), digits(base)
            line.append("{:.{d}f} ± {:.{d}f}".format(*mean_error(own), d=d))
            change = "{:+.{d}f} ± {:.{d}f}".format(*difference(own, base), d=d)
            line.append("" if method == plain else change)
        ratio = median[method] / median[plain] if median[plain] else math.nan
        lines.append([*line, f"{median[method]:.3g}", f"{ratio:.2f}"])
    return markdown([*header, "s / image", f"x {plain}"], lines)
