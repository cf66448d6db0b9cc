"""Demo Model Loader: the embedded tiny text-to-image model as MODEL, CLIP and VAE for stock nodes.

The first network is an SD3-type file that ComfyUI's own loader reads; the second is in
demo_unet.py. Their text encoder (a word table) and autoencoder (a linear map) have no counterpart
in ComfyUI, so they stand here behind the host's own CLIP and VAE classes. The files, and the
scripts that trained them, are in training/tiny.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import torch
from safetensors import safe_open
from safetensors.torch import load_file

import comfy.latent_formats
import comfy.sd
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP
from comfy.sd1_clip import escape_important, token_weights, unescape_important
from comfy.taesd.taesd import TAESD
from comfy_api.latest import io

from .demo_unet import load_unet
from .host import schema
from .inputs import CATEGORY
from .run.checks import require_picture
from .run.family import FAMILY_KEY

WEIGHTS = Path(__file__).parents[1] / "training" / "tiny" / "weights"
EMPTY, PAD = 0, 1  # rows of the word table
CHANNELS, MOST_CELLS = 16, 32  # of its latents
TRANSFORMER, UNET = "transformer (flow)", "unet (eps)"


def read_vocabulary() -> dict[str, int]:
    """Word -> row of the table; -1 for words that carry nothing ("a", "on")."""
    with safe_open(WEIGHTS / "text.safetensors", framework="pt") as file:
        return json.loads(file.metadata()["vocabulary"])


class TinyTokenizer:
    """Words to (row, weight) pairs, with ComfyUI's (word:1.2) weights."""

    def __init__(self, embedding_directory=None, tokenizer_data=None):
        self.rows = read_vocabulary()
        self.length = load_file(WEIGHTS / "text.safetensors")["position"].shape[0]

    def tokenize_with_weights(self, text: str, return_word_ids: bool = False, **kwargs) -> dict:
        """{"tiny": [[(row, weight), ...]]}. Raises ValueError on an unknown word or a long
        prompt.
        """
        tokens = []
        for segment, weight in token_weights(escape_important(text), 1.0):
            for word in unescape_important(segment).lower().replace(",", " ").split():
                if word not in self.rows:
                    raise ValueError(
                        f"The embedded demo model does not know the word {word!r}; "
                        f"it knows: {', '.join(self.rows)}."
                    )
                if self.rows[word] >= 0:
                    tokens.append((self.rows[word], weight, len(tokens) + 1))
        if len(tokens) > self.length:
            raise ValueError(
                f"The prompt has {len(tokens)} meaningful words, the embedded demo model reads at "
                f"most {self.length}; describe one to three objects and a background."
            )
        tokens = tokens or [(EMPTY, 1.0, 0)]
        tokens += [(PAD, 1.0, 0)] * (self.length - len(tokens))
        return {"tiny": [tokens if return_word_ids else [pair[:2] for pair in tokens]]}

    def untokenize(self, token_weight_pairs) -> list:
        words = {row: word for word, row in reversed(self.rows.items())}
        return [(pair, words.get(pair[0], "")) for pair in token_weight_pairs]

    def state_dict(self) -> dict:
        return {}


class TinyText(torch.nn.Module):
    """Rows to conditioning (1, L, 64) and its pooled vector (1, 128)."""

    def __init__(self, device="cpu", dtype=None, model_options=None):
        super().__init__()
        self.dtypes = {torch.float32}
        for name, tensor in load_file(WEIGHTS / "text.safetensors").items():
            self.register_buffer(name, tensor.to(device))

    def encode_token_weights(self, tokens: dict) -> tuple[torch.Tensor, torch.Tensor]:
        rows, weights = zip(*[pair[:2] for pair in tokens["tiny"][0]], strict=True)
        weight = torch.tensor(weights, device=self.token.device).unsqueeze(-1)
        out = self.token[torch.tensor(rows, device=self.token.device)] * weight + self.position
        return out.unsqueeze(0), (out.flatten() @ self.pool).unsqueeze(0)

    def set_clip_options(self, options: dict) -> None: ...

    def reset_clip_options(self) -> None: ...

    def load_sd(self, sd: dict):
        return [], []


class TinyAutoencoder(torch.nn.Module):
    """Latent (B, 16, h, w) in SD3's file scale <-> image (B, 3, 8h, 8w) in [-1, 1]. Both raise
    ValueError on other shapes.

    The model's own pixels are half as many; the image is enlarged twice so that one latent cell is
    eight pixels, as users of SD3 latents expect.
    """

    def __init__(self):
        super().__init__()
        for name, tensor in load_file(WEIGHTS / "vae.safetensors").items():
            self.register_buffer(name, tensor)
        self.scale_shift = comfy.latent_formats.SD3()
        self.patch = 4

    def kernel(self, factor: torch.Tensor) -> torch.Tensor:
        return (self.basis * factor).T.reshape(-1, 3, self.patch, self.patch)

    def decode(self, latent: torch.Tensor, **kwargs) -> torch.Tensor:
        if latent.ndim != 4 or latent.shape[1] != CHANNELS:
            raise ValueError(
                f"The embedded demo model's VAE found a latent of shape {list(latent.shape)}, "
                f"expected (batch, {CHANNELS}, height, width); decode it with the VAE of the model "
                "that made it."
            )
        x = self.scale_shift.process_in(latent)
        image = torch.nn.functional.conv_transpose2d(x, self.kernel(self.scale), stride=self.patch)
        image = image + self.mean.view(1, 3, self.patch, self.patch).repeat(1, 1, *x.shape[2:])
        return torch.nn.functional.interpolate(image.clamp(-1, 1), scale_factor=2, mode="bicubic")

    def encode(self, image: torch.Tensor, **kwargs) -> torch.Tensor:
        if image.ndim != 4 or image.shape[1] != 3 or min(image.shape[2:]) < 2 * self.patch:
            raise ValueError(
                f"The embedded demo model's VAE found an image of shape {list(image.shape)} once "
                "it was cut to whole cells of 8 pixels, expected (batch, 3, height, width) of 8 "
                "pixels or more a side; give it a larger RGB image."
            )
        small = torch.nn.functional.avg_pool2d(image, 2)
        bias = -self.mean @ (self.basis / self.scale)
        x = torch.nn.functional.conv2d(small, self.kernel(1 / self.scale), bias, stride=self.patch)
        return self.scale_shift.process_out(x)


def load_demo_clip() -> comfy.sd.CLIP:
    return comfy.sd.CLIP(target=SimpleNamespace(params={}, clip=TinyText, tokenizer=TinyTokenizer))


def load_demo_vae() -> comfy.sd.VAE:
    """The host's VAE class around our module; it knows files by their layout, so it first gets a
    layout of 16 channels that it knows."""
    vae = comfy.sd.VAE(sd=TAESD(latent_channels=16).state_dict(), dtype=torch.float32)
    vae.first_stage_model = TinyAutoencoder().to(vae.vae_dtype)
    vae.process_output = lambda image: image.add_(1.0).div_(2.0).clamp_(0.0, 1.0)
    vae.process_input = lambda image: image * 2.0 - 1.0
    offload = vae.patcher.offload_device
    vae.patcher = ModelPatcher(
        vae.first_stage_model, load_device=vae.device, offload_device=offload
    )
    return vae


def load_demo_model(name: str = TRANSFORMER) -> ModelPatcher:
    if name == UNET:
        model, family = load_unet(WEIGHTS / "unet.safetensors"), "tiny_unet"
    else:
        path, family = WEIGHTS / "transformer.safetensors", "tiny"
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
            "in seconds on a CPU. Prompt them like: two red circles above a blue star on a dark "
            "rough background. Use a 128 x 128 SD3 latent, cfg 3 and the scheduler simple.",
            inputs=[
                io.Combo.Input(
                    "model",
                    options=[TRANSFORMER, UNET],
                    default=TRANSFORMER,
                    optional=True,  # graphs from before it had a choice
                    tooltip="Which of two networks draws the picture; both read the same words. "
                    "The transformer is of SD3's type, the unet of SD1.5's, for trying what a "
                    "setting does on each kind.",
                )
            ],
            outputs=[
                io.Model.Output(tooltip="The demo network that was chosen."),
                io.Clip.Output(tooltip="Its word table: colours, shapes, relations, backgrounds."),
                io.Vae.Output(tooltip="Its linear autoencoder."),
            ],
        )

    @classmethod
    def execute(cls, model: str = TRANSFORMER) -> io.NodeOutput:
        return io.NodeOutput(load_demo_model(model), load_demo_clip(), load_demo_vae())
