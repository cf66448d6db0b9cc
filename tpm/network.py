"""The timestep prediction module (TPM): a small transformer with a Beta policy head.

It reads what the last evaluation left behind (x, v, x0, the pooled text, both times) and answers
two raw values per action, which Eq. 17 turns into a Beta distribution over r in (0, 1).
Everything is float32, whatever the diffusion model runs in. Equation numbers: AsyncDiff paper.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .policies import Evaluation

# both: deviation first, then omega; follow_time: deviation, with omega = t*/t
ACTIONS = {"deviation": 1, "omega": 1, "both": 2, "follow_time": 1}
R_MIN = 1e-4  # r stays in [R_MIN, 1 - R_MIN]: outliers beyond dominate the policy gradient
TIME_SCALE = 1000.0  # flow time 1 = 1000, the range that sinusoids are made for
TIME_FEATURES = 256  # of the sinusoids, at any width
PARTS_MOST = 64  # of the pooled text
RAW_CAPS = (0.01, 1000.0)  # of the raw values: 5 is the default
POSITION_SCALE = 16.0  # the image's side in position units: one per patch at 512 px


@dataclass(frozen=True)
class TPMConfig:
    """Shape of a TPM. Raises ValueError naming the field that cannot be built."""

    latent_channels: int = 16
    pooled_dim: int = 2048
    pooled_split: tuple[int, ...] = (768, 1280)  # one text token a part: CLIP-L, CLIP-G of SD3.5
    width: int = 256
    layers: int = 4
    heads: int = 8
    patch: int = 4
    registers: int = 4  # learned global tokens, flattened into the head
    raw_cap: float | None = None  # soft cap of the raw values: cap * tanh(raw / cap)
    global_conditioning: bool = False  # text and time are added to the register tokens too
    actions: str = "deviation"

    def __post_init__(self) -> None:
        limits = {"latent_channels": 1024, "pooled_dim": 65536, "width": 4096, "layers": 64}
        limits |= {"heads": 256, "patch": 64, "registers": 64}
        for name, high in limits.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= high:
                raise ValueError(f"{name} is {value!r}, expected a whole number from 1 to {high}")
        if self.width % self.heads or self.width % 4:
            raise ValueError(
                f"width is {self.width}, expected a multiple of heads ({self.heads}) and of 4"
            )
        split = self.pooled_split
        if len(split) > PARTS_MOST:
            raise ValueError(
                f"pooled_split has {len(split)} parts, expected at most {PARTS_MOST}, one a text "
                "encoder"
            )
        if not split or min(split) < 1 or sum(split) != self.pooled_dim:
            raise ValueError(
                f"pooled_split is {list(split)}, expected parts that sum to pooled_dim "
                f"({self.pooled_dim})"
            )
        low, high = RAW_CAPS
        if self.raw_cap is not None and not low <= self.raw_cap <= high:
            raise ValueError(
                f"raw_cap is {self.raw_cap!r}, expected a number from {low} to {high:g} or none"
            )
        if self.actions not in ACTIONS:
            raise ValueError(f"actions is {self.actions!r}, expected one of {', '.join(ACTIONS)}")


class Misfit(ValueError):
    """What a TPM was asked about is none of its model's: `found`, and what was `expected`.

    text: True where the pooled text is wrong, and not the latents.
    """

    def __init__(self, found: str, expected: str, text: bool = False) -> None:
        super().__init__(f"The TPM found {found}, expected {expected}.")
        self.found, self.expected, self.text = found, expected, text


class Block(nn.Module):
    """Encoder block without LayerNorm or dropout; residual outputs start at 1/sqrt(2 layers)."""

    def __init__(self, config: TPMConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.qkv = nn.Linear(config.width, 3 * config.width)
        self.out = nn.Linear(config.width, config.width)
        self.up = nn.Linear(config.width, 4 * config.width)
        self.down = nn.Linear(4 * config.width, config.width)
        with torch.no_grad():  # without a norm nothing else bounds the sum of the residuals
            for last in (self.out, self.down):
                last.weight /= math.sqrt(2 * config.layers)
                last.bias.zero_()

    def forward(self, tokens: Tensor) -> Tensor:
        query, key, value = self.qkv(tokens).unflatten(-1, (3, self.heads, -1)).unbind(2)
        mixed = F.scaled_dot_product_attention(
            query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)
        )
        tokens = tokens + self.out(mixed.transpose(1, 2).flatten(2))
        return tokens + self.down(F.gelu(self.up(tokens)))


class TimestepPredictionModule(nn.Module):
    """Eq. 7: (x_{k-1}, v_{k-1}, t*_{k-1}, x0_{k-1}, text, k) -> raw values of Eq. 17."""

    def __init__(self, config: TPMConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.patches = nn.Linear(3 * config.latent_channels * config.patch**2, width)
        self.text = nn.ModuleList(nn.Linear(part, width) for part in config.pooled_split)
        self.time = nn.Linear(TIME_FEATURES, width)
        self.time_star = nn.Linear(TIME_FEATURES, width)
        self.index = nn.Linear(TIME_FEATURES, width)
        self.registers = nn.Parameter(torch.randn(config.registers, width) * 0.02)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.hidden = nn.Linear(config.registers * width, width)
        self.raw = nn.Linear(width, 2 * ACTIONS[config.actions])
        nn.init.zeros_(self.raw.weight)  # untrained = Beta(2, 2), whose mode is synchronous
        nn.init.zeros_(self.raw.bias)

    def forward(
        self,
        x: Tensor,
        v: Tensor,
        x0: Tensor,
        pooled: Tensor,
        t: Tensor,
        t_star: Tensor,
        k: int | Tensor,
        steps: int | Tensor,
    ) -> Tensor:
        """Raw values (B, actions, 2) in float32.

        x, v, x0: (B, C, H, W) of grid point k-1. pooled: (B, pooled_dim). t, t_star: (B,), flow
        time in [0, 1], of k-1. k: the grid point decided about, of `steps`; int or (B,).
        """
        with torch.autocast(x.device.type, enabled=False):
            latents = torch.cat([x, v, x0], dim=1).float()
            tokens = self.patches(self.to_patches(latents)) + self.positions(latents)
            parts = pooled.float().split(self.config.pooled_split, dim=-1)
            condition = [layer(part) for layer, part in zip(self.text, parts, strict=True)]
            condition += self.temporal(t, t_star, k, steps)
            condition = torch.stack(condition, dim=1)  # (B, text + 3, width)
            registers = self.registers.expand(len(x), -1, -1)
            if self.config.global_conditioning:  # or the prompt drowns: 1 token of hundreds
                registers = registers + condition.sum(dim=1, keepdim=True)
            tokens = torch.cat([tokens, condition, registers], dim=1)
            for block in self.blocks:
                tokens = block(tokens)
            read = tokens[:, -self.config.registers :].flatten(1)
            raw = self.raw(F.gelu(self.hidden(read))).unflatten(-1, (-1, 2))
            cap = self.config.raw_cap
            return raw if cap is None else cap * torch.tanh(raw / cap)

    def ask(self, evaluation: Evaluation, k: int | Tensor, steps: int) -> Tensor:
        """Raw values (B, actions, 2) for grid point k of `steps`, on the device of the latents,
        to which the module moves. k is an int or (B,).

        Pooled text of fewer rows than latents is repeated over the batch, as ComfyUI does it. Of a
        video the middle frame is read. Raises Misfit where the latents or the pooled text are not
        those of this network.
        """
        evaluation = middle_frame(evaluation)
        pooled, device = self.checked_pooled(evaluation), evaluation.x.device
        return self.to(device)(
            evaluation.x,
            evaluation.v,
            evaluation.x0,
            pooled.to(device),
            evaluation.t.to(device),
            evaluation.t_star.to(device),
            k,
            steps,
        )

    def checked_pooled(self, evaluation: Evaluation) -> Tensor:
        """Pooled text (B, pooled_dim), repeated over the batch; a network of pooled_dim 1 is for
        models without one, and reads 0. Raises Misfit as `ask` does."""
        x, pooled = evaluation.x, evaluation.pooled
        channels, width = self.config.latent_channels, self.config.pooled_dim
        if x.ndim != 4 or x.shape[1] != channels:
            raise Misfit(
                f"latents of shape {list(x.shape)}", f"{channels} channels and two image axes"
            )
        if pooled is None and width == 1:
            return x.new_zeros(len(x), 1)
        if pooled is None or pooled.ndim != 2 or pooled.shape[1] != width or len(pooled) == 0:
            found = "no pooled text" if pooled is None else f"pooled text {list(pooled.shape)}"
            raise Misfit(found, f"{width} values a prompt", text=True)
        return pooled.repeat(-(-len(x) // len(pooled)), 1)[: len(x)]

    def to_patches(self, latents: Tensor) -> Tensor:
        """(B, 3C, H, W) -> (B, N, 3C p p); sizes that p does not divide are padded with zeros."""
        p = self.config.patch
        height, width = latents.shape[-2:]
        return F.unfold(F.pad(latents, (0, -width % p, 0, -height % p)), p, stride=p).mT

    def positions(self, latents: Tensor) -> Tensor:
        """2-D sin-cos code (N, width) of the patch centres, in shares of the image's sides."""
        p, half = self.config.patch, self.config.width // 2
        axes = []
        for size in latents.shape[-2:]:
            patches = torch.arange(-(-size // p), device=latents.device, dtype=torch.float32)
            axes.append(sinusoid((patches + 0.5) * p / size * POSITION_SCALE, half))
        rows, columns = axes
        grid = (len(rows), len(columns), half)
        return torch.cat([rows[:, None].expand(grid), columns[None].expand(grid)], dim=-1).flatten(
            0, 1
        )

    def temporal(
        self, t: Tensor, t_star: Tensor, k: int | Tensor, steps: int | Tensor
    ) -> list[Tensor]:
        """Three tokens (B, width): t, t*, and the pair (k, K)."""
        k, steps = (torch.as_tensor(n, device=t.device).float().expand(len(t)) for n in (k, steps))
        half = TIME_FEATURES // 2
        return [
            self.time(sinusoid(t.float() * TIME_SCALE, TIME_FEATURES)),
            self.time_star(sinusoid(t_star.float() * TIME_SCALE, TIME_FEATURES)),
            self.index(torch.cat([sinusoid(k, half), sinusoid(steps, half)], dim=-1)),
        ]


def middle_frame(evaluation: Evaluation) -> Evaluation:
    """Of videos (B, C, T, H, W) the middle frame (B, C, H, W), of a still latent with a time axis
    its only one: the first frame of a video is compressed otherwise than the rest, and one frame
    costs a picture's tokens. Pictures are left as they are."""
    if evaluation.x.ndim != 5:
        return evaluation
    frames = {n: getattr(evaluation, n)[:, :, evaluation.x.shape[2] // 2] for n in ("x", "v", "x0")}
    return replace(evaluation, **frames)


def sinusoid(values: Tensor, width: int) -> Tensor:
    """(N,) -> (N, width): cosines, then sines, of frequencies from 1 to 1/10000."""
    half = width // 2
    order = torch.arange(half, device=values.device, dtype=torch.float32)
    angles = values[:, None] * torch.exp(-math.log(10000.0) * order / half)
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def phi(raw: Tensor) -> Tensor:
    """Eq. 17: 2 + x + x^2/2 above 0, 1 + e^x below; its derivative at 0 is 1 from both sides."""
    above, below = sides(raw)
    return torch.where(raw > 0, 2 + above + 0.5 * above**2, 1 + below.exp())


def sides(raw: Tensor) -> tuple[Tensor, Tensor]:
    """The positive and the non-positive part of raw, each 0 on the other's side.

    torch.where lets an overflow in the branch not taken through to the gradient, so each branch
    gets its own side only. By where, not by clamp: an untrained head is exactly 0, and which
    derivative clamp has at its bound is another one in newer versions of torch (0, it was 1).
    """
    positive = raw > 0
    return torch.where(positive, raw, 0.0), torch.where(positive, 0.0, raw)


def concentrations(raw: Tensor) -> tuple[Tensor, Tensor]:
    """alpha, beta > 1 (Eq. 17), each (...), of raw (..., 2)."""
    alpha, beta = phi(raw).unbind(-1)
    return alpha, beta


def mode(raw: Tensor) -> Tensor:
    """Eq. 18, the test-time action r (...) of raw (..., 2): g(a) / (g(a) + g(b)), g = phi - 1.

    Taken through log g, since the printed (alpha-1) / (alpha+beta-2) is 0/0 where both raw values
    are very negative. Exactly 0.5 where a == b.
    """
    above, below = sides(raw)
    log_g = torch.where(raw > 0, torch.log1p(above + 0.5 * above**2), below)
    a, b = log_g.unbind(-1)
    # vectorised log1p may differ in the last bit between lanes; synchronous has to be exact
    return torch.where(raw[..., 0] == raw[..., 1], 0.5, torch.sigmoid(a - b))


def log_prob(raw: Tensor, r: Tensor) -> Tensor:
    """log Beta(r; alpha, beta), one factor of Eq. 15 an action: raw (..., 2), r (...) -> (...).

    In float64: lgamma cancels to no digit in float32 for sharp policies. r is clamped as `sample`
    does, so that one stored in half precision (1 - 1e-4 rounds to 1) stays finite.
    """
    alpha, beta = concentrations(raw.double())
    r = r.double().clamp(R_MIN, 1 - R_MIN)
    value = (alpha - 1) * r.log() + (beta - 1) * torch.log1p(-r) - log_beta(alpha, beta)
    return value.to(raw.dtype)


def entropy(raw: Tensor) -> Tensor:
    """Differential entropy in nats of the policy: raw (..., 2) -> (...); 0 for a uniform r."""
    alpha, beta = concentrations(raw.double())
    total = alpha + beta
    value = log_beta(alpha, beta) + (total - 2) * torch.digamma(total)
    value = value - (alpha - 1) * torch.digamma(alpha) - (beta - 1) * torch.digamma(beta)
    return value.to(raw.dtype)


def log_beta(alpha: Tensor, beta: Tensor) -> Tensor:
    """log of the Beta function."""
    return torch.lgamma(alpha) + torch.lgamma(beta) - torch.lgamma(alpha + beta)


@torch.no_grad()
def sample(raw: Tensor, generator: torch.Generator) -> Tensor:
    """r ~ Beta(alpha, beta) (Algorithm 2, line 9), clamped: raw (..., 2) -> (...), no gradient.

    As two gammas, since torch.distributions.Beta takes no generator; drawn on the generator's
    device, so that a CPU generator gives the same actions on every machine.
    """
    gammas = torch._standard_gamma(phi(raw.to(generator.device).double()), generator)
    r = gammas[..., 0] / gammas.sum(dim=-1)
    return r.clamp(R_MIN, 1 - R_MIN).to(raw)
