"""SD3.5 and Flux as backbones, against diffusers' own pipelines with the same random weights."""

from __future__ import annotations

import json
import logging
import shutil

import pytest
import torch
from diffusers import FluxPipeline, StableDiffusion3Pipeline
from diffusers.pipelines.flux.pipeline_flux import calculate_shift

from async_timestep.harness.tiny_pipelines import CLIP_G, CLIP_L, T5_WIDTH, write_pipelines
from async_timestep.training.backbones import load_backbone
from async_timestep.training.run.config import BackboneConfig

CPU = torch.device("cpu")
PROMPTS = ["a red circle", "two blue stars on a dark background"]
PIPELINES = {"sd35_medium": StableDiffusion3Pipeline, "flux1_dev": FluxPipeline}
T5_TOKENS = {"sd35_medium": (77, 256), "flux1_dev": (256, 512)}  # with match_comfyui and without
CLIP_TOKENS = {"sd35_medium": 77, "flux1_dev": 0}  # before them in the sequence
# family, steps, settings, arguments of the pipeline that mean the same
CASES = {
    "sd35": ("sd35_medium", 15, dict(guidance=5.0), dict(guidance_scale=5.0)),
    "sd35 unguided": ("sd35_medium", 15, dict(guidance=1.0), dict(guidance_scale=1.0)),
    "flux": (
        "flux1_dev",
        10,
        dict(guidance=5.0, guidance_mode="embedded"),
        dict(guidance_scale=5.0),
    ),
    "flux true cfg": (
        "flux1_dev",
        10,
        dict(guidance=5.0, guidance_mode="cfg"),
        dict(guidance_scale=1.0, true_cfg_scale=5.0, negative_prompt=""),
    ),
}
# the tables of docs: 512 px, float32 rounded to five places
GRIDS = {
    "sd35_medium": (
        1, 0.97508, 0.94754, 0.91696, 0.88279, 0.84436, 0.80084, 0.75112, 0.69379, 0.62696, 0.54805,
        0.45345, 0.33797, 0.19385, 0.00893, 0,
    ),
    "flux1_dev": (
        1, 0.94413, 0.8825, 0.81416, 0.73797, 0.65249, 0.5559, 0.44589, 0.31945, 0.17261, 0,
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    torch.set_num_threads(1)  # the models are tiny: more threads only wait for each other
    return write_pipelines(tmp_path_factory.mktemp("pipelines"))


@pytest.fixture(scope="module")
def load(folders):
    """load(family, **settings of BackboneConfig), by the trainer's own path."""

    def make(family: str, offload_text: bool = False, **fields):
        known = dict(name=family, path=str(folders[family]), guidance=5.0, resolution=64)
        return load_backbone(BackboneConfig(**{**known, **fields}), CPU, offload_text)

    return make


@pytest.fixture(scope="module", params=CASES)
def case(request, folders, load):
    """(backbone, the pipeline, steps, its arguments), two prompts, fp32."""
    family, steps, settings, arguments = CASES[request.param]
    pipe = PIPELINES[family].from_pretrained(folders[family])
    pipe.set_progress_bar_config(disable=True)
    for module in (pipe.transformer, pipe.vae):
        module.requires_grad_(False)  # torch convolves frozen weights with another kernel
    return load(family, **settings), pipe, steps, arguments


def generators(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def euler(backbone, conditioning, x, steps: int):
    """Algorithm 2 with D = 0."""
    sigmas = backbone.sigmas(steps)
    for k in range(steps):
        v = backbone.velocity(x, sigmas[k].expand(len(x)), conditioning)
        x = x + (sigmas[k + 1] - sigmas[k]) * v
    return x


def inputs(backbone, batch: int = 3):
    """Latents, times and prompts in which no row is as another."""
    prompts = [*PROMPTS, "nothing"][:batch]
    times = torch.tensor([0.9, 0.61, 0.18])[:batch]
    return backbone.noise(generators(*range(batch))), times, backbone.encode(prompts)


def in_two_passes(forward):
    """The same forward, half of the batch at a time."""

    def run(*inputs):
        halves = zip(*(part.chunk(2) for part in inputs), strict=True)
        return torch.cat([forward(*half) for half in halves])

    return run


def rounding(backbone) -> float:
    """What another batch size may change: 1e-6 of a velocity, and CFG is a difference of two."""
    return 1e-6 * (2 * backbone.guidance - 1 if backbone.cfg else 1)


def pair(pipe, steps: int, output: str, arguments: dict):
    """What the pipeline makes of the first prompt and two seeds: latents or pictures."""
    family = "flux1_dev" if isinstance(pipe, FluxPipeline) else "sd35_medium"
    with torch.no_grad():
        found = pipe(
            PROMPTS[0],
            num_images_per_prompt=2,
            num_inference_steps=steps,
            height=64,
            width=64,
            output_type=output,
            generator=generators(3, 4),
            max_sequence_length=T5_TOKENS[family][0],
            **arguments,
        ).images
    packed = output == "latent" and family == "flux1_dev"
    return pipe._unpack_latents(found, 64, 64, 8) if packed else found


# --- against the pipelines


def test_synchronous_sampling_is_the_pipeline_bit_for_bit(case, monkeypatch):
    """Noise, prompts, grid, guidance and network at once: the two share only the folder.

    A group of images of one prompt, as the trainer samples it: encoding two prompts at a time
    changes the last bit of a vector, in the pipeline as here.
    """
    backbone, pipe, steps, arguments = case
    wanted = pair(pipe, steps, "latent", arguments)
    noise = backbone.noise(generators(3, 4))
    conditioning = backbone.encode(PROMPTS[:1]).rows([0, 0])
    x = euler(backbone, conditioning, noise, steps)
    if "true_cfg_scale" in arguments:  # two passes there, one of twice the images here
        assert (x - wanted).abs().max() <= 1e-5
        monkeypatch.setattr(backbone, "forward", in_two_passes(backbone.forward))
        x = euler(backbone, conditioning, noise, steps)
    assert x.dtype == torch.float32 and x.shape == (2, 16, 8, 8)
    assert torch.equal(x, wanted)
    assert (x - noise).abs().mean() > 0.01, "the network did something"


def test_pictures_are_the_pipelines(case):
    backbone, pipe, _, arguments = case
    images = backbone.decode(pair(pipe, 2, "latent", arguments))
    assert images.shape == (2, 3, 64, 64) and images.dtype == torch.float32
    assert torch.equal(images, pair(pipe, 2, "pt", arguments))
    assert 0 <= images.min() < images.max() <= 1


@pytest.mark.parametrize("family", PIPELINES)
def test_grids(load, family):
    """The scheduler's own, at every size and number of steps, and the one of the paper's steps."""
    steps = len(GRIDS[family]) - 1
    assert load(family, resolution=512).sigmas(steps).tolist() == pytest.approx(
        GRIDS[family], abs=6e-6
    )
    for resolution in (256, 512, 1024):
        backbone = load(family, resolution=resolution)
        scheduler = backbone.pipe.scheduler
        for count in (2, 3, 10, 15, 28, 50):
            if family == "flux1_dev":
                evenly = torch.linspace(1.0, 1 / count, count, dtype=torch.float64).numpy()
                scheduler.set_timesteps(
                    sigmas=evenly, mu=calculate_shift((resolution // 16) ** 2, max_shift=1.15)
                )
            else:
                scheduler.set_timesteps(count)
            sigmas = backbone.sigmas(count)
            assert sigmas.dtype == torch.float32 and len(sigmas) == count + 1
            assert torch.equal(sigmas, scheduler.sigmas)


def test_the_grid_stands_without_the_scheduler(load):
    backbone = load("flux1_dev")
    before = backbone.sigmas(10)
    backbone.pipe.scheduler.set_timesteps(3, mu=9.0)
    assert torch.equal(backbone.sigmas(10), before)


# --- times and batches


def test_every_image_has_its_own_time(case):
    backbone = case[0]
    x, times, conditioning = inputs(backbone)
    together = backbone.velocity(x, times, conditioning)
    for i in range(len(x)):
        alone = backbone.velocity(x[i : i + 1], times[i : i + 1], conditioning.rows([i]))
        assert (alone[0] - together[i]).abs().max() <= rounding(backbone)


def test_small_batches_give_the_same(case, load):
    backbone, settings = case[0], case[0].config
    small = load(
        backbone.family,
        guidance=settings.guidance,
        guidance_mode=settings.guidance_mode,
        batch=2,
        decode_batch=1,
    )
    rows, forward = [], small.forward
    small.forward = lambda x, *rest: rows.append(len(x)) or forward(x, *rest)
    x, times, conditioning = inputs(backbone)
    whole = backbone.velocity(x, times, conditioning)
    assert (small.velocity(x, times, conditioning) - whole).abs().max() <= rounding(backbone)
    assert rows == ([4, 2] if backbone.cfg else [2, 1])
    assert (small.decode(x) - backbone.decode(x)).abs().max() <= 1e-5


def test_the_told_time_reaches_the_network(case):
    backbone = case[0]
    x, times, conditioning = inputs(backbone)
    right = backbone.velocity(x, times, conditioning)
    told = times - torch.tensor([0.0, 0.05, 0.0])
    changed = (backbone.velocity(x, told, conditioning) - right).abs().amax(dim=(1, 2, 3))
    assert changed[1] > 1e-3 and max(changed[0], changed[2]) <= rounding(backbone)


@pytest.mark.parametrize("family", PIPELINES)
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_half_precision_keeps_the_time_exact(load, family, precision):
    backbone = load(family, precision=precision, guidance=1.0, guidance_mode="cfg")
    seen, result = [], []
    embedder = backbone.transformer.time_text_embed
    # Timesteps serves the time first and then, in Flux, the guidance
    embedder.time_proj.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    embedder.register_forward_hook(lambda module, args, out: result.append(out))
    x, _, conditioning = inputs(backbone, 2)
    same = conditioning.rows([0, 0])
    times = torch.tensor([0.5, 0.5002])
    v = backbone.velocity(x, times, same)
    assert seen[0].dtype == torch.float32
    assert torch.allclose(seen[0], 1000 * times, rtol=1e-7, atol=0)
    assert not torch.equal(result[0][0], result[0][1])
    assert v.dtype == torch.float32 and v.isfinite().all()


# --- prompts


@pytest.mark.parametrize("family", PIPELINES)
@pytest.mark.parametrize("match", [True, False])
def test_lengths_and_widths_of_prompts(load, family, match):
    backbone = load(family, match_comfyui=match)
    conditioning = backbone.encode(PROMPTS)
    length = CLIP_TOKENS[family] + T5_TOKENS[family][0 if match else 1]
    assert conditioning.tokens.shape == (2, length, T5_WIDTH)
    split = (CLIP_L, CLIP_G) if family == "sd35_medium" else (CLIP_L,)
    assert backbone.pooled_split == split and backbone.pooled_dim == sum(split)
    assert conditioning.pooled.shape == (2, sum(split))
    assert conditioning.pooled.dtype == torch.float32 and conditioning.prompts == tuple(PROMPTS)


@pytest.mark.parametrize("family", PIPELINES)
def test_offloaded_text_encoders_visit_and_go_home(load, family, monkeypatch):
    moves = []
    encoder = type(load(family).pipe.text_encoder)
    stock = encoder.to

    def to(module, device):
        moves.append(str(device))
        return stock(module, device)

    monkeypatch.setattr(encoder, "to", to)
    at_home = load(family)
    moves.clear()
    away = load(family, offload_text=True)
    assert not moves, "never on the device before it is needed"
    one, other = (backbone.encode(PROMPTS) for backbone in (at_home, away))
    assert set(moves) == {"cpu"} and len(moves) % 2 == 0  # there and back, both are the CPU here
    for name in away.text_encoders:
        assert next(getattr(away.pipe, name).parameters()).device.type == "cpu"
    assert torch.equal(one.tokens, other.tokens) and torch.equal(one.pooled, other.pooled)


def test_the_empty_prompt_is_encoded_once(load):
    backbone = load("sd35_medium")
    x, times, conditioning = inputs(backbone)
    asked, encode = [], backbone.encode
    backbone.encode = lambda prompts: asked.append(prompts) or encode(prompts)
    for _ in range(3):
        backbone.velocity(x, times, conditioning)
    assert asked == [[""]]


def test_a_clip_projection_that_is_no_identity_is_told(load, folders, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        load("sd35_medium")
    assert "differ from ComfyUI" in caplog.text
    pipe = StableDiffusion3Pipeline.from_pretrained(folders["sd35_medium"])
    torch.nn.init.eye_(pipe.text_encoder.text_projection.weight)
    pipe.save_pretrained(tmp_path)
    caplog.clear()
    load("sd35_medium", path=str(tmp_path))
    assert "identity" not in caplog.text


# --- what is loaded


@pytest.mark.parametrize("family", PIPELINES)
def test_everything_is_frozen_and_in_its_precision(load, family):
    backbone = load(family, precision="fp16")
    half, t5 = torch.float16, backbone.text_encoders[-1]
    assert {p.dtype for p in backbone.transformer.parameters()} == {half}
    assert {p.dtype for p in backbone.vae.parameters()} == {torch.float32}
    assert getattr(backbone.pipe, t5).dtype == (torch.bfloat16 if family == "flux1_dev" else half)
    for part in (backbone.transformer, backbone.vae, getattr(backbone.pipe, t5)):
        assert not part.training and not any(p.requires_grad for p in part.parameters())


@pytest.mark.parametrize("family", PIPELINES)
def test_what_it_says_about_itself(load, family):
    backbone = load(family)
    assert backbone.family == family and backbone.license and backbone.device == CPU
    assert backbone.base_model == backbone.hub_id, "no folder of this machine in a TPM file"
    assert (backbone.latent_channels, backbone.latent_size) == (16, (8, 8))
    assert (backbone.guidance, backbone.resolution) == (5.0, 64)


@pytest.mark.parametrize("family", PIPELINES)
def test_a_folder_that_cannot_be_used_is_one_sentence(load, folders, family, tmp_path, monkeypatch):
    def message(**fields) -> str:
        with pytest.raises(ValueError) as caught:
            load(family, **fields)
        text = str(caught.value)
        assert "\n" not in text and text.endswith(".")
        return text

    other = folders["flux1_dev" if family == "sd35_medium" else "sd35_medium"]
    assert "without model_index.json" in message(path=str(tmp_path))
    assert "holds a " in message(path=str(other))
    (tmp_path / "model_index.json").write_text("{}")
    assert "holds a None" in message(path=str(tmp_path))
    for text in (b"", b"[]", b"\xff", b"[" * 50_000):
        (tmp_path / "model_index.json").write_bytes(text)
        assert "model_index.json holds no parts" in message(path=str(tmp_path))
    index = {"_class_name": PIPELINES[family].__name__, "tokenizer": 3}
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    assert "a folder without" in message(path=str(tmp_path))

    def refused(*args, **kwargs):
        raise OSError("401 Client Error.\nCannot access gated repo")

    monkeypatch.setattr(PIPELINES[family], "from_pretrained", refused)
    for path in ("", "somebody/something", str(tmp_path / "missing")):
        text = message(path=path)
        assert "backbone.path" in text and "401 Client Error" in text and "log in" in text


@pytest.mark.parametrize("family", PIPELINES)
def test_settings_that_cannot_work(load, family):
    with pytest.raises(ValueError, match="backbone.resolution is 520.*multiple of 16"):
        load(family, resolution=520)
    if family == "sd35_medium":
        with pytest.raises(ValueError, match="guidance_mode is 'embedded'"):
            load(family, guidance_mode="embedded")


def edited(folder, target, file: str, **values):
    """A copy of a pipeline's folder with some values of one of its JSON files changed."""
    shutil.copytree(folder, target)
    path = target / file
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))
    return str(target)


def test_a_scheduler_with_another_grid_is_refused(load, folders, tmp_path):
    file = "scheduler/scheduler_config.json"
    sd35 = edited(folders["sd35_medium"], tmp_path / "a", file, use_dynamic_shifting=True)
    with pytest.raises(ValueError, match="use_dynamic_shifting True, expected False"):
        load("sd35_medium", path=sd35)
    flux = edited(folders["flux1_dev"], tmp_path / "b", file, use_karras_sigmas=True)
    with pytest.raises(ValueError, match="use_karras_sigmas True, expected False"):
        load("flux1_dev", path=flux)


@pytest.mark.parametrize("family", PIPELINES)
def test_missing_text_encoders_are_named(load, folders, family, tmp_path):
    none = dict.fromkeys(("text_encoder_2", "tokenizer_2"), (None, None))
    path = edited(folders[family], tmp_path / "bare", "model_index.json", **none)
    with pytest.raises(ValueError, match="without text_encoder_2, expected all of text_encoder, "):
        load(family, path=path)
