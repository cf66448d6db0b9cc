"""A learned policy is asked once a grid point, where the network really ran.

`run` is the hook's RunState: what one sampling run carries from evaluation to evaluation.
"""

from __future__ import annotations

import torch

from ...tpm.conditioning import grid_index
from ...tpm.policies import Evaluation, State


def grid_state(run, sampling, k: int, sigma: float, batch: int, evaluation=None) -> State:
    """The policy's view of grid point k."""
    following = [*run.own[grid_index(run.own, sigma) + 1 :], *run.nodes[k + 1 :]]
    return State(
        k=k,
        steps=len(run.nodes) - 1,
        sigma=sigma,
        last=following[:1] == [0.0],  # of a stage's own nodes; behind its end, of the schedule's
        batch=batch,
        device=torch.device("cpu"),
        family=run.family,
        percent_to_sigma=lambda percent: float(sampling.percent_to_sigma(percent)),
        evaluation=evaluation,
    )


def network_ran(run, model_options: dict) -> bool:
    """False where a cache answered in the network's place.

    LazyCache does not even call the model; EasyCache answers inside the network and tells so by a
    flag that it sets anew at each evaluation (LazyCache has the flag too, but never takes it back).
    """
    cache = model_options["transformer_options"].get("easycache")
    skipped = getattr(cache, "name", "") == "EasyCache" and cache.skip_current_step
    return run.network_called and not skipped


def ask_next(run, guider, sampling, k, x, denoised, timestep, u, u_star) -> None:
    """Algorithm 2, lines 6-9: the state at grid point k gives the decision for k + 1, once.

    A sampler that first evaluates between two nodes (dpm_2) gets an answer there, so that one is
    never missing; the answer at the node itself, if it comes, replaces it and is final.
    """
    if k + 1 >= len(run.nodes) or run.nodes[k + 1] == 0.0 or k in run.asked:
        return
    if abs(float(timestep[0]) - run.nodes[k]) <= 1e-4 * run.nodes[k]:
        run.asked.add(k)
    elif k + 1 in run.decisions:
        return
    sigma = timestep.view(-1, *[1] * (x.ndim - 1))
    told_sigma = timestep.float() * run.time.sigma_ratio(u, u_star)
    evaluation = Evaluation(
        x=x,
        v=(x - denoised) / sigma,
        x0=denoised,
        t=run.time.flow_time(timestep.float()),
        t_star=run.time.flow_time(told_sigma),
        pooled=pooled_text(guider),
    )
    state = grid_state(run, sampling, k + 1, run.nodes[k + 1], len(x), evaluation)
    run.decisions[k + 1] = run.policy.decide(state)


def pooled_text(guider) -> torch.Tensor | None:
    """The positive prompt's pooled vector (1 or B, C): the first one where prompts are combined."""
    for cond in guider.original_conds.get("positive", []):
        if cond.get("pooled_output") is not None:
            return cond["pooled_output"]
    return None
