"""A checkpoint without a workflow of the user's: the plainest workflow around it.

    graph = plain_graph(config, checkpoint_name(config.checkpoint))

From here on it is a workflow like an exported one: there is no second way of sampling.
"""

from __future__ import annotations

from pathlib import Path

from ...run.config import BackboneConfig
from ...run.workflow import Graph


def require_checkpoint(path: str) -> None:
    """Raises ValueError of one sentence where there is no such file."""
    if not Path(path).is_file():
        raise ValueError(
            f"backbone.checkpoint is {path}, where no file can be read, expected a checkpoint that "
            "ComfyUI's Load Checkpoint takes; give its path, folder and all."
        )


def checkpoint_name(path: str) -> str:
    """What ComfyUI calls a file: its place below a folder of checkpoints; the folder of another
    file becomes one."""
    import folder_paths

    file = Path(path).resolve()
    for folder in folder_paths.get_folder_paths("checkpoints"):
        whole = Path(folder).resolve()
        if whole in file.parents:
            name = str(file.relative_to(whole))
            found = folder_paths.get_full_path("checkpoints", name)
            if found is not None and Path(found).resolve() == file:
                return name
    # first in the list: a checkpoint of the same name may lie in another folder
    folder_paths.add_model_folder_path("checkpoints", str(file.parent), is_default=True)
    return file.name


def plain_graph(config: BackboneConfig, name: str) -> Graph:
    """The template that ComfyUI starts with, around a checkpoint of this name. ComfyUI's samplers
    give the empty latent the model's channels; the run has the number of steps."""

    def node(class_type: str, **inputs) -> dict:
        return {"class_type": class_type, "inputs": inputs}

    def text() -> dict:
        return node("CLIPTextEncode", clip=["checkpoint", 1], text="")

    side = {"width": config.resolution, "height": config.resolution}
    return {
        "checkpoint": node("CheckpointLoaderSimple", ckpt_name=name),
        "positive": text(),
        "negative": text(),
        "latent": node("EmptyLatentImage", **side, batch_size=1),
        "sampler": node(
            "KSampler",
            model=["checkpoint", 0],
            seed=0,
            cfg=config.guidance,
            sampler_name=config.sampler or "euler",
            scheduler=config.scheduler or "simple",
            positive=["positive", 0],
            negative=["negative", 0],
            latent_image=["latent", 0],
            denoise=1.0,
        ),
        "decode": node("VAEDecode", samples=["sampler", 0], vae=["checkpoint", 2]),
    }
