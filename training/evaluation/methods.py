"""What evaluate.py compares: every method is a policy, a solver, and a number of steps.

    tpms = read_tpms(["runs/tiny/tpm.safetensors"], "tiny")
    for method in methods(options, tpms, best=0.25, schedules={}): ...

The policies are those of the nodes.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ...tpm.checkpoint import load_tpm
from ...tpm.learned import TPMPolicy
from ...tpm.metadata import TPMMeta
from ...tpm.network import TimestepPredictionModule
from ...tpm.policies import Constant, Policy, Scaled, VelocityScale
from ...tpm.schedule import Schedule, ScheduleMeta
from ...tpm.schedule_file import load_schedule
from ...tpm.variance import NAME as VARIANCE_MATCH
from ...tpm.variance import VarianceMatch
from ..backbones import Backbone
from ..backbones.solvers import SOLVERS
from ..run.config import STEPS

BASELINE = "D=0"
WORKFLOW = "workflow"  # a backbone.name that is no family
LARGEST = {"gammas": 100, "fixed": 100, "omegas": 100, "lying": 100, "variance_match": 100}


@dataclass(frozen=True)
class Options:
    """The methods that were asked for; see evaluate.py --help."""

    gammas: tuple[float, ...] = ()
    fixed: tuple[float, ...] = ()
    omegas: tuple[float, ...] = ()
    lying: tuple[float, ...] = ()
    more_steps: tuple[int, ...] = ()
    solvers: tuple[str, ...] = ()
    variance_match: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        for name, most in LARGEST.items():
            for value in getattr(self, name):
                if not (math.isfinite(value) and abs(value) <= most):
                    raise ValueError(
                        f"--{name} has {value:g}, expected numbers from -{most:g} to {most:g}."
                    )
        if any(window < 0 for window in self.variance_match):
            raise ValueError(
                f"--variance_match has {min(self.variance_match):g}, expected windows of 0 or more."
            )


@dataclass(frozen=True, eq=False)
class TPMFile:
    """A TPM and where it is from. name: unique among those of a run; sha256: of the file."""

    name: str
    sha256: str
    module: TimestepPredictionModule
    meta: TPMMeta

    @property
    def policy(self) -> TPMPolicy:
        return TPMPolicy(self.module, self.meta, self.name)


@dataclass(frozen=True)
class ScheduleFile:
    """A schedule and where it is from. sha256: of the file."""

    name: str
    sha256: str
    schedule: Schedule
    meta: ScheduleMeta


@dataclass(frozen=True)
class Method:
    """One row of the tables.

    policy: None is synchronous. more: steps beyond K. kind: baseline, fixed, tpm, mean, schedule,
    omega, follow_time, variance, steps, solver. best: the fixed D that was best on validation. tpm,
    gamma, bound, actions: of a TPM. file: sha256 of a TPM or schedule. note: for people.
    """

    name: str
    kind: str
    policy: Policy | None = None
    more: int = 0
    solver: str = "euler"
    tpm: str = ""
    gamma: float = 1.0
    file: str = ""
    bound: float = 0.5
    actions: str = "deviation"
    best: bool = False
    note: str = ""

    @property
    def lifted(self) -> bool:
        return self.bound > 0.5

    @property
    def label(self) -> str:
        return f"{self.name} ({self.note})" if self.note else self.name

    @property
    def synchronous(self) -> bool:
        """Plain Euler at D = 0, whatever the number of steps."""
        return self.policy is None and self.solver == "euler"


def named_files(option: str, kind: str, paths: list[str]) -> list[tuple[str, Path, str]]:
    """(name, file, sha256): named by the stem, with the folder where stems repeat. Raises
    ValueError of one sentence."""
    files = [Path(path) for path in paths]
    stems = [file.stem for file in files]
    names = [
        file.stem if stems.count(file.stem) == 1 else f"{file.resolve().parent.name}/{file.stem}"
        for file in files
    ]
    for name, file in zip(names, files, strict=True):
        if names.count(name) > 1:
            raise ValueError(f"{option} names several files called {name}; rename one of them.")
        if not file.is_file():
            raise ValueError(f"{option} {str(file)!r} was not found, expected a {kind} file.")
    digests = [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]
    return list(zip(names, files, digests, strict=True))


def require_family(option: str, file: str | Path, found: str, family: str) -> None:
    """Raises ValueError on a file of another model family. That of a workflow is known only when
    its model is loaded: `check_fit`."""
    if found != family and family != WORKFLOW:
        raise ValueError(
            f"{option} {file} is for the model family {found}, expected {family}; choose the "
            "--preset that it was made with, or another file."
        )


def read_tpms(paths: list[str], family: str) -> list[TPMFile]:
    """Raises TPMFileError or ValueError, of one sentence."""
    found = []
    for name, file, digest in named_files("--tpm", "TPM", paths):
        module, meta = load_tpm(file)
        require_family("--tpm", file, meta.model_family, family)
        found.append(TPMFile(name, digest, module, meta))
    return found


def read_schedules(paths: list[str], family: str) -> list[ScheduleFile]:
    """Raises TPMFileError or ValueError, of one sentence."""
    found = []
    for name, file, digest in named_files("--schedule", "schedule", paths):
        schedule, meta = load_schedule(file)
        require_family("--schedule", file, meta.model_family, family)
        found.append(ScheduleFile(name, digest, schedule, meta))
    return found


def check_steps(every: list[int], more: list[int]) -> None:
    """Raises ValueError on numbers of steps that no grid has."""
    if min(every) < 2 or max(every) > STEPS:
        wrong = min(every) if min(every) < 2 else max(every)
        raise ValueError(f"--k has {wrong}, expected 2 or more steps, at most {STEPS:,}.")
    if any(n < 1 for n in more):
        raise ValueError(f"--more_steps has {min(more)}, expected 1 or more.")
    if more and max(every) + max(more) > STEPS:
        raise ValueError(
            f"--more_steps has {max(more)} and --k {max(every)}, expected at most {STEPS:,} steps "
            "together; choose fewer."
        )


def check_fit(tpms: Sequence[TPMFile], files: Sequence[ScheduleFile], backbone: Backbone) -> None:
    """Raises ValueError on a file of another model family, and where a TPM does not fit the latents
    or the pooled text."""
    for file in files:
        require_family("--schedule", file.name, file.meta.model_family, backbone.family)
    for tpm in tpms:
        require_family("--tpm", tpm.name, tpm.meta.model_family, backbone.family)
        has = (tpm.meta.latent_channels, tpm.meta.pooled_dim)
        wanted = (backbone.latent_channels, backbone.pooled_dim)
        if has != wanted:
            raise ValueError(
                f"The TPM {tpm.name} has {has[0]} latent channels and {has[1]} pooled values, "
                f"expected {wanted[0]} and {wanted[1]} of {backbone.family}; choose another file, "
                "or the backbone.path that it was trained with."
            )


def signed(deviation: float) -> str:
    return f"D={deviation:+g}" if deviation else BASELINE


def methods(
    options: Options,
    tpms: list[TPMFile],
    best: float | None,
    schedules: dict[str, Schedule],
    files: Sequence[ScheduleFile] = (),
) -> list[Method]:
    """All methods of one K, the baseline first. best: the fixed D that was best on validation;
    schedules: a TPM's name -> its mean schedule at this K; files: schedules of their own."""
    note = "best fixed D on the validation prompts"
    found = [Method(BASELINE, "baseline", best=best == 0, note=note if best == 0 else "")]
    for d in options.fixed:
        if d:  # 0 is the baseline
            own = note if d == best else ""
            found.append(Method(signed(d), "fixed", Constant(d), best=d == best, note=own))
    for tpm in tpms:
        found += tpm_methods(options, tpm)
        if tpm.name in schedules:
            name, note = f"{tpm.name} mean schedule", "measured on the validation prompts"
            found.append(
                Method(name, "mean", schedules[tpm.name], tpm=tpm.name, file=tpm.sha256, note=note)
            )
    for file in files:
        found.append(
            Method(
                f"schedule {file.name}",
                "schedule",
                file.schedule,
                file=file.sha256,
                note=f"made on {file.schedule.steps} steps",
            )
        )
    for omega in options.omegas:
        policy = VelocityScale(None, omega)
        found.append(Method(f"omega={omega:g}", "omega", policy))
    for d in options.lying:
        found.append(Method(f"lying {signed(d)}", "follow_time", Constant(d, mode="follow_time")))
    for window in options.variance_match:
        name, note = f"{VARIANCE_MATCH} {window:g}", "TS-DPM, D at most that"
        found.append(Method(name, "variance", VarianceMatch(window), note=note))
    for n in options.more_steps:
        found.append(Method(f"+{n} step{'s' if n > 1 else ''}", "steps", more=n))
    for solver in options.solvers:
        found += solver_methods(solver, tpms, best)
    unique = {method.name: method for method in found}  # --fixed 0.5 0.5
    for method in found:
        other = unique[method.name]
        if (other.kind, other.file) != (method.kind, method.file):
            raise ValueError(f"Two methods are called {method.name}; rename the TPM file of one.")
    return list(unique.values())


def tpm_methods(options: Options, tpm: TPMFile) -> list[Method]:
    """A TPM at every gamma; one that decides omega alone has nothing that gamma scales."""
    gammas = (1.0,) if tpm.meta.actions == "omega" else options.gammas
    bound, actions = tpm.meta.deviation_bound, tpm.meta.actions
    note = f"bound {bound:g}" + (", lifted" if bound > 0.5 else "")
    notes = {"omega": "omega", "both": f"{note}, and omega", "follow_time": f"{note}, omega t*/t"}
    note = notes.get(actions, note)
    return [
        Method(
            f"{tpm.name} gamma={gamma:g}",
            "tpm",
            tpm.policy if gamma == 1 else Scaled(tpm.policy, gamma),
            tpm=tpm.name,
            gamma=gamma,
            file=tpm.sha256,
            bound=bound,
            actions=actions,
            note=note,
        )
        for gamma in gammas
    ]


def solver_methods(solver: str, tpms: list[TPMFile], best: float | None) -> list[Method]:
    """A solver at D = 0, with the best fixed D and with each TPM on top."""
    if solver not in SOLVERS or solver == "euler":
        known = ", ".join(name for name in SOLVERS if name != "euler")
        raise ValueError(f"--solvers names {solver!r}, expected some of {known}.")
    found = [Method(f"{solver} {BASELINE}", "solver", solver=solver)]
    if best:
        found.append(
            Method(
                f"{solver} {signed(best)}",
                "solver",
                Constant(best),
                solver=solver,
                note="best fixed D of Euler on the validation prompts",
            )
        )
    for tpm in tpms:
        found.append(
            Method(
                f"{solver} {tpm.name}",
                "solver",
                tpm.policy,
                solver=solver,
                tpm=tpm.name,
                file=tpm.sha256,
            )
        )
    return found
