"""What is known of a model family: the one table. Nodes, trainer and model cards look here.

family_of("flux1_dev").preset      0.5
family_of("sdxl")                  a row of its own in which nothing is known
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Family:
    """A base model.

    preset: the constant deviation that the paper reports (Sec. 5), and `preset_source` where it
    measured it. grid: what gives the training grid in ComfyUI; card_grid: the same for the model
    card. hub_id: of the diffusers weights. license: what a TPM file's metadata say; the card has
    license_name and license_link, and `terms`, what the licence means to a user of the TPM.
    embeds_guidance: the network is told a guidance scale.
    """

    name: str
    preset: float | None = None
    preset_source: str = ""
    grid: str = "its scheduler"
    card_grid: str = ""
    hub_id: str = ""
    license: str = ""
    license_name: str = ""
    license_link: str = ""
    terms: str = ""
    embeds_guidance: bool = False


FLUX1_DEV = Family(
    name="flux1_dev",
    preset=0.5,
    preset_source="paper: 10 steps, 512 px",
    grid="scheduler simple with ModelSamplingFlux at shift 0.63 (512 px)",
    card_grid="`simple` with ModelSamplingFlux at the image's size",
    hub_id="black-forest-labs/FLUX.1-dev",
    license="flux-1-dev-non-commercial",
    license_name="flux-1-dev-non-commercial-license",
    license_link="https://huggingface.co/black-forest-labs/FLUX.1-dev/blob/main/LICENSE.md",
    terms="It was trained on the outputs of FLUX.1 [dev] and is of use with that model only, so "
    "the FLUX.1 [dev] Non-Commercial License applies: no commercial use without a licence from "
    "Black Forest Labs.",
    embeds_guidance=True,
)
SD35_MEDIUM = Family(
    name="sd35_medium",
    preset=0.2,
    preset_source="paper: 15 steps, 512 px",
    grid="scheduler normal",
    card_grid="`normal`, shift 3",
    hub_id="stabilityai/stable-diffusion-3.5-medium",
    license="stabilityai-community",
    license_name="stabilityai-ai-community",
    license_link="https://huggingface.co/stabilityai/stable-diffusion-3.5-medium/blob/main/"
    "LICENSE.md",
    terms="It was trained on the outputs of Stable Diffusion 3.5 medium and is of use with that "
    "model only, so the Stability AI Community License applies: free for research and for "
    "organisations below 1 M USD of yearly revenue, with Stability AI's permission above.",
)
TINY = Family(
    name="tiny",
    grid="scheduler simple with shift 3",
    license="Apache-2.0",
    terms="It was trained on the demo model that comes with the Async Timestep node pack, "
    "Apache-2.0 as all of it.",
)
TINY_UNET = Family(
    name="tiny_unet", grid="scheduler simple", license=TINY.license, terms=TINY.terms
)
TINY_UNET_V = Family(
    name="tiny_unet_v", grid=TINY_UNET.grid, license=TINY.license, terms=TINY.terms
)
TINY_PICTURES = Family(name="tiny_pictures", grid=TINY.grid, license=TINY.license, terms=TINY.terms)
KNOWN = (FLUX1_DEV, SD35_MEDIUM, TINY, TINY_UNET, TINY_UNET_V, TINY_PICTURES)
FAMILIES = {family.name: family for family in KNOWN}
PRESETS = [name for name, family in FAMILIES.items() if family.preset is not None]
UNTUNED = 0.25  # the preset of every other family; with the last active step synchronous


def family_of(name: str) -> Family:
    """The row of this name; of a family that nobody has looked at, one with nothing known."""
    return FAMILIES.get(name) or Family(name)
