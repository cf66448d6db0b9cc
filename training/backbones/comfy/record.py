"""What the hook told, as the trainer's own sampling loop writes it down: in flow time."""

from __future__ import annotations

import torch

from ....nodes.run.times import ModelTime
from ....report.trace import Run


def written_down(record: Run, parts: list[list[int]], runs: list[Run], sampling) -> None:
    """Adds the entries of the parts' runs to a record, one per evaluation for all rows, in the
    order of the rows. sampling: the model's `model_sampling`."""
    time = ModelTime(sampling)
    count = sum(map(len, parts))
    for entries in zip(*(run.steps for run in runs), strict=True):
        sigma = entries[0]["sigma"]
        whole = {name: [0.0] * count for name in ("deviation", "percent", "cut_percent", "omega")}
        for rows, entry in zip(parts, entries, strict=True):
            for name, values in whole.items():
                for row, value in zip(rows, entry[name], strict=True):
                    values[row] = value
        cut = torch.tensor(whole["cut_percent"])
        told = time.flow_time(sigma * (1 - cut / 100))
        t = float(time.flow_time(torch.tensor(sigma)))
        record.add(step=entries[0]["step"], sigma=sigma, t=t, t_star=told.tolist(), **whole)
