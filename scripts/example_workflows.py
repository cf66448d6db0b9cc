"""The bundled workflows: their graphs, and the note beside them."""

from __future__ import annotations

from async_timestep.harness import graphs, graphs_regions
from async_timestep.scripts import graphs_compared, graphs_large

WORKFLOWS = {  # on the embedded model
    "demo_1_stock_ksampler": graphs.stock,
    "demo_2_model_patch": graphs.model_patch,
    "demo_3_async_ksampler": graphs.measured,
    "demo_4_split_sigmas": graphs.split_sigmas,
    "demo_5_asyndm_words": graphs_regions.asyndm_words,
    "demo_6_asyndm_mask": graphs_regions.asyndm_mask,
    "demo_7_asyndm_compared": graphs_regions.asyndm_compared,
    "demo_8_regional_detail": graphs_regions.regional_detail,
    "demo_9_tpm_scale_sweep": graphs_compared.tpm_scale_sweep,
    "demo_10_velocity_scale": graphs_compared.velocity_scale,
    "demo_11_inpaint": graphs_compared.inpaint,
}
LARGE = {  # with files that ComfyUI offers to download
    "flux1_dev_async_timestep": graphs_large.flux1_dev,
    "sd35_medium_async_timestep": graphs_large.sd35_medium,
}
EVERY = {**WORKFLOWS, **LARGE}

HOW = (
    "The model is tiny and comes with the pack: it draws what you write in the words it knows, one "
    "to three coloured shapes on a *dark* or *light*, *plain*, *striped*, *dotted* or *rough* "
    "background.\n\n"
)
TRAIN = (
    "**A TPM instead of the preset.** A TPM picks the deviation for each image at each step. None "
    "is published for this model yet; to train one, in the folder of this pack:\n\n"
    "```\npip install -e '.[train]'\n"
    "python training/prepare.py --preset {preset} --fetch\n"
    "python training/train_tpm.py --preset {preset} --out runs/own\n```\n\n"
    "Copy **runs/own/tpm.safetensors** into **models/tpm**, press R, add a *TPM Loader* and "
    "connect it to **deviation** of the patch. It wants the steps, the size and the schedule that "
    "it was trained on: those of this graph. **docs/guides/trainer.md** says what it costs.\n\n"
)
UNMEASURED = (
    "**What to expect.** More fine texture where few steps leave it too flat; from some scale on, "
    "grain. Queue it with **deviation_scale** 0, which is exactly the stock picture, and with 1 on "
    "the same seed. The preset is the mean of the deviations that the paper reports ({paper}); "
    "nothing has been measured on this model by this pack, and the thumbnail is only the plot of "
    "this graph, run with tiny random weights."
)
NOTES = {
    "demo_1_stock_ksampler": "## The embedded model in a stock KSampler\n\n"
    + HOW
    + "Four steps are few: look at how flat the rough background is. The next template adds one "
    "node and nothing else.",
    "demo_2_model_patch": "## The same graph with the model patch\n\n"
    + HOW
    + "Between the loader and a stock KSampler: the network is told a cleaner time than the "
    "sampler integrates with. **deviation_scale** 0 is exactly the stock picture, 2 is twice the "
    "effect. The plot shows what was really applied.",
    "demo_3_async_ksampler": "## Deviation, Deviation Scale, Async Timestep KSampler\n\n"
    + HOW
    + "Set **deviation_scale** to 0, 1, 2 on the same seed: more texture, and, from some point on, "
    "grain: the Noise Residual Meter says how much, under the plot.",
    "demo_4_split_sigmas": "## A schedule in two stages\n\n"
    + HOW
    + "The patch gets the whole schedule, so both stages are told the same times as one run would "
    "be. Without that wire the second stage starts synchronous.",
    "demo_5_asyndm_words": "## AsynDM by words\n\n"
    + HOW
    + "Every pixel has its own noise level. Where the network attends to the *words* (things of "
    "the prompt, comma separated) pixels stay behind and catch up before the end, so they are "
    "finished on a context that is already clear. The strip under the plot is where that was, step "
    "by step. **strength** 0 is exactly the stock picture.",
    "demo_6_asyndm_mask": "## AsynDM by mask\n\n"
    + HOW
    + "The same with a mask of your own, here the upper half: draw one in the mask editor, any "
    "size, soft edges allowed.",
    "demo_7_asyndm_compared": "## Stock, everywhere, words, words held still\n\n"
    + HOW
    + "One seed. *Everywhere* only bends the schedule (the paper's concave comparison): what words "
    "do beyond it is the method's own. *Held still* takes its regions from a plain first sampling "
    "and costs twice the time. On this small model the four are close: docs/guides/asyndm.md "
    "has the numbers.",
    "demo_8_regional_detail": "## Detail where the words are\n\n"
    + HOW
    + "A deviation adds texture, here only where the network attends to *rough*; the shapes are "
    "left alone. Each pixel is told its own time in the same one pass. Connect a mask instead of "
    "the region to choose the place yourself.",
    "demo_9_tpm_scale_sweep": "## A trained policy at scale 0, 1 and 2\n\n"
    + HOW
    + "**tiny.safetensors** picks the deviation for each image at each step. One row a sampler, "
    "the same three seeds: A is the stock picture, B what it learned, C twice that. Look at the "
    "rough background and at the plots, whose band is the spread over the images.",
    "demo_10_velocity_scale": "## Velocity Scale\n\n"
    + HOW
    + "One seed, four ways. Above: A stock, B omega 0.75. Below: C omega 1.25, D follow_time. A "
    "constant omega makes the denoising of each step but the last shorter or longer; follow_time "
    "takes t\\*/t of the deviation, as Detail Daemon does. Omega is drawn under each plot.",
    "demo_11_inpaint": "## Inpaint with the patched model\n\n"
    + HOW
    + "The lower half is painted anew (a square for the star) on the picture of a first KSampler; "
    "the upper half stays. The patch changes neither mask nor blending. For a picture of your own "
    "use Load Image instead of the first sampler, and its mask.",
    "flux1_dev_async_timestep": "## Flux.1-dev with the model patch\n\n"
    "The patch stands between ModelSamplingFlux and the guider; **preset** *auto* finds Flux.1-dev "
    "and takes D = +0.5. Ten steps at 512 x 512 as in the paper; for 1024 set it in both size "
    "nodes: ModelSamplingFlux makes the shift, and with it the grid, out of the size. ComfyUI "
    "offers the four files when you open this.\n\n"
    + UNMEASURED.format(paper="mean +0.499, 10 steps, 512 px")
    + "\n\n"
    + TRAIN.format(preset="flux1_dev"),
    "sd35_medium_async_timestep": "## Stable Diffusion 3.5 medium with the model patch\n\n"
    "The patch stands between the checkpoint and a stock KSampler; **preset** *auto* finds "
    "SD3.5-medium and takes D = +0.2. Fifteen steps at 512 x 512 with the scheduler *normal*, as "
    "in the paper; other sizes and schedulers work with the preset too. The cut peaks at the last "
    "step, whose sigma is nearly 0 in this schedule. ComfyUI offers the file when you open this."
    "\n\n"
    + UNMEASURED.format(paper="+0.192 and +0.231, 15 steps, 512 px")
    + "\n\n"
    + TRAIN.format(preset="sd35_medium"),
}
