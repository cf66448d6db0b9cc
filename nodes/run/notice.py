"""A sentence on the node that is running, where the host can show one; the log has it as well."""

from __future__ import annotations

import sys

from comfy_execution.utils import get_executing_context


def on_node(*sentences: str) -> None:
    """Shows the sentences under the node that is being executed, as long as the editor keeps them.

    Nothing outside of a server, and where the host is too old to show text on a node.
    """
    context = get_executing_context()
    server = getattr(sys.modules.get("server"), "PromptServer", None)
    send = getattr(getattr(server, "instance", None), "send_progress_text", None)
    if sentences and context is not None and send is not None:
        send("\n".join(sentences), context.node_id)
