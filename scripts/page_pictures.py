"""The pictures of the node pages: which graph each runs, and how its images are put together.

Each function gets a running server and returns a picture; `scripts/make_pages.py` saves them.
"""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from async_timestep.harness import graphs
from async_timestep.harness import graphs_regions as regions
from async_timestep.harness.graphs import node
from async_timestep.harness.graphs_eye import by_eye
from async_timestep.harness.venvs import say
from async_timestep.report import sheets
from async_timestep.scripts.page_sheets import sheet, stacked_strips

ROUGH = graphs.PROMPT
PLAIN = "a red square right of a yellow circle on a dark plain background"
STRIPED = "a green triangle below a cyan circle on a dark striped background"
SEED = 3


def pictures(server, graph: dict) -> list[Image.Image]:
    return images(server, server.run(graph)["preview"])


def images(server, output: dict) -> list[Image.Image]:
    return [Image.open(io.BytesIO(server.fetch(e))).convert("RGB") for e in output["images"]]


def patched(prompt: str, scale: float, seed: int = SEED) -> dict:
    graph = graphs.model_patch(prompt, seed, batch=1)
    graph["patch"]["inputs"]["deviation_scale"] = scale
    return graph


def custom(prompt: str, deviation: float, batch: int = 1, **settings) -> dict:
    """A Deviation node in front of Async Timestep KSampler; settings: of the Deviation node, and
    steps."""
    steps = settings.pop("steps", 4)
    graph = graphs.async_ksampler(prompt, SEED, batch, deviation, steps=steps)
    graph["deviation"]["inputs"] |= settings
    return graph


def model_patch(server) -> Image.Image:
    """deviation_scale, on a rough and on a plain background."""
    return sheet(
        [
            [
                (f"scale {scale:g}", pictures(server, patched(prompt, scale))[0])
                for scale in (0, 1, 4)
            ]
            for prompt in (ROUGH, PLAIN)
        ]
    )


def off_on(server) -> Image.Image:
    """The README's first picture: off and on, two prompts side by side."""
    made, labels = [], []
    for prompt in (ROUGH, "a yellow star left of a purple square on a light rough background"):
        for label, value in (("off, 4 steps", 0.0), ("on, 4 steps", 0.5)):
            made.append(sheets.enlarged(pictures(server, custom(prompt, value))[0], 2))
            labels.append(label)
    return sheets.sheet([made], above=[labels], size=20)


def ksampler(server) -> Image.Image:
    """The stock KSampler, the same steps with a deviation, and two steps more."""
    rows = []
    for prompt in (ROUGH, STRIPED):
        four, six = (graphs.stock(prompt, SEED, 1, steps=steps) for steps in (4, 6))
        made = {
            "4 steps": four,
            "4 steps, +0.5": custom(prompt, 0.5),
            "6 steps": six,
        }
        rows.append([(label, pictures(server, graph)[0]) for label, graph in made.items()])
    return sheet(rows)


def stages(steps: int = 8, cut: int = 4) -> tuple[dict, dict]:
    """One run of Async Timestep KSampler (Advanced), and the same schedule in two stages."""
    graph = graphs.base(ROUGH, 1)
    wired = graphs.conditioned(["loader", 0], SEED, steps=steps)
    wired = {key: value for key, value in wired.items() if key not in ("seed", "denoise")}

    def stage(latent, start, end, first, last) -> dict:
        return node(
            "AsyncTimestepKSamplerAdvanced",
            **{**wired, "latent_image": latent},
            noise_seed=SEED,
            start_at_step=start,
            end_at_step=end,
            add_noise="enable" if first else "disable",
            return_with_leftover_noise="disable" if last else "enable",
            preset="auto",
            deviation_scale=2.0,
        )

    one = {**graph, "sampler": stage(["latent", 0], 0, 10000, True, True)}
    two = {
        **graph,
        "first": stage(["latent", 0], 0, cut, True, False),
        "sampler": stage(["first", 0], cut, 10000, False, True),
        "half": node("VAEDecode", samples=["first", 0], vae=["loader", 2]),
        "seen": node("PreviewImage", images=["half", 0]),
    }
    return one, two


def ksampler_advanced(server) -> Image.Image:
    """One run, the noisy latent between two stages, and the result of both."""
    one, two = stages()
    single, outputs = pictures(server, one)[0], server.run(two)
    half, whole = images(server, outputs["seen"])[0], images(server, outputs["preview"])[0]
    difference = np.abs(np.asarray(single, int) - np.asarray(whole, int)).max()
    say(f"ksampler_advanced: the two stages differ from one run by {difference} of 255")
    return sheet([[("one run", single), ("after 0 to 4", half), ("after 4 to 8", whole)]])


def with_tpm(prompt: str, scale: float = 1.0, batch: int = 1) -> dict:
    graph = graphs.async_ksampler(prompt, SEED, batch, scale=scale)
    graph["deviation"] = node("AsyncTimestepTPMLoader", tpm_name="tiny.safetensors")
    return graph


def tpm(server) -> Image.Image:
    """Stock, the TPM, twice the TPM."""
    rows = []
    for prompt in (ROUGH, PLAIN):
        made = {
            "KSampler": graphs.stock(prompt, SEED, 1),
            "TPM": with_tpm(prompt),
            "TPM, scale 2": with_tpm(prompt, 2.0),
        }
        rows.append([(label, pictures(server, graph)[0]) for label, graph in made.items()])
    return sheet(rows)


def plot_of(server, graph: dict) -> Image.Image:
    return images(server, server.run(graph)["plot"])[0]


def tpm_plot(server) -> Image.Image:
    return plot_of(server, with_tpm(ROUGH, batch=4))


def deviation(server) -> Image.Image:
    """The value, and the largest once more with shorter steps."""
    row = [
        (f"{d:+g}" if d else "0", pictures(server, custom(ROUGH, d))[0])
        for d in (-0.5, 0, 0.25, 0.5, 1)
    ]
    row.append(("+1, follow", pictures(server, custom(ROUGH, 1, mode="follow_time"))[0]))
    return sheet([row[:3], row[3:]])


def deviation_scale(server) -> Image.Image:
    """gamma over all of the sampling, or over half of it."""
    row = []
    for label, scale, start, end in (
        ("-1", -1, 0, 1),
        ("0", 0, 0, 1),
        ("1", 1, 0, 1),
        ("2", 2, 0, 1),
        ("0 up to 0.5", 0, 0, 0.5),
        ("0 from 0.5", 0, 0.5, 1),
    ):
        graph = custom(ROUGH, 0.5)
        window = {"deviation_scale": scale, "start_percent": start, "end_percent": end}
        graph["scale"]["inputs"] |= window
        row.append((label, pictures(server, graph)[0]))
    return sheet([row[:3], row[3:]])


def velocity_scale(server) -> Image.Image:
    """omega alone, no deviation."""
    row = []
    for omega in (0.75, 0.9, 1.0, 1.1, 1.25, 1.5):
        graph = graphs.async_ksampler(ROUGH, SEED, 1)
        del graph["deviation"]
        graph["scale"] = node(
            "AsyncTimestepVelocityScale",
            mode="constant",
            omega=omega,
            start_percent=0.0,
            end_percent=1.0,
        )
        row.append((f"{omega:g}", pictures(server, graph)[0]))
    return sheet([row[:3], row[3:]])


def plot(server) -> Image.Image:
    """A fixed deviation that also shortens the steps, so that all three panels are there."""
    return plot_of(server, custom(ROUGH, 0.5, mode="follow_time"))


def regional(words: str, value: float = 0.75) -> dict:
    return regions.regional_detail(ROUGH, words, SEED, 1, value)


def region_mask(server) -> Image.Image:
    """A deviation everywhere, and where the model attends to a word."""
    everywhere = graphs.async_ksampler(ROUGH, SEED, 1, 0.75)
    made = {
        "off": graphs.stock(ROUGH, SEED, 1),
        "everywhere": everywhere,
        "rough": regional("rough"),
        "red circles": regional("red circles"),
        "blue star": regional("blue star"),
        "circles, star": regional("circles, star"),
    }
    row = [(label, pictures(server, graph)[0]) for label, graph in made.items()]
    return sheet([row[:3], row[3:]])


def region_strip(server) -> Image.Image:
    """The strip under the plot, for two words and two thresholds."""
    strips = []
    for words, threshold in (("blue star", 1.0), ("blue star", 1.5), ("red circles", 1.0)):
        graph = regions.asyndm_words(ROUGH, words, SEED, 1)
        graph["region"]["inputs"]["threshold"] = threshold
        whole = plot_of(server, graph)
        strips.append((f"{words}, threshold {threshold:g}", whole))
    return stacked_strips(strips)


def asyndm_ksampler(server) -> Image.Image:
    """strength, for two prompts."""
    rows = []
    for prompt, words in ((ROUGH, regions.WORDS), (STRIPED, "triangle, circle")):
        row = []
        for strength in (0.0, 0.5, 1.0):
            graph = regions.asyndm_words(prompt, words, SEED, 1, strength)
            row.append((f"strength {strength:g}", pictures(server, graph)[0]))
        rows.append(row)
    return sheet(rows)


def asyndm_plot(server) -> Image.Image:
    return plot_of(server, regions.asyndm_words(ROUGH, regions.WORDS, SEED, 1))


def asyndm_custom(sampler: str, eta: float) -> dict:
    """AsynDM Sampler in SamplerCustom."""
    graph = regions.asyndm_words(ROUGH, regions.WORDS, SEED, 1)
    return graph | {
        "schedule": node(
            "BasicScheduler", model=["loader", 0], scheduler="simple", steps=regions.STEPS,
            denoise=1.0,
        ),
        "method": node(
            "AsynDMSampler", region=["region", 0], strength=0.5, sampler=sampler, eta=eta
        ),
        "sampler": node(
            "SamplerCustom", model=["loader", 0], add_noise=True, noise_seed=SEED, cfg=3.0,
            positive=["positive", 0], negative=["negative", 0], sampler=["method", 0],
            sigmas=["schedule", 0], latent_image=["latent", 0],
        ),
        "plot": node("AsyncTimestepPlot", trace=["method", 1], after=["sampler", 0]),
    }  # fmt: skip


def asyndm_sampler(server) -> Image.Image:
    """The three samplers at one strength."""
    made = {
        "euler": ("euler", 0.0),
        "ddim, eta 0.5": ("ddim", 0.5),
        "ancestral": ("euler_ancestral", 0.0),
    }
    row = [(k, pictures(server, asyndm_custom(*v))[0]) for k, v in made.items()]
    return sheet([row])


def noise_meter(server) -> Image.Image:
    """Images, their maps and levels: three deviations, noise that was added, stripes."""
    upper, lower = [], []
    for label, prompt, value, added in (
        ("0", PLAIN, 0.0, 0.0),
        ("+0.5", PLAIN, 0.5, 0.0),
        ("+1", PLAIN, 1.0, 0.0),
        ("0, rough", ROUGH, 0.0, 0.0),
        ("0, stripes", STRIPED, 0.0, 0.0),
        ("0, noise 5 %", PLAIN, 0.0, 0.05),
    ):
        graph = custom(prompt, value)
        graph["noisy"] = node("ImageAddNoise", image=["decode", 0], seed=SEED, strength=added)
        for reader in ("preview", "meter"):
            name = "images" if reader == "preview" else "image"
            graph[reader]["inputs"][name] = ["noisy", 0]
        graph["map"] = node("PreviewImage", images=["meter", 1])
        graph["level"] = node("PreviewAny", source=["meter", 0])
        outputs = server.run(graph)
        level = f"{float(outputs['level']['text'][0]):.2f}"
        upper.append((label, images(server, outputs["preview"])[0]))
        lower.append((f"level {level}", images(server, outputs["map"])[0]))
    return sheet([upper[:3], lower[:3], upper[3:], lower[3:]])


def demo_loader(server) -> Image.Image:
    """What the embedded model draws, numbered as in the page's caption."""
    prompts = (
        ROUGH,
        PLAIN,
        STRIPED,
        "three blue squares on a light dotted background",
        "three purple stars on a dark plain background",
        "two green triangles left of a yellow star on a light rough background",
    )
    made = [pictures(server, graphs.stock(p, SEED, 1, steps=15))[0] for p in prompts]
    row = [(str(n), picture) for n, picture in enumerate(made, start=1)]
    return sheet([row[:3], row[3:]])


def tune_by_eye(server) -> Image.Image:
    """The first sheet of a search: four schedules, three prompts."""
    prompts = "\n".join(
        (ROUGH, "a yellow star left of a purple square on a light rough background", STRIPED)
    )
    graph = by_eye("a page", pictures=3, prompts=prompts, steps=4)
    graph["latent"]["inputs"] |= {"width": 128, "height": 128}
    graph["sampler"]["inputs"]["cfg"] = 3.0
    graph["preview"] = node("PreviewImage", images=["choose", 0])
    return pictures(server, graph)[0]


PICTURES = {
    make.__name__: make
    for make in (
        model_patch, ksampler, ksampler_advanced, tpm, tpm_plot, deviation, deviation_scale,
        velocity_scale, plot, region_mask, region_strip, asyndm_ksampler, asyndm_plot,
        asyndm_sampler, noise_meter, demo_loader, tune_by_eye,
    )
}  # fmt: skip
