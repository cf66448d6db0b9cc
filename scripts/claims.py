"""Every claim of this pack about pictures, cost and exactness, and where its number stands.

A claim is one entry: a plain sentence, what is found (`holds`), a file below docs/measurements and
the row of it. The numbers are read from the file by make_claims.py, which writes
docs/measurements/README.md and refuses a sentence that its numbers contradict.

    Claim("Words wait, chains of three.", GAIN, ASYNDM, {"method": "words", "kind": "chain"})

rows: column -> value, or a pattern with * as in file names. Several rows that differ in their seed
are put together, weighted by their n. In a .md file the column `section` is the heading above a
table.
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


CLAIMS = (
    # fixed deviations
    Claim("D = +0.5 at 4 steps, on rough backgrounds.", GAIN, LABORATORY,
          lab("D=+0.5", "rough"), name="rough"),
    Claim("One more step (5) than that, on rough backgrounds.", GAIN, LABORATORY,
          lab("one more step", "rough"), name="rough step"),
    Claim("Two more steps, on rough backgrounds.", GAIN, LABORATORY,
          lab("two more steps", "rough")),
    Claim("D = +0.5 brings texture back: the standard deviation of rough backgrounds.", GAIN,
          LABORATORY, lab("D=+0.5", "rough"), "texture_std", measure="texture"),
    Claim("D = +0.5 at 4 steps, on all backgrounds together.", LOSS, LABORATORY, lab("D=+0.5"),
          name="all"),
    Claim("One more step (5), on all backgrounds.", GAIN, LABORATORY, lab("one more step"),
          name="all step"),
    Claim("D = +0.25 at 4 steps, on rough backgrounds.", GAIN, LABORATORY, lab("D=+0.25", "rough")),
    Claim("D = +0.25 at 4 steps, the untuned value, on all backgrounds.", LOSS, LABORATORY,
          lab("D=+0.25")),
    Claim("D = +0.5 at 4 steps, on plain backgrounds.", LOSS, LABORATORY, lab("D=+0.5", "plain")),
    Claim("D = +0.5 at 4 steps, on striped backgrounds.", LOSS, LABORATORY,
          lab("D=+0.5", "striped")),
    Claim("D = +0.5 at 4 steps, on dotted backgrounds.", LOSS, LABORATORY, lab("D=+0.5", "dotted")),
    Claim("D = -0.5 at 4 steps: a noisier time.", LOSS, LABORATORY, lab("D=-0.5")),
    Claim("D = +1 at 4 steps.", LOSS, LABORATORY, lab("D=+1")),
    Claim("D = +0.5 at 3 steps, on rough backgrounds.", GAIN, LABORATORY,
          lab("D=+0.5", "rough", 3)),
    Claim("D = +0.5 at 10 steps, on rough backgrounds: the gain is gone.", NONE, LABORATORY,
          lab("D=+0.5", "rough", 10)),
    Claim("D = +0.25 at 15 steps, on rough backgrounds: nothing is left to gain.", NONE, LABORATORY,
          lab("D=+0.25", "rough", 15)),
    Claim("Lying sigma, D = +0.5, at 4 steps and CFG 3.", NONE, LABORATORY, lab("lying D=+0.5")),
    Claim("Omega = 1.25 at 4 steps.", LOSS, LABORATORY, lab("omega=1.25")),
    Claim("Omega = 0.75 at 4 steps.", LOSS, LABORATORY, lab("omega=0.75")),
    Claim("Time shift by variance (TS-DPM), D at most 0.5.", LOSS, VARIANCE,
          {"4 steps, CFG 3": "variance match, D at most 0.5"}),
    # a TPM
    Claim("A TPM (lifted bound, seed 42) at 4 steps, CFG 3.", GAIN, CFG3,
          {"method": "lifted_s42/tpm gamma=1 *"}, name="tpm3"),
    Claim("One more step (5), CFG 3.", GAIN, CFG3, {"method": "+1 step"}, name="tpm3 step"),
    Claim("Two more steps (6), CFG 3.", GAIN, CFG3, {"method": "+2 steps"}),
    Claim("That TPM against two more steps, CFG 3.", NONE, CFG3,
          {"method": "lifted_s42/tpm gamma=1", "minus": "+2 steps"}, "scene", "noise"),
    Claim("That TPM against its own mean schedule for everybody: what it sees in a prompt adds "
          "nothing.", NONE, CFG3,
          {"method": "lifted_s42/tpm gamma=1", "minus": "lifted_s42/tpm mean*"}, "scene", "noise"),
    Claim("A TPM of another seed (43) against its own mean schedule: it adds a little.", GAIN, CFG3,
          {"method": "lifted_s43/tpm gamma=1", "minus": "lifted_s43/tpm mean*"}, "scene", "noise"),
    Claim("A TPM with the paper's bound of 0.5, CFG 3.", GAIN, CFG3,
          {"method": "tpm_s42/tpm gamma=1 *"}),
    Claim("One TPM for 4 to 10 steps, at 4.", GAIN, CFG3, {"method": "many_s42/tpm gamma=1 *"}),
    Claim("The best fixed D, chosen on other prompts, CFG 3.", GAIN, CFG3, {"method": "D=" + BEST}),
    Claim("Omega = 0.9 at 4 steps, CFG 3.", NONE, CFG3, {"method": "omega=0.9"}),
    Claim("A TPM trained for 6 steps, CFG 3.", GAIN, CFG3_6, {"method": "lifted_k6/tpm gamma=1 *"}),
    Claim("A TPM trained for 10 steps, CFG 3.", GAIN, CFG3_10,
          {"method": "lifted_k10/tpm gamma=1 *"}),
    Claim("Lying sigma, D = +0.5, at 10 steps, CFG 3.", LOSS, CFG3_10, {"method": "lying D=+0.5"}),
    Claim("Gamma 2 on a lifted TPM.", NONE, CFG3_MORE, {"method": "tpm gamma=2 *"}),
    Claim("A TPM that learned on Euler, used with DPM++ 2M.", LOSS, CFG3_MORE,
          {"method": "dpmpp_2m tpm", "minus": "dpmpp_2m D=0"}, "scene", "noise"),
    Claim("A TPM that learned on Euler, used with UniPC.", LOSS, CFG3_MORE,
          {"method": "unipc tpm", "minus": "unipc D=0"}, "scene", "noise"),
    Claim("A TPM trained through ComfyUI on an exported workflow.", GAIN, WORKFLOW,
          {"method": "tpm gamma=1 *"}),
    Claim("A TPM with omega = t*/t (follow_time, seed 42) at 4 steps, CFG 5.", GAIN, CFG5,
          {"method": "follow5_s42/tpm gamma=1 *"}, name="tpm5"),
    Claim("One more step (5), CFG 5.", GAIN, CFG5, {"method": "+1 step"}, name="tpm5 step"),
    Claim("That TPM against two more steps, CFG 5.", NONE, CFG5,
          {"method": "follow5_s42/tpm gamma=1", "minus": "+2 steps"}, "scene", "noise"),
    Claim("Lying sigma, D = +0.5, a constant, CFG 5.", GAIN, CFG5, {"method": "lying D=+0.5"}),
    Claim("The best fixed D, chosen on other prompts, CFG 5.", GAIN, CFG5, {"method": "D=" + BEST}),
    Claim("D = +0.5 at CFG 5.", LOSS, CFG5, {"method": "D=+0.5"}),
    Claim("A TPM with omega = t*/t at 6 steps, CFG 5.", GAIN, CFG5_6,
          {"method": "follow5_k6/tpm gamma=1 *"}),
    Claim("A TPM with omega = t*/t at 10 steps, CFG 5.", GAIN, CFG5_10,
          {"method": "tpm gamma=1 *"}),
    # schedules
    Claim("A searched schedule of D, 1,280 images, 4 steps, CFG 3.", GAIN, KNOBS,
          knob("deviation", 3.0)),
    Claim("Searched step times instead, CFG 3.", GAIN, KNOBS, knob("step times", 3.0)),
    Claim("D searched on those step times, over the times alone, CFG 3.", GAIN, KNOBS,
          knob("deviation over those times", 3.0)),
    Claim("A searched schedule of lying sigma (follow_time), CFG 5.", GAIN, KNOBS,
          knob("follow_time", 5.0)),
    Claim("A searched schedule of D and omega, CFG 5.", GAIN, KNOBS, knob("deviation_omega", 5.0)),
    Claim("Searched step times, 6 steps, CFG 3.", GAIN, KNOBS, knob("step times", 3.0, 6)),
    Claim("Searched step times, 10 steps, CFG 3.", GAIN, KNOBS, knob("step times", 3.0, 10)),
    Claim("A searched schedule of D, 6 steps, CFG 3.", GAIN, KNOBS, knob("deviation", 3.0, 6)),
    Claim("A searched schedule of D, 10 steps, CFG 3.", GAIN, KNOBS, knob("deviation", 3.0, 10)),
    Claim("A searched schedule of D and omega, 6 steps, CFG 3.", LOSS, KNOBS,
          knob("deviation_omega", 3.0, 6)),
    Claim("A searched schedule of D and omega, 10 steps, CFG 3.", LOSS, KNOBS,
          knob("deviation_omega", 3.0, 10)),
    Claim("A searched schedule of lying sigma, 10 steps, CFG 3.", NONE, KNOBS,
          knob("follow_time", 3.0, 10)),
    Claim("A searched schedule of lying sigma, 10 steps, CFG 5.", GAIN, KNOBS,
          knob("follow_time", 5.0, 10)),
    Claim("A search for a schedule (search_schedule.py) with seed 0.", GAIN, SEARCH,
          {"method": "search_schedule.py", "seed": "0"}),
    Claim("A search with seed 2: what is found depends on the seed.", GAIN, SEARCH,
          {"method": "search_schedule.py", "seed": "2"}),
    Claim("A search with 640 images, seed 0.", GAIN, HALF, {"seed": "0"}),
    Claim("A search with 640 images, seed 2.", GAIN, HALF, {"seed": "2"}),
    *(Claim(f"A search for a schedule with omega = t*/t at CFG 5, {images} images, seed {seed}.",
            GAIN, file, {"seed": seed})
      for images, file in (("1,280", FOLLOW), ("640", FOLLOW_HALF)) for seed in ("0", "1", "2")),
    Claim("A search over D and omega with 2,640 images at CFG 3, seed 2.", GAIN, OMEGA,
          {"seed": "2"}),
    Claim("Optuna's TPE on as many images, seed 0.", GAIN, SEARCH,
          {"method": "Optuna, TPE", "seed": "0"}),
    Claim("Optuna's TPE, seed 3.", GAIN, SEARCH,
          {"method": "Optuna, TPE", "seed": "3"}),
    *(Claim(f"A schedule found by eye, twenty choices, ten in a hundred of them wrong, CFG {cfg}.",
            GAIN, EYE, {"section": "Gains", "CFG": cfg, "method": "by eye, 4 pictures a schedule"})
      for cfg in ("3", "5")),
    Claim("A schedule that was found at 4 steps, used at 6.", GAIN, TRANSFER, {"K": "6"}),
    Claim("A schedule that was found at 4 steps, used at 3.", LOSS, TRANSFER, {"K": "3"}),
    Claim("A schedule that was found at 10 steps, used at 4.", LOSS, TRANSFER, {"K": "4"},
          "found at K = 10"),
    # the second model, and what an untuned deviation should be
    Claim("D = +0.25 at 4 steps on the UNet.", LOSS, EPS, lab("D=+0.25", "all")),
    Claim("D = +0.25 at 10 steps on the UNet.", GAIN, EPS, lab("D=+0.25", "all", 10)),
    Claim("D = +0.25 at 20 steps on the UNet.", GAIN, EPS, lab("D=+0.25", "all", 20)),
    Claim("One more step (11) on the UNet.", NONE, EPS, lab("one more step", "all", 10)),
    Claim("Lying sigma, D = +0.25, at 10 steps on the UNet.", LOSS, EPS,
          lab("lying D=+0.25", "all", 10)),
    Claim("The preset auto at 10 steps on the UNet for v with zero terminal SNR.", GAIN, EPS_V,
          lab("auto", "all", 10)),
    Claim("The preset auto at 4 steps on the UNet for v with zero terminal SNR.", NONE, EPS_V,
          lab("auto", "all")),
    Claim("D = +0.25 at 4 steps on the UNet for v with zero terminal SNR.", LOSS, EPS_V,
          lab("D=+0.25", "all")),
    Claim("Lying sigma, D = +0.25, at 10 steps on the UNet for v with zero terminal SNR.", LOSS,
          EPS_V, lab("lying D=+0.25", "all", 10)),
    *(Claim(f"A quarter of the interval at {steps} steps, schedule {scheduler}{more}.", holds,
            UNTUNED, {"steps": steps, "scheduler": scheduler, "method": "interval 0.25"}, effect)
      for steps, scheduler, more, holds, effect in (
          ("4", "simple", "", GAIN, ""), ("8", "simple", "", GAIN, ""),
          ("20", "simple", "", LOSS, ""), ("20", "karras", "", LOSS, ""),
          ("4", "karras", ", on rough backgrounds", LOSS, "rough_reward"))),
    Claim("A quarter of the interval, at most 10 % of sigma, at 8 steps on the UNet.", GAIN,
          UNTUNED_UNET,
          {"steps": "8", "scheduler": "simple", "method": "interval, at most 10 %"}),
    # AsynDM
    Claim("AsynDM in the regions of the words, 10 steps, all kinds of scenes.", NONE, ASYNDM,
          step("words")),
    Claim("AsynDM in the regions of the words, 10 steps: share of pictures in which everything is "
          "right.", NONE, ASYNDM, step("words"),
          "strict", measure="strict"),
    Claim("AsynDM, words at strength 1, 50 steps.", LOSS, ASYNDM, step("words, strength 1", 50)),
    Claim("AsynDM in the objects themselves, 10 steps.", LOSS, ASYNDM, step("object mask")),
    Claim("AsynDM in the objects themselves, 10 steps: share of pictures in which everything is "
          "right.", LOSS, ASYNDM,
          step("object mask"), "strict", measure="strict"),
    Claim("AsynDM everywhere (the paper's concave ablation), 10 steps.", LOSS, ASYNDM,
          step("all (concave)")),
    chains("AsynDM in the regions of the words, 10 steps, three objects in a row.", GAIN, "words"),
    chains("AsynDM in all but the objects, three in a row.", GAIN, "all but the objects"),
    chains("AsynDM in all but the objects, three in a row: share of pictures in which everything "
           "is right.", GAIN, "all but the objects", "strict"),
    chains("AsynDM in the objects themselves, three in a row.", LOSS, "object mask"),
    chains("AsynDM in the objects and 8 px around them, three in a row.", GAIN, "dilated by 8 px"),
    chains("One more step (11), three in a row.", GAIN, "one more step", seed="77"),
    chains("D = +0.25 in all but the objects, three in a row.", LOSS,
           "D=+0.25 in all but the objects", seed="77"),
    suite("AsynDM in the regions of the words, 10 steps, three objects in a row (the suite).", GAIN,
          "asyndm"),
    suite("AsynDM in the regions of the words, three in a row (the suite): share of pictures in "
          "which everything is right.", NONE, "asyndm", "scene_strict", measure="strict"),
    suite("AsynDM everywhere, three in a row (the suite).", NONE, "concave"),
    suite("CFG++ at guidance 0.6, three in a row (the suite).", NONE, "cfgpp"),
    suite("CFG++ at guidance 0.6, three in a row (the suite): share of pictures in which "
          "everything is right.", LOSS, "cfgpp", "scene_strict", measure="strict"),
    chains("AsynDM in the regions of the words, 20 steps, three in a row.", GAIN, "words",
           steps="20"),
    chains("AsynDM in all but the objects, 20 steps, three in a row.", GAIN, "all but the objects",
           steps="20"),
    chains("AsynDM in the regions of the words, CFG 5, three in a row.", GAIN, "words",
           guidance="5.0"),
    chains("AsynDM everywhere, CFG 5, three in a row: a part of that gain is the bent schedule.",
           GAIN, "all (concave)", guidance="5.0"),
    unet("AsynDM in the regions of the words on the UNet, 6 steps, CFG 7.5, three in a row.", GAIN,
         "words"),
    unet("AsynDM everywhere on the UNet, 6 steps, CFG 7.5: it is the bent schedule that gains.",
         GAIN, "all (concave)"),
    unet("AsynDM in all but the objects on the UNet, 6 steps, CFG 7.5.", GAIN,
         "all but the objects"),
    unet("AsynDM in the objects themselves on the UNet, 6 steps, CFG 7.5.", LOSS, "object mask"),
    unet("One more step (7) on the UNet, CFG 7.5, three in a row.", GAIN, "one more step"),
    unet("AsynDM in the regions of the words on the UNet, 10 steps, CFG 1.", NONE, "words", "", 10,
         1.0),
    unet("AsynDM in all but the objects on the UNet, 10 steps, CFG 1.", LOSS,
         "all but the objects", "", 10, 1.0),
    unet("AsynDM everywhere on the UNet, 10 steps, CFG 1.", NONE, "all (concave)", "", 10, 1.0),
    unet("AsynDM in the objects themselves on the UNet, 10 steps, CFG 1: share of pictures in "
         "which everything is right.", LOSS, "object mask", "strict", 10, 1.0),
    Claim("The official AsynDM code on the UNet, 10 steps, CFG 12, three in a row.", GAIN, TRAINED,
          {"": "official, AsynDM"}),
    Claim("Ours on the official grid, the same prompts.", GAIN, TRAINED,
          {"": "ours on the official grid, AsynDM"}),
    # exactness
    Claim("Our AsynDM against the official code on trained weights: latents and mask cells "
          "(largest difference).", EXACT, TRAINED, {"check": "*"}, "found", measure="at most"),
    Claim("Our AsynDM against the official code: latents of every step, 10 and 50 steps, eta 0 and "
          "1 (largest difference).", EXACT, OFFICIAL, {"check": "loop, *, latents"},
          measure="at most"),
    Claim("Our AsynDM against the official code: mask pixels that differ.", EXACT, OFFICIAL,
          {"check": "loop, *, mask pixels that differ"}, measure="at most"),
    Claim("The official word files name another word's token, of 160 prompts.", NUMBER, OFFICIAL,
          {"check": "words: prompts with an item on another word's token"}, measure="prompts"),
    Claim("D = 0 beside another node changes no bit.", EXACT, BESIDE, {"with": "*"}, measure=""),
    # cost
    Claim("What a fixed D adds to a step, without the network.", NUMBER, OVERHEAD,
          {"section": "No network", "": "fixed D = 0.5"}, "added ms (quartiles)",
          model="no network", measure="ms"),
    Claim("A fixed D on SD3.5-medium's plan, 2.24 B, time over stock.", NUMBER, OVERHEAD,
          {"section": "Large network*", "": "fixed D = 0.5"}, model="DiT, 24 blocks, random",
          measure="x"),
    Claim("A TPM on SD3.5-medium's plan, time over stock.", NUMBER, OVERHEAD,
          {"section": "Large network*", "": "TPM"},
          model="DiT, 24 blocks, random", measure="x"),
    Claim("AsynDM by words, time of a step over stock.", NUMBER, COST,
          {"section": "UNet, SD's plan, 8 M*", "": "words"}, model=UNET, measure="x"),
    Claim("The official AsynDM, time of a call over diffusers.", NUMBER, COST,
          {"section": "UNet, SD's plan, 8 M*", "": "official, a map"}, model=UNET, measure="x"),
    Claim("AsynDM by words, on a larger UNet, time of a step over stock.", NUMBER, COST,
          {"section": "UNet, SD's plan, 142 M*", "": "words"}, model=BIG_UNET, measure="x"),
    Claim("AsynDM by words, on a DiT, time of a step over stock.", NUMBER, COST,
          {"section": "DiT, SD3.5*", "": "words"},
          model=SD35, measure="x"),
    Claim("A soft mask on a DiT: above the goal of 1.05.", NUMBER, COST,
          {"section": "DiT, SD3.5*", "": "soft mask"}, model=SD35, measure="x"),
    Claim("AsynDM by words, on Flux's blocks, time of a step over stock.", NUMBER, COST,
          {"section": "DiT, Flux*", "": "words"},
          model=FLUX, measure="x"),
    Claim("Selective Sigma Detailer, time over stock (two passes).", NUMBER, PEERS,
          {"section": "Embedded model*", "": "Selective Sigma Detailer"}, measure="x"),
    Claim("A deviation in a mask, time over stock (one pass).", NUMBER, PEERS,
          {"section": "Embedded model*", "": "Deviation 0.5 in a mask"}, measure="x"),
    # the noise meter
    Claim("The noise meter tells white noise of 0.04 from detail.", NUMBER, METER,
          {"added noise": "white 0.04"}, measure="AUC"),
    Claim("The noise meter tells white noise of 0.02 from detail: less surely.", NUMBER, METER,
          {"added noise": "white 0.02"},
          measure="AUC"),
    Claim("The noise meter does not see noise in colour alone.", NUMBER, METER,
          {"added noise": "chroma 0.04"},
          measure="AUC"),
    Claim("The noise meter does not see blotches of 4 x 4 pixels.", NUMBER, METER,
          {"added noise": "4x4 blotches 0.04"}, measure="AUC"),
)  # fmt: skip

# the README's four: what, the claim, and what one more step is worth on the same prompts
SHOWN = (
    ("a fixed D = +0.5, rough backgrounds, CFG 3", "rough", "rough step"),
    ("a fixed D = +0.5, all backgrounds, CFG 3", "all", "all step"),
    ("a trained policy (TPM), CFG 3", "tpm3", "tpm3 step"),
    ("a trained policy that scales the step too, CFG 5", "tpm5", "tpm5 step"),
)
