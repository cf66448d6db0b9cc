"""Where the trainer enters: ComfyUI is started before anything that imports it is imported."""

from __future__ import annotations

import torch

from ...run.config import BackboneConfig
from ...run.workflow import read_workflow, require_whole, sampler_node
from .host import start


def load_workflow(config: BackboneConfig, device: torch.device, offload_text: bool = False):
    """A workflow as a `Backbone` (ComfyUI itself moves text encoders away). What the file alone
    tells is refused before ComfyUI is started. Raises ValueError of one sentence."""
    graph = read_workflow(config.workflow)
    sampler = sampler_node(graph, config.node)
    require_whole(graph, sampler)
    start(config.comfyui, device)
    from .backbone import Workflow

    return Workflow(config, device, graph, sampler)
