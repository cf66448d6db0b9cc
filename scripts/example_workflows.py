"""The bundled workflows: their graphs, where the nodes stand, and the note beside them."""

from __future__ import annotations

import graphs
import graphs_regions

WORKFLOWS = {
    "demo_1_stock_ksampler": graphs.stock,
    "demo_2_model_patch": graphs.model_patch,
    "demo_3_async_ksampler": graphs.async_ksampler,
    "demo_4_split_sigmas": graphs.split_sigmas,
    "demo_5_asyndm_words": graphs_regions.asyndm_words,
    "demo_6_asyndm_mask": graphs_regions.asyndm_mask,
    "demo_7_asyndm_compared": graphs_regions.asyndm_compared,
    "demo_8_regional_detail": graphs_regions.regional_detail,
}

PLACES = {  # where the nodes stand in the editor: x, y, width, height
    "loader": [0, -60, 280, 90],
    "positive": [320, -60, 380, 140],
    "negative": [320, 140, 380, 100],
    "latent": [320, 300, 380, 110],
    "deviation": [-340, 320, 300, 220],
    "scale": [0, 320, 280, 130],
    "patch": [0, 240, 280, 150],
    "schedule": [0, 450, 280, 110],
    "split": [0, 620, 280, 80],
    "guider": [320, 470, 380, 110],
    "euler": [320, 640, 380, 60],
    "noise": [760, 300, 320, 90],
    "silence": [760, 450, 320, 40],
    "sampler": [760, -60, 320, 380],
    "first": [760, -60, 320, 130],
    "second": [760, 120, 320, 130],
    "decode": [1140, -60, 220, 50],
    "preview": [1140, 60, 420, 460],
    "plot": [1600, -60, 560, 480],
    "meter": [1140, 580, 420, 160],
    "prompt": [0, 70, 280, 130],
    "region": [0, 240, 280, 260],
    "black": [-340, 300, 300, 110],
    "white": [-340, 450, 300, 110],
    "mask": [-340, 600, 300, 140],
    "everywhere": [0, 540, 280, 260],
    "held": [0, 840, 280, 260],
    "all": [760, 360, 320, 380],
    "dynamic": [760, 780, 320, 380],
    "still": [760, 1200, 320, 380],
    "together": [1140, 580, 420, 120],
}
HOW = (
    "The model is tiny and comes with the pack: it draws what you write in the words it knows, "
    "one to "
    "three coloured shapes on a *dark* or *light*, *plain*, *striped*, *dotted* or *rough* "
    "background.\n\n"
)
NOTES = {
    "demo_1_stock_ksampler": "## The embedded model in a stock KSampler\n\n"
    + HOW
    + "Four steps are few: look "
    "at how flat the rough background is. The next template adds one node and nothing else.",
    "demo_2_model_patch": "## The same graph with the model patch\n\n"
    + HOW
    + "Between the loader and a stock "
    "KSampler: the network is told a cleaner time than the sampler integrates with. "
    "`deviation_scale` 0 is "
    "exactly the stock picture, 2 is twice the effect. The plot shows what was really applied.",
    "demo_3_async_ksampler": "## Deviation, Deviation Scale, Async Timestep KSampler\n\n"
    + HOW
    + "Set "
    "`deviation_scale` to 0, 1, 2 on the same seed: more texture, and, from some point on, "
    "grain: the "
    "Noise Residual Meter counts it.",
    "demo_4_split_sigmas": "## A schedule in two stages\n\n"
    + HOW
    + "The patch gets the whole schedule, so both "
    "stages are told the same times as one run would be. Without that wire the second stage starts "
    "synchronous.",
    "demo_5_asyndm_words": "## AsynDM by words\n\n"
    + HOW
    + "Every pixel has its own noise level. Where the network attends to the *words* (things of "
    "the prompt, comma separated) pixels stay behind and catch up before the end, so they are "
    "finished on a context that is already clear. The strip under the plot is where that was, step "
    "by step. "
    "`strength` 0 is exactly the stock picture.",
    "demo_6_asyndm_mask": "## AsynDM by mask\n\n"
    + HOW
    + "The same with a mask of your own, here the upper half: draw one in the mask editor, any "
    "size, soft edges allowed.",
    "demo_7_asyndm_compared": "## Stock, everywhere, words, words held still\n\n"
    + HOW
    + "One seed. *Everywhere* only bends the schedule (the paper's concave comparison): what words "
    "do beyond it is the method's own. *Held still* takes its regions from a plain first sampling "
    "and costs twice the time. On this small model the four are close: see docs.",
    "demo_8_regional_detail": "## Detail where the words are\n\n"
    + HOW
    + "A deviation adds texture, here only where the network attends to *rough*; the "
    "shapes are left alone. Each pixel is told its own time in the same one pass. Connect a mask "
    "instead of the region to choose the place yourself.",
}
