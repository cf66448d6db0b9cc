"""Which deviation for a model that nobody has measured: intervals, or a share of sigma?

    python bench/untuned.py --models transformer unet --n 128 --out docs/measurements/untuned

Both embedded models are sampled by ComfyUI with schedules that fall slowly and steeply, at few and
many steps, and compared with D = 0 on the same prompts and noises. The last evaluation is never
changed, as in the preset `auto`. Writes rows.csv and untuned.md into --out; what is in rows.csv is
not measured again.
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch

from async_timestep.bench.parts import frame, judged
from async_timestep.harness import graphs
from async_timestep.report.tables import markdown
from async_timestep.report.trace import Run
from async_timestep.tpm.policies import Decision, Policy, Preset, State, limited, synchronous
from async_timestep.training.run.console import Report

METRICS = ("reward", "strict", "texture_std", "noise")
PLAIN = "D=0"


@dataclass(frozen=True)
class Share(Policy):
    """The same share of sigma at every step but the last."""

    share: float

    def decide(self, state: State) -> Decision:
        if state.last:
            return synchronous(state)
        ones = torch.ones(state.batch, device=state.device)
        far = Decision(ones * 1e6, ones * 0, ones)
        return limited(far, state, self.share)


@dataclass(frozen=True)
class Limited(Policy):
    """A policy's deviation, at most a share of sigma."""

    policy: Policy
    share: float

    def decide(self, state: State) -> Decision:
        return limited(self.policy.decide(state), state, self.share)


METHODS: dict[str, Policy | None] = {
    PLAIN: None,
    "interval 0.25": Preset("auto"),
    "2 % of sigma": Share(0.02),
    "5 % of sigma": Share(0.05),
    "interval, at most 5 %": Limited(Preset("auto"), 0.05),
    "interval, at most 10 %": Limited(Preset("auto"), 0.10),
}


def workflow(folder: Path, guidance: float, model: str, scheduler: str) -> Path:
    """The graph of a model in a stock KSampler, as Export (API) would write it; its path."""
    graph = graphs.stock(batch=1, scheduler=scheduler, cfg=guidance)
    graph["loader"]["inputs"]["model"] = judged.MODELS[model]
    path = folder / "workflow_api.json"
    path.write_text(json.dumps(graph, indent=1) + "\n")
    return path


def strength(laboratory: judged.Laboratory, steps: int, policy: Policy) -> float:
    """The cut of sigma in percent in the middle of a run of one picture."""
    one, record = laboratory.backbone, Run("", "", [])
    noise = one.noise([torch.Generator().manual_seed(0)])
    one.sample(one.encode([graphs.PROMPT]), noise, one.sigmas(steps), policy, record=record)
    return record.mid_cut()


def run(args: argparse.Namespace, rows: frame.Rows, report: Report) -> None:
    """Adds a row for every model, schedule, number of steps and method that is not there."""
    there = {(row["model"], row["scheduler"], row["steps"], row["method"]) for row in rows}
    for model, scheduler in itertools.product(args.models, args.schedulers):
        cases = itertools.product(args.steps, args.methods)
        todo = [c for c in cases if (model, scheduler, *c) not in there]
        if not todo:
            continue
        with tempfile.TemporaryDirectory() as folder:
            graph = workflow(Path(folder), args.guidance, model, scheduler)
            laboratory = judged.load(args, METRICS, report, workflow=graph)
        rough = torch.tensor([c == "rough" for c in laboratory.prompts["scenes"].categories])
        laboratory.begin("untuned", sum(steps for steps, _ in todo) * args.n)
        for steps in dict.fromkeys(steps for steps, _ in todo):
            base = laboratory.whole("scenes", steps, None)
            for method in (m for s, m in todo if s == steps):
                policy = METHODS[method]
                scores = base if policy is None else laboratory.whole("scenes", steps, policy)
                cut = strength(laboratory, steps, policy) if policy else 0.0
                found = judged.compared(scores, base, METRICS)
                own = judged.compared(scores, base, METRICS, rough)
                found |= {f"rough_{name}": own[name] for name in ("reward_d", "reward_se")}
                found |= {"texture": own["texture_std"], "texture_d": own["texture_std_d"]}
                place = {"model": model, "scheduler": scheduler, "strength": cut}
                rows.add(steps, method, {**place, **found})


def table(rows: frame.Rows) -> str:
    lines = []
    for row in rows:
        plain = row["method"] == PLAIN
        change = f"{row['reward_d']:+.4f} ± {row['reward_se']:.4f}"
        rough = f"{row['rough_reward_d']:+.4f} ± {row['rough_reward_se']:.4f}"
        lines.append([
            row["model"], row["scheduler"], str(row["steps"]), row["method"],
            "" if plain else f"{row['strength']:.1f} %",
            f"({row['reward']:.3f})" if plain else change,
            "" if plain else rough,
            f"({row['texture']:.4f})" if plain else f"{row['texture_d']:+.4f}",
            f"({row['noise']:.4f})" if plain else f"{row['noise_d']:+.4f}",
        ])  # fmt: skip
    head = ["model", "schedule", "steps", "", "strength", "reward", "on rough", "texture", "noise"]
    return markdown(head, lines)


def main() -> None:
    parser = frame.parser(__doc__)
    judged.add_options(parser, METHODS, [4, 8, 20], threads=1)
    parser.add_argument(
        "--models", nargs="+", choices=judged.OF_SHAPES, default=["transformer", "unet"]
    )
    parser.add_argument("--schedulers", nargs="+", default=["simple", "karras"])
    frame.folder_option(parser, "rows.csv and untuned.md")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    rows = frame.Rows(args.out / "rows.csv", judged.setting(args))
    with Report() as report:
        run(args, rows, report)
    legend = (
        f"{judged.setting(args)}, Euler in ComfyUI; ± is one standard error of the paired "
        "difference to D=0 with the same steps and schedule. strength: cut of sigma in the middle "
        "of the run. In brackets: the value at D=0."
    )
    page = ["# Which unit for a model that nobody has measured", frame.made_by(
        frame.command("untuned")), legend]  # fmt: skip
    print(frame.write_page(args.out / "untuned.md", [*page, table(rows)]))


if __name__ == "__main__":
    main()
