"""What trainer.train tells, shown: the bar and the results of validations, and TensorBoard.

    with TrainLog(report, config, out) as shown:
        train(training, folder, resume, shown.log)

The run folder's own records are the trainer's affair.
"""

from __future__ import annotations

from pathlib import Path

from ..run.config import Config
from ..run.console import Report


class TrainLog:
    """Raises ValueError when TensorBoard is asked for and not installed; its folder is made on
    entering, not before."""

    def __init__(self, report: Report, config: Config, out: Path):
        self.report, self.config, self.out = report, config, out
        self.writer = None
        self.make_writer = summary_writer() if config.log.tensorboard and report.shown else None

    def __enter__(self) -> TrainLog:
        if self.make_writer is not None:
            self.writer = self.make_writer(str(self.out / "tensorboard"))
        return self

    def __exit__(self, *error) -> None:
        self.report.update()  # no part of it is under way any more
        if self.writer is not None:
            self.writer.close()

    def log(self, kind: str, record: dict) -> None:
        """One event of trainer.train."""
        if kind == "said":
            self.report.say(record["text"])
        if kind == "start":
            self.report.begin("training", self.config.iterations, record["iteration"])
        if kind == "iteration":
            self.report.update(record["iteration"], headline(record))
        if kind == "validation":
            self.report.say(validation_line(record))
        if self.writer is not None and kind in ("iteration", "validation"):
            for name, value in scalars(kind, record).items():
                self.writer.add_scalar(name, value, record["iteration"])


def summary_writer():
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise ValueError(
            "log.tensorboard is on but the package tensorboard is not installed; install "
            "it, or leave the setting off: metrics.jsonl holds the same numbers."
        ) from None
    return SummaryWriter


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
