"""Our nodes and the stock KSampler on the tiny SD3.5, for odd inputs."""

from __future__ import annotations

import torch

HALF, ONES = "as half the picture", "as no mask"


def half_white(dtype=torch.float32, white: float = 1) -> torch.Tensor:
    mask = torch.zeros(1, 64, 64, dtype=dtype)
    mask[..., 32:] = white
    return mask


class Bench:
    """Our nodes and the stock KSampler on the tiny SD3.5, two images of 8 x 8."""

    def __init__(self, pack, family):
        self.model, self.positive, self.negative, empty = family
        self.ours = {node.define_schema().node_id: node for node in pack("nodes").NODES}
        self.constant, self.trace = pack("tpm.policies").Constant(0.4), pack("report.trace").Trace
        self.latent = empty.repeat(2, 1, 1, 1)
        self.kept: dict = {}

    def inputs(self, **given) -> dict:
        """A KSampler's, with `given` in their places."""
        latent = given.pop("latent_image", self.latent)
        usual = dict(
            model=self.model, seed=5, steps=4, cfg=3.0, sampler_name="euler", scheduler="simple",
            positive=self.positive, negative=self.negative, latent_image={"samples": latent},
            denoise=1.0,
        )  # fmt: skip
        return {**usual, **given}

    def stock(self, **given) -> torch.Tensor:
        from nodes import KSampler

        return KSampler().sample(**self.inputs(**given))[0]["samples"]

    def ksampler(self, node: str, **given):
        """Latent and trace of one of our KSamplers."""
        inputs = self.inputs(**given)
        if node == "AsynDMKSampler":
            inputs = {"region": self.region("all"), "strength": 0.5, "eta": 0.0, **inputs}
        else:
            own = {"preset": "custom", "deviation_scale": 1.0, "deviation": self.constant}
            inputs = {**own, **inputs}
        if node == "AsyncTimestepKSamplerAdvanced":
            inputs = {k: v for k, v in inputs.items() if k not in ("seed", "denoise")}
            inputs |= {
                "noise_seed": 5,
                "add_noise": "enable",
                "start_at_step": 0,
                "end_at_step": 10000,
                "return_with_leftover_noise": "disable",
            }
        out = self.ours[node].execute(**inputs).result
        return out[0]["samples"], out[1]

    def patched(self, latent=None, **given):
        """The same of the patch, under the stock KSampler."""
        patch = dict(model=self.model, preset="custom", deviation=self.constant)
        model, trace = (
            self.ours["AsyncTimestepModel"].execute(deviation_scale=1.0, **patch, **given).result
        )
        return self.stock(
            model=model, latent_image=self.latent if latent is None else latent
        ), trace

    def region(self, mode: str, **given):
        return self.ours["AsynDMRegionMask"].execute(mode=mode, **given).result[0]

    def run(self, node: str, name: str, value):
        """What comes out where one input of a node is `value`."""
        if node == "AsynDMRegionMask":
            return self.ksampler("AsynDMKSampler", region=self.region("mask", mask=value))
        if node == "AsyncTimestepModel":
            return self.patched(**{name: value})
        if node == "AsyncTimestepNoiseMeter":
            return self.ours[node].execute(image=value).result[:2]
        return self.ksampler(node, **{name: value})

    def expected(self, node: str, name: str, what: str) -> torch.Tensor:
        """Latents that an odd but good mask has to give, bit for bit."""
        mask = half_white() if what == HALF else torch.ones(1, 64, 64)
        if (node, what) not in self.kept:
            self.kept[node, what] = self.run(node, name, mask)[0]
        return self.kept[node, what]
