"""ComfyUI's editor in a real browser: a Chromium that playwright drives.

with sync_playwright() as play:
    page = open_page(play, server)
    outcome, detail = page.evaluate(RUN, [workflow, "its name"])
"""

from __future__ import annotations

import shutil

CHROMIUM = next(
    (p for n in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(n))), None
)
WAIT = 600_000  # ms for a page to show something: ends what hangs, limits no busy machine
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-sync",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-dev-shm-usage",
]
READY = """id => window.app?.extensionManager && !window.app.extensionManager.spinner
  && window.app.canvas && id in (window.LiteGraph?.registered_node_types ?? {})"""
# as a click in the template browser does it: fitted to the window
LOAD = """([workflow, name]) => window.app.loadGraphData(workflow, true, true, name,
  {openSource: 'template'})"""
# [event, its detail]; of a run from the cache, which can end before the page knows that it has
# begun and is then told nothing, from the server's history
RUN = """async ([wf, name]) => {
  const events = ['execution_success', 'execution_error', 'execution_interrupted']
  const told = new Promise(done => events.forEach(e =>
    window.app.api.addEventListener(e, ev => done([e, ev.detail]), {once: true})))
  const asked = () => window.app.api.fetchApi('/history')
  const history = async () => Object.entries(await (await asked()).json())
  const before = new Set((await history()).map(([id]) => id))
  await window.app.loadGraphData(wf, true, true, name, {openSource: 'template'})
  if (!await window.app.queuePrompt(0, 1)) return ['rejected', window.app.lastNodeErrors]
  for (let ended;;) {
    ended = await Promise.race([told, new Promise(later => setTimeout(later, 500))])
    if (ended) return ended
    const fresh = (await history()).find(([id]) => !before.has(id))
    if (fresh) return fresh[1].status.messages.at(-1)
  } }"""
SAVED = "() => window.app.graph.serialize()"
QUEUED = "async () => (await window.app.graphToPrompt()).output"
ZOOM = "() => window.app.canvas.ds.scale"
# a wire as LiteGraph draws it, a spline that leaves and enters level, against every other node
CROSSED = """() => {
  const graph = window.app.graph, found = []
  for (const link of graph.links.values()) {
    const from = graph.getNodeById(link.origin_id), to = graph.getNodeById(link.target_id)
    const [ax, ay] = from.getOutputPos(link.origin_slot)
    const [bx, by] = to.getInputPos(link.target_slot)
    const bow = Math.hypot(bx - ax, by - ay) / 4
    for (const node of graph.nodes) {
      if (node === from || node === to) continue
      const [x, y, width, height] = node.boundingRect
      for (let t = 0; t <= 1; t += 0.01) {
        const u = 1 - t, p = u * u * u + 3 * u * u * t, q = 1 - p, pull = 3 * u * t * (u - t) * bow
        const h = p * ax + q * bx + pull, v = p * ay + q * by
        if (h > x + 2 && h < x + width - 2 && v > y + 2 && v < y + height - 2) {
          found.push(`${from.title} to ${to.title} over ${node.title}`)
          break
        }
      }
    }
  }
  return found }"""
COVERED = """() => window.app.graph.nodes.flatMap((a, i, nodes) => nodes.slice(0, i).filter(b => {
  const [x, y, width, height] = a.boundingRect, [u, v, wide, high] = b.boundingRect
  return x < u + wide && u < x + width && y < v + high && v < y + height
}).map(b => `${a.title} and ${b.title}`))"""
# the words that the classic editor draws in one frame, and the nodes of the other as they stand
DRAWN = """nodes2 => {
  const shown = nodes2 ? [...document.querySelectorAll('[data-node-id]')] : []
  if (nodes2) return shown.flatMap(node => node.innerText.split('\\n'))
  const words = [], drawn = CanvasRenderingContext2D.prototype.fillText
  CanvasRenderingContext2D.prototype.fillText = function (text, ...rest) {
    words.push(String(text))
    return drawn.call(this, text, ...rest)
  }
  window.app.canvas.draw(true, true)
  CanvasRenderingContext2D.prototype.fillText = drawn
  return words }"""


def open_page(play, server, nodes2: bool = False, size=(1920, 1080)):
    """A browser page with ComfyUI loaded, as a new user has it, but for the first-run dialog."""
    for key, value in {"Comfy.TutorialCompleted": True, "Comfy.VueNodes.Enabled": nodes2}.items():
        server.post("/settings", {key: value})
    browser = play.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
    page = browser.new_page(viewport={"width": size[0], "height": size[1]})
    page.set_default_timeout(WAIT)
    page.goto(server.url, wait_until="domcontentloaded")
    page.wait_for_function(READY, arg="AsyncTimestepKSampler")
    return page
