// HTML elements, and style sheets that are put into the page once.

export function element(tag, className = "", text = "", children = []) {
  const made = document.createElement(tag)
  if (className) made.className = className
  if (text) made.textContent = text
  made.append(...children)
  return made
}

export function addStyle(id, text) {
  if (document.getElementById(id)) return
  const style = element("style", "", text)
  style.id = id
  document.head.append(style)
}
