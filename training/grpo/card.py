"""README.md of a run folder: a Hugging Face model card for the TPM that lies beside it."""

from __future__ import annotations

import yaml

from ...tpm.families import Family, family_of
from ...tpm.metadata import TPMMeta
from ..data.prompts import PromptList

DATA_LICENCES = {
    "COCO": "COCO 2014 captions, CC BY 4.0; the images were not used",
    "T2I-CompBench": "T2I-CompBench++, MIT (HKU, 2023)",
    "scenes": "captions from this repository's own grammar, Apache-2.0",
}
REWARD_NAMES = {
    "image_reward": "ImageReward",
    "hps": "HPSv2",
    "clip": "CLIP score",
    "pick": "PickScore",
}


def model_card(meta: TPMMeta, table: str, config_yaml: str, prompts: PromptList | str) -> str:
    """Markdown with front matter. table: of the validation or evaluation, Markdown; config_yaml:
    all settings of the run; prompts: what it was trained on, or just its source."""
    source = prompts if isinstance(prompts, str) else prompts.source
    count = "" if isinstance(prompts, str) else f" ({len(prompts.texts):,} prompts)"
    return "\n\n".join(
        [
            front_matter(meta),
            f"# Timestep prediction module (TPM) for {meta.base_model or meta.model_family}",
            "It looks at the latent during sampling and tells the frozen model another time than "
            "the sampler integrates with, after the AsyncDiff paper. The model's weights are not "
            "changed.",
            "## How to use it\n\n"
            "1. Install the Async Timestep node pack in ComfyUI.\n"
            "2. Copy `tpm.safetensors` into `ComfyUI/models/tpm`.\n"
            "3. Connect **TPM Loader** to **Async Timestep (model patch)** or to **Async Timestep "
            "KSampler**.\n\n" + grid(meta),
            "## Results\n\n" + table.strip(),
            "## Training\n\n" + facts(meta, source, count),
            f"## Licence\n\n{terms(meta)} Read it before you publish or sell anything made with "
            f"this file.\n\nPrompts: {data_licence(source)}.",
            f"## All settings\n\n```yaml\n{config_yaml.strip()}\n```",
            "## Publish it\n\n"
            "From the run folder, with your own name for the repository:\n\n"
            "```\nhf upload YOUR_NAME/YOUR_REPOSITORY . --include tpm.safetensors "
            "--include README.md --include config.yaml\n```\n",
        ]
    )


def terms(meta: TPMMeta) -> str:
    """What the base model's licence means; of an unknown family nothing is claimed."""
    return family_of(meta.model_family).terms or (
        f"It was trained on the outputs of {meta.base_model or meta.model_family} and is of use "
        f"with that model only, so that model's licence ({meta.license or 'unknown'}) applies."
    )


def licence_front(family: Family) -> dict[str, str]:
    """The front matter's lines about the licence and the base model."""
    if not family.license_name:
        return {"license": family.license.lower() or "unknown"}
    return {
        "license": "other",
        "license_name": family.license_name,
        "license_link": family.license_link,
        "base_model": family.hub_id,
    }


def front_matter(meta: TPMMeta) -> str:
    """The YAML that the hub reads. A fine-tune's own hub id goes before the family's."""
    front = licence_front(family_of(meta.model_family))
    if "base_model" in front and "/" in meta.base_model:
        front["base_model"] = meta.base_model
    front |= {
        "library_name": "comfyui",
        "pipeline_tag": "text-to-image",
        "tags": ["comfyui", "async-timestep", "timestep-prediction-module", meta.model_family],
    }
    return f"---\n{yaml.safe_dump(front, sort_keys=False).strip()}\n---"


def grid(meta: TPMMeta) -> str:
    """The sampling settings that it was trained with."""
    name = family_of(meta.model_family).card_grid
    advice = f" In ComfyUI that is the scheduler {name}." if name else ""
    sigmas = ", ".join(f"{sigma:.4g}" for sigma in meta.sigmas)
    every = " or ".join(str(len(row) - 1) for row in meta.grids) or str(meta.steps)
    return (
        f"Best at its training settings: {every} steps of Euler, guidance {meta.guidance:g}, "
        f"{meta.resolution} px.{advice} Sigmas of {meta.steps} steps: {sigmas}."
    )


def facts(meta: TPMMeta, source: str, count: str) -> str:
    """A table of what the file's metadata say."""
    rewards = ", ".join(REWARD_NAMES.get(name, name) for name in meta.rewards) or "unknown"
    rows = [
        ("method", "GRPO on image rewards, Beta policy, mode at inference"),
        ("rewards", rewards),
        ("prompts", f"{source}{count}"),
        ("prompts' sha256", f"`{meta.prompts_sha256 or 'unknown'}`"),
        ("iterations", f"{meta.iterations:,}"),
        ("actions", meta.actions),
        ("deviation bound", f"{meta.deviation_bound:g}"),
        ("code", f"commit `{meta.git_commit or 'unknown'}`"),
        ("settings' sha256", f"`{meta.config_sha256 or 'unknown'}`"),
    ]
    return "| | |\n|---|---|\n" + "\n".join(f"| {name} | {value} |" for name, value in rows)


def data_licence(source: str) -> str:
    """The licence of known prompts; of others it is the publisher's to say."""
    found = [text for name, text in DATA_LICENCES.items() if source.startswith(name)]
    return found[0] if found else f"{source}, whose licence you know best; write it here"
