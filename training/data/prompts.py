"""Which prompts a run trains on, is validated on, and is evaluated on.

    prompts = load_prompts(config.data, "train")      # or "validation", "evaluation"
    prompt_of = training_order(prompts, seed)          # prompt_of(i) -> text

| set    | train                           | validation            | evaluation               |
|--------|---------------------------------|-----------------------|--------------------------|
| coco   | train split, without validation | drawn from train      | 2,048 of val, seed 42    |
| t2i    | train split, without validation | drawn from train      | all of val               |
| scenes | combinations not held out       | held-out combinations | others of those          |
| file   | data.train, without validation  | drawn from train, or  | data.validation, without |
|        |                                 | from data.validation  | validation               |

A text that is drawn for validation, in whatever case or spacing, does not stay in training: the
TPM that is kept is the best on validation. The paper's evaluation prompts take no part in that.
"""

from __future__ import annotations

import functools
import hashlib
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from ..run.config import DataConfig
from ..tiny.scenes import TEXTURES, held_out_scenes, sample_scene
from .prompt_files import (
    COCO_FILES,
    T2I_CATEGORIES,
    Prompt,
    PromptError,
    read_coco,
    read_prompts,
    read_txt,
)

SCENES = 4096  # training captions of the set scenes, drawn with replacement
PAPER_COCO = 2048  # evaluation prompts of COCO; of T2I-CompBench the paper takes all
SPLITS = ("train", "validation", "evaluation")


@dataclass(frozen=True)
class PromptList:
    """Prompts in their final order. categories: one per prompt, or ""; source: for people."""

    texts: tuple[str, ...]
    categories: tuple[str, ...]
    source: str

    def __len__(self) -> int:
        return len(self.texts)

    @functools.cached_property
    def sha256(self) -> str:
        """Of the texts as UTF-8, joined by \\n."""
        return hashlib.sha256("\n".join(self.texts).encode()).hexdigest()


def load_prompts(
    config: DataConfig, split: Literal["train", "validation", "evaluation"]
) -> PromptList:
    """The prompts of a split, the same for the same files and settings.

    Raises PromptError of one sentence where a file is missing or wrong, or too short for the draw.
    """
    if split not in SPLITS:
        raise PromptError(f"The split is {split!r}, expected one of {', '.join(SPLITS)}.")
    for name in ("validation_prompts", "evaluation_prompts"):
        if getattr(config, name) < 0:
            raise PromptError(
                f"data.{name} is {getattr(config, name)}, expected 0 or more; 0 is "
                f"{'none' if name == 'validation_prompts' else 'all'}."
            )
    load = {"coco": load_coco, "t2i": load_t2i, "scenes": load_scenes, "file": load_file}
    return load[config.set](config, split)


def load_coco(config: DataConfig, split: str) -> PromptList:
    """Evaluation as in the paper: `random.Random(seed).sample(sorted ids, 2048)`, in that order
    (the paper names the seed, the generator is an interpretation)."""
    name = COCO_FILES["val" if split == "evaluation" else "train"]
    path = find(config, name, "annotations", "coco")
    rows = read_coco(path)
    if split != "evaluation":
        return held_out(config, [Prompt(text) for _, text in rows], split, f"COCO 2014 {name}")
    captions = dict(rows)
    ids = draw(config, sorted(captions), config.evaluation_prompts, str(path))
    return listed([Prompt(captions[i]) for i in ids], f"COCO 2014 {name}")


def load_t2i(config: DataConfig, split: str) -> PromptList:
    """T2I-CompBench++, 8 files a split, in the order of T2I_CATEGORIES.

    evaluation_prompts: its default, 2,048, is COCO's number and takes all of T2I-CompBench as 0
    does; any other number is drawn.
    """
    part = "val" if split == "evaluation" else "train"
    prompts = []
    for category in T2I_CATEGORIES:
        path = find(config, f"{category}_{part}.txt", "examples/dataset", "t2i")
        prompts += read_txt(path, category)
    source = f"T2I-CompBench {part} split"
    if split != "evaluation":
        return held_out(config, prompts, split, source)
    count = 0 if config.evaluation_prompts == PAPER_COCO else config.evaluation_prompts
    return listed(draw(config, prompts, count, source), source)


def load_file(config: DataConfig, split: str) -> PromptList:
    """Of data.validation, if set, at most half is for validation and the rest for evaluation."""
    if not config.train and split != "evaluation":
        raise PromptError("data.set is file but data.train is empty, expected a file of prompts.")
    if not config.validation:
        if split == "evaluation":
            raise PromptError(
                "data.set is file but data.validation is empty, expected a file of prompts to "
                "evaluate on; set data.validation, or data.set to coco or t2i."
            )
        prompts = read_prompts(config.train, config.column)
        return held_out(config, prompts, split, short(config.train))
    apart = read_prompts(config.validation, config.column)
    taken = chosen(apart, min(config.validation_prompts, len(apart) // 2), config.seed)
    if split == "validation":
        return listed(taken, short(config.validation))
    if split == "train":
        prompts = without(read_prompts(config.train, config.column), taken)
        return listed(enough(config, prompts, config.train), short(config.train))
    rest = without(apart, taken)
    if not rest:
        raise PromptError(
            f"{config.validation} has no prompt beside the {len(taken)} of validation, expected "
            "some for evaluation; give it more different prompts."
        )
    return listed(
        draw(config, rest, config.evaluation_prompts, config.validation), short(config.validation)
    )


@functools.cache  # a second of work, and several measurements in one process ask for the same
def training_scenes(seed: int) -> PromptList:
    rng = torch.Generator().manual_seed(seed)
    scenes = [sample_scene(rng, held_out=False) for _ in range(SCENES)]
    return listed([Prompt(s.caption, s.kind) for s in scenes], "scenes, training combinations")


def load_scenes(config: DataConfig, split: str) -> PromptList:
    """The embedded model's grammar: nothing is read.

    Training never sees a held-out combination of two or three objects; validation and evaluation
    are held-out combinations only, from two draws (seed + 1, seed + 2), and evaluation leaves out
    what validation has, so the three share no caption. A quarter of each texture, in turn. (The
    laboratory's mix also has single objects and counts, which have no held-out combinations.)
    """
    if split == "train":
        return training_scenes(config.seed)
    if split == "evaluation" and not config.evaluation_prompts:
        raise PromptError(
            "data.evaluation_prompts is 0 (all), but the set scenes has no end; set a number."
        )
    count = config.evaluation_prompts if split == "evaluation" else 0
    return scenes_apart(config.seed, config.validation_prompts, count)


@functools.cache  # seconds of work, as `training_scenes`
def scenes_apart(seed: int, validation: int, count: int) -> PromptList:
    """Held-out combinations: `count` for evaluation, none of which is among the `validation` ones,
    or with 0 those themselves."""
    check = held_out_scenes(validation, seed + 1, compositions_only=True)
    if not count:
        return listed([Prompt(s.caption, s.kind) for s in check], "scenes, held-out combinations")
    taken = {scene.caption for scene in check}
    per_texture = -(-count // len(TEXTURES))
    size, queues = count + count // 8 + 4, {}
    while min(map(len, queues.values()), default=-1) < per_texture:
        # a longer draw begins with the shorter one, so the first prompts are always the same
        queues = {texture: [] for texture in TEXTURES}
        for scene in held_out_scenes(size, seed + 2, compositions_only=True):
            if scene.caption not in taken:
                queues[scene.texture].append(scene)
        size *= 2
    turns = zip(*(queues[texture][:per_texture] for texture in TEXTURES), strict=True)
    scenes = [scene for turn in turns for scene in turn][:count]
    return listed([Prompt(s.caption, s.kind) for s in scenes], "scenes, held-out combinations")


def listed(prompts: Sequence[Prompt], source: str) -> PromptList:
    return PromptList(tuple(p.text for p in prompts), tuple(p.category for p in prompts), source)


def find(config: DataConfig, name: str, inside: str, which: str) -> Path:
    """A file of data.folder, or of the folder that its archive or repository keeps it in."""
    folder = Path(config.folder)
    for path in (folder / name, folder / inside / name):
        if path.is_file():
            return path
    found = sorted(p.name for p in folder.iterdir())[:4] if folder.is_dir() else []
    there = f"holds {', '.join(found) or 'nothing'}" if folder.is_dir() else "does not exist"
    raise PromptError(
        f"data.folder {config.folder} {there}, expected {name} in it for data.set {which}; "
        f"fetch it with `python training/prepare.py --preset P --data.set {which} --data.folder "
        f"{config.folder} --fetch`, or set data.folder."
    )


def key(prompt: Prompt) -> str:
    """What makes two prompts the same."""
    return prompt.text.casefold()


def chosen(prompts: list[Prompt], count: int, seed: int) -> list[Prompt]:
    """Up to `count` different prompts, drawn with the seed, in the order of the draw."""
    rows = list(range(len(prompts)))
    random.Random(f"{seed}/validation").shuffle(rows)
    taken: dict[str, Prompt] = {}
    for row in rows:
        if len(taken) == count:
            break
        taken.setdefault(key(prompts[row]), prompts[row])
    return list(taken.values())


def without(prompts: list[Prompt], taken: list[Prompt]) -> list[Prompt]:
    gone = {key(prompt) for prompt in taken}
    return [prompt for prompt in prompts if key(prompt) not in gone]


def held_out(config: DataConfig, prompts: list[Prompt], split: str, source: str) -> PromptList:
    """The train or the validation part of a training split."""
    taken = chosen(prompts, config.validation_prompts, config.seed)
    rest = enough(config, without(prompts, taken), source)
    return listed(taken, f"{source}, held out") if split == "validation" else listed(rest, source)


def enough(config: DataConfig, rest: list[Prompt], source: str) -> list[Prompt]:
    if not rest:
        raise PromptError(
            f"data.validation_prompts is {config.validation_prompts}, which leaves no prompt of "
            f"{source} to train on; set it to a smaller number."
        )
    return rest


def draw(config: DataConfig, items: list, count: int, source: str) -> list:
    """The paper's draw, `random.Random(seed).sample(items, count)`; 0 is all, in order."""
    if not count:
        return items
    if count > len(items):
        raise PromptError(
            f"data.evaluation_prompts is {count}, but {source} has only {len(items)} for "
            "evaluation; set a smaller number, or 0 for all."
        )
    return random.Random(config.seed).sample(items, count)


def short(where: str) -> str:
    """A source without the folders of this machine."""
    return where if where.startswith("hub:") else Path(where).name


def training_order(prompts: PromptList, seed: int) -> Callable[[int], str]:
    """Prompt i of the run, i = 0, 1, ...: every epoch a shuffle of its own, all prompts once.

    It depends on the seed and i alone, so a resumed run needs no state.
    """
    if not prompts.texts:
        raise PromptError(f"{prompts.source} holds no prompt, expected at least one to train on.")
    count = len(prompts.texts)

    @functools.lru_cache(maxsize=2)  # iterations at the seam of two epochs need both
    def rows(epoch: int) -> list[int]:
        order = list(range(count))
        random.Random(f"{seed}/{epoch}").shuffle(order)
        return order

    def prompt_of(i: int) -> str:
        epoch, at = divmod(i, count)
        return prompts.texts[rows(epoch)[at]]

    return prompt_of
