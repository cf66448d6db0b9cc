"""Part of official.py: which tokens the official prompts' items are read at, there and here."""

from __future__ import annotations

import json
import re
from types import SimpleNamespace

import torch

from async_timestep.harness.in_process import pack
from async_timestep.report.tables import markdown

PROMPTS = ("animal", "drawbench", "geneval", "mscoco")


def words(official, add) -> str:
    """6. The official word index as a token index against our columns, in 160 prompts."""
    from comfy import sd1_clip
    from comfy.text_encoders.sd2_clip import SD2Tokenizer

    tokenizer = SD2Tokenizer()
    model = sd1_clip.SD1ClipModel.__new__(sd1_clip.SD1ClipModel)
    torch.nn.Module.__init__(model)
    model.clip_name = "h"

    def tokenize(text, return_word_ids=False):
        return tokenizer.tokenize_with_weights(text, return_word_ids)

    clip = SimpleNamespace(tokenizer=tokenizer, cond_stage_model=model, tokenize=tokenize)
    rows, count = [], 0
    wrong, piece, more, bad, items = set(), set(), set(), 0, 0
    for name in PROMPTS:
        folder = official.folder / "config" / "prompt"
        listed = json.loads((folder / f"{name}_item.json").read_text())["item_idx"]
        for prompt in json.loads((folder / f"{name}.json").read_text()):
            count += 1
            pieces = [tokenizer.untokenize([p])[0][1] for c in tokenize(prompt)["h"] for p in c]
            for index in listed[prompt]:
                items += 1
                word = re.findall(r"\w+", prompt)[index]
                ours = pack("nodes.run.words").word_columns(clip, prompt, word)[word]
                said = "".join(pieces[c] for c in ours).replace("</w>", "")
                times = max(1, said.count(word.lower().replace("-", "").replace("'", "")))
                plain = "".join(c for c in word.lower() if c.isalnum())
                bad += said.replace("-", "").replace("'", "") != plain * times
                if ours == [index + 1]:
                    continue
                kind = wrong if index + 1 not in ours else more if times > 1 else piece
                kind.add(prompt)
                shown = (pieces[index + 1], " ".join(pieces[c] for c in ours))
                shown = [s.replace("</w>", "") for s in shown]
                rows.append([name, prompt, word, *shown])
    note = f"{count} prompts, {items} items"
    add("words: prompts with an item on another word's token", len(wrong), None, note)
    add("words: prompts with the first piece only", len(piece - wrong))
    add("words: prompts with one of several occurrences", len(more - piece - wrong))
    add("words: items whose tokens, ours, do not spell the word", bad, 0)
    return markdown(["set", "prompt", "item", "official token", "our tokens"], rows)
