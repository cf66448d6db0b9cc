"""The example graphs that set several results of one seed side by side: a TPM at three scales,
the velocity scale, and a repaired part of a picture.
"""

from __future__ import annotations

from async_timestep.harness.graphs import PROMPT, base, conditioned, node

REPAIRED = "two red circles above a yellow square on a dark rough background"


def ways(graph: dict, seed: int, deviations: dict[str, tuple[str, list | None]]) -> dict:
    """One Async Timestep KSampler a way, and their latents in one batch.

    deviations: node -> (title, what is connected to its deviation; None leaves it at scale 0).
    """
    for name, (title, wire) in deviations.items():
        wired = conditioned(["loader", 0], seed)
        policy = {"deviation": wire} if wire else {}
        graph[name] = node(
            "AsyncTimestepKSampler", title, **wired, preset="auto",
            deviation_scale=1.0 if wire else 0.0, **policy,
        )  # fmt: skip
    latents = {f"latents.latent{i}": [name, 0] for i, name in enumerate(deviations)}
    graph["together"] = node("BatchLatentsNode", "All in one picture", **latents)
    graph["decode"]["inputs"]["samples"] = ["together", 0]
    return graph


def plot_of(name: str, title: str = "") -> dict:
    return node("AsyncTimestepPlot", title, trace=[name, 1], after=[name, 0], theme="dark")


def tpm_scale_sweep(prompt: str = PROMPT, seed: int = 1, batch: int = 3) -> dict:
    """A trained policy at Deviation Scale 0, 1 and 2 on the same seed."""
    graph = base(prompt, batch)
    graph["tpm"] = node("AsyncTimestepTPMLoader", tpm_name="tiny.safetensors")
    for letter, scale in (("a", 0.0), ("b", 1.0), ("c", 2.0)):
        graph[f"scale_{letter}"] = node(
            "AsyncTimestepDeviationScale", f"{letter.upper()}: scale {scale:g}",
            deviation=["tpm", 0], deviation_scale=scale, start_percent=0.0, end_percent=1.0,
        )  # fmt: skip
    titles = {"a": "A: off, the stock picture", "b": "B: as trained", "c": "C: twice that"}
    graph = ways(
        graph, seed, {f"way_{k}": (title, [f"scale_{k}", 0]) for k, title in titles.items()}
    )
    plots = {f"plot_{k}": plot_of(f"way_{k}", f"Plot of {k.upper()}") for k in titles}
    return {**graph, **plots}


def velocity_scale(prompt: str = PROMPT, seed: int = 1) -> dict:
    """Stock, omega below and above 1, and omega that follows a deviation's time."""
    graph = base(prompt, batch=1)
    graph["deviation"] = node(
        "AsyncTimestepDeviation", preset="custom", deviation=0.5, start_percent=0.0,
        end_percent=1.0, unit="interval", mode="conditioning",
    )  # fmt: skip
    settings = {
        "omega_b": ("B: omega 0.75", "constant", 0.75, {}),
        "omega_c": ("C: omega 1.25", "constant", 1.25, {}),
        "omega_d": ("D: follow_time", "follow_time", 1.0, {"deviation": ["deviation", 0]}),
    }
    for name, (title, mode, omega, wire) in settings.items():
        graph[name] = node(
            "AsyncTimestepVelocityScale", title, mode=mode, omega=omega, start_percent=0.0,
            end_percent=1.0, **wire,
        )  # fmt: skip
    graph = ways(
        graph,
        seed,
        {
            "way_a": ("A: stock", None),
            "way_b": ("B: calmer", ["omega_b", 0]),
            "way_c": ("C: rougher", ["omega_c", 0]),
            "way_d": ("D: as Detail Daemon", ["omega_d", 0]),
        },
    )
    plots = {f"plot_{k}": plot_of(f"way_{k}", f"Plot of {k.upper()}") for k in "bcd"}
    return {**graph, **plots}


def inpaint(prompt: str = PROMPT, repaired: str = REPAIRED, seed: int = 1) -> dict:
    """Two pictures, their lower halves painted anew by the patched model."""
    graph = base(prompt, batch=2)
    del graph["decode"]
    return {
        **graph,
        "new": node("CLIPTextEncode", "New prompt", text=repaired, clip=["loader", 1]),
        "first": node("KSampler", "The picture to repair", **conditioned(["loader", 0], seed)),
        "picture": node("VAEDecode", samples=["first", 0], vae=["loader", 2]),
        "black": node("SolidMask", "Keep", value=0.0, width=128, height=128),
        "white": node("SolidMask", "Paint anew: lower half", value=1.0, width=128, height=64),
        "mask": node(
            "MaskComposite", destination=["black", 0], source=["white", 0], x=0, y=64,
            operation="add",
        ),
        "encode": node("VAEEncode", pixels=["picture", 0], vae=["loader", 2]),
        "masked": node("SetLatentNoiseMask", samples=["encode", 0], mask=["mask", 0]),
        "patch": node(
            "AsyncTimestepModel", model=["loader", 0], preset="auto", deviation_scale=1.0
        ),
        "sampler": node(
            "KSampler", "Paints the lower half",
            **conditioned(
                ["patch", 0], seed + 1, positive=["new", 0], latent_image=["masked", 0]
            ),
        ),
        "decode": node("VAEDecode", samples=["sampler", 0], vae=["loader", 2]),
        "together": node(
            "BatchImagesNode", "Above before, below after",
            **{"images.image0": ["picture", 0], "images.image1": ["decode", 0]},
        ),
        "preview": node("PreviewImage", images=["together", 0]),
        "plot": node("AsyncTimestepPlot", trace=["patch", 1], after=["sampler", 0], theme="dark"),
    }  # fmt: skip
