"""Algorithm 2 written again on diffusers, against the latents of a real ComfyUI server.

Both sides read the same weight files. The server runs stock nodes around ours (UNETLoader,
SaveLatent); this side is a plain loop over diffusers' transformer that shares no line with the
pack.
"""

from __future__ import annotations

import itertools
import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import FluxTransformer2DModel, SD3Transformer2DModel
from planted import planted_tpm, tpm_policy
from safetensors.torch import load_file, save_file
from sampling import sample

from async_timestep.harness.comfy_server import ComfyServer
from async_timestep.harness.tiny_models import FLUX_DIFFUSERS, SD35_DIFFUSERS, conditioning

STEPS, BATCH, SEED, SIZE = 5, 2, 7, 64  # SIZE: pixels a side, 8 latent cells
POOLED = {"sd35": 2048, "flux": 768}
UNIT = {"sd35": 1000, "flux": 1}  # a trace tells times as the network receives them
DEVIATIONS, GAMMAS = (-0.5, 0.0, 0.5, 1.0), (1.0, 2.0)
OMEGAS = (1.0, 0.8, "follow_time")  # a number, or t*/t at every step
PATCHED = (0.5, 2.0, 0.8)  # the case that is also run as a model patch and a stock KSampler
CASES = list(itertools.product(DEVIATIONS, GAMMAS, OMEGAS))
LOADER_NODE = '''
import os

import folder_paths
from safetensors.torch import load_file


class TestLoadConditioning:
    """Test only: CONDITIONING from tensors in the input folder, in the place of a text encoder."""

    INPUT_TYPES = classmethod(lambda cls: {"required": {"file": ("STRING", {})}})
    RETURN_TYPES, FUNCTION, CATEGORY = ("CONDITIONING",), "load", "test"

    def load(self, file):
        tensors = load_file(os.path.join(folder_paths.get_input_directory(), file))
        return ([[tensors["tokens"], {"pooled_output": tensors["pooled"]}]],)


NODE_CLASS_MAPPINGS = {"TestLoadConditioning": TestLoadConditioning}
'''


@pytest.fixture(scope="module")
def parity_server(tmp_path_factory, pack, model_files):
    """A server of its own: the tiny models, a planted TPM for each, saved conditioning, and the
    node that reads it."""
    base = tmp_path_factory.mktemp("parity")
    folders = ("models/diffusion_models", "models/tpm", "input", "custom_nodes/test_conditioning")
    for name in folders:
        (base / name).mkdir(parents=True)
    for family, pooled in POOLED.items():
        shutil.copy(model_files[family], base / "models/diffusion_models")
        tpm = planted_tpm(pack, base, family, torch.tensor(schedule(family)))
        tpm.rename(base / "models/tpm" / f"{family}.safetensors")
        for kind, seed in (("positive", 11), ("negative", 12)):
            tokens, extra = conditioning(seed, 64, pooled)[0]
            save_file(
                {"tokens": tokens, "pooled": extra["pooled_output"]},
                base / "input" / f"{family}_{kind}.safetensors",
            )
    (base / "custom_nodes/test_conditioning/__init__.py").write_text(LOADER_NODE)
    whitelist = ("--whitelist-custom-nodes", "async-timestep", "test_conditioning")
    flags = ("--cpu", "--disable-all-custom-nodes", *whitelist)
    threads = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in threads.items():
            patch.setenv(name, value)
        with ComfyServer(base, flags=flags, only_ours=False) as running:
            yield running


def node(class_type: str, **inputs) -> dict:
    return {"class_type": class_type, "inputs": inputs}


def velocity_inputs(omega: float | str) -> dict:
    if omega == "follow_time":
        return {"mode": omega, "omega": 1.0}
    return {"mode": "constant", "omega": omega}


def graph(family: str, cfg: float) -> dict:
    """Every case as a branch of one graph, and the stock KSampler beside them."""
    sampling = dict(
        model=["model", 0], seed=SEED, steps=STEPS, cfg=cfg, sampler_name="euler",
        scheduler="simple", positive=["positive", 0], negative=["negative", 0],
        latent_image=["empty", 0], denoise=1.0,
    )  # fmt: skip
    out = {
        "model": node("UNETLoader", unet_name=f"tiny_{family}.safetensors", weight_dtype="default"),
        "positive": node("TestLoadConditioning", file=f"{family}_positive.safetensors"),
        "negative": node("TestLoadConditioning", file=f"{family}_negative.safetensors"),
        "empty": node("EmptySD3LatentImage", width=SIZE, height=SIZE, batch_size=BATCH),
        "stock": node("KSampler", **sampling),
        "stock_save": node("SaveLatent", samples=["stock", 0], filename_prefix="stock"),
        "patch": node(
            "AsyncTimestepModel",
            model=["model", 0],
            preset="auto",
            deviation_scale=1.0,
            deviation=[f"{CASES.index(PATCHED)}_velocity", 0],
        ),
        "patched": node("KSampler", **{**sampling, "model": ["patch", 0]}),
        "patched_save": node("SaveLatent", samples=["patched", 0], filename_prefix="patched"),
    }
    out |= {
        "tpm": node("AsyncTimestepTPMLoader", tpm_name=f"{family}.safetensors"),
        "tpm_sampler": node(
            "AsyncTimestepKSampler",
            **sampling,
            preset="auto",
            deviation_scale=1.0,
            deviation=["tpm", 0],
        ),
        "tpm_save": node("SaveLatent", samples=["tpm_sampler", 0], filename_prefix="tpm"),
        "tpm_plot": node("AsyncTimestepPlot", trace=["tpm_sampler", 1], after=["tpm_sampler", 0]),
        "tpm_json": node("PreviewAny", source=["tpm_plot", 1]),
    }
    whole = dict(start_percent=0.0, end_percent=1.0)
    for i, (deviation, gamma, omega) in enumerate(CASES):
        out |= {
            f"{i}_deviation": node(
                "AsyncTimestepDeviation", preset="custom", deviation=deviation, unit="interval",
                mode="conditioning", **whole,
            ),
            f"{i}_scale": node(
                "AsyncTimestepDeviationScale", deviation=[f"{i}_deviation", 0],
                deviation_scale=gamma, **whole,
            ),
            f"{i}_velocity": node(
                "AsyncTimestepVelocityScale", deviation=[f"{i}_scale", 0], **velocity_inputs(omega),
                **whole,
            ),
            f"{i}_sampler": node(
                "AsyncTimestepKSampler", **sampling, preset="auto", deviation_scale=1.0,
                deviation=[f"{i}_velocity", 0],
            ),
            f"{i}_plot": node(
                "AsyncTimestepPlot", trace=[f"{i}_sampler", 1], after=[f"{i}_sampler", 0]
            ),
            f"{i}_json": node("PreviewAny", source=[f"{i}_plot", 1]),
            f"{i}_save": node(
                "SaveLatent", samples=[f"{i}_sampler", 0], filename_prefix=f"case_{i}"
            ),
        }  # fmt: skip
    return out


def saved_latent(server, entry: dict) -> torch.Tensor:
    found = entry["latents"][0]
    path = server.base / "output" / found["subfolder"] / found["filename"]
    return load_file(path)["latent_tensor"]


@pytest.fixture(scope="module", params=list(itertools.product(POOLED, (1.0, 3.0))), ids=str)
def served(request, parity_server):
    """(family, cfg, outputs of the server by node id)."""
    family, cfg = request.param
    return family, cfg, parity_server.run(graph(family, cfg))


# --- this side: the paper's algorithm on diffusers


def schedule(family: str) -> list[float]:
    """ComfyUI's `simple`: every n-th value of the shifted table, then 0."""
    table = {"sd35": 1000, "flux": 10000}[family]
    sigmas = []
    for k in range(STEPS):
        t = (table - int(k * table / STEPS)) / table
        if family == "sd35":
            sigmas.append(3.0 * t / (1 + (3.0 - 1) * t))
        else:
            sigmas.append(math.exp(1.15) / (math.exp(1.15) + (1 / t - 1)))
    return [*sigmas, 0.0]


def load_transformer(family: str, path: Path):
    if family == "sd35":
        network = SD3Transformer2DModel(**SD35_DIFFUSERS)
    else:
        network = FluxTransformer2DModel(**FLUX_DIFFUSERS)
    network.load_state_dict({name: tensor.float() for name, tensor in load_file(path).items()})
    return network.requires_grad_(False).float()


def velocity(family: str, network, x, t: float, tokens, pooled) -> torch.Tensor:
    """v (B, 16, h, w) of the flow time t, through diffusers' own calling conventions."""
    batch, channels, height, width = x.shape
    tokens, pooled = tokens.repeat(batch, 1, 1), pooled.repeat(batch, 1)
    time = torch.full((batch,), t)
    if family == "sd35":
        return network(x, tokens, pooled, timestep=1000 * time, return_dict=False)[0]
    rows, columns = height // 2, width // 2
    packed = x.view(batch, channels, rows, 2, columns, 2).permute(0, 2, 4, 1, 3, 5)
    packed = packed.reshape(batch, rows * columns, 4 * channels)
    image_ids = torch.zeros(rows, columns, 3)
    image_ids[..., 1], image_ids[..., 2] = torch.arange(rows)[:, None], torch.arange(columns)[None]
    v = network(
        packed,
        encoder_hidden_states=tokens,
        pooled_projections=pooled,
        timestep=time,
        guidance=torch.full((batch,), 3.5),
        img_ids=image_ids.view(-1, 3),
        txt_ids=torch.zeros(tokens.shape[1], 3),
        return_dict=False,
    )[0]
    v = v.view(batch, rows, columns, channels, 2, 2).permute(0, 3, 1, 4, 2, 5)
    return v.reshape(x.shape)


def algorithm_2(
    family: str, network, prompts, cfg: float, deviation: float, gamma: float, omega: float | str
) -> tuple[torch.Tensor, list[float]]:
    """(final latents in the VAE's scale, t* of every step)."""
    sigmas, told = schedule(family), []
    torch.manual_seed(SEED)
    x = torch.randn(BATCH, 16, SIZE // 8, SIZE // 8)
    for k in range(STEPS):
        t = sigmas[k]
        if k and deviation:
            t = t + gamma * deviation * (t - sigmas[k - 1])
            t = min(max(t, 1e-3), 1.0)
        told.append(t)
        v = velocity(family, network, x, t, *prompts["positive"])
        if cfg != 1:
            empty = velocity(family, network, x, t, *prompts["negative"])
            v = empty + cfg * (v - empty)
        if omega == "follow_time":
            factor = t / sigmas[k]
        else:
            factor = omega if k < STEPS - 1 else 1.0
        x = x + (sigmas[k + 1] - sigmas[k]) * factor * v
    scale, shift = {"sd35": (1.5305, 0.0609), "flux": (0.3611, 0.1159)}[family]
    return x / scale + shift, told


def relative(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found - wanted).abs().max() / wanted.abs().max())


def read_prompts(server, family: str) -> dict:
    prompts = {}
    for kind in ("positive", "negative"):
        tensors = load_file(server.base / "input" / f"{family}_{kind}.safetensors")
        prompts[kind] = (tensors["tokens"], tensors["pooled"])
    return prompts


# --- the tests


def test_latents_and_times_are_algorithm_2(pack, parity_server, model_files, served):
    family, cfg, outputs = served
    network, prompts = (
        load_transformer(family, model_files[family]),
        read_prompts(parity_server, family),
    )
    assert len(CASES) == 24
    results, worst, worst_time = {}, 0.0, 0.0
    for i, case in enumerate(CASES):
        latent = saved_latent(parity_server, outputs[f"{i}_save"])
        wanted, times = algorithm_2(family, network, prompts, cfg, *case)
        error = relative(latent, wanted)
        assert error <= 5e-5, (case, error)  # about 1e-6 is seen
        runs = json.loads(outputs[f"{i}_json"]["text"][0])["runs"]
        assert [step["step"] for step in runs[-1]] == list(range(STEPS)), case
        for step, t, sigma in zip(runs[-1], times, schedule(family)[:-1], strict=True):
            assert len(step["t_star"]) == BATCH
            errors = [abs(found / UNIT[family] - t) for found in step["t_star"]]
            errors.append(abs(step["sigma"] - sigma))
            assert max(errors) <= 1e-4, (case, step)
            worst_time = max(worst_time, *errors)
        results[case], worst = latent, max(worst, error)
    print(f"{family} cfg {cfg:g}: latents {worst:.2g} relative, times {worst_time:.2g}")
    distinct = {
        (d * gamma, 1.0 if d == 0 and omega == "follow_time" else omega): latent
        for (d, gamma, omega), latent in results.items()
    }
    assert len(distinct) == 17
    for a, b in itertools.combinations(distinct, 2):
        assert relative(distinct[a], distinct[b]) > 5e-3, (a, b, "cannot be told apart")


def test_zero_is_the_stock_ksampler_bit_for_bit(parity_server, served):
    outputs = served[2]
    stock = saved_latent(parity_server, outputs["stock_save"])
    same = [
        case
        for i, case in enumerate(CASES)
        if torch.equal(saved_latent(parity_server, outputs[f"{i}_save"]), stock)
    ]
    assert same == [case for case in CASES if case[0] == 0 and case[2] in (1.0, "follow_time")]
    assert len(same) == 4


def test_the_patch_before_a_stock_ksampler_gives_the_same_bits(parity_server, served):
    outputs = served[2]
    case = f"{CASES.index(PATCHED)}_save"
    patched = saved_latent(parity_server, outputs["patched_save"])
    assert torch.equal(patched, saved_latent(parity_server, outputs[case]))
    assert not torch.equal(patched, saved_latent(parity_server, outputs["stock_save"]))


def test_a_tpm_decides_in_the_server_as_in_process(pack, families, parity_server, served):
    """test_tpm_in_host checks the other half: in process it decides as worked out by hand."""
    family, cfg, outputs = served
    policy = tpm_policy(pack, parity_server.base / "models/tpm" / f"{family}.safetensors")
    model, trace = pack("nodes.run.hook").attach(families[family][0], policy)
    wanted, _ = sample(families[family], model, steps=STEPS, cfg=cfg, batch=BATCH, seed=SEED)
    assert relative(saved_latent(parity_server, outputs["tpm_save"]), wanted) <= 1e-4
    record = json.loads(outputs["tpm_json"]["text"][0])
    assert record["labels"] == [f"TPM {family}.safetensors"] and record["remarks"] == [""]
    for here, there in zip(trace.runs[-1].steps, record["runs"][-1], strict=True):
        assert there["deviation"] == pytest.approx(here["deviation"], abs=1e-4)
        assert all(there["deviation"]) == (there["step"] > 0)


def test_every_node_is_there_with_a_tooltip_on_every_input(parity_server, pack):
    info = parity_server.get("/object_info")
    wanted = {cls.__name__ for cls in pack("nodes").NODES}  # a class is called as its node id
    assert len(wanted) == len(pack("nodes").NODES) >= 10
    ours = {
        name for name, entry in info.items() if entry["python_module"].endswith("async-timestep")
    }
    assert ours == wanted
    for name in sorted(wanted):
        inputs = info[name]["input"]
        for key, value in {**inputs.get("required", {}), **inputs.get("optional", {})}.items():
            assert len(value) == 2 and value[1].get("tooltip", "").strip(), (name, key)


def test_the_log_is_clean(parity_server, served):
    text = parity_server.log.read_text()
    assert "IMPORT FAILED" not in text
    assert "Traceback" not in text
    assert "test_conditioning" in text and "async-timestep" in text, "both packs were imported"
