"""What was run together with this pack, and what came out: docs/measurements/beside.md.

    python bench/beside.py --packs FOLDER --out docs/measurements/beside.md

FOLDER holds checkouts of other packs under their GitHub names; what is missing there is left out
and said so. Random-weight models of a few MB run in this process through ComfyUI's own sampling;
parts/peers_combos.py and parts/peers_packs.py have the combinations. The GGUF row needs the package
`gguf`.
"""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch

from async_timestep.bench.parts import frame
from async_timestep.bench.parts import peers_load as load
from async_timestep.harness.in_process import pack

D = 0.4
HEAD = ("with", "on", "it acts", "D = 0", "D = 0.4", "D = 0.4 in a mask", "AsynDM", "tests")


@dataclass
class Answers:
    """Latents, or the sentence of a refusal."""

    alone: torch.Tensor
    stock: torch.Tensor
    zero: list
    moved: list
    regional: object
    asyndm: object


def attempt(run, *args):
    """The latents of a run, or why there are none: the first sentence of its error."""
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            return run(*args)
    except Exception as error:  # noqa: BLE001  the table says which
        text = " ".join(str(error).split()) or type(error).__name__
        return f"{type(error).__name__}: {text[:220]}"


def run_all(combo) -> Answers:
    """Our patch behind the other's and before it; AsynDM is a sampler and has no order."""
    import comfy.model_management
    import comfy.samplers

    euler, setup = comfy.samplers.sampler_object("euler"), combo.setup
    attach, constant = pack("nodes.run.hook").attach, pack("tpm.policies").Constant
    region = pack("nodes.run.region").Region("mask", mask=load.central(setup))

    def ours(deviation, where=None):
        return lambda model: attach(model, constant(deviation), region=where)[0]

    def fresh(model):
        """The other's node runs on a network that nothing is left on from an earlier row."""
        comfy.model_management.unload_all_models()
        return combo.model(model)

    def after(patch):  # ours behind the other's, as a user adds it to a graph
        return lambda: combo.run(patch(fresh(setup.model)), combo.sampler(euler))

    def before(patch):
        return lambda: combo.run(fresh(patch(setup.model)), combo.sampler(euler))

    def asyndm():
        sampler = pack("nodes.run.asyndm").asyndm_sampler(region, 1.0)[0]
        return combo.run(fresh(setup.model), combo.sampler(sampler))

    orders = (after, before) if combo.two_orders else (after,)
    return Answers(
        alone=attempt(combo.without),
        stock=attempt(after(lambda model: model)),
        zero=[attempt(order(ours(0.0))) for order in orders],
        moved=[attempt(order(ours(D))) for order in orders],
        regional=attempt(after(ours(D, region))),
        asyndm=attempt(asyndm),
    )


def difference(result, stock) -> str:
    """Largest difference to the same graph without us, over its largest value."""
    if isinstance(result, str):
        return f"refused: {result}" if result.startswith("ValueError") else f"failed: {result}"
    if not bool(torch.isfinite(result).all()):
        return "not finite"
    return f"{load.relative(result, stock):.1e}"


def table_row(combo) -> list[str]:
    found = run_all(combo)
    if isinstance(found.stock, str):
        return [combo.name, combo.family, f"does not run without us: {found.stock}", *[""] * 5]
    same = [
        "same bits"
        if torch.is_tensor(z) and torch.equal(z, found.stock)
        else difference(z, found.stock)
        for z in found.zero
    ]
    moved = [difference(m, found.stock) for m in found.moved]
    return [
        combo.name,
        combo.family,
        difference(found.stock, found.alone),
        *(", ".join(dict.fromkeys(values)) for values in (same, moved)),
        difference(found.regional, found.stock),
        difference(found.asyndm, found.stock),
        combo.tests,
    ]


LEGEND = """\
Each row is one graph of random-weight models, run without this pack, with D = 0, with D = 0.4, with
D = 0.4 in a mask (one time for every pixel) and with AsynDM; every run finished unless its cell
says so. Numbers are the largest difference to the same graph without this pack, over its largest
value. **It acts**: the same number for the other node, against the graph without it: a row in which
it does nothing would prove nothing. Our patch was put behind the other node and before it; two
values in one cell: the orders differ. **Tests**: where `make test` keeps it so (tests/host).

A compiled network runs uncompiled while it has a map of times."""


def main() -> None:
    parser = frame.parser(__doc__)
    parser.add_argument("--packs", type=Path, help="a folder of checkouts")
    parser.add_argument("--only", default="", help="only rows whose name has this text")
    frame.page_option(parser)
    args = parser.parse_args()
    frame.comfyui()
    logging.getLogger().setLevel(logging.CRITICAL)
    from async_timestep.bench.parts import peers_combos, peers_packs

    table = frame.Table(HEAD)
    with tempfile.TemporaryDirectory() as folder:
        shelf = peers_combos.Shelf(Path(folder), args.packs)
        for make in (*peers_packs.ALL, *peers_combos.CORE):
            for combo in make(shelf):
                if args.only.lower() in combo.name.lower():
                    table.add(*table_row(combo))
        left_out, versions = shelf.left_out, shelf.versions
    made_by = frame.made_by(frame.command("beside", frame.chosen(args, packs="FOLDER")))
    machine = frame.machine("CPU", packs=versions)
    parts = ["# Works beside others", f"{made_by} {machine}", LEGEND, str(table)]
    if left_out:
        parts.append("Left out:\n\n" + "\n".join(f"- {text}" for text in left_out))
    parts.append(peers_combos.NOTES)
    print("\n".join(left_out))
    frame.write_page(args.out, parts)


if __name__ == "__main__":
    main()
