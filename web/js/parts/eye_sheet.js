// The sheet of Tune by Eye: pictures in columns, the answers, what is believed so far, Save, Start over.
//
//   const sheet = new Sheet(host)   host: ask, pictureUrl, url, queue, queuesNext, setQueuesNext
//   node.addDOMWidget("sheet", "tune_by_eye", sheet.element)
//   sheet.show(shown)               what the node has sent: see `shown` in nodes/eye.py

import { make } from "./eye_elements.js"
import { Large } from "./eye_large.js"

export const NONE_BETTER = 5
export const ALL_ALIKE = 6
const EMPTY = "Press Run: a sheet of pictures will stand here, and a click chooses one."

export class Sheet {
  constructor(host) {
    this.host = host
    this.shown = null // what the node has sent
    this.status = null // what the server says of the session, the newest
    this.large = new Large((column) => this.answer(column + 1))
    this.title = make("div", "title", EMPTY)
    this.pictures = make("div", "pictures")
    this.noneBetter = this.button("None better", () => this.answer(NONE_BETTER))
    this.allAlike = this.button("All alike", () => this.answer(ALL_ALIKE))
    this.line = make("div", "line")
    this.plot = make("img", "plot")
    this.plot.alt = "The schedule that the search would pick now, and how sure it is"
    this.plot.hidden = true
    this.said = make("div", "said")
    this.next = make("input")
    this.next.type = "checkbox"
    this.next.addEventListener("change", () => host.setQueuesNext(this.next.checked))
    const label = make("label", "next", "", [this.next, make("span", "", "next sheet by itself")])
    label.title = "Queues the next sheet as soon as you have chosen."
    this.save = this.button("Save...", () => this.askName())
    this.over = this.button("Start over", () => this.askOver())
    this.compare = this.button("Compare with off", () => this.toCompare())
    this.question = make("div", "question")
    this.answers = make("div", "row", "", [this.noneBetter, this.allAlike, label])
    const below = make("div", "row", "", [this.save, this.over, this.compare])
    const words = make("div", "words", "", [this.line, below, this.question, this.said])
    const bottom = make("div", "bottom", "", [words, this.plot])
    const parts = [this.title, this.answers, this.pictures, bottom]
    this.element = make("div", "sheet", "", parts)
    // what is typed and clicked here is not for the canvas
    for (const name of ["keydown", "keyup", "pointerdown", "wheel", "contextmenu"]) {
      this.element.addEventListener(name, (event) => event.stopPropagation())
    }
    this.draw()
  }

  button(text, pressed) {
    const button = make("button", "", text)
    button.type = "button"
    button.addEventListener("click", pressed)
    return button
  }

  show(shown) {
    const other = this.shown?.session !== shown.session || this.shown?.round !== shown.round
    this.shown = shown
    this.status = shown.status
    if (other) this.say("")
    this.closeQuestion()
    this.drawPictures()
    this.draw()
    this.refresh()
  }

  // Another tab, or an answer after this sheet was made: what the server says is right.
  async refresh() {
    await this.attempt(() => this.host.ask(this.path("status")))
  }

  path(what) {
    const { session, round } = this.shown
    return `/async_timestep/eye/${what}?${new URLSearchParams({ session, round })}`
  }

  drawPictures() {
    const { pictures, letters, prompts } = this.shown
    const cells = letters.map((letter, column) => this.head(letter, column))
    pictures.forEach((row, r) => {
      row.forEach((file, column) => cells.push(this.picture(file, r, column, prompts[r])))
    })
    this.pictures.style.gridTemplateColumns = `repeat(${letters.length}, minmax(0, 1fr))`
    this.pictures.replaceChildren(...cells)
  }

  head(letter, column) {
    const head = this.button(letter, () => this.answer(column + 1))
    head.className = "eye-head"
    head.dataset.column = column
    head.title = `I like ${letter} best`
    return head
  }

  picture(file, row, column, prompt) {
    const image = make("img")
    image.src = this.host.pictureUrl(file)
    image.alt = `${this.shown.letters[column]}: ${prompt}`
    image.draggable = false
    const larger = this.button("\u2922", (event) => {
      event.stopPropagation()
      const files = this.shown.pictures.map((files) => files.map(this.host.pictureUrl))
      this.large.open(files, this.shown.letters, row, column)
    })
    larger.className = "eye-larger"
    larger.title = "Look at it in full size; the arrow keys go to the others of the row"
    const cell = make("div", "cell", "", [image, larger])
    cell.dataset.column = column
    cell.title = prompt
    cell.addEventListener("click", () => this.answer(column + 1))
    return cell
  }

  draw() {
    const { shown, status } = this
    const answered = status?.answer ?? null
    const open = Boolean(shown) && Boolean(status?.open)
    this.title.textContent = shown ? this.heading(open, answered) : EMPTY
    for (const part of [this.noneBetter, this.allAlike]) part.disabled = !shown || !status?.changeable
    this.allAlike.textContent = shown?.kind === "compare" ? "I cannot tell" : "All alike"
    this.noneBetter.hidden = shown?.kind === "compare"
    this.noneBetter.dataset.chosen = answered === NONE_BETTER
    this.allAlike.dataset.chosen = answered === ALL_ALIKE
    for (const part of this.pictures.children) {
      part.dataset.chosen = answered !== null && Number(part.dataset.column) === answered - 1
    }
    this.pictures.dataset.open = Boolean(status?.changeable)
    this.line.textContent = status?.line ?? ""
    this.plot.hidden = !status
    if (status) {
      const query = new URLSearchParams({ session: status.session, version: status.plot })
      this.plot.src = this.host.url(`/async_timestep/eye/plot?${query}`)
    }
    this.next.checked = this.host.queuesNext()
    for (const part of [this.save, this.over]) part.disabled = !status?.count
    this.compare.disabled = !status?.can_compare
    this.compare.title = status?.compare_tip ?? ""
  }

  heading(open, answered) {
    const { round, kind } = this.shown
    const name = kind === "compare" ? `Last sheet, ${this.status.place}` : `Sheet ${round}`
    if (open) return `${name}: which column do you like best? Click on it.`
    if (answered === null) return `${name} is not the newest any more: press Run.`
    return `${name} is answered: press Run for the next one.`
  }

  async answer(choice) {
    if (!this.shown || !this.status?.changeable) return
    const { session, round } = this.shown
    const ok = await this.attempt(() => this.host.ask("/async_timestep/eye/answer", { session, round, choice }))
    if (ok && this.host.queuesNext()) this.host.queue()
  }

  // Runs what asks the server; its status is taken over, its sentence shown. Whether it went well.
  async attempt(question) {
    try {
      const status = await question()
      this.status = status
      this.say(status.said ?? "")
      this.draw()
      return true
    } catch (error) {
      this.say(error.message, true)
      return false
    }
  }

  say(sentence, wrong = false) {
    this.said.textContent = sentence
    this.said.dataset.wrong = wrong
  }

  askName() {
    const name = make("input", "name")
    name.value = this.status.proposed_name
    name.setAttribute("aria-label", "Name of the file in models/tpm")
    const send = async () => {
      const body = { session: this.shown.session, round: this.shown.round, name: name.value }
      if (await this.attempt(() => this.host.ask("/async_timestep/eye/save", body))) this.closeQuestion()
    }
    name.addEventListener("keydown", (event) => {
      if (event.key === "Enter") send()
      if (event.key === "Escape") this.closeQuestion()
    })
    this.ask("Save into models/tpm as", [name, this.button("Save", send)])
    name.select()
  }

  askOver() {
    const send = async () => {
      const { session, round } = this.shown
      const asked = () => this.host.ask("/async_timestep/eye/start_over", { session, round })
      if (await this.attempt(asked)) this.closeQuestion()
    }
    const text = `Forget ${this.status.choices_in_words}? The old session is kept under another name.`
    this.ask(text, [this.button("Yes, start over", send)])
  }

  ask(text, parts) {
    const cancel = this.button("Cancel", () => this.closeQuestion())
    this.question.replaceChildren(make("span", "", text), ...parts, cancel)
  }

  closeQuestion() {
    this.question.replaceChildren()
  }

  async toCompare() {
    const { session, round } = this.shown
    const ok = await this.attempt(() => this.host.ask("/async_timestep/eye/compare", { session, round }))
    if (ok && this.host.queuesNext()) this.host.queue()
  }
}
