"""A command on two ranks, as torchrun starts them, in processes that have imported everything."""

from __future__ import annotations

import socket


def on_two_ranks(warm, module: str, words: list[str]) -> None:
    """Waits for both; both have to end well."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    place = {"MASTER_ADDR": "localhost", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "none"}
    place |= {"WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    ranks = [warm.start(module, words, **place, RANK=str(i), LOCAL_RANK=str(i)) for i in range(2)]
    assert [rank.wait() for rank in ranks] == [0, 0], [rank.text()[-3000:] for rank in ranks]
