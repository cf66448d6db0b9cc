"""A command on two ranks, as torchrun starts them, in processes that have imported everything."""

from __future__ import annotations

import socket
from pathlib import Path


def on_two_ranks(
    warm, module: str, words: list[str], machines: tuple[Path, Path] | None = None
) -> None:
    """Waits for both; both have to end well. machines: the working folders of two, with a rank
    each, as --nnodes 2 has it; else both are ranks of this one."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    place = {"MASTER_ADDR": "localhost", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "none"}
    place |= {"WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    ranks = []
    for i in range(2):
        local = {"LOCAL_RANK": "0" if machines else str(i), "LOCAL_WORLD_SIZE": "2"}
        if machines:
            local |= {"GROUP_RANK": str(i), "GROUP_WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "1"}
        where = {"cwd": machines[i]} if machines else {}
        ranks.append(warm.start(module, words, **where, **place, **local, RANK=str(i)))
    assert [rank.wait() for rank in ranks] == [0, 0], [rank.text()[-3000:] for rank in ranks]
