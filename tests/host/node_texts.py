"""The text under each node, as the editor gets it from a real server."""

from __future__ import annotations

import asyncio
import json
import struct

import aiohttp


def node_texts(server, graph: dict) -> dict[str, str]:
    """node id -> the last text that it was given while the prompt was executed."""
    return dict(asyncio.run(asyncio.wait_for(texts_on_nodes(server, graph), 600)))


async def texts_on_nodes(server, graph: dict) -> list[tuple[str, str]]:
    """(node id, text) as the editor gets them while a prompt is executed."""
    found = []
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(f"{server.url}/ws?clientId=reader", max_msg_size=0) as socket,
    ):
        asked = {"prompt": graph, "client_id": "reader"}
        queued = (await asyncio.to_thread(server.post, "/prompt", asked))["prompt_id"]
        async for message in socket:
            if message.type is aiohttp.WSMsgType.TEXT:
                event = json.loads(message.data)
                data = event["data"]
                if event["type"] == "execution_error":
                    raise AssertionError(data["exception_message"])
                if event["type"] == "execution_success" and data["prompt_id"] == queued:
                    return found
            elif struct.unpack(">I", message.data[:4])[0] == 3:  # text under a node
                length = struct.unpack(">I", message.data[4:8])[0]
                node, text = message.data[8 : 8 + length], message.data[8 + length :]
                found.append((node.decode(), text.decode()))
    raise AssertionError("the server closed the connection")
