"""What the pack's own pages (web/js) ask the server."""

from __future__ import annotations

import asyncio
import sys

from aiohttp import web

from .preview import answer

DEVIATION = "/async_timestep/deviation"


def register_routes() -> None:
    """Nothing outside of a server."""
    module = sys.modules.get("server")
    instance = getattr(getattr(module, "PromptServer", None), "instance", None)
    if instance is not None and not is_registered(instance):
        instance.routes.post(DEVIATION)(deviation)


def is_registered(instance) -> bool:
    """Another copy of the pack may have been loaded before."""
    return any(getattr(route, "path", "") == DEVIATION for route in instance.routes)


async def deviation(request: web.Request) -> web.Response:
    """Beside the server's loop: a preview takes some hundredths of a second."""
    return web.json_response(await asyncio.to_thread(answer, await request.read()))
