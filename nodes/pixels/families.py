"""Which architectures take a map of times, and how each does."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from comfy.ldm.chroma.model import Chroma
from comfy.ldm.flux.model import Flux
from comfy.ldm.hunyuan_video.model import HunyuanVideo
from comfy.ldm.lightricks.model import LTXVModel
from comfy.ldm.lumina.model import NextDiT
from comfy.ldm.modules.diffusionmodules.mmdit import OpenAISignatureMMDITWrapper
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from comfy.ldm.qwen_image.model import QwenImageTransformer2DModel
from comfy.ldm.wan.model import WanModel

from ...maps.time_rows import MOST_LEVELS
from . import flux, lumina, mmdit, qwen, unet, video


class Family(NamedTuple):
    """How a network takes a map.

    patch: latent cells of a token along each axis. install: hooks for one call, None where the
    network takes one time per token itself. cross: (q module, k module, heads, cells of a query
    along each axis) of its cross-attentions; where None, text and pixels attend to each other in
    one sequence and image_start says where the pixels begin in S tokens with T of text. levels:
    most distinct times per sample.
    """

    patch: Callable[..., tuple[int, ...]]
    install: Callable[..., list] | None
    cross: Callable[..., list] | None = None
    image_start: Callable[..., int] | None = None
    levels: int = MOST_LEVELS


def after_text(network, sequence: int, text: int, pixels: int) -> int:
    return text


def at_end(network, sequence: int, text: int, pixels: int) -> int:
    return sequence - pixels


def before_padding(network, sequence: int, text: int, pixels: int) -> int:
    return sequence - lumina.padded(network, pixels)


FAMILIES: dict[type, Family] = {
    # its times are whole numbers up to 999: no map has more of them
    UNetModel: Family(lambda network: (1, 1), unet.install, unet.cross_attentions, levels=1000),
    OpenAISignatureMMDITWrapper: Family(mmdit.patch, mmdit.install, image_start=after_text),
    Flux: Family(flux.patch, flux.install, image_start=after_text),
    # a row of Chroma's approximator costs as much as the text: few levels
    Chroma: Family(flux.patch, flux.install_chroma, image_start=after_text, levels=32),
    HunyuanVideo: Family(flux.patch, flux.install_hunyuan, image_start=at_end),
    QwenImageTransformer2DModel: Family(qwen.patch, qwen.install, image_start=after_text),
    NextDiT: Family(lumina.patch, lumina.install, image_start=before_padding),
    WanModel: Family(video.patch_wan, None, video.cross_wan),
    LTXVModel: Family(video.patch_ltxv, None, video.cross_ltxv),
}
NAMES = (
    "SD1.x, SD2.x, SDXL, SD3, SD3.5, Flux, Flux.2, Chroma, Qwen-Image, Lumina 2, Z-Image, "
    "HunyuanVideo, Wan and LTX-Video"
)


def uncompiled(network):
    """The module that torch.compile wrapped, or the network itself."""
    return getattr(network, "_orig_mod", network)


def family_of(network) -> Family:
    """Raises ValueError where a network cannot be told one time per pixel. Subclasses are other
    networks: they change what is hooked here."""
    network = uncompiled(network)
    family = FAMILIES.get(type(network))
    if family is None or getattr(network, "clip_text_pooled_proj", None) is not None:
        raise ValueError(
            f"This model's network ({type(network).__name__}) cannot be told one time a pixel; "
            f"a mask, a region or AsynDM works with {NAMES}; take the mask or region off, or "
            "choose one of those models."
        )
    return family
