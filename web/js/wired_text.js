// The classic editor draws nothing of a text that a wire gives, but keeps the height of its box: a
// hole in the node. Here it is one row with its name, as the other wired values are.

import { app } from "../../../scripts/app.js"

const NODE = "AsynDMRegionMask"
const ROW = 20 // pixels at zoom 1, as the rows of numbers have

function wired(widget) {
  const slot = widget.node?.inputs?.find((input) => input.widget?.name === widget.name)
  return slot?.link != null && !window.LiteGraph?.vueNodesMode
}

/** The name of the value, as bright as the editor draws what a wire gives. */
function label(ctx, widget, y) {
  ctx.save()
  ctx.textAlign = "left"
  ctx.fillStyle = window.LiteGraph.WIDGET_SECONDARY_TEXT_COLOR
  ctx.fillText(widget.label ?? widget.name, 34, y + 0.7 * ROW)
  ctx.restore()
}

function asOneRow(widget) {
  const { getMinHeight, getMaxHeight } = widget.options, own = widget.draw
  widget.options.getMinHeight = () => (wired(widget) ? ROW + 4 : getMinHeight?.())
  widget.options.getMaxHeight = () => (wired(widget) ? ROW + 4 : getMaxHeight?.())
  widget.draw = function (ctx, node, width, y, height, lowQuality) {
    own.apply(this, arguments)
    if (wired(this) && !lowQuality) label(ctx, this, y)
  }
}

app.registerExtension({
  name: "async-timestep.wired-text",
  nodeCreated(node) {
    const widget = node.comfyClass === NODE && node.widgets?.find((w) => w.name === "text")
    if (widget?.options && widget.draw) asOneRow(widget)
  },
})
