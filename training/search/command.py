"""What search_schedule.py does between its arguments and its exit code."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import shlex
import sys
from pathlib import Path

from ..run.choice import with_preset
from ..run.config import Config
from ..run.console import Report
from ..run.installed import require_for
from ..run.settings import parse, to_yaml
from .space import SPACES

PROG = "search_schedule.py"


def options(parser) -> None:
    add = parser.add_argument
    add("--space", choices=SPACES, default="deviation", help="which numbers are searched")
    add("--images", type=int, default=1280, help="rolled out in all, those at D = 0 too")
    add("--prompts", type=int, default=20, help="of a generation")
    add("--candidates", type=int, default=7, help="of a generation")
    add("--n", type=int, default=0, help="held-out prompts of the last table; 0 is all")
    add(
        "--fixed",
        type=float,
        nargs="*",
        default=[0.25, 0.5, 1.0],
        help="constant D beside it there",
    )
    add("--lying", type=float, nargs="*", default=[0.25, 0.5], help="D of lying sigma there")
    add("--more_steps", type=int, nargs="*", default=[1], help="D = 0 with more steps there")
    add("--out", type=str, default="", help="folder; default: runs/schedule_<preset>")
    add("--resume", action="store_true", help="go on with the search in --out")


def main(arguments: list[str] | None = None, about: str = "") -> int:
    """The exit code; about: the text above --help."""
    arguments = sys.argv[1:] if arguments is None else arguments
    report = Report()
    arguments = with_preset(arguments, report.say)
    config, rest = parse(arguments, PROG, about, options)
    require_for(PROG, config)
    with report:
        # not before the options are understood: torch takes seconds
        from ..evaluation.study import EXPECTED
        from ..run import distributed
        from ..run.memory import advice, out_of_memory

        report.begin("starting")
        out = Path(rest.out or f"runs/schedule_{rest.preset or config.backbone.name}")
        world = distributed.join()
        if not world.main:
            report.silence()
        try:
            said = run(config, rest, out, report, world)
        except KeyboardInterrupt:
            print(f"{PROG}: interrupted; go on with: {again(arguments)}", file=sys.stderr)
            return 130
        except Exception as error:
            if not (out_of_memory(error) or isinstance(error, EXPECTED)):
                raise  # a fault of ours keeps its traceback
            said = advice(error, config) if out_of_memory(error) else str(error)
            if world.size > 1:
                distributed.give_up(world, said)
            report.say(f"{PROG}: {said}")
            return 1
        finally:
            distributed.leave(world)
    if world.main:
        print(said)
    return 0


def again(arguments: list[str]) -> str:
    """The command that goes on with this search: all of it, since it has settings of its own."""
    own = [word for word in arguments if word != "--resume"]
    return f"python training/{PROG} {shlex.join([*own, '--resume'])}"


def run(config: Config, rest: argparse.Namespace, out: Path, report: Report, world) -> str:
    """The search and its table; returns a text for stdout."""
    from ...tpm.schedule_file import save_schedule
    from ..evaluation import figures
    from ..evaluation.per_prompt import without_others
    from ..evaluation.study import measured
    from ..run import distributed
    from ..run.folder import RunFolder
    from .generations import Plan, conclusion, search
    from .result import concluded, judged, meta_of, plot_search
    from .setup import check_plan, load_search
    from .study import Study

    plan = Plan(rest.images, rest.prompts, rest.candidates, config.seed)
    check_plan(config, plan)
    folder = RunFolder(out)
    study = Study(folder)
    if world.main:
        study.check(rest.resume)
    space, measure, key = load_search(config, rest.space, plan, world, report)
    with contextlib.ExitStack() as stack:
        done, scale = [], {}
        if world.main:
            stack.enter_context(folder.only_here())
            study.begin(key, rest.resume)
            done, scale, said = study.generations(space.numbers)
            if said:
                report.say(said)
            folder.text("config.yaml", to_yaml(config))
        done, measure.scale = distributed.share(world, (done, scale))
        report.begin("search", plan.images)
        measure.measurement.advance(sum(one.images for one in done))
        generations = list(done)
        agree = lambda points: distributed.share(world, points)  # noqa: E731
        for one in search(measure, space, plan, done, agree):
            generations.append(one)
            if world.main:
                study.add(one, measure.scale)
        best, believed, error = conclusion(space, plan, generations)
        if not world.main:
            return ""
        schedule, images = space.schedule(best), sum(one.images for one in generations)
        backbone, rewards = measure.measurement.backbone, measure.measurement.rewards
        found = out / "found.safetensors"
        save_schedule(found, schedule, meta_of(backbone, images))
        if figures.installed():
            plot_search(out / "search.png", space, best, generations)
        asked = argparse.Namespace(
            tpm=[], schedule=[str(found)], gammas=[], fixed=rest.fixed, omegas=[], lying=rest.lying,
            more_steps=rest.more_steps, solvers=[], variance_match=[], mean_schedule=False,
            n=rest.n, k=[space.steps],
        )  # fmt: skip
        name = f"python training/search_schedule.py (its table), {space.name}, {images:,} images"
        place, own = out / "evaluation", hashlib.sha256(found.read_bytes()).hexdigest()
        if said := without_others(place / "per_prompt.csv", "schedule found", own):
            report.say(said)  # the search went on with more images
        table, results = measured(config, asked, name, place, report, backbone, rewards)
        outcome = judged(results, config.rewards.weights)
        written, meta = concluded(schedule, outcome, meta_of(backbone, images))
        save_schedule(out / "schedule.safetensors", written, meta)
    numbers = ", ".join(f"{d:+.2f}" for d in schedule.deviation[1:])
    omegas = ", ".join(f"{w:.2f}" for w in schedule.omega[:-1])
    text = f"{table}\nFound with {images:,} images: D = {numbers}"
    text += f"; omega = {omegas}" if space.name == "deviation_omega" else ""
    text += f".\nGain over D = 0 on held-out prompts: {outcome}.\n"
    end = f"{out / 'schedule.safetensors'}"
    if outcome.is_gain:
        return f"{text}Done: {end}. Copy it into ComfyUI's models/tpm."
    return f"{text}{meta.note} {end} is that; {found} is what the search believed in."
