"""Demo Model Loader: the embedded tiny text-to-image models as MODEL, CLIP and VAE for stock nodes.

The transformers are SD3-type files that ComfyUI's own loader reads; the UNet is in demo_unet.py.
Their text encoder (a word table) and autoencoders have no counterpart in ComfyUI, so they stand in
demo_text.py and demo_vae.py behind the host's own CLIP and VAE classes. The files, and the scripts
that trained them, are in training/tiny and training/pictures.
"""

from __future__ import annotations

from pathlib import Path

import torch

import comfy.sd
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP
from comfy_api.latest import io

from ..embedded.autoencoder import CHANNELS
from .demo_text import clip_of
from .demo_unet import TinyUNetV, load_unet
from .demo_vae import PicturesAutoencoder, TinyAutoencoder, vae_of
from .host import schema
from .inputs import CATEGORY
from .run.checks import require_picture
from .run.family import FAMILY_KEY

TRAINING = Path(__file__).parents[1] / "training"
SHAPES, PICTURES = TRAINING / "tiny" / "weights", TRAINING / "pictures" / "weights"
MOST_CELLS = 32  # of its latents
TRANSFORMER, UNET, PAINTER = "transformer (flow)", "unet (eps)", "pictures (flow)"
UNET_V = "unet (v, zero terminal SNR)"
FILES = {  # and what a policy was tuned for
    TRANSFORMER: (SHAPES / "transformer.safetensors", "tiny"),
    UNET: (SHAPES / "unet.safetensors", "tiny_unet"),
    UNET_V: (SHAPES / "unet_v.safetensors", "tiny_unet_v"),
    PAINTER: (PICTURES / "transformer.safetensors", "tiny_pictures"),
}
# the registry's archive has not got all of them
MODELS = [name for name, (path, _) in FILES.items() if path.exists()]


def folder_of(name: str) -> Path:
    return PICTURES if name == PAINTER else SHAPES


def load_demo_clip(name: str = TRANSFORMER) -> comfy.sd.CLIP:
    return clip_of(folder_of(name) / "text.safetensors")


def load_demo_vae(name: str = TRANSFORMER) -> comfy.sd.VAE:
    module = PicturesAutoencoder if name == PAINTER else TinyAutoencoder
    return vae_of(module(folder_of(name) / "vae.safetensors"))


def load_demo_model(name: str = TRANSFORMER) -> ModelPatcher:
    path, family = FILES[name]
    if name == UNET:
        model = load_unet(path)
    elif name == UNET_V:
        model = load_unet(path, TinyUNetV)
    else:
        model = comfy.sd.load_diffusion_model(str(path), model_options={"dtype": torch.float32})
    model.set_attachments(FAMILY_KEY, family)
    model.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, "demo_latent", checked_latent)
    return model


def checked_latent(executor, noise, latent_image, *args, **kwargs):
    """OUTER_SAMPLE: raises ValueError on latents that the network has no positions for, and on
    empty ones."""
    shape = list(latent_image.shape)
    if len(shape) != 4 or shape[1] != CHANNELS or max(shape[2:]) > MOST_CELLS:
        raise ValueError(
            f"The embedded demo model found a latent of shape {shape}, expected (batch, "
            f"{CHANNELS}, height, width) of at most {MOST_CELLS} x {MOST_CELLS}; use the node "
            "EmptySD3LatentImage at 128 x 128, which is what it was trained on."
        )
    require_picture(latent_image)
    return executor(noise, latent_image, *args, **kwargs)


class AsyncTimestepDemoLoader(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="AsyncTimestepDemoLoader",
            display_name="Demo Model Loader",
            category=CATEGORY,
            search_aliases=["tiny model", "test model", "demo", "async timestep"],
            description="Tiny trained text-to-image models that come with the pack and sample "
            "in seconds on a CPU. Prompt the pictures like: two cats left of an apple on grass; "
            "the others like: two red circles above a blue star on a dark rough background. Use "
            "a 128 x 128 SD3 latent, cfg 3 and the scheduler simple.",
            inputs=[
                io.Combo.Input(
                    "model",
                    options=MODELS,
                    default=TRANSFORMER,
                    optional=True,  # graphs from before it had a choice
                    tooltip="Which network draws the picture. The pictures know 32 things on "
                    "six grounds; the others draw coloured shapes, to try what a setting does on "
                    "models of SD3's type (transformer), of SD1.5's (unet, eps), and on those that "
                    "predict v and start from pure noise (unet, v).",
                )
            ],
            outputs=[
                io.Model.Output(tooltip="The demo network that was chosen."),
                io.Clip.Output(tooltip="Its word table: things, relations, backgrounds."),
                io.Vae.Output(tooltip="Its own autoencoder."),
            ],
        )

    @classmethod
    def execute(cls, model: str = TRANSFORMER) -> io.NodeOutput:
        return io.NodeOutput(load_demo_model(model), load_demo_clip(model), load_demo_vae(model))
