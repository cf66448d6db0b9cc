// Elements and their looks for Tune by Eye, in the colours of the editor's own theme.

import { addStyle, element } from "./elements.js"

const STYLE = `
.eye-sheet { display: flex; flex-direction: column; gap: 6px; height: 100%; box-sizing: border-box;
  padding: 4px; overflow: hidden; color: var(--input-text, #ddd); font: 12px/1.35 sans-serif; }
.eye-sheet [hidden] { display: none; }
.eye-title { font-weight: 600; }
.eye-pictures { display: grid; gap: 3px; overflow: auto; flex: 0 1 auto; min-height: 60px;
  align-content: start; user-select: none; }
.eye-cell { position: relative; border: 2px solid transparent; line-height: 0; }
.eye-pictures[data-open=true] .eye-cell { cursor: pointer; }
.eye-pictures[data-open=true] .eye-cell:hover { border-color: #4cc2ff88; }
.eye-cell img { width: 100%; image-rendering: auto; }
.eye-cell[data-chosen=true] { border-color: #4cc2ff; }
.eye-larger { position: absolute; right: 2px; top: 2px; opacity: 0; padding: 0 4px; }
.eye-cell:hover .eye-larger, .eye-larger:focus { opacity: .9; }
.eye-row { display: flex; flex-wrap: wrap; gap: 6px; align-items: center; }
.eye-next { display: flex; gap: 4px; align-items: center; margin-left: auto; }
.eye-sheet button, .eye-large button { background: var(--comfy-input-bg, #222); border-radius: 4px;
  color: inherit; border: 1px solid var(--border-color, #4e4e4e); cursor: pointer; font: inherit;
  padding: 2px 8px; }
.eye-sheet button:disabled { opacity: .4; cursor: default; }
.eye-sheet button[data-chosen=true] { border-color: #4cc2ff; background: #24506a; }
.eye-line { font-variant-numeric: tabular-nums; }
.eye-bottom { display: flex; gap: 8px; align-items: flex-start; flex: 0 0 auto; }
.eye-words { display: flex; flex-direction: column; gap: 6px; flex: 1 1 0; min-width: 0; }
.eye-plot { width: 46%; max-width: 400px; }
.eye-said[data-wrong=true] { color: var(--error-text, #ff7a59); }
.eye-question { display: flex; flex-wrap: wrap; gap: 6px; align-items: center; }
.eye-question:empty { display: none; }
.eye-name { flex: 1 1 120px; background: var(--comfy-input-bg, #222); color: inherit; font: inherit;
  border: 1px solid var(--border-color, #4e4e4e); border-radius: 4px; padding: 2px 6px; }
.eye-large { position: fixed; inset: 0; z-index: 10000; background: #000d; display: flex; color: #ddd;
  flex-direction: column; align-items: center; justify-content: center; gap: 8px;
  font: 14px/1.4 sans-serif; }
.eye-large img { max-width: 96vw; max-height: 86vh; object-fit: contain; min-width: 40vmin;
  image-rendering: auto; }
`

export function make(tag, kind = "", text = "", children = []) {
  addStyle("async-timestep-eye", STYLE)
  return element(tag, kind && `eye-${kind}`, text, children)
}
