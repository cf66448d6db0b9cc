"""The example graphs of the large models, with the files that ComfyUI offers to download.

Both sample as the paper did where it measured the preset: its size, its steps, its grid.
"""

from __future__ import annotations

from async_timestep.harness.graphs import node

PROMPT = (
    "photograph of an old stone lighthouse on a rocky coast, wet moss between the stones, "
    "sea spray, overcast morning light"
)
SIZE = 512  # of the paper
HUB = "https://huggingface.co/"
ENCODERS = HUB + "comfyanonymous/flux_text_encoders/resolve/main/"
FILES = {  # file -> (folder under models, link), as in ComfyUI's own templates and examples
    "flux1-dev.safetensors": (
        "diffusion_models",
        HUB + "Comfy-Org/flux1-dev/resolve/main/flux1-dev.safetensors",
    ),
    "clip_l.safetensors": ("text_encoders", ENCODERS + "clip_l.safetensors"),
    "t5xxl_fp16.safetensors": ("text_encoders", ENCODERS + "t5xxl_fp16.safetensors"),
    "ae.safetensors": (
        "vae",
        HUB + "Comfy-Org/Lumina_Image_2.0_Repackaged/resolve/main/split_files/vae/ae.safetensors",
    ),
    "sd3.5_medium_incl_clips_t5xxlfp8scaled.safetensors": (
        "checkpoints",
        HUB + "Comfy-Org/stable-diffusion-3.5-fp8/resolve/main/"
        "sd3.5_medium_incl_clips_t5xxlfp8scaled.safetensors",
    ),
}


def models_of(api_node: dict) -> list[dict]:
    """The `models` property of a loader: every file that its widgets name."""
    names = [value for value in api_node["inputs"].values() if str(value) in FILES]
    return [{"name": n, "url": FILES[n][1], "directory": FILES[n][0]} for n in names]


def patched(model: list) -> dict:
    return node("AsyncTimestepModel", model=model, preset="auto", deviation_scale=1.0)


def finish(vae: list, name: str) -> dict:
    """Latent, decoder, saved picture and plot."""
    return {
        "latent": node("EmptySD3LatentImage", width=SIZE, height=SIZE, batch_size=1),
        "decode": node("VAEDecode", samples=["sampler", 0], vae=vae),
        "save": node("SaveImage", images=["decode", 0], filename_prefix=name),
        "plot": node("AsyncTimestepPlot", trace=["patch", 1], after=["sampler", 0], theme="dark"),
    }


def flux1_dev(prompt: str = PROMPT, seed: int = 1) -> dict:
    """Flux.1-dev: the loaders of ComfyUI's own template, and the paper's ten steps."""
    return {
        "unet": node("UNETLoader", unet_name="flux1-dev.safetensors", weight_dtype="default"),
        "clip": node(
            "DualCLIPLoader", clip_name1="clip_l.safetensors", clip_name2="t5xxl_fp16.safetensors",
            type="flux", device="default",
        ),
        "vae": node("VAELoader", vae_name="ae.safetensors"),
        "shift": node(
            "ModelSamplingFlux", model=["unet", 0], max_shift=1.15, base_shift=0.5, width=SIZE,
            height=SIZE,
        ),
        "patch": patched(["shift", 0]),
        "positive": node("CLIPTextEncode", "Prompt", text=prompt, clip=["clip", 0]),
        "guidance": node("FluxGuidance", conditioning=["positive", 0], guidance=3.5),
        "guider": node("BasicGuider", model=["patch", 0], conditioning=["guidance", 0]),
        "noise": node("RandomNoise", noise_seed=seed),
        "euler": node("KSamplerSelect", sampler_name="euler"),
        "schedule": node(
            "BasicScheduler", model=["shift", 0], scheduler="simple", steps=10, denoise=1.0
        ),
        "sampler": node(
            "SamplerCustomAdvanced", noise=["noise", 0], guider=["guider", 0],
            sampler=["euler", 0], sigmas=["schedule", 0], latent_image=["latent", 0],
        ),
        **finish(["vae", 0], "flux1_dev_async_timestep"),
    }  # fmt: skip


def sd35_medium(prompt: str = PROMPT, seed: int = 1) -> dict:
    """Stable Diffusion 3.5 medium: one checkpoint file, a stock KSampler, fifteen steps."""
    return {
        "loader": node(
            "CheckpointLoaderSimple", ckpt_name="sd3.5_medium_incl_clips_t5xxlfp8scaled.safetensors"
        ),
        "patch": patched(["loader", 0]),
        "positive": node("CLIPTextEncode", "Prompt", text=prompt, clip=["loader", 1]),
        "negative": node("CLIPTextEncode", "Negative prompt", text="", clip=["loader", 1]),
        "sampler": node(
            "KSampler", model=["patch", 0], seed=seed, steps=15, cfg=4.5, sampler_name="euler",
            scheduler="normal", positive=["positive", 0], negative=["negative", 0],
            latent_image=["latent", 0], denoise=1.0,
        ),
        **finish(["loader", 2], "sd35_medium_async_timestep"),
    }  # fmt: skip
