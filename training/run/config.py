"""Every setting of the trainer: a preset fills the dataclasses, the command line has the last word.

    python training/train_tpm.py --preset tiny --grpo.lr 3e-4 --iterations 100

Where the AsyncDiff paper says nothing or can be read in two ways, the field says "interpretation".
Where a default of the presets departs from it, the field says "departs"; the overlay
presets/paper_strict.yaml turns all of these off.

Every field has a range (ranges.py) or is a choice, and settings that do not go together are refused
here too: whoever makes a Config gets ValueError of one sentence.
"""

from __future__ import annotations

import copy
import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

from .backbone_config import AT_ONCE, PLACE, BackboneConfig
from .ranges import (
    RULE,
    Rule,
    check,
    number,
    one_of,
    optional,
    pair,
    real,
    shown,
    text,
    whole,
    whole_number,
)
from .workflow import own_steps

# The upper ends of the ranges. None is a wish: beyond each, a run cannot end or says nothing new.
IMAGES = 4096  # of a group, and prompts of an iteration: a rollout of hours
STEPS = 1000  # the grids are cut from tables of 1,000 times
ITERATIONS = 1_000_000  # 250 times the paper's; twelve days at a second each
SEED = 2**63 - 1  # torch's generators; Python's take -1 for 1
COUNT = 10**9  # of what is only compared with an iteration's number


def steps_read(value: Any) -> Any:
    if value == 0 and not isinstance(value, bool):
        return whole_number(value, 0, 0)  # Config refuses it where there is no workflow
    if isinstance(value, (list, tuple)):
        if not 1 <= len(value) <= STEPS:
            raise ValueError(value)
        return [whole_number(k, 2, STEPS) for k in value]
    return whole_number(value, 2, STEPS)


def weights_read(value: Any) -> dict[str, float]:
    if not isinstance(value, dict) or not all(isinstance(k, str) and k for k in value):
        raise ValueError(value)
    if not all(name.isprintable() and len(name) <= 200 for name in value):  # as in a TPM file
        raise ValueError(value)
    return {name: number(weight, -1e6, 1e6) for name, weight in value.items()}


STEPS_RULE = Rule(
    f"2 or more, at most {STEPS:,}, or a list of such numbers: with one step there is no time to "
    "decide about; or 0 for those of a workflow",
    steps_read,
)
WEIGHTS_RULE = Rule(
    "metrics with a number from -1e+06 to 1e+06 each, like {clip: 1.0}", weights_read
)


@dataclass
class PolicyConfig:
    """The TPM: its shape and what it decides.

    Attributes:
        width: of its tokens.
        layers: of the encoder. The paper: 4.
        heads: of attention.
        patch: side of a latent patch.
        registers: learned global tokens, flattened into the head.
        raw_cap: soft cap of the head's raw values, or null (departs).
        global_conditioning: text and time are added to the registers too (departs).
        actions: deviation (Eq. 7), omega (Eq. 19, 20), both by two heads, or follow_time:
            deviation, with omega = t*/t on every step (lying sigma, learned; not in the paper).
        deviation_bound: 0.5 (Eq. 7) or 1.0, lifted (Eq. 13).
        omega_range: of the omega head; [0.5, 1.5] is Eq. 20.
        include_terminal_action: also draw r_K of Algorithm 2, which cannot change the image
            (interpretation: off).
    """

    width: int = whole(256, 4, 4096)  # these five end where a TPM file's do
    layers: int = whole(4, 1, 64)
    heads: int = whole(8, 1, 256)
    patch: int = whole(4, 1, 64)
    registers: int = whole(4, 1, 64)
    raw_cap: float | None = optional(real(5.0, 0.01, 1000))
    global_conditioning: bool = True
    actions: Literal["deviation", "omega", "both", "follow_time"] = "deviation"
    deviation_bound: float = one_of(0.5, (0.5, 1.0), "0.5 (Eq. 7) or 1.0 (lifted, Eq. 13)")
    omega_range: tuple[float, float] = pair(
        (0.5, 1.5), "two rising numbers from 1e-9 to 10", lambda a, b: 1e-9 <= a < b <= 10
    )
    include_terminal_action: bool = False

    def __post_init__(self) -> None:
        check(self, "policy")
        if self.width % self.heads or self.width % 4:
            raise ValueError(
                f"policy.width is {self.width} and policy.heads {self.heads}, expected a width "
                "that 4 and the heads divide; change one of them."
            )


@dataclass
class GRPOConfig:
    """Group-relative PPO (Eq. 14-16). The names are those of trl where it has one.

    Attributes:
        num_generations: images of one prompt. The paper: 16.
        minibatch_size: images of every prompt in one optimizer step: num_generations /
            minibatch_size steps per iteration. The paper: 4.
        prompts_per_iteration: prompts of one iteration. The paper: 1 (tiny departs).
        epsilon: epsilon of Eq. 14. The paper: 0.2.
        importance_sampling_level: of the ratio: trajectory, the product over the steps (Eq. 14,
            15), which has no name in trl, or mean, over the steps (departs), trl's "sequence".
        lr: learning rate.
        lr_schedule: constant (paper) or linear, down to 0 at the last iteration (departs).
        betas: of AdamW (interpretation).
        eps: of AdamW (interpretation).
        weight_decay: of AdamW (interpretation).
        max_grad_norm: largest gradient norm; 0 is none. The paper: 1.
        log_ratio_clamp: bound of |log ratio| before exp; 0 is none.
        kl_skip: a mini-batch whose estimated KL is above this is left out; 0 is none (departs).
        advantage_clip: bound of |advantage|; 0 is none (interpretation).
        renormalize: divide the advantage by the group's std again (interpretation).
        scale_rewards: std that a metric is divided by: of its group (Eq. 16), or of the batch, one
            for all prompts of the iteration, so that prompts where nothing is to be gained weigh
            less (departs).
        group_noise: independent latents in a group (paper) or one latent shared by it, so that only
            the actions differ (departs).
        patience: iterations in a row that may change no parameter before the run stops and says
            why; 0 is no limit.
    """

    num_generations: int = whole(16, 2, IMAGES)
    minibatch_size: int = whole(4, 1, IMAGES)
    prompts_per_iteration: int = whole(1, 1, IMAGES)
    epsilon: float = real(0.2, 1e-6, 10)
    importance_sampling_level: Literal["trajectory", "mean"] = "trajectory"
    lr: float = real(1e-5, above=0, high=1)
    lr_schedule: Literal["constant", "linear"] = "constant"
    betas: tuple[float, float] = pair(
        (0.9, 0.999), "two numbers from 0, below 1", lambda a, b: 0 <= a < 1 and 0 <= b < 1
    )
    eps: float = real(1e-8, 1e-20, 1)  # in float32 a smaller one is 0, and 0 / 0 no number
    weight_decay: float = real(0.0, 0, 1)
    max_grad_norm: float = real(1.0, 0, 1e6, note="0 is none")
    log_ratio_clamp: float = real(10.0, 0, 80, note="0 is none")  # exp(89) is infinite in float32
    kl_skip: float = real(0.15, 0, 1e5, note="0 is none")
    advantage_clip: float = real(5.0, 0, 1e6, note="0 is none")
    renormalize: bool = True
    scale_rewards: Literal["group", "batch"] = "group"
    group_noise: Literal["independent", "shared"] = "independent"
    patience: int = whole(20, 0, COUNT, "0 is no limit")

    def __post_init__(self) -> None:
        check(self, "grpo")
        if self.num_generations % self.minibatch_size:
            raise ValueError(
                f"grpo.num_generations is {self.num_generations} and grpo.minibatch_size "
                f"{self.minibatch_size}, expected a mini-batch that divides the group; change one "
                "of them."
            )


@dataclass
class RewardsConfig:
    """What the images are scored with.

    Attributes:
        weights: metric -> weight in the average of Eq. 16. Names: image_reward, hps, clip, pick
            (the paper's four, 1 each); scene, scene_* and scorer (tiny); noise and
            noise_floor, levels of high-frequency noise, with a negative weight; one name of
            your own, scored by the plugin. A weight of 0 only logs a metric.
        plugin: your own Python file with score(images, prompts) -> one number an image, see
            docs/guides/rewards.md.
        backend: own modules in transformers' classes, or the image-reward and hpsv2 packages in
            an environment of their own (training/reward_worker.py).
        address: of the worker process when backend is packages.
        hps_version: interpretation; v2.0 is the default of the hpsv2 package.
        clip_model: folder or hub id (interpretation).
        clip_scale: CLIP score times this.
        image_reward_path: ImageReward.pt, or empty for the hub's.
        image_reward_tokenizer: folder (vocab.txt) or hub id.
        hps_path: HPS_v2*_compressed.pt, or empty for the hub's.
        hps_tokenizer: folder (vocab.json, merges.txt) or hub id; every CLIP has the same.
        pick_path: folder or hub id.
        pick_processor: folder or hub id of its tokenizer and image processor.
        precision: of the reward models.
        batch: images scored at a time.
    """

    weights: dict[str, float] = field(
        default_factory=lambda: {"image_reward": 1.0, "hps": 1.0, "clip": 1.0, "pick": 1.0},
        metadata={RULE: WEIGHTS_RULE},
    )
    plugin: str = text("", "the path of a Python file with score(images, prompts)", "none")
    backend: Literal["own", "packages"] = "own"
    address: str = text(".host/reward_worker.sock", "the path of a pipe")
    hps_version: Literal["v2.0", "v2.1"] = "v2.0"
    clip_model: str = text("openai/clip-vit-large-patch14", PLACE)
    clip_scale: float = real(1.0, above=0, high=1e6)
    image_reward_path: str = text("", "the path of ImageReward.pt", "the hub's")
    image_reward_tokenizer: str = text("google-bert/bert-base-uncased", PLACE)
    hps_path: str = text("", "the path of HPS_v2*_compressed.pt", "the hub's")
    hps_tokenizer: str = text("openai/clip-vit-large-patch14", PLACE)
    pick_path: str = text("yuvalkirstain/PickScore_v1", PLACE)
    pick_processor: str = text("laion/CLIP-ViT-H-14-laion2B-s32B-b79K", PLACE)
    precision: Literal["fp32", "fp16", "bf16"] = "fp32"
    batch: int = whole(16, 1, AT_ONCE)

    def __post_init__(self) -> None:
        check(self, "rewards")
        if not any(self.weights.values()):
            found = f"are all 0 ({', '.join(self.weights)})" if self.weights else "are none"
            raise ValueError(f"rewards.weights {found}, expected at least one that is not 0.")


@dataclass
class DataConfig:
    """Prompts.

    Attributes:
        set: coco, t2i, scenes (tiny's own grammar, without files) or file.
        folder: where the files of coco (captions_*2014.json) or t2i (*_train.txt) lie.
        train: for set file: .txt, .jsonl, .csv, COCO .json, a folder, or hub:<id>:<split>:<column>.
        validation: the same; empty takes validation prompts out of the training prompts.
        column: name of the text column of .jsonl and .csv.
        validation_prompts: how many; 0 is none, where nothing is validated.
        evaluation_prompts: how many evaluate.py draws from the validation split; 0 is all. The
            paper: 2,048 of COCO, all of T2I-CompBench.
        seed: of the draws. The paper: 42.
    """

    set: Literal["coco", "t2i", "scenes", "file"] = "scenes"
    folder: str = text("data", "a folder")
    train: str = text("", "a place of prompts", "none")
    validation: str = text("", "a place of prompts", "a part of the training prompts")
    column: str = text("prompt", "the name of a column")
    validation_prompts: int = whole(128, 0, 10_000, "0 is none")
    evaluation_prompts: int = whole(2048, 0, 1_000_000, "0 is all")
    seed: int = whole(42, 0, SEED)

    def __post_init__(self) -> None:
        check(self, "data")


@dataclass
class LogConfig:
    """What is written beside the checkpoints.

    Attributes:
        validate_every: iterations between two validations; 0 is never. A validation needs two
            prompts, for the spread of a metric.
        checkpoint_every: iterations between two checkpoints; 0 is only at the end.
        keep: how many of the last checkpoints stay.
        samples_every: iterations between two sample grids (baseline | async); 0 is never.
        samples: prompts of a grid; 0 is no grid.
        tensorboard: also write TensorBoard events.
        best: keep the TPM that was best on validation as tpm.safetensors (departs); the last one
            is always written as tpm_last.safetensors.
    """

    validate_every: int = whole(200, 0, COUNT, "0 is never")
    checkpoint_every: int = whole(50, 0, COUNT, "0 is only at the end")
    keep: int = whole(2, 1, COUNT)
    samples_every: int = whole(200, 0, COUNT, "0 is never")
    samples: int = whole(8, 0, 256, "0 is no grid")  # a picture of 70,000 rows of pixels
    tensorboard: bool = False
    best: bool = True

    def __post_init__(self) -> None:
        check(self, "log")


@dataclass
class Config:
    """One training run.

    Attributes:
        steps: K, the number of sampling steps, or a list: one of them is drawn an iteration, twice
            as often where it is named twice; 0 is the workflow's own number.
        iterations: of training. The paper: 4,000.
        seed: of noises, actions, the TPM's start and the order of the prompts.
        device: empty is CUDA where there is one, else CPU.
        threads: CPU threads; 0 is torch's own choice.
        text_encoders: resident, or offload to the CPU for cards of 24 GB.
        max_hours: a checkpoint is written and the run ends after this time; 0 is no limit.
    """

    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    grpo: GRPOConfig = field(default_factory=GRPOConfig)
    rewards: RewardsConfig = field(default_factory=RewardsConfig)
    data: DataConfig = field(default_factory=DataConfig)
    log: LogConfig = field(default_factory=LogConfig)
    steps: int | list[int] = field(default=4, metadata={RULE: STEPS_RULE})
    iterations: int = whole(4000, 1, ITERATIONS)
    seed: int = whole(42, 0, SEED)
    device: str = text("", "cpu, cuda or cuda:1", "CUDA where there is one", r"[a-z]+(:\d{1,3})?")
    threads: int = whole(0, 0, 512, "0 is torch's own choice")
    text_encoders: Literal["resident", "offload"] = "resident"
    max_hours: float = real(0.0, 0, 1e5, note="0 is no limit")

    def __post_init__(self) -> None:
        check(self)
        if self.steps == 0 and self.backbone.name != "workflow":
            raise ValueError(
                f"steps is 0 and backbone.name {self.backbone.name}, expected 2 or more: only a "
                "workflow has a number of its own."
            )
        if self.steps == 0 and self.backbone.checkpoint:
            raise ValueError(
                f"steps is 0 and backbone.checkpoint {self.backbone.checkpoint}, expected 2 or "
                "more: a checkpoint has no number of its own; set steps with --steps K."
            )
        if self.steps == 0 and self.backbone.workflow:
            self.steps = own_steps(self.backbone.workflow, self.backbone.node)
        if self.policy.actions == "omega" and 2 in self.step_counts:
            raise ValueError(
                f"policy.actions is omega and steps {shown(self.steps)}, but omega of the last "
                "step is 1 by definition, so two steps leave nothing to decide; set steps to 3 or "
                "more, or policy.actions to both."
            )

    @property
    def step_counts(self) -> list[int]:
        """Every K of `steps`, as they are written: one, or those of the list."""
        return list(self.steps) if isinstance(self.steps, list) else [self.steps]


def as_used(config: Config) -> Config:
    """The settings of a run: a copy that shares nothing with its source, checked once more, since
    fields can be set after a Config was made. What the other rewards do not see, the noise, is
    always on record."""
    own = copy.deepcopy(config)
    parts = [f.name for f in dataclasses.fields(own)]
    sections = {n: getattr(own, n) for n in parts if dataclasses.is_dataclass(getattr(own, n))}
    own = dataclasses.replace(own, **{n: dataclasses.replace(v) for n, v in sections.items()})
    own.rewards.weights.setdefault("noise", 0.0)
    return own
