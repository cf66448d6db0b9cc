// A small plot of a value over the steps: axes with numbers, the value at its peak, three lines of
// text. HTML around one SVG path, so that the words keep their size whatever the node's width.

import { addStyle, element } from "./elements.js"

const STYLE = `
.async-timestep-axes { display: flex; flex-direction: column; min-height: 104px; overflow: hidden;
  box-sizing: border-box; padding: 0 6px; font: 11px/13px Inter, sans-serif;
  color: var(--input-text, #ddd); cursor: default; }
.async-timestep-axes .plot { position: relative; flex: 1 1 58px; min-height: 58px; }
.async-timestep-axes .area { position: absolute; left: 26px; right: 4px; top: 6px; bottom: 14px;
  border: solid var(--descrip-text, #999); border-width: 0 0 1px 1px; }
.async-timestep-axes svg { position: absolute; width: 100%; height: 100%; overflow: visible; }
.async-timestep-axes path { fill: #5fa8f055; stroke: #5fa8f0; stroke-width: 1.5px; }
.async-timestep-axes line { stroke: var(--descrip-text, #999); stroke-width: 1px; }
.async-timestep-axes path, .async-timestep-axes line { vector-effect: non-scaling-stroke; }
.async-timestep-axes .area span { position: absolute; white-space: nowrap; }
.async-timestep-axes .y { right: calc(100% + 3px); transform: translateY(-50%); }
.async-timestep-axes .x { top: 100%; color: var(--descrip-text, #999); }
.async-timestep-axes .peak { font-weight: bold; }
.async-timestep-axes .words { height: 39px; overflow: hidden; }
.async-timestep-axes .note { color: var(--descrip-text, #999); }`

/** {element, show(answer)}; answer: of nodes/preview.py, or {problem: a sentence}. */
export function axes() {
  addStyle("async-timestep-axes", STYLE)
  const box = element("div", "async-timestep-axes")
  return {
    element: box,
    show(answer) {
      const { problem } = answer
      const lines = problem ? ["", problem] : [answer.text, answer.note]
      const words = element("div", "words")
      words.append(element("div", "", lines[0]), element("div", "note", lines[1]))
      box.title = lines.filter(Boolean).join("\n")
      box.replaceChildren(plot(problem ? null : answer), words)
    },
  }
}

function plot(answer) {
  const [bottom, top] = answer ? range(answer) : [0, 1]
  const height = (value) => (100 * (top - value)) / (top - bottom) // percent from above
  const area = element("div", "area")
  if (answer) area.append(curve(answer, height))
  for (const value of new Set([top, 0, bottom])) {
    area.append(place(element("span", "y", signed(value)), { top: height(value) }))
  }
  area.append(place(element("span", "x", "0 noisy"), { left: 0 }))
  area.append(centred(place(element("span", "x", "0.5"), { left: 50 })))
  area.append(place(element("span", "x", "finished 1"), { right: 0 }))
  if (answer?.peak) area.append(peakOf(answer, height))
  const whole = element("div", "plot")
  whole.append(area)
  return whole
}

/** From 0 or below to 1 or above: a fixed scale, on which a slider moves the curve. */
function range({ low, high }) {
  const least = Math.min(...low), most = Math.max(...high)
  const limit = Math.max(1, Math.ceil(Math.max(-least, most)))
  return [least < 0 ? -limit : 0, most > 0 || least >= 0 ? limit : 0]
}

function curve({ low, high, steps }, height) {
  const stair = (values) => values.flatMap((value, k) => [[k, value], [k + 1, value]])
  const floor = low.map((value, k) => (value === high[k] ? 0 : value)) // a line, or a band
  const points = [...stair(high), ...stair(floor).reverse()]
  const at = (percent) => percent.toFixed(2)
  const drawn = points.map(([k, value]) => `${at((100 * k) / steps)} ${at(height(value))}`)
  const svg = shape("svg", { viewBox: "0 0 100 100", preserveAspectRatio: "none" })
  svg.append(shape("line", { x1: 0, x2: 100, y1: height(0), y2: height(0) }))
  svg.append(shape("path", { d: `M ${drawn.join(" L ")} Z` }))
  return svg
}

/** The number at the peak, inside of the axes wherever it is. */
function peakOf({ peak, at, steps, low, high }, height) {
  const text = low[at] === high[at] ? signed(peak) : `±${Math.abs(peak).toFixed(2)}`
  const left = (100 * (at + 0.5)) / steps, top = height(peak)
  const aside = left < 12 ? "0" : left > 88 ? "-100%" : "-50%"
  const label = place(element("span", "peak", text), { left, top })
  label.style.transform = `translate(${aside}, ${top < 30 ? "2px" : "-100%"})`
  return label
}

function signed(value) {
  if (value === 0) return "0"
  const text = Number.isInteger(value) ? String(Math.abs(value)) : Math.abs(value).toFixed(2)
  return (value < 0 ? "−" : "+") + text
}

function centred(part) {
  part.style.transform = "translateX(-50%)"
  return part
}

function place(part, percents) {
  for (const [side, percent] of Object.entries(percents)) part.style[side] = `${percent}%`
  return part
}

function shape(name, attributes) {
  const part = document.createElementNS("http://www.w3.org/2000/svg", name)
  for (const [key, value] of Object.entries(attributes)) part.setAttribute(key, value)
  return part
}
