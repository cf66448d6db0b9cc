"""A session of Tune by Eye in this process: sheets, as if a sampler had run them, and answers."""

from __future__ import annotations

import inspect

import torch

SETTINGS = {
    "session": "mine",
    "prompts": "a red circle\na blue star",
    "steps": 4,
    "mode": "conditioning",
    "pictures": 2,
    "first_seed": 7,
}


def try_out(eye, **changed):
    """(deviations, prompts, seeds, steps, tuning)."""
    return eye.AsyncTimestepTry.execute(**{**SETTINGS, **changed}).result


def mark(eye, **changed) -> str:
    return eye.AsyncTimestepTry.fingerprint_inputs(**{**SETTINGS, **changed})


def watched_run(outputs, steps: int = 4, family: str = "tiny") -> None:
    """As if a sampler of a flow model had run every entry: its first decision of each step."""
    policies = inspect.getmodule(type(outputs[0][0])).State
    grid = tuple(1 - k / steps for k in range(steps + 1))
    for policy, own in zip(outputs[0], outputs[3], strict=True):
        nodes = grid if own == 4 else tuple(1 - k / own for k in range(own + 1))
        for k in range(len(nodes) - 1):
            policy.decide(
                policies(
                    k, len(nodes) - 1, nodes[k], k == len(nodes) - 2, 1, "cpu", family, float,
                    x=torch.zeros(1, 16, 8, 8), grid=nodes,
                )
            )  # fmt: skip


def pictures(outputs, batch: int = 1, size: int = 8) -> list[torch.Tensor]:
    """One an entry, each of another grey."""
    count = len(outputs[0])
    return [torch.full((batch, size, size, 3), i / count) for i in range(count)]


def choose(eye, outputs, images=None, **more):
    """What the node shows, and its outputs."""
    images = pictures(outputs) if images is None else images
    node = eye.AsyncTimestepChoose.execute([outputs[4]], images, **more)
    return node.ui["tune_by_eye"][0], node.result


def answer(routes, number: int, choice: int, session: str = "mine") -> dict:
    return routes.answer({"session": session, "round": number, "choice": choice})


def through(eye, routes, rounds: int, like=max) -> None:
    """So many sheets, of which the column with the most deviation is chosen, or by `like`."""
    for number in range(1, rounds + 1):
        outputs = try_out(eye)
        watched_run(outputs)
        choose(eye, outputs)
        amounts = [sum(d) for d in deviations(outputs[0])[:4]]
        answer(routes, number, amounts.index(like(amounts)) + 1)


def nearest_to_off(amounts: list[float]) -> float:
    return min(amounts, key=abs)


def deviations(policies, steps: int = 4) -> list[list[float]]:
    """D of each policy at the grid points 1 ... K-1 of an even flow grid."""
    state = inspect.getmodule(type(policies[0])).State
    grid = tuple(1 - k / steps for k in range(steps + 1))
    return [
        [
            float(policy.decide(state(k, steps, grid[k], False, 1, "cpu", "tiny", float, grid=grid))
                  .deviation)
            for k in range(1, steps)
        ]
        for policy in policies
    ]  # fmt: skip
