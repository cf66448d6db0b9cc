// What a node of ours can read off the graph around it.

const FOLLOWED = ["ASYNC_DEVIATION", "MODEL"]

/** Calls `then` after a method of the node, which may have none of that name. */
export function after(node, name, then) {
  const own = node[name]
  node[name] = function (...given) {
    const result = own?.apply(this, given)
    then.apply(this, given)
    return result
  }
}

/** The name of a widget of the node whose value another node gives; undefined where none is. */
export function outside(node) {
  return node.inputs?.find((input) => input.widget && input.link != null)?.name
}

/** {steps, denoise} of the first sampler or scheduler that the node's deviation or model reaches;
 * {} where there is none, or where its number is not typed into it. */
export function stepsBehind(node) {
  const seen = new Set(), next = [node]
  while (next.length) {
    const here = next.shift()
    if (!here || seen.has(here)) continue
    seen.add(here)
    const value = (name) => here.widgets?.find((widget) => widget.name === name)?.value
    if (here !== node && value("steps") !== undefined) {
      if (["steps", "denoise"].some((name) => linked(here, name))) return {}
      return { steps: value("steps"), denoise: value("denoise") ?? 1 }
    }
    next.push(...behind(here))
  }
  return {}
}

function linked(node, name) {
  return node.inputs?.some((input) => input.widget?.name === name && input.link != null)
}

function behind(node) {
  const outputs = (node.outputs ?? []).filter((output) => FOLLOWED.includes(output.type))
  const links = outputs.flatMap((output) => output.links ?? [])
  return links.map((id) => node.graph?.getNodeById(node.graph.getLink(id)?.target_id))
}
