"""A run folder to damage, to go on with, and to share: a small run, and `--resume` of it."""

from __future__ import annotations

from pathlib import Path

from small_model import small_model

from async_timestep.training.grpo import command as train_command

SMALL = [
    "--backbone.path", small_model(),
    "--preset=tiny", "--backbone.precision=fp32", "--grpo.lr=1e-3", "--grpo.num_generations=4",
    "--grpo.minibatch_size=2", "--grpo.prompts_per_iteration=1", "--steps=2",
    "--data.validation_prompts=4",
    "--log.samples_every=0", "--log.samples=0", "--log.best=false", "--log.checkpoint_every=1",
    "--threads=1", "--iterations=3", "--grpo.lr_schedule=constant",
]  # fmt: skip


def resume(out: Path, capsys, *more: str) -> tuple[int, str]:
    """(exit code, the last line on stderr)."""
    code, text = resumed(out, capsys, *more)
    return code, text.strip().splitlines()[-1]


def resumed(out: Path, capsys, *more: str) -> tuple[int, str]:
    """(exit code, all of stderr)."""
    capsys.readouterr()
    try:
        code = train_command.main(["--resume", "--out", str(out), *more])
    except SystemExit as stopped:
        code = stopped.code
    return code, capsys.readouterr().err


def contents(run: Path) -> dict[str, bytes]:
    return {p.relative_to(run).as_posix(): p.read_bytes() for p in run.rglob("*") if p.is_file()}
