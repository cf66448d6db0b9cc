"""The solvers of diffusers on our own grids: the plain scheduler loop, told times, order."""

from __future__ import annotations

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, UniPCMultistepScheduler

from async_timestep.tpm.conditioning import conditioning_time
from async_timestep.tpm.policies import Constant
from async_timestep.training.backbones.sampling import Tokens, VelocityBackbone
from async_timestep.training.backbones.solvers import SOLVERS, Euler
from async_timestep.training.tiny.backbone import simple_sigmas

HIGHER = ("dpmpp_2m", "unipc")
SPREAD = 0.6  # std of the Gaussian data below


def velocity(x: torch.Tensor, t: torch.Tensor | float) -> torch.Tensor:
    """The exact flow velocity of data N(0, SPREAD^2): x(0) = SPREAD * x(1)."""
    t = torch.as_tensor(t).view(-1, *(1,) * (x.ndim - 1))
    return x * (t - (1 - t) * SPREAD**2) / ((1 - t) ** 2 * SPREAD**2 + t**2)


class Gaussian(VelocityBackbone):
    """As much of a backbone as the sampling loop asks for."""

    family, device = "gaussian", torch.device("cpu")

    def velocity(self, x, t_star, conditioning):
        return velocity(x, t_star)


def start(seed: int = 0) -> torch.Tensor:
    return torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(seed))


def scheduler(name: str, **more):
    cls = {"dpmpp_2m": DPMSolverMultistepScheduler, "unipc": UniPCMultistepScheduler}[name]
    return cls(prediction_type="flow_prediction", use_flow_sigmas=True, **more)


def plain(own, x: torch.Tensor, told=lambda k, sigmas: sigmas[k]) -> torch.Tensor:
    """The loop of a diffusers pipeline."""
    for k, timestep in enumerate(own.timesteps):
        x = own.step(velocity(x, told(k, own.sigmas)), timestep, x, return_dict=False)[0]
    return x


def conditioning(batch: int) -> Tokens:
    return Tokens(("",) * batch, torch.zeros(batch, 1, 1), torch.zeros(batch, 1))


@pytest.mark.parametrize("steps", [2, 5, 16])
@pytest.mark.parametrize("name", HIGHER)
def test_it_is_the_plain_scheduler_loop(name, steps):
    own = scheduler(name, flow_shift=3.0)
    own.set_timesteps(steps)
    expected = plain(own, start())
    solver, x = SOLVERS[name](own.sigmas.clone()), start()
    for k in range(steps):
        x = solver.step(k, x, velocity(x, own.sigmas[k]))
    assert torch.equal(x, expected)


def test_unipc_with_our_sigmas_is_that_of_diffusers_with_our_sigmas():
    sigmas, own = simple_sigmas(5), scheduler("unipc")
    own.set_timesteps(sigmas=sigmas[:-1].double().numpy().copy())
    solver, x = SOLVERS["unipc"](sigmas), start()
    for k in range(5):
        x = solver.step(k, x, velocity(x, own.sigmas[k]))
    assert torch.allclose(x, plain(own, start()), atol=1e-6)


@pytest.mark.parametrize("name", HIGHER)
def test_the_network_is_told_t_star_and_the_solver_keeps_its_times(name):
    sigmas, noise = simple_sigmas(5), start()
    found = Gaussian().sample(conditioning(3), noise, sigmas, Constant(0.5), solver=name)
    own = scheduler(name)
    own.set_timesteps(5)
    own.sigmas = sigmas.clamp(max=1 - 1e-6)

    def told(k, _):
        half = torch.tensor([0.5])
        return sigmas[:1] if k == 0 else conditioning_time(sigmas[k], sigmas[k - 1], half, low=1e-3)

    assert torch.allclose(found, plain(own, noise, told), atol=1e-6)
    synchronous = Gaussian().sample(conditioning(3), noise, sigmas, solver=name)
    assert (found - synchronous).abs().max() > 1e-3


@pytest.mark.parametrize("steps", [2, 3, 4, 10, 15])
@pytest.mark.parametrize("name", HIGHER)
def test_a_grid_that_starts_at_1_gives_no_nan(name, steps):
    sigmas = simple_sigmas(steps)
    assert sigmas[0] == 1 and sigmas[-1] == 0
    found = Gaussian().sample(conditioning(3), start(), sigmas, solver=name)
    assert bool(found.isfinite().all())


@pytest.mark.parametrize("name", HIGHER)
def test_it_is_nearer_to_the_exact_solution_than_euler(name):
    sigmas, noise = simple_sigmas(10), start()
    error = {
        solver: (
            Gaussian().sample(conditioning(3), noise, sigmas, solver=solver) - SPREAD * noise
        ).norm()
        for solver in ("euler", name)
    }
    assert SOLVERS["euler"] is Euler and error[name] < 0.75 * error["euler"], error
