"""Text alignment of sampling methods: AsynDM, what it was compared with, and the stock sampler.

    python training/evaluate.py --suite asyndm --steps 10     # the embedded model
    python training/evaluate.py --suite asyndm --asyndm ../AsynDM --out out \
        --backbone.checkpoint sd21_base.safetensors --rewards.image_reward_path ImageReward.pt
    python training/evaluate.py --suite asyndm --sets my_prompts.txt --preset workflow \
        --backbone.checkpoint sd35.safetensors --backbone.guidance 4 --backbone.resolution 1024 \
        --steps 28 --rewards.weights "{clip: 1.0, pick: 1.0}"

The prompt sets of the paper (4 times 40) are read from a checkout of hu-zijing/AsynDM that you give
(--asyndm); a file of your own has a prompt in each line, the words that AsynDM delays between
asterisks: a *cat* beside a *dog*. Every picture is a graph that ComfyUI runs in this process, with
the packs in its custom_nodes: a method of another pack takes part where the pack is there. With a
checkpoint and no --preset the paper's settings are taken (training/suite/paper.yaml).

All methods start from the same noises; a method whose node is missing, or that fails, is left out
by name. Interrupted, the same command goes on: images in --out/images carry their graph, which
ComfyUI opens, and are not made again; scores are kept in scores.csv. --out also gets per_image.csv,
table.md and one grid a set.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

from ..run.choice import names_a_model, with_preset
from ..run.config import Config
from ..run.console import Report
from ..run.installed import require_for
from ..run.settings import parse
from .graphs import METHODS

COMMAND = "evaluate.py"
PAPER = Path(__file__).with_name("paper.yaml")


def options(parser) -> None:
    add = parser.add_argument
    add("--suite", type=str, default="asyndm", choices=["asyndm"], help="this one")
    add("--asyndm", type=str, default="", help="checkout of hu-zijing/AsynDM: its prompt sets")
    add("--sets", type=str, nargs="*", default=[], help="names in its config/prompt, or .txt files")
    add("--prompts", type=int, default=0, help="only the first prompts of a set")
    add("--images", type=int, default=8, help="images a prompt; the paper: 32")
    add("--methods", type=str, nargs="*", default=list(METHODS), choices=list(METHODS))
    add("--strength", type=float, default=None, help="of AsynDM; default: of each prompt")
    add("--cfgpp_scale", type=float, default=None, help="guidance of CFG++; default: CFG / 12.5")
    add("--caption_model", type=str, default="", help="folder of Qwen2.5-VL, for BERTScore")
    add("--bert_model", type=str, default="FacebookAI/roberta-large", help="for BERTScore")
    add("--bert_layer", type=int, default=17, help="layer of --bert_model")
    add("--judge_model", type=str, default="", help="folder of a Qwen-VL: a grade from 0 to 10")
    add("--grid", type=int, default=8, help="prompts in a set's grid")
    add("--out", type=str, default="", help="folder; default: runs/asyndm_<model>")


def main(arguments: list[str] | None = None) -> int:
    """The exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    report, base = Report(), None
    if any(word.startswith("--backbone.checkpoint") for word in arguments):
        base = None if names_a_model(arguments) else PAPER
    else:
        arguments = with_preset(arguments, report.say)
    config, rest = parse(arguments, COMMAND, __doc__, options, base)
    require_for(COMMAND, config)
    command = shlex.join(["python", f"training/{COMMAND}", *arguments])
    try:
        return measured(config, rest, command, report)
    except KeyboardInterrupt:
        print(f"{COMMAND}: interrupted; the same command goes on from here.", file=sys.stderr)
        return 130


def measured(config: Config, rest: argparse.Namespace, command: str, report: Report) -> int:
    """The suite; returns the exit code."""
    with report:
        report.begin("starting")
        # not before the options are understood: torch takes seconds
        from .study import EXPECTED, run

        try:
            shown = run(config, rest, command, report)
        except EXPECTED as error:
            report.say(f"{COMMAND}: {error}")
            return 1
    print(shown)
    return 0
