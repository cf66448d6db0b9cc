// The deviation over the steps, drawn in the Deviation node before anything runs. The numbers are
// the server's (nodes/preview.py): the very policy that the sampler will ask.

import { api } from "../../../scripts/api.js"
import { app } from "../../../scripts/app.js"
import { axes } from "./parts/axes.js"
import { after, outside, stepsBehind } from "./parts/graph.js"

const ROUTE = "/async_timestep/deviation"
const NODE = "AsyncTimestepDeviation"
const NAMES = ["preset", "deviation", "start_percent", "end_percent", "unit", "mode", "curve"]
const HEIGHT = 112, MARGIN = 4 // pixels at zoom 1
const LOOK = 200 // milliseconds: nothing tells of all the ways in which a value changes
const AWAY = "No preview: the server does not answer. It comes back with the server."

const previews = new Set() // of the nodes that are in a graph
let away = false

/** What is asked for a node, or a sentence why nothing can be. */
function question(node) {
  const name = outside(node)
  if (name) return `${name} comes from outside of this node: only the run knows what comes out.`
  const values = node.widgets.filter((w) => NAMES.includes(w.name) && w.value != null)
  const named = Object.fromEntries(values.map((widget) => [widget.name, widget.value]))
  return JSON.stringify({ ...named, ...stepsBehind(node) })
}

async function answer(asked) {
  if (!asked.startsWith("{")) return { problem: asked }
  if (away) return { problem: AWAY }
  const headers = { "Content-Type": "application/json" }
  try {
    const reply = await api.fetchApi(ROUTE, { method: "POST", headers, body: asked })
    if (reply.ok) return await reply.json()
    return { problem: `No preview: the server answers with ${reply.status}; restart ComfyUI.` }
  } catch {
    return { problem: AWAY }
  }
}

/** Draws it anew where a value has changed; one question at a time. */
async function look(preview) {
  const asked = question(preview.node)
  if (preview.busy || asked === preview.asked) return
  preview.asked = asked
  preview.busy = true
  const answered = await answer(asked)
  preview.busy = false
  preview.axes.show(answered)
  preview.widget.shown = { asked, answer: answered } // for whoever looks, such as the tests
}

function addPreview(node) {
  const drawn = axes()
  const widget = node.addDOMWidget("preview", "async_timestep_preview", drawn.element, {
    serialize: false, // not in the prompt
    hideOnZoom: true,
    margin: MARGIN,
    getValue: () => "",
    getMinHeight: () => HEIGHT,
    getMaxHeight: () => HEIGHT,
  })
  drawn.element.addEventListener("wheel", (event) => {
    if (!window.LiteGraph?.vueNodesMode) app.canvas.processMouseWheel(event) // zooms over it, too
  })
  widget.serialize = false // not in the saved graph: old ones and other front ends stay as they are
  const preview = { node, widget, axes: drawn, asked: null, busy: false }
  after(node, "onAdded", () => previews.add(preview))
  after(node, "onRemoved", () => previews.delete(preview))
}

function again() {
  for (const preview of previews) preview.asked = null
}

app.registerExtension({
  name: "async-timestep.deviation-preview",
  setup() {
    api.addEventListener("reconnecting", () => ((away = true), again()))
    api.addEventListener("reconnected", () => ((away = false), again()))
    setInterval(() => previews.forEach(look), LOOK)
  },
  nodeCreated(node) {
    if (node.comfyClass === NODE) addPreview(node)
  },
})
