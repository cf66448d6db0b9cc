"""Where the nodes of the example graphs stand in the editor: x, y, width, height."""

from __future__ import annotations

NOTE = [-440, -60, 400, 320]
COMMON = {
    "loader": [0, -60, 280, 90],
    "positive": [320, -60, 380, 140],
    "negative": [320, 140, 380, 100],
    "latent": [320, 300, 380, 110],
    "deviation": [-340, 320, 300, 220],
    "scale": [0, 320, 280, 130],
    "patch": [0, 240, 280, 210],
    "schedule": [0, 510, 280, 120],
    "split": [0, 690, 280, 80],
    "guider": [320, 490, 380, 120],
    "euler": [320, 670, 380, 70],
    "noise": [760, 310, 320, 100],
    "silence": [760, 470, 320, 50],
    "sampler": [760, -60, 320, 380],
    "first": [760, -60, 320, 130],
    "second": [760, 120, 320, 130],
    "decode": [1140, -60, 220, 50],
    "preview": [1140, 60, 420, 420],
    "plot": [1600, -60, 560, 480],
    "meter": [1140, 540, 220, 100],
    "reading": [1600, 480, 560, 200],
    "prompt": [0, 85, 280, 130],
    "region": [0, 265, 280, 300],
    "black": [-340, 320, 300, 110],
    "white": [-340, 480, 300, 110],
    "mask": [-340, 640, 300, 140],
    "everywhere": [0, 625, 280, 300],
    "held": [0, 985, 280, 300],
    "all": [760, 380, 320, 380],
    "dynamic": [760, 820, 320, 380],
    "still": [760, 1260, 320, 380],
    "together": [1140, 540, 420, 140],
}
SWEEP = {
    "preview": [1140, 60, 420, 460],
    "together": [1140, 580, 420, 140],
    "tpm": [-340, 320, 300, 60],
    **{f"scale_{k}": [0, 320 + 190 * i, 280, 130] for i, k in enumerate("abc")},
    **{f"omega_{k}": [0, 320 + 210 * i, 280, 150] for i, k in enumerate("bcd")},
    **{f"way_{k}": [760, -60 + 460 * i, 320, 380] for i, k in enumerate("abcd")},
    **{f"plot_{k}": [1600, -60 + 460 * i, 480, 380] for i, k in enumerate("abcd")},
}
INPAINT = {
    "new": [320, 500, 380, 120],
    "patch": [0, 90, 280, 210],
    "first": [760, -60, 300, 270],
    "picture": [760, 280, 300, 50],
    "black": [-340, 320, 300, 110],
    "white": [-340, 480, 300, 110],
    "mask": [0, 400, 280, 140],
    "encode": [760, 390, 300, 50],
    "masked": [760, 500, 300, 50],
    "sampler": [1120, -60, 300, 270],
    "decode": [1120, 280, 300, 50],
    "together": [1120, 390, 300, 80],
    "preview": [1480, -60, 420, 450],
    "plot": [1940, -60, 560, 480],
}
FLUX = {
    "note": [-560, -60, 520, 620],
    "unet": [0, -60, 320, 90],
    "clip": [0, 90, 320, 130],
    "vae": [0, 290, 320, 60],
    "shift": [0, 440, 320, 130],
    "positive": [360, -60, 380, 160],
    "guidance": [360, 160, 380, 60],
    "latent": [360, 290, 380, 110],
    "noise": [360, 470, 380, 90],
    "euler": [360, 620, 380, 60],
    "patch": [780, -60, 300, 170],
    "schedule": [780, 180, 300, 110],
    "guider": [780, 350, 300, 50],
    "sampler": [780, 460, 300, 130],
    "decode": [1120, -60, 220, 50],
    "save": [1120, 60, 440, 520],
    "plot": [1600, -60, 560, 480],
}
SD35 = {
    "note": [-560, -60, 520, 580],
    "loader": [0, -60, 320, 100],
    "patch": [0, 130, 320, 190],
    "latent": [0, 390, 320, 110],
    "positive": [360, -60, 380, 180],
    "negative": [360, 180, 380, 110],
    "sampler": [780, -60, 300, 270],
    "decode": [1120, -60, 220, 50],
    "save": [1120, 60, 440, 520],
    "plot": [1600, -60, 560, 480],
}
OWN = {  # what differs from COMMON, by workflow
    "demo_9_tpm_scale_sweep": SWEEP,
    "demo_10_velocity_scale": SWEEP,
    "demo_11_inpaint": INPAINT,
    "flux1_dev_async_timestep": FLUX,
    "sd35_medium_async_timestep": SD35,
}


def place(workflow: str, node: str) -> list[int]:
    """[x, y, width, height] of a node, or of the workflow's `note`."""
    return OWN.get(workflow, {}).get(node) or {**COMMON, "note": NOTE}[node]
