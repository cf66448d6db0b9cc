"""What a run shows while it runs: a bar with an ETA, validation results, TensorBoard."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console as Terminal
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from .config import Config


class Console:
    """A context manager; only rank 0 shows anything."""

    def __init__(self, config: Config, out: Path, main: bool):
        self.config, self.main = config, main
        self.terminal = Terminal(stderr=True, quiet=not main)
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("ETA"),
            TimeRemainingColumn(),
            console=self.terminal,
            disable=not main,
        )
        self.writer = None
        if main and config.log.tensorboard:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError:
                raise ValueError(
                    "log.tensorboard is on but the package tensorboard is not installed; install "
                    "it, or leave the setting off: metrics.jsonl holds the same numbers."
                ) from None
            self.writer = SummaryWriter(str(out / "tensorboard"))

    def __enter__(self) -> Console:
        self.bar.start()
        self.task = self.bar.add_task("training", total=self.config.iterations)
        return self

    def __exit__(self, *error) -> None:
        self.bar.stop()
        if self.writer is not None:
            self.writer.close()

    def say(self, text: str) -> None:
        self.terminal.print(text, soft_wrap=True, highlight=False)

    def log(self, kind: str, record: dict) -> None:
        """One event of trainer.train."""
        if kind == "iteration":
            self.bar.update(self.task, completed=record["iteration"], description=headline(record))
        if kind == "validation":
            self.say(validation_line(record))
        if self.writer is not None and kind != "checkpoint":
            for name, value in scalars(kind, record).items():
                self.writer.add_scalar(name, value, record["iteration"])


def headline(record: dict) -> str:
    """A few numbers for beside the bar."""
    deviation = record.get("deviation") or record.get("omega") or [0.0]
    return f"D {sum(deviation) / len(deviation):+.3f}  KL {record['kl']:.4f}"


def validation_line(record: dict) -> str:
    parts = [
        f"{name} {m['mean']:.4f} ({m['difference']:+.4f} +- {m['error']:.4f})"
        for name, m in record["metrics"].items()
    ]
    steps = " ".join(f"{d:+.2f}" for d in record["deviation"])
    return f"validation at {record['iteration']}: {', '.join(parts)}; D by step: {steps}"


def scalars(kind: str, record: dict) -> dict[str, float]:
    """The numbers of a record with TensorBoard's names."""
    found = {}
    for name, value in record.items():
        if isinstance(value, (int, float)) and name != "iteration":
            found[f"{kind}/{name}"] = float(value)
    for name, values in record.get("rewards", {}).items():
        flat = [v for row in values for v in row]
        found[f"reward/{name}"] = sum(flat) / len(flat)
    for name, m in record.get("metrics", {}).items():
        found[f"validation/{name}"] = m["difference"]
    for name in ("deviation", "omega"):
        for step, value in enumerate(record.get(name, ()), 1):
            found[f"{kind}_{name}/{step}"] = float(value)
    for name, value in record.get("seconds", {}).items():
        found[f"seconds/{name}"] = value
    return found
