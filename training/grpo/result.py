"""What a run leaves: TPM files that the TPM Loader takes, and a model card beside them."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from ...tpm.checkpoint import iterations_in, save_tpm
from ...tpm.metadata import TPMMeta
from ...tpm.network import TimestepPredictionModule
from ..backbones import Backbone
from ..data.prompts import PromptList
from ..run.checkout import git_commit
from ..run.config import Config
from ..run.folder import RunFolder, RunFolderError
from ..run.settings import config_sha256, to_yaml
from .card import model_card
from .update import CHANGE_MIN

RESULT = ("tpm.safetensors", "README.md", "tpm_last.safetensors")  # the last one says of how many


def write_files(
    folder: RunFolder,
    config: Config,
    backbone: Backbone,
    prompts: PromptList,
    module: TimestepPredictionModule,
    done: int,
    best: dict,
) -> None:
    """tpm_last.safetensors, and tpm.safetensors: the best on validation if log.best, else the last.
    README.md is the model card. Raises RunFolderError when the disk is full.

    Where the best on validation is the start, D = 0, there is no tpm.safetensors: a policy that
    does nothing is no result. What an earlier end of the run wrote is moved into a folder of its
    own."""
    set_earlier_aside(folder.path, done)
    last = tpm_meta(config, backbone, prompts, module, done)
    with folder.writing("tpm_last.safetensors"):
        save_tpm(folder.path / "tpm_last.safetensors", module, last)
    chosen, weights = last, module.state_dict()
    if config.log.best and "weights" in best:
        chosen = tpm_meta(config, backbone, prompts, module, best["iteration"])
        weights = best["weights"]
    copy = TimestepPredictionModule(module.config)
    copy.load_state_dict({name: value.cpu() for name, value in weights.items()})
    if untrained(copy):
        chosen = last
    else:
        with folder.writing("tpm.safetensors"):
            save_tpm(folder.path / "tpm.safetensors", copy, chosen)
    table = validation_table(folder.records("validation.jsonl"))
    folder.text("README.md", model_card(chosen, table, to_yaml(config), prompts))


def set_earlier_aside(out: Path, done: int) -> None:
    """Moves the result of fewer iterations, and the card that may have been edited since, into
    result_000200/ of these 200. Raises RunFolderError where that cannot be done."""
    earlier = iterations_in(out / "tpm_last.safetensors")
    if earlier is None or earlier == done:
        return
    aside = out / f"result_{earlier:06d}"
    try:
        aside.mkdir(exist_ok=True)
        for name in RESULT:
            if (out / name).exists() and not (aside / name).exists():
                (out / name).rename(aside / name)
    except OSError as error:
        raise RunFolderError(
            f"{error.filename or aside} could not be made ({error.strerror or error}); see to that "
            "and go on with --resume."
        ) from None


def untrained(module: TimestepPredictionModule) -> bool:
    """True where the head is still 0, as it starts: D = 0 for every input."""
    return all(float(part.detach().abs().max()) <= CHANGE_MIN for part in module.raw.parameters())


def announcement(out: Path) -> str:
    """What a run that came to its end has left in its folder, in a sentence."""
    if (out / "tpm.safetensors").exists():
        return f"Done: {out / 'tpm.safetensors'}. Copy it into ComfyUI's models/tpm."
    return (
        "Done, but no validation was better than D = 0, so there is no tpm.safetensors; "
        f"{out / 'tpm_last.safetensors'} is the policy of the last iteration, README.md has the "
        "validations."
    )


def nothing_left(config: Config, out: Path, command: Callable[[Path, str], str]) -> str:
    """What is said of a finished run that is to be resumed, in a sentence."""
    more = 2 * config.iterations
    how = f"train on with {command(out, f'--resume --iterations {more}')}"
    if config.grpo.lr_schedule == "linear":
        how = (
            "its rate has fallen to 0 (grpo.lr_schedule linear), so train on in a new --out with "
            f"--init {shlex.quote(str(out / 'tpm_last.safetensors'))}"
        )
    return (
        f"Nothing is left to do in {out}: its {config.iterations:,} iterations are made, and no "
        f"file was touched; {how}."
    )


def tpm_meta(
    config: Config,
    backbone: Backbone,
    prompts: PromptList,
    module: TimestepPredictionModule,
    iterations: int,
) -> TPMMeta:
    """What the file says about itself. Of several K the largest is `steps`, all are `grids`."""
    every = sorted(set(config.step_counts))
    grids = [tuple(backbone.sigmas(steps).tolist()) for steps in every]
    return TPMMeta(
        network=module.config,
        model_family=backbone.family,
        steps=every[-1],
        sigmas=grids[-1],
        deviation_bound=config.policy.deviation_bound,
        omega_range=tuple(config.policy.omega_range),
        base_model=backbone.base_model,
        license=backbone.license,
        git_commit=git_commit(),
        prompts_sha256=prompts.sha256,
        guidance=backbone.guidance,
        resolution=backbone.resolution,
        rewards=tuple(name for name, weight in config.rewards.weights.items() if weight),
        iterations=iterations,
        config_sha256=config_sha256(config),
        grids=tuple(grids) if len(grids) > 1 else (),
        latent_format=backbone.latent_format,
        frames=backbone.frames,
        weights_sha256=backbone.weights_sha256,
    )


def validation_table(records: list[dict]) -> str:
    """Markdown: metric at D = 0, with the TPM, and the paired difference, by iteration."""
    if not records:
        return "This run made no validation."
    names = list(dict.fromkeys(name for record in records for name in record["metrics"]))
    lines = ["| iteration | " + " | ".join(names) + " | mean D |", "|---" * (len(names) + 2) + "|"]
    for record in records:
        cells = []
        for name in names:
            m = record["metrics"].get(name)
            cells.append(m and f"{m['mean']:.4f} ({m['difference']:+.4f} ± {m['error']:.4f})" or "")
        deviation = record["mean_deviation"]
        lines.append(f"| {record['iteration']} | {' | '.join(cells)} | {deviation:+.3f} |")
    return "\n".join(lines)


def device_memory(device: torch.device) -> float | None:
    """Peak memory in GiB: of the CUDA device, else of this process. None where neither the system
    nor psutil tells it."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    try:
        import resource
    except ImportError:  # Windows has none
        return peak_of_windows()
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def peak_of_windows() -> float | None:
    try:
        import psutil  # accelerate brings it along

        return psutil.Process().memory_info().peak_wset / 2**30
    except (ImportError, AttributeError):
        return None
