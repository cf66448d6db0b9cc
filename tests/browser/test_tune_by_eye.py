"""Tune by Eye in a real Chromium, in both editors: from the template to a saved file and its use,
with the server gone and back in between.
"""

from __future__ import annotations

import json

import pytest
from looking import keep_shot

from async_timestep.harness import graphs
from async_timestep.harness.editor import CHROMIUM, RUN, WAIT
from async_timestep.harness.workflows import by_eye, saved

pytestmark = pytest.mark.browser
if CHROMIUM is None:
    pytest.skip("no Chromium on this machine: browser tests left out", allow_module_level=True)
playwright = pytest.importorskip("playwright.sync_api")

QUEUE = "() => window.app.queuePrompt(0, 1)"
PICTURES = """() => { const all = [...document.querySelectorAll('.eye-cell img')]
  return all.length > 0 && all.every(i => i.complete && i.naturalWidth > 0) }"""

# to the middle of the window, where the editor's own panels are not over it
TO_CHOOSE = """() => { const { canvas } = window.app
  canvas.centerOnNode(canvas.graph.nodes.find(n => n.type === 'AsyncTimestepChoose')) }"""
INTO_SUBGRAPH = """kinds => {
  const graph = window.app.graph
  graph.convertToSubgraph(new Set(graph.nodes.filter(n => kinds.includes(n.type)))) }"""
OPEN_SUBGRAPH = """() => {
  const { graph, canvas } = window.app, node = graph.nodes.find(n => n.isSubgraphNode?.())
  canvas.openSubgraph(node.subgraph, node) }"""
BETWEEN = ["AsyncTimestepKSampler", "VAEDecode"]
ALL_OF_IT = [*BETWEEN, "AsyncTimestepTry", "AsyncTimestepChoose"]


def template(session: str, prompts: int = 4, steps: int = 3) -> dict:
    """The bundled one, of pictures that take no time: 64 pixels, few steps, one row."""
    (name,) = by_eye()
    graph = saved(name)
    put(graph, "EmptySD3LatentImage", {0: 64, 1: 64})
    put(graph, "AsyncTimestepKSampler", {3: 1.0})
    put(graph, "AsyncTimestepTry", {0: session, 1: "\n".join(texts(prompts)), 2: steps, 4: 1})
    return graph


def texts(count: int) -> list[str]:
    colors, shapes = ("red", "green", "blue", "yellow", "purple"), ("circle", "square", "star")
    return [f"a {colors[i % 5]} {shapes[i % 3]} {'left ' * (i // 15)}" for i in range(count)]


def put(graph: dict, kind: str, values: dict[int, object]) -> None:
    (node,) = [node for node in graph["nodes"] if node["type"] == kind]
    for place, value in values.items():
        node["widgets_values"][place] = value


def run(page, graph: dict) -> None:
    outcome, detail = page.evaluate(RUN, [graph, "by eye"])
    assert outcome == "execution_success", detail
    page.evaluate(TO_CHOOSE)


def says(page, words: str, part: str = ".eye-title") -> None:
    playwright.expect(page.locator(part)).to_contain_text(words, timeout=WAIT)


def answers(server, session: str) -> list[int]:
    file = server.base / "user" / "default" / "async_timestep" / f"{session}.json"
    return [sheet["answer"] for sheet in json.loads(file.read_text())["rounds"]]


def test_from_the_template_to_the_file_and_its_use(page, server):
    session = f"way {page.mode}"
    run(page, template(session))
    says(page, "Sheet 1: which column do you like best?")
    page.wait_for_function(PICTURES)
    assert page.locator(".eye-cell").count() == 4
    keep_shot(page, "eye_sheet")

    page.locator('.eye-cell[data-column="2"]').click()
    says(page, "Sheet 1 is answered")
    assert answers(server, session) == [3]
    assert page.locator('.eye-cell[data-chosen="true"]').count() == 1
    page.get_by_role("button", name="None better").click()  # the first was a slip
    playwright.expect(page.get_by_role("button", name="None better")).to_have_attribute(
        "data-chosen", "true", timeout=WAIT
    )
    assert answers(server, session) == [5]
    says(page, "1 choice;", ".eye-line")
    playwright.expect(page.locator(".eye-plot")).to_be_visible()

    page.evaluate(QUEUE)
    says(page, "Sheet 2: which column")
    page.get_by_text("next sheet by itself").click()
    page.get_by_role("button", name="All alike").click()
    says(page, "Sheet 3: which column")  # without Run
    assert answers(server, session) == [5, 6, 0]
    page.get_by_text("next sheet by itself").click()

    page.get_by_role("button", name="Save...").click()
    page.locator(".eye-name").fill(f"found {page.mode}")
    keep_shot(page, "eye_save")
    page.locator(".eye-name").press("Enter")
    says(page, f"Saved as found {page.mode}.safetensors", ".eye-said")
    page.get_by_role("button", name="Save...").click()
    page.locator(".eye-name").fill(f"found {page.mode}")
    page.locator(".eye-question").get_by_role("button", name="Save", exact=True).click()
    says(page, "nothing is overwritten", ".eye-said")
    page.locator(".eye-question").get_by_role("button", name="Cancel").click()

    graph = graphs.model_patch(batch=1)
    graph["tpm"] = graphs.node("AsyncTimestepTPMLoader", tpm_name=f"found {page.mode}.safetensors")
    graph["patch"]["inputs"]["deviation"] = ["tpm", 0]
    assert f"schedule found {page.mode}" in server.run(graph)["plot"]["text"][0]
    assert page.problems == []


def test_a_picture_in_full_size_and_its_neighbour(page):
    run(page, template(f"large {page.mode}"))
    page.wait_for_function(PICTURES)
    page.locator(".eye-cell").first.hover()
    page.locator(".eye-larger").first.click(force=True)
    large = page.locator(".eye-large")
    playwright.expect(large).to_contain_text("A, row 1 of 1")
    page.keyboard.press("ArrowRight")
    playwright.expect(large).to_contain_text("B, row 1 of 1")
    keep_shot(page, "eye_large")
    page.keyboard.press("Escape")
    playwright.expect(large).to_have_count(0)


def test_another_tab_and_a_reload(page, server):
    """Both tabs show the same sheet; an answer in one is there in the other, and counts once."""
    session = f"tabs {page.mode}"
    run(page, template(session))
    other = page.context.browser.new_page(viewport=page.viewport_size)
    other.set_default_timeout(WAIT)
    other.goto(server.url, wait_until="domcontentloaded")
    other.wait_for_function(
        "() => window.app?.extensionManager && !window.app.extensionManager.spinner"
        " && 'AsyncTimestepTry' in (window.LiteGraph?.registered_node_types ?? {})"
    )
    run(other, template(session))
    says(other, "Sheet 1: which column")
    page.locator(".eye-cell").first.click()
    says(page, "Sheet 1 is answered")
    page.evaluate(QUEUE)
    says(page, "Sheet 2: which column")
    other.locator(".eye-cell").nth(1).click()  # of the sheet that is over
    says(other, "has its answer already", ".eye-said")
    assert answers(server, session) == [1, 0]
    run(other, template(session))
    says(other, "Sheet 2: which column")
    other.close()


def test_a_dead_server_in_between_loses_nothing(page, server):
    session = f"dead {page.mode}"
    run(page, template(session))
    says(page, "Sheet 1: which column")
    server.__exit__()
    page.locator(".eye-cell").first.click()
    says(page, "ComfyUI does not answer, so nothing was counted", ".eye-said")
    keep_shot(page, "eye_dead")
    server.__enter__()
    assert answers(server, session) == [0]
    page.locator(".eye-cell").first.click()
    says(page, "Sheet 1 is answered")
    assert answers(server, session) == [1]
    page.wait_for_function("() => window.app.api.socket?.readyState === 1")
    run(page, template(session))
    says(page, "Sheet 2: which column")


def test_start_over_asks_and_keeps_the_old_one(page, server):
    session = f"over {page.mode}"
    run(page, template(session))
    page.locator(".eye-cell").first.click()
    says(page, "Sheet 1 is answered")
    page.get_by_role("button", name="Start over").click()
    says(page, "Forget 1 choice? The old session is kept", ".eye-question")
    page.get_by_role("button", name="Yes, start over").click()
    says(page, f"is kept as {session}.before_1.json", ".eye-said")
    assert answers(server, f"{session}.before_1") == [1]
    page.evaluate(QUEUE)
    says(page, "Sheet 1: which column")
    assert answers(server, session) == [0]
    assert page.problems == []


def test_the_saved_graph_has_nothing_of_the_sheet(page):
    run(page, template(f"plain {page.mode}"))
    graph = page.evaluate("() => window.app.graph.serialize()")
    (node,) = [node for node in graph["nodes"] if node["type"] == "AsyncTimestepChoose"]
    assert node["widgets_values"] == [""]


@pytest.mark.parametrize("prompts, steps", [(1, 3), (2, 3), (50, 2)])
def test_any_number_of_prompts_and_two_steps(page, server, prompts, steps):
    session = f"{prompts} prompts {page.mode}"
    run(page, template(session, prompts, steps))
    says(page, "Sheet 1: which column")
    number = {2: "2 steps leave one number to tune", 3: "3 steps leave two numbers to tune"}
    says(page, number[steps], ".eye-line")
    assert page.locator(".eye-cell").first.get_attribute("title") == texts(prompts)[0].strip()


@pytest.mark.parametrize("kinds", [BETWEEN, ALL_OF_IT], ids=["between", "all of it"])
def test_in_a_subgraph(page, server, kinds):
    """What is between Try and Choose is one node for the user, and the lists go through it; who
    packs all of it into one finds the sheet where it was put."""
    session = f"inside {len(kinds)} {page.mode}"
    run(page, template(session))
    says(page, "Sheet 1: which column")
    page.locator(".eye-cell").first.click()
    says(page, "Sheet 1 is answered")
    page.evaluate(INTO_SUBGRAPH, kinds)
    if kinds == ALL_OF_IT:
        page.evaluate(OPEN_SUBGRAPH)
    page.evaluate(QUEUE)
    says(page, "Sheet 2: which column")
    assert answers(server, session) == [1, 0]
    assert page.locator(".eye-cell").count() == 4
    page.evaluate(TO_CHOOSE)
    page.locator('.eye-cell[data-column="1"]').click()
    says(page, "Sheet 2 is answered")
    assert answers(server, session) == [1, 2]
    keep_shot(page, f"eye_inside_{len(kinds)}")
    assert page.problems == []
