"""Other packs for bench/beside.py, from checkouts: their nodes run unchanged."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import torch

from async_timestep.bench.parts import peers_load as load
from async_timestep.bench.parts.peers_combos import (
    BESIDE,
    CALLS,
    PIXEL,
    Combo,
    Shelf,
    call,
    node_of,
)


def gguf(shelf: Shelf) -> Iterator[Combo]:
    """The same weights in Q8_0, written by the `gguf` package, read by the pack's loader."""
    import folder_paths

    try:
        import gguf as package
    except ImportError:
        shelf.left_out.append("ComfyUI-GGUF: the package gguf is not installed.")
        return
    module = shelf.checkout("ComfyUI-GGUF")
    if module is None:
        return
    setup = shelf.setup("sd35_dual")
    writer = package.GGUFWriter(str(shelf.folder / "tiny.gguf"), "sd3")
    q8 = package.GGMLQuantizationType.Q8_0
    for name, tensor in setup.model.model.diffusion_model.state_dict().items():
        data = tensor.float().numpy()
        if tensor.ndim == 2 and tensor.shape[1] % 32 == 0 and "pos_embed" not in name:
            writer.add_tensor(name, package.quants.quantize(data, q8), raw_dtype=q8)
        else:
            writer.add_tensor(name, data)
    for write in (writer.write_header_to_file, writer.write_kv_data_to_file):
        write()
    writer.write_tensors_to_file()
    writer.close()
    folder_paths.add_model_folder_path("unet", str(shelf.folder))
    stored = node_of(module, "UnetLoaderGGUF")().load_unet("tiny.gguf")[0]
    loaded = load.Setup(**{**vars(setup), "model": stored})
    yield Combo("ComfyUI-GGUF, Q8_0", loaded, "SD3.5", base=setup.model)


def sigma_samplers(shelf: Shelf) -> Iterator[Combo]:
    """SAMPLER wrappers around the sampler that runs on our patch, or around AsynDM Sampler."""
    from async_timestep.bench.parts.peers_methods import detail_daemon

    module = shelf.checkout("ComfyUI-Detail-Daemon")
    for family, label in (("sd35_dual", "SD3.5"), ("sdxl", "SDXL")) if module else ():
        yield Combo(
            "Detail Daemon, on top",
            shelf.setup(family, steps=8),
            label,
            two_orders=False,
            sampler=lambda s: detail_daemon(module, s, detail_amount=1.0, cfg_scale_override=1.0),
        )
    module2 = shelf.checkout("ComfyUI-Selective-Sigma-Detailer")
    if module2:
        node = node_of(module2, "SelectiveSigmaDetailerNode")
        yield Combo(
            "Selective Sigma Detailer, on top",
            shelf.setup("sd35_dual", steps=8),
            "SD3.5",
            sampler=lambda s: node().go(s, 0.1, 0.5)[0],
            two_orders=False,
        )


def kjnodes(shelf: Shelf) -> Iterator[Combo]:
    module = shelf.checkout("ComfyUI-KJNodes")
    if module is None:
        return
    sd3, wan = shelf.setup("sd35_dual"), shelf.setup("wan")

    def on(name, **inputs):
        return lambda m: call(node_of(module, name), model=m, **inputs)

    yield Combo("KJNodes CFGZeroStarAndInit", sd3, "SD3.5", model=on("CFGZeroStarAndInit"))
    latent = {"samples": torch.randn(sd3.latent.shape, generator=torch.Generator().manual_seed(4))}
    gradient = torch.linspace(0, 2, 8).clamp(max=1).expand(1, 8, 8)  # AsynDM acts where it is 1
    yield Combo(
        "KJNodes DifferentialDiffusionAdvanced",
        sd3,
        "SD3.5",
        model=on("DifferentialDiffusionAdvanced", samples=latent, mask=gradient),
        more={"latent": latent["samples"], "denoise_mask": gradient.unsqueeze(1)},
        tests=f"{BESIDE}, {PIXEL}: test_differential_diffusion...",
    )
    yield Combo(
        "KJNodes ScheduledCFGGuidance", sd3, "SD3.5",
        guider=lambda setup, m: call(
            node_of(module, "ScheduledCFGGuidance"), model=m, positive=setup.positive,
            negative=setup.negative, cfg=3.0, start_percent=0.3, end_percent=0.8,
        ),
    )  # fmt: skip
    third = [[0.5 * (wan.positive[0][0] + wan.negative[0][0]), {}]]
    yield Combo("KJNodes WanVideoNAG", wan, "Wan 2.1", model=on("WanVideoNAG", conditioning=third))
    yield Combo(
        "KJNodes WanVideoEnhanceAVideoKJ",
        wan,
        "Wan 2.1",
        model=on("WanVideoEnhanceAVideoKJ", latent={"samples": wan.latent}),
    )
    yield Combo(
        "KJNodes TorchCompileModelAdvanced (inductor)",
        sd3,
        "SD3.5",
        model=on("TorchCompileModelAdvanced"),
    )


def guidance(shelf: Shelf) -> Iterator[Combo]:
    """sd-perturbed-attention, on the two networks that its nodes know."""
    module = shelf.checkout("sd-perturbed-attention")
    if module is None:
        return
    setup = shelf.setup("sdxl")
    nodes_of = {
        "PerturbedAttention": {},
        "SmoothedEnergyGuidanceAdvanced": {},
        "NormalizedAttentionGuidance": {"negative": setup.negative},
        "PLADIS": {},
        "TokenPerturbationGuidance": {"unet_block_list": ""},
        "FrequencyDecoupledGuidance": {},
        "MomentumGuidance": {},
        "SlidingModeControlCFG": {},
    }
    for name, inputs in nodes_of.items():
        tests = {
            "PerturbedAttention": f"{CALLS}, {PIXEL}: test_perturbed_attention...",
            "NormalizedAttentionGuidance": f"{PIXEL}: test_words_are_read_under...",
        }.get(name, "")
        yield Combo(
            f"sd-perturbed-attention {name}",
            setup,
            "SDXL",
            tests=tests,
            model=lambda m, n=name, i=inputs: call(node_of(module, n), model=m, **i),
        )


def impact(shelf: Shelf) -> Iterator[Combo]:
    """Its own sampling module, as a detailer calls it: a crop, a noise mask, a denoise of 0.5."""
    folder = None if shelf.packs is None else shelf.packs / "ComfyUI-Impact-Pack" / "modules"
    if folder is None or not folder.exists():
        shelf.left_out.append("ComfyUI-Impact-Pack: no checkout at hand.")
        return
    sys.path.append(str(folder.resolve()))
    from impact import impact_sampling

    shelf.versions.append(f"ComfyUI-Impact-Pack {load.commit(folder.parent)}")
    setup = shelf.setup("sd35_dual")
    crop = torch.randn(1, 16, 8, 8, generator=torch.Generator().manual_seed(4))
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., 2:7, 2:7] = 1
    latent = {"samples": crop, "noise_mask": mask}

    def whole(model, sampler):
        rest = (setup.positive, setup.negative, latent)
        if sampler.sampler_function.__name__ == "sample_euler":
            out = impact_sampling.ksampler_wrapper(
                model, 5, 4, 3.0, "euler", "simple", *rest, denoise=0.5
            )
        else:  # a SAMPLER of its own
            out = impact_sampling.separated_sample(
                model, True, 5, 8, 3.0, "euler", "simple", *rest, 4, 8, False, sampler_opt=sampler
            )
        return out["samples"]

    yield Combo(
        "Impact Pack's ksampler_wrapper",
        setup,
        "SD3.5",
        whole=whole,
        two_orders=False,
        tests=f"{BESIDE}: test_an_inpaint_mask...; {CALLS}: test_image_to_image",
    )


ALL = (gguf, sigma_samplers, kjnodes, guidance, impact)
