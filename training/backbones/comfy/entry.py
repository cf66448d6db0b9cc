"""Where the trainer enters: ComfyUI is started before anything that imports it is imported."""

from __future__ import annotations

import torch

from ...run.config import BackboneConfig
from ...run.workflow import read_workflow, require_whole, sampler_node
from .host import start
from .plain import checkpoint_name, plain_graph, require_checkpoint


def load_workflow(config: BackboneConfig, device: torch.device, offload_text: bool = False):
    """A workflow, or the plain one around a checkpoint, as a `Backbone` (ComfyUI itself moves text
    encoders away). What the file alone tells is refused before ComfyUI is started. Raises
    ValueError of one sentence."""
    if config.checkpoint:
        require_checkpoint(config.checkpoint)
        start(config.comfyui, device)
        graph = plain_graph(config, checkpoint_name(config.checkpoint))
    else:
        graph = read_workflow(config.workflow)
        require_whole(graph, sampler_node(graph, config.node))
        start(config.comfyui, device)
    from .backbone import Workflow

    return Workflow(config, device, graph, sampler_node(graph, config.node))
