"""What this ComfyUI has: the pack asks the host for a feature, never for its version.

Tested on ComfyUI 0.3.75 and 0.30.0. What an older host lacks is left out, and the rest works.
"""

from __future__ import annotations

from inspect import signature

from comfy_api.latest import io

HAS_CURVE = hasattr(io, "Curve")  # a curve editor and its value; Deviation has no curve without it
HAS_ALIASES = "search_aliases" in signature(io.Schema).parameters


def schema(search_aliases: list[str], **fields) -> io.Schema:
    """A node's schema; a host whose search knows no other names for a node gets none."""
    if HAS_ALIASES:
        fields["search_aliases"] = search_aliases
    return io.Schema(**fields)
