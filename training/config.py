"""Every setting of the trainer: a preset fills the dataclasses, the command line has the last word.

    python training/train_tpm.py --preset tiny --grpo.lr 3e-4 --iterations 100

Where the AsyncDiff paper says nothing or can be read in two ways, the field says "interpretation".
Where a default of the presets departs from it, the field says "departs"; the overlay
presets/paper_strict.yaml turns all of these off.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


@dataclass
class BackboneConfig:
    """The frozen diffusion model and how it is sampled.

    Attributes:
        name: which model family.
        path: folder or hub id; empty is the family's own (tiny: the embedded weights).
        precision: of the frozen model; the TPM is always float32. The paper: fp16.
        guidance: classifier-free guidance scale, or the embedded guidance of Flux. The paper: 5.
        guidance_mode: cfg makes two passes as one batch, embedded one (Flux; interpretation).
        resolution: pixels a side. The paper: 512.
        match_comfyui: shorter T5 padding, nearest to what ComfyUI feeds the model.
        batch: images of one forward pass at most (twice that with CFG); 0 is no limit.
        decode_batch: images that the autoencoder decodes at a time.
        compile: torch.compile the frozen model.
    """

    name: Literal["tiny", "sd35_medium", "flux1_dev"] = "tiny"
    path: str = ""
    precision: Literal["fp32", "fp16", "bf16"] = "fp32"
    guidance: float = 3.0
    guidance_mode: Literal["cfg", "embedded"] = "cfg"
    resolution: int = 64
    match_comfyui: bool = True
    batch: int = 0
    decode_batch: int = 16
    compile: bool = False


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

    width: int = 256
    layers: int = 4
    heads: int = 8
    patch: int = 4
    registers: int = 4
    raw_cap: float | None = 5.0
    global_conditioning: bool = True
    actions: Literal["deviation", "omega", "both", "follow_time"] = "deviation"
    deviation_bound: float = 0.5
    omega_range: tuple[float, float] = (0.5, 1.5)
    include_terminal_action: bool = False


@dataclass
class GRPOConfig:
    """Group-relative PPO (Eq. 14-16).

    Attributes:
        group: images of one prompt. The paper: 16.
        minibatch: images of every prompt in one optimizer step; group / minibatch steps an
            iteration. The paper: 4.
        prompts: prompts of one iteration. The paper: 1 (tiny departs).
        clip: epsilon of Eq. 14. The paper: 0.2.
        ratio: trajectory (Eq. 14, 15) or the mean over the steps (departs).
        lr: learning rate.
        lr_schedule: constant (paper) or linear, down to 0 at the last iteration (departs).
        betas: of AdamW (interpretation).
        eps: of AdamW (interpretation).
        weight_decay: of AdamW (interpretation).
        grad_clip: largest gradient norm. The paper: 1.
        log_ratio_clamp: bound of |log ratio| before exp; 0 is none.
        kl_skip: a mini-batch whose estimated KL is above this is left out; 0 is none (departs).
        advantage_clip: bound of |advantage|; 0 is none (interpretation).
        renormalize: divide the advantage by the group's std again (interpretation).
        scale: std that a metric is divided by: of its group (Eq. 16), or one for all prompts
            of the iteration, so that prompts where nothing is to be gained weigh less (departs).
        noise: independent latents in a group (paper) or one latent shared by it, so that only the
            actions differ (departs).
        patience: iterations in a row that may change no parameter before the run stops and says
            why; 0 is no limit.
    """

    group: int = 16
    minibatch: int = 4
    prompts: int = 1
    clip: float = 0.2
    ratio: Literal["trajectory", "mean"] = "trajectory"
    lr: float = 1e-5
    lr_schedule: Literal["constant", "linear"] = "constant"
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    grad_clip: float = 1.0
    log_ratio_clamp: float = 10.0
    kl_skip: float = 0.15
    advantage_clip: float = 5.0
    renormalize: bool = True
    scale: Literal["group", "iteration"] = "group"
    noise: Literal["independent", "shared"] = "independent"
    patience: int = 20


@dataclass
class RewardsConfig:
    """What the images are scored with.

    Attributes:
        weights: metric -> weight in the average of Eq. 16. Names: image_reward, hps, clip, pick
            (the paper's four, 1 each); scene, scene_* and scorer (tiny); noise and
            noise_floor, levels of high-frequency noise, with a negative weight. A weight
            of 0 only logs a metric.
        backend: own modules in transformers' classes, or the image-reward and hpsv2 packages in
            an environment of their own (scripts/reward_worker.py).
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
        default_factory=lambda: {"image_reward": 1.0, "hps": 1.0, "clip": 1.0, "pick": 1.0}
    )
    backend: Literal["own", "packages"] = "own"
    address: str = ".host/reward_worker.sock"
    hps_version: Literal["v2.0", "v2.1"] = "v2.0"
    clip_model: str = "openai/clip-vit-large-patch14"
    clip_scale: float = 1.0
    image_reward_path: str = ""
    image_reward_tokenizer: str = "google-bert/bert-base-uncased"
    hps_path: str = ""
    hps_tokenizer: str = "openai/clip-vit-large-patch14"
    pick_path: str = "yuvalkirstain/PickScore_v1"
    pick_processor: str = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"
    precision: Literal["fp32", "fp16", "bf16"] = "fp32"
    batch: int = 16


@dataclass
class DataConfig:
    """Prompts.

    Attributes:
        set: coco, t2i, scenes (tiny's own grammar, without files) or file.
        folder: where the files of coco (captions_*2014.json) or t2i (*_train.txt) lie.
        train: for set file: .txt, .jsonl, .csv, COCO .json, a folder, or hub:<id>:<split>:<column>.
        validation: the same; empty takes validation prompts out of the training prompts.
        column: name of the text column of .jsonl and .csv.
        validation_prompts: how many.
        evaluation_prompts: how many evaluate.py draws from the validation split; 0 is all. The
            paper: 2,048 of COCO, all of T2I-CompBench.
        seed: of the draws. The paper: 42.
    """

    set: Literal["coco", "t2i", "scenes", "file"] = "scenes"
    folder: str = "data"
    train: str = ""
    validation: str = ""
    column: str = "prompt"
    validation_prompts: int = 128
    evaluation_prompts: int = 2048
    seed: int = 42


@dataclass
class LogConfig:
    """What is written beside the checkpoints.

    Attributes:
        validate_every: iterations between two validations; 0 is never.
        checkpoint_every: iterations between two checkpoints.
        keep: how many of the last checkpoints stay.
        samples_every: iterations between two sample grids (baseline | async); 0 is never.
        samples: prompts of a grid.
        tensorboard: also write TensorBoard events.
        best: keep the TPM that was best on validation as tpm.safetensors (departs); the last one
            is always written as tpm_last.safetensors.
    """

    validate_every: int = 200
    checkpoint_every: int = 50
    keep: int = 2
    samples_every: int = 200
    samples: int = 8
    tensorboard: bool = False
    best: bool = True


@dataclass
class Config:
    """One training run.

    Attributes:
        steps: K, the number of sampling steps, or a list: one of them is drawn an iteration.
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
    steps: int | list[int] = 4
    iterations: int = 4000
    seed: int = 42
    device: str = ""
    threads: int = 0
    text_encoders: Literal["resident", "offload"] = "resident"
    max_hours: float = 0.0
