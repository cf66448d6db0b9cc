"""What a claim of claims.py is made of: its kinds, the files of docs/measurements, and the rows of
them that several claims ask for.
"""

from __future__ import annotations

from dataclasses import dataclass

GAIN, LOSS, NONE = "gain", "loss", "no difference"  # by two standard errors
NUMBER = "number"  # nothing is said about its sign
EXACT = "exact"  # every row within its bound, or with the same words

TINY = "embedded DiT (flow)"


@dataclass(frozen=True)
class File:
    """What is the same for the claims of a file. effect: the column of the effect, with its error
    in it, in EFFECT_se or in `error`; noise: that of the noise; model: what was sampled; page: what
    names the command, where it is another file."""

    path: str
    effect: str
    noise: str = ""
    model: str = TINY
    page: str = ""


@dataclass(frozen=True, eq=False)
class Claim:
    """says: one sentence. holds: what the numbers must agree with. effect, noise, model: where they
    are not the file's. measure: what the effect is of. against: of rows an image each, the values
    of the other method: the difference is paired by `pair`. name: for the README."""

    says: str
    holds: str
    file: File
    rows: dict[str, str]
    effect: str = ""
    noise: str = ""
    model: str = ""
    measure: str = "reward"
    against: dict[str, str] | None = None
    pair: tuple[str, ...] = ("prompt", "seed")
    name: str = ""


LABORATORY = File("laboratory/laboratory.csv", "reward", "noise", page="laboratory/laboratory.md")
ASYNDM = File(
    "asyndm_laboratory/rows.csv", "reward", "noise", page="asyndm_laboratory/asyndm_laboratory.md"
)
EPS = File(
    "laboratory_unet/laboratory.csv",
    "reward",
    "noise",
    model="embedded UNet (eps)",
    page="unet.md",
)
EPS_V = File(
    "laboratory_unet_v/laboratory.csv",
    "reward",
    "noise",
    model="embedded UNet (v, zero SNR)",
    page="unet.md",
)
UNTUNED, UNTUNED_UNET = (
    File(f"untuned/{name}/rows.csv", "reward", "noise", model, f"untuned/{name}/untuned.md")
    for name, model in (("transformer", TINY), ("unet", "embedded UNet (eps)"))
)
CHAINS = File(
    "asyndm_laboratory/chains/rows.csv",
    "reward",
    "noise",
    page="asyndm_laboratory/chains/asyndm_laboratory.md",
)
WAITING_UNET = File(
    "asyndm_laboratory/unet/rows.csv",
    "reward",
    "noise",
    model="embedded UNet (eps)",
    page="asyndm_laboratory/unet/asyndm_laboratory.md",
)
SUITE = File("asyndm_suite/per_image.csv", "scene", "noise", page="asyndm_suite/asyndm_suite.md")
KNOBS = File("knobs/rows.csv", "gain", page="knobs/knobs.md")
SEARCH = File("search_peers/rows.csv", "gain", page="search_peers/search_peers.md")
HALF, FOLLOW, FOLLOW_HALF, OMEGA = (
    File(f"search_peers/{name}/rows.csv", "gain", page=f"search_peers/{name}/search_peers.md")
    for name in (
        "deviation_640",
        "follow_time_1280",
        "follow_time_640",
        "deviation_omega_2640",
    )
)
EYE = File("tune_by_eye/tune_by_eye.md", "gain")
CFG3, CFG3_MORE = (
    File(f"trainer/{name}.md", "scene - D=0", "noise - D=0") for name in ("cfg3_k4", "cfg3_k4_more")
)
CFG3_6, CFG3_10, CFG5, CFG5_6, CFG5_10, WORKFLOW = (
    File(f"trainer/{name}.md", "scene - D=0", "noise - D=0")
    for name in ("cfg3_k6", "cfg3_k10", "cfg5_k4", "cfg5_k6", "cfg5_k10", "workflow_k4")
)
VARIANCE = File("variance_match.md", "reward - D=0", "noise - D=0")
TRANSFER = File("schedule_transfer.md", "found at K = 4")
METER = File("noise_meter.md", "change, against detail", model="photographs")
OVERHEAD = File("overhead.md", "ratio (quartiles)")
COST = File("asyndm_cost.md", "ratio")
OFFICIAL = File("asyndm_official.md", "found", model="UNet of SD's plan, random weights")
TRAINED = File("asyndm_official_trained.md", "reward", "noise", model="embedded UNet (eps)")
BESIDE = File("beside.md", "D = 0", model="random weights, by row")
PEERS = File("peers.md", "time / stock")

UNET, BIG_UNET = "UNet, SD's plan, 8 M", "UNet, SD's plan, 142 M"
SD35, FLUX = "DiT, SD3.5's width, 2 blocks", "DiT, Flux's width, 1 + 1 blocks"
BEST = "* (best fixed D on the validation prompts)"


def lab(method: str, group: str = "all", steps: int = 4) -> dict[str, str]:
    return {"method": method, "group": group, "steps": str(steps)}


def step(method: str, steps: int = 10) -> dict[str, str]:
    return {"method": method, "steps": str(steps), "kind": "all"}


def chains(says: str, holds: str, method: str, effect: str = "", **other: str) -> Claim:
    """Of three objects in a row: seeds 78 and 79, which were measured after seed 77."""
    rows = {"method": method, "steps": "10", "guidance": "3.0", "seed": "7[89]", **other}
    return Claim(says, holds, CHAINS, rows, effect, measure=effect or "reward")


def unet(says: str, holds: str, method: str, effect: str = "", steps: int = 6, guidance=7.5):
    """AsynDM on the UNet, three objects in a row."""
    rows = {"method": method, "steps": str(steps), "guidance": str(guidance)}
    return Claim(says, holds, WAITING_UNET, rows, effect, measure=effect or "reward")


def suite(says: str, holds: str, method: str, effect: str = "", **more) -> Claim:
    """Of the suite, an image each: by prompt and seed against the stock sampler."""
    pair = ("prompt_index", "seed")
    plain = {"method": "plain"}
    return Claim(says, holds, SUITE, {"method": method}, effect, against=plain, pair=pair, **more)


def knob(method: str, guidance: float, steps: int = 4) -> dict[str, str]:
    return {"method": method, "guidance": str(guidance), "steps": str(steps)}
