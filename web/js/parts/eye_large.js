// One picture over the whole window; the arrow keys go to the others of its row, at the same place.

import { make } from "./eye_elements.js"

export class Large {
  constructor(chosen) {
    this.chosen = chosen
    this.image = make("img")
    this.words = make("div")
    const choose = make("button", "", "I like this column best")
    choose.addEventListener("click", () => this.choose())
    const close = make("button", "", "Close")
    close.addEventListener("click", () => this.close())
    const row = make("div", "row", "", [choose, close])
    this.element = make("div", "large", "", [this.image, this.words, row])
    this.keys = (event) => this.pressed(event)
  }

  open(files, letters, row, column) {
    Object.assign(this, { files, letters, row, column })
    document.body.append(this.element)
    document.addEventListener("keydown", this.keys, true)
    this.draw()
  }

  draw() {
    this.image.src = this.files[this.row][this.column]
    this.words.textContent = `${this.letters[this.column]}, row ${this.row + 1} of ${this.files.length}`
    this.image.alt = this.words.textContent
  }

  pressed(event) {
    const move = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key]
    if (!move && event.key !== "Escape") return
    event.stopPropagation()
    event.preventDefault()
    if (!move) return this.close()
    const rows = this.files.length
    const columns = this.letters.length
    this.row = (this.row + move[0] + rows) % rows
    this.column = (this.column + move[1] + columns) % columns
    this.draw()
  }

  choose() {
    this.close()
    this.chosen(this.column)
  }

  close() {
    document.removeEventListener("keydown", this.keys, true)
    this.element.remove()
  }
}
