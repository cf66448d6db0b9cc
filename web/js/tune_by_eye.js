// Tune by Eye: Choose, in the editor: the sheet stands in the node, a click on a column is the answer.
// Answers, Save, Start over and Compare go to the server's own routes (nodes/eye_routes.py); nothing
// is loaded from outside.

import { app } from "../../../scripts/app.js"
import { api } from "../../../scripts/api.js"
import { Sheet } from "./parts/eye_sheet.js"

const NODE = "AsyncTimestepChoose"
const QUEUE_NEXT = "AsyncTimestep.TuneByEye.QueueNext"
const OUTPUT = "tune_by_eye"
const LEAST_HEIGHT = 360
const SIZE = [560, 720] // of a node that is new in a graph

app.registerExtension({
  name: "AsyncTimestep.TuneByEye",
  settings: [
    {
      id: QUEUE_NEXT,
      name: "Async Timestep: Tune by Eye queues the next sheet by itself after a choice",
      type: "boolean",
      defaultValue: false,
    },
  ],

  async beforeRegisterNodeDef(nodeType, nodeData) {
    if (nodeData.name !== NODE) return
    const created = nodeType.prototype.onNodeCreated
    nodeType.prototype.onNodeCreated = function () {
      created?.apply(this, arguments)
      addSheet(this)
    }
    const executed = nodeType.prototype.onExecuted
    nodeType.prototype.onExecuted = function (output) {
      executed?.apply(this, arguments)
      show(this, output)
    }
  },

  // the editor comes back to a graph that has run before
  onNodeOutputsUpdated(outputs) {
    for (const node of app.graph?.nodes ?? []) {
      if (node.type === NODE && outputs[node.id]) show(node, outputs[node.id])
    }
  },
})

function addSheet(node) {
  const setting = app.extensionManager?.setting
  const sheet = new Sheet({
    ask: (path, body) => ask(path, body),
    pictureUrl: (file) => api.apiURL(`/view?${new URLSearchParams(file)}`),
    url: (path) => api.apiURL(path),
    queue: () => app.queuePrompt(0, 1),
    queuesNext: () => Boolean(setting?.get(QUEUE_NEXT)),
    setQueuesNext: (on) => setting?.set(QUEUE_NEXT, on),
  })
  const widget = node.addDOMWidget("sheet", "tune_by_eye", sheet.element, {
    serialize: false,
    hideOnZoom: false,
    getMinHeight: () => LEAST_HEIGHT,
  })
  widget.serialize = false // nothing of it belongs into a saved graph
  node.tuneByEye = sheet
  node.setSize(SIZE.map((least, k) => Math.max(least, node.size[k])))
}

function show(node, output) {
  const shown = output?.[OUTPUT]?.[0]
  if (shown && node.tuneByEye) node.tuneByEye.show(shown)
}

// The server's answer, or an Error with a sentence to read.
async function ask(path, body) {
  const options = body && {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
  }
  let reply
  try {
    reply = await api.fetchApi(path, options)
  } catch {
    throw new Error("ComfyUI does not answer, so nothing was counted; start it and press again.")
  }
  const answer = await reply.json().catch(() => ({}))
  if (!reply.ok) throw new Error(answer.error ?? `ComfyUI answered ${reply.status}; look into its log.`)
  return answer
}
