"""A real server with the pack and a page of its editor, classic and Nodes 2.0."""

from __future__ import annotations

import pytest

from async_timestep.harness.comfy_server import ComfyServer
from async_timestep.harness.editor import open_page


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    with ComfyServer(tmp_path_factory.mktemp("browser")) as running:
        yield running


@pytest.fixture(scope="module", params=[False, True], ids=["classic", "nodes2"])
def page(request, server):
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as play:
        page = open_page(play, server, nodes2=request.param)
        page.problems = []
        page.on("pageerror", lambda error: page.problems.append(str(error)))
        page.mode = "nodes2" if request.param else "classic"
        yield page
