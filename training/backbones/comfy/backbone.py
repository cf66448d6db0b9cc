"""A workflow as a backbone: what it samples, its sampler node samples, with our hook on its MODEL.

The nodes are run once for what feeds the sampler (MODEL, empty latent, guider, sampler, sigmas),
and the text's part once per prompt. Sampling is the guider's own `sample`, and what decides in it
is `attach` of the nodes: there is no second Algorithm 2.
"""

from __future__ import annotations

import copy
import inspect
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

import comfy.model_management
import comfy.sample
import comfy.samplers

from ....nodes.run.family import model_family
from ....nodes.run.hook import attach
from ....nodes.run.times import ModelTime
from ....nodes.run.weights import weights_sha256
from ....report.trace import Run
from ....tpm.families import family_of
from ....tpm.policies import Constant, Policy
from ...run.config import BackboneConfig
from ...run.workflow import KSAMPLERS, Graph, is_link, steps_node, told
from .conditioning import Conds, Prompts, batches, joined, pooled_of
from .files import named_weights, weight_files
from .memory import images_that_fit, memory_of, required_by
from .places import decoder_link, positive_link, text_node
from .record import written_down
from .runner import Runner

SD35_POOLED = 2048  # CLIP-L beside CLIP-G: two tokens of the TPM


class Workflow:
    """`Workflow(config, device, graph, sampler)` after ComfyUI was started; the interface is that
    of `Backbone`, but for what `sample` gives: latents as the sampler node gives them, in the scale
    of its VAE, and sigmas are the model's own (up to 14.6 where it is no flow model)."""

    def __init__(self, config: BackboneConfig, device: torch.device, graph: Graph, sampler: str):
        self.device, self.sampler_id = device, sampler
        self.batch, self.decode_batch = config.batch, config.decode_batch
        _, vae = decoder_link(graph, sampler)
        self.runner = Runner(graph, config.workflow or config.checkpoint, [sampler, vae[0]])
        self.runner.require_nodes()
        self.graph = self.runner.graph
        self.holder, _ = positive_link(self.graph, sampler)
        self.text = text_node(self.graph, sampler)
        self.steps_id = steps_node(self.graph, sampler)
        self.inputs = self.graph[sampler]["inputs"]
        self.grids: dict[int, Tensor] = {}
        self.weights = weight_files(self.graph)
        self._load(vae)

    def _load(self, vae: list) -> None:
        """Runs the workflow as it is up to its sampler."""
        links = {slot: v for slot, v in self.inputs.items() if is_link(v)}
        taken = self.runner.take({**links, "vae of the decoder": vae})
        self.vae = taken["vae of the decoder"]
        self.guider = self._guider(taken)
        self.model = self.guider.model_patcher
        if self.class_type in KSAMPLERS:
            self.names = self._names(taken)
            self.sampler = comfy.samplers.sampler_object(self.names[0])
        else:
            self.sampler = taken["sampler"]
            self.grids[len(taken["sigmas"]) - 1] = taken["sigmas"].detach().clone().float().cpu()
        self.latent = self._empty_latent(taken["latent_image"])
        shape = self.latent.shape
        self.latent_channels, self.latent_size = shape[1], tuple(shape[-2:])
        ratio = getattr(self.model.get_model_object("latent_format"), "spacial_downscale_ratio", 8)
        self.resolution = int(max(self.latent_size) * ratio)
        self.guidance = float(getattr(self.guider, "cfg", 1.0))
        self.family = model_family(self.model)
        self.latent_format = type(self.model.get_model_object("latent_format")).__name__
        self.frames = shape[2] if len(shape) == 5 else 1
        self.weights_sha256 = weights_sha256(self.model)
        files = dict.fromkeys(Path(word).name for word in named_weights(self.graph).values())
        self.base_model = ", ".join(files) or type(self.model.model).__name__
        self.license = family_of(self.family).license
        self.pooled_dim = pooled_of(self.guider.original_conds, self.device).shape[1]
        sd35 = self.pooled_dim == SD35_POOLED
        self.pooled_split = (768, 1280) if sd35 else (self.pooled_dim,)

    @property
    def class_type(self) -> str:
        return self.graph[self.sampler_id]["class_type"]

    def _value(self, slot: str, taken: dict) -> object:
        """What an input of the sampler node is: its widget's value, or what was connected."""
        return taken.get(slot, self.inputs[slot])

    def _guider(self, taken: dict):
        """The guider of SamplerCustomAdvanced, or the one that every other sampler node makes."""
        if self.class_type == "SamplerCustomAdvanced":
            return taken["guider"]
        guider = comfy.samplers.CFGGuider(taken["model"])
        guider.set_conds(taken["positive"], taken["negative"])
        guider.set_cfg(self._value("cfg", taken))
        return guider

    def _empty_latent(self, latent: dict) -> Tensor:
        """(1, C, ...) with the model's channels, as the sampler nodes make it. Raises ValueError on
        a picture, and on a mask."""
        samples, slots = latent["samples"], ("downscale_ratio_spacial", "downscale_ratio_temporal")
        if getattr(samples, "is_nested", False):
            raise ValueError(
                f"latent_image of {told(self.graph, self.sampler_id)} holds several latents "
                "(picture and sound), expected one; this cannot be trained on yet."
            )
        if "noise_mask" in latent or bool(samples.count_nonzero()):
            what = "a mask" if "noise_mask" in latent else "a picture"
            raise ValueError(
                f"latent_image of {told(self.graph, self.sampler_id)} has {what}, expected an "
                "empty latent: images are sampled from noise alone in training; connect one."
            )
        fix = comfy.sample.fix_empty_latent_channels
        known = inspect.signature(fix).parameters  # older hosts know no ratios
        ratios = {slot: latent[slot] for slot in slots if slot in known and slot in latent}
        return fix(self.model, samples, **ratios)[:1].detach().clone().float()

    def _names(self, taken: dict) -> list[str]:
        """Sampler and scheduler of a KSampler. Raises ValueError on one that ComfyUI lacks."""
        known = {
            "sampler_name": comfy.samplers.KSampler.SAMPLERS,
            "scheduler": comfy.samplers.KSampler.SCHEDULERS,
        }
        for slot, names in known.items():
            if (found := self._value(slot, taken)) not in names:
                raise ValueError(
                    f"{slot} of {told(self.graph, self.sampler_id)} is {found!r}, expected one of "
                    f"{', '.join(names)}; choose one, or install the pack that has it."
                )
        return [self._value(slot, taken) for slot in known]

    def encode(self, prompts: list[str]) -> Prompts:
        """Each prompt through the workflow's own text encoder, once; what lies behind it (guidance,
        ControlNet) is run again with it."""
        once = {text: self._encoded(text) for text in dict.fromkeys(prompts)}
        conds = tuple(once[text] for text in prompts)
        pooled = [pooled_of(row, self.device) for row in conds]
        return Prompts(tuple(prompts), conds, torch.cat(pooled))

    def _encoded(self, text: str) -> Conds:
        name, slots = self.text
        wanted = ("guider", "positive", "negative", "model")
        links = {s: v for s, v in self.inputs.items() if s in wanted and is_link(v)}
        taken = self.runner.take(links, {(name, slot): text for slot in slots})
        return self._guider(taken).original_conds

    def noise(self, generators: list[torch.Generator]) -> Tensor:
        shape = self.latent.shape[1:]
        return torch.stack([torch.randn(shape, generator=g) for g in generators]).to(self.device)

    def sigmas(self, steps: int) -> Tensor:
        """The workflow's own schedule with another number of steps. Raises ValueError where it has
        sigmas of its own that no number of steps makes."""
        if steps not in self.grids:
            self.grids[steps] = self._grid(steps).detach().clone().float().cpu()
        grid = self.grids[steps]
        if len(grid) != steps + 1 or float(grid[-1]) != 0:
            where = told(self.graph, self.steps_id or self.sampler_id)
            raise ValueError(
                f"steps is {steps}, but the sigmas of {where} are {len(grid) - 1} steps down to "
                f"{float(grid[-1]):.4g}, expected {steps} down to 0; set steps to what the "
                "workflow samples, and make it a whole schedule."
            )
        return grid

    def times(self, steps: int) -> tuple[float, ...]:
        time = ModelTime(self.model.get_model_object("model_sampling"))
        return tuple(time.flow_time(self.sigmas(steps).double()).tolist())

    def _grid(self, steps: int) -> Tensor:
        if self.class_type in KSAMPLERS:
            return comfy.samplers.KSampler(
                self.model,
                steps=steps,
                device=torch.device("cpu"),
                sampler=self.names[0],
                scheduler=self.names[1],
                denoise=1.0,
                model_options=self.model.model_options,
            ).sigmas
        if self.steps_id is None:
            own = next(iter(self.grids))
            raise ValueError(
                f"steps is {steps}, but the sigmas of {told(self.graph, self.sampler_id)} are "
                f"fixed in the workflow, expected their number; set steps to {own}."
            )
        links = {"sigmas": self.inputs["sigmas"]}
        return self.runner.take(links, {(self.steps_id, "steps"): steps})["sigmas"]

    @cached_property
    def most(self) -> int:
        """Images of one batch. Of a batch that is chosen by the free memory it is chosen once: a
        part that a policy was made for is never cut again."""
        if self.batch:
            return self.batch
        conds, shape = self.guider.original_conds, tuple(self.latent.shape)
        required = required_by(self.model, conds, shape)
        return images_that_fit(required, memory_of(self.model, conds).room)

    def parts(self, conditioning: Prompts) -> list[list[int]]:
        return batches(conditioning.conds, self.most)

    def sample(
        self,
        conditioning: Prompts,
        noise: Tensor,
        sigmas: Tensor,
        policy: Policy | None = None,
        solver: str = "euler",
        record: Run | None = None,
    ) -> Tensor:
        """See `Backbone.sample`: the workflow's own sampler. A policy is asked about the rows of
        one part (`parts`) at a time."""
        if solver != "euler":
            raise ValueError(
                f"The solver {solver} was asked for, but a workflow brings its own sampler; put "
                "another one into the workflow, or leave this method out."
            )
        latents, runs = {}, []
        parts = self.parts(conditioning)
        for rows in parts:
            conds = joined(conditioning.rows(rows).conds)
            found, run = self._sampled(conds, noise[rows], sigmas, policy or Constant(0.0))
            latents |= dict(zip(rows, found, strict=True))
            runs.append(run)
        if record is not None:
            written_down(record, parts, runs, self.model.get_model_object("model_sampling"))
        return torch.stack([latents[i] for i in range(len(noise))])

    def _sampled(
        self, conds: Conds, noise: Tensor, sigmas: Tensor, policy: Policy
    ) -> tuple[Tensor, Run]:
        """(latents, what was told) of one batch, in the mode in which ComfyUI runs its nodes. The
        sampler's own noise (ancestral, SDE) goes by the initial noise: paired with it."""
        seed = int(noise.flatten()[0].cpu().view(torch.int32)) & 0x7FFFFFFF
        guider = copy.copy(self.guider)
        guider.original_conds = conds
        with torch.inference_mode():
            guider.model_patcher, trace = attach(self.model, policy)
            guider.model_options = guider.model_patcher.model_options
            latent = self.latent.repeat(len(noise), *[1] * (noise.ndim - 1))
            grid = sigmas.clone()  # uni_pc writes into its own
            out = guider.sample(noise, latent, self.sampler, grid, disable_pbar=True, seed=seed)
            out = out.to(comfy.model_management.intermediate_device())
        return out.clone(), trace.runs[-1]  # a plain tensor again, of which gradients may be asked

    def group(self, prompt: str) -> str | None:
        return None

    def decode(self, x: Tensor) -> Tensor:
        """Images (B, 3, H, W) through the workflow's VAE; of a video its middle frame."""
        size, found = self.decode_batch or len(x), []
        with torch.inference_mode():
            for part in x.split(size):
                pixels = self.vae.decode(part)
                if pixels.ndim == 5:
                    pixels = pixels[:, pixels.shape[1] // 2]
                found.append(pixels[..., :3].movedim(-1, 1).float().clamp(0, 1).to(self.device))
        return torch.cat(found).clone()
