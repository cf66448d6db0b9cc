"""A sentence on the node that it is about, where the host can show one; the log has it as well."""

from __future__ import annotations

import sys

from comfy_execution.utils import get_executing_context


def on_node(*sentences: str, node: str = "") -> None:
    """Shows the sentences under a node, as long as the editor keeps them. node: its id; "" for the
    one that is being executed.

    Nothing outside of a server, and where the host is too old to show text on a node.
    """
    context = get_executing_context()
    server = getattr(sys.modules.get("server"), "PromptServer", None)
    send = getattr(getattr(server, "instance", None), "send_progress_text", None)
    if sentences and context is not None and send is not None:
        send("\n".join(sentences), node or context.node_id)
