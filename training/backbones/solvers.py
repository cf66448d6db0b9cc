"""What integrates the velocity: Euler, and higher-order solvers of diffusers on our own grids.

    backbone.sample(conditioning, noise, sigmas, policy, solver="dpmpp_2m")

The network may be told t*; the solver keeps the sampler's own times: denoised = x - sigma_k v.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from torch import Tensor

FIRST_SIGMA = 1 - 1e-6  # log(1 - sigma) is infinite at 1; diffusers' UniPC starts here itself


class Solver(Protocol):
    """Integrates from grid point to grid point with the sampler's own times."""

    def step(self, k: int, x: Tensor, v: Tensor) -> Tensor:
        """x_{k+1} (B, C, h, w) from x_k and the (scaled) velocity there."""


class Euler:
    """Eq. 9: x_{k+1} = x_k + (t_{k+1} - t_k) v."""

    def __init__(self, sigmas: Tensor):
        self.sigmas = sigmas

    def step(self, k: int, x: Tensor, v: Tensor) -> Tensor:
        return x + (self.sigmas[k + 1] - self.sigmas[k]) * v


class Multistep:
    """A flow-prediction scheduler of diffusers that is given the grid `sigmas` (K + 1,)."""

    def __init__(self, scheduler, sigmas: Tensor):
        self.scheduler = scheduler
        scheduler.set_timesteps(num_inference_steps=len(sigmas) - 1, device=sigmas.device)
        scheduler.sigmas = sigmas.detach().cpu().clamp(max=FIRST_SIGMA)
        scheduler.set_begin_index(0)  # steps are counted; the timesteps, which are not ours, unused

    def step(self, k: int, x: Tensor, v: Tensor) -> Tensor:
        """x_{k+1} (B, C, h, w) from x_k and the velocity there; k must rise by one a call."""
        timestep = self.scheduler.timesteps[k]
        return self.scheduler.step(v, timestep, x, return_dict=False)[0]


def dpmpp_2m(sigmas: Tensor) -> Multistep:
    """DPM-Solver++(2M) (Lu et al. 2022), midpoint; the last step is of first order."""
    from diffusers import DPMSolverMultistepScheduler

    return Multistep(
        DPMSolverMultistepScheduler(
            solver_order=2,
            algorithm_type="dpmsolver++",
            prediction_type="flow_prediction",
            use_flow_sigmas=True,
        ),
        sigmas,
    )


def unipc(sigmas: Tensor) -> Multistep:
    """UniPC-2 (Zhao et al. 2023), B(h) = e^h - 1, predictor and corrector."""
    from diffusers import UniPCMultistepScheduler

    return Multistep(
        UniPCMultistepScheduler(
            solver_order=2, prediction_type="flow_prediction", use_flow_sigmas=True
        ),
        sigmas,
    )


SOLVERS: dict[str, Callable[[Tensor], Solver]] = {
    "euler": Euler,
    "dpmpp_2m": dpmpp_2m,
    "unipc": unipc,
}
