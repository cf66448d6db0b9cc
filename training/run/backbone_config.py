"""The settings of the frozen model: which one it is, and how it is sampled."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal

from ...tpm.families import family_of
from .ranges import check, real, shown, text, whole

AT_ONCE = 65_536  # images of one pass: more than a card holds of the smallest model
SMALLEST = 128  # pixels: no checkpoint makes pictures below
PLACE = "a folder or hub id"
NAME = r"[\w.+-]+"  # of a sampler or a scheduler; ComfyUI knows which there are


@dataclass
class BackboneConfig:
    """The frozen diffusion model and how it is sampled.

    Attributes:
        name: which model family, or workflow for what ComfyUI samples: one of its workflows, which
            brings its model, precision, guidance and size, or a checkpoint.
        workflow: the file of it, as ComfyUI's Export (API) writes it.
        node: id of the workflow's sampler node, where it has several.
        checkpoint: a file with model, text encoder and VAE, sampled by ComfyUI without a workflow,
            with guidance, resolution, sampler and scheduler.
        sampler: ComfyUI's name of the checkpoint's sampler; empty is euler.
        scheduler: ComfyUI's name of its scheduler; empty is simple.
        comfyui: folder of the ComfyUI that runs it; empty is COMFYUI_PATH, or the one in whose
            custom_nodes this pack lies.
        path: folder or hub id; empty is the family's own (tiny: the embedded weights).
        precision: of the frozen model; the TPM is always float32. The paper: fp16.
        guidance: classifier-free guidance scale, or the embedded guidance of Flux. The paper: 5.
        guidance_mode: cfg makes two passes as one batch, embedded one (Flux; interpretation).
        resolution: pixels a side. The paper: 512.
        match_comfyui: shorter T5 padding, nearest to what ComfyUI feeds the model.
        batch: images of one forward pass at most (twice that with CFG); 0 is no limit, in ComfyUI
            what fits into the free memory by its own estimate.
        decode_batch: images that the autoencoder decodes at a time; 0 is no limit.
        compile: torch.compile the frozen model.
    """

    name: Literal["tiny", "sd35_medium", "flux1_dev", "workflow"] = "tiny"
    workflow: str = text("", "the path of a workflow", "none")
    node: str = text("", "the id of a node", "the only sampler node")
    checkpoint: str = text("", "the path of a checkpoint", "none")
    sampler: str = text("", "the name of a sampler of ComfyUI's", "euler", NAME)
    scheduler: str = text("", "the name of a scheduler of ComfyUI's", "simple", NAME)
    comfyui: str = text("", "the folder of a ComfyUI", "the one around this pack")
    path: str = text("", PLACE, "the family's own")
    precision: Literal["fp32", "fp16", "bf16"] = "fp32"
    guidance: float = real(3.0, 0, 100)
    guidance_mode: Literal["cfg", "embedded"] = "cfg"
    resolution: int = whole(64, 16, 4096)
    match_comfyui: bool = True
    batch: int = whole(0, 0, AT_ONCE, "0 is no limit, in ComfyUI what fits")
    decode_batch: int = whole(16, 0, AT_ONCE, "0 is no limit")
    compile: bool = False

    def __post_init__(self) -> None:
        check(self, "backbone")
        if self.workflow and self.checkpoint:
            raise ValueError(
                f"backbone.workflow is {shown(self.workflow)} and backbone.checkpoint "
                f"{shown(self.checkpoint)}, expected one of them: a workflow loads its own model; "
                "leave one out."
            )
        check_effect(self)
        if self.name == "tiny" and self.resolution != 64:
            raise ValueError(
                f"backbone.resolution is {self.resolution} and backbone.name tiny, which was "
                "trained at 64; set backbone.resolution to 64, or choose another backbone.name."
            )
        if self.checkpoint and self.resolution < SMALLEST:
            raise ValueError(
                f"backbone.resolution is {self.resolution} and backbone.checkpoint "
                f"{shown(self.checkpoint)}, expected {SMALLEST} or more: the pixels a side that it "
                "makes; set backbone.resolution, to 512 or 1024 say."
            )
        if self.resolution % 16:
            raise ValueError(
                f"backbone.resolution is {self.resolution}, expected a multiple of 16; "
                "512 is the paper's."
            )
        if self.guidance_mode == "embedded" and not family_of(self.name).embeds_guidance:
            raise ValueError(
                "backbone.guidance_mode is 'embedded', which only flux1_dev has; set it to cfg "
                f"for {self.name}."
            )


OF_A_PIPELINE = ("path", "precision", "guidance_mode", "match_comfyui", "compile")
OF_A_WORKFLOW = ("workflow", "node")
OF_A_CHECKPOINT = ("checkpoint", "sampler", "scheduler")


def without_effect(backbone: BackboneConfig) -> tuple[tuple[str, ...], str, str]:
    """The settings that this backbone does not read, why, and what to do."""
    if backbone.name != "workflow":
        names = (*OF_A_WORKFLOW, *OF_A_CHECKPOINT, "comfyui")
        return names, "which has no workflow", "set backbone.name to workflow, or leave it out"
    if backbone.checkpoint:
        names = (*OF_A_PIPELINE, *OF_A_WORKFLOW)
        return names, "where ComfyUI samples a checkpoint without it", "leave this setting out"
    names = (*OF_A_PIPELINE, *OF_A_CHECKPOINT, "guidance", "resolution")
    change = "change it in the workflow, and leave this setting out"
    return names, "whose workflow says it", change


def check_effect(backbone: BackboneConfig) -> None:
    """Raises ValueError on a setting that would have no effect."""
    names, why, do = without_effect(backbone)
    for entry in dataclasses.fields(backbone):
        value = getattr(backbone, entry.name)
        if entry.name in names and value != entry.default:
            raise ValueError(
                f"backbone.{entry.name} is {shown(value)} and backbone.name {backbone.name}, "
                f"{why}, expected {shown(entry.default)}; {do}."
            )
