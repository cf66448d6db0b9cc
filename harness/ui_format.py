"""A workflow as the editor saves it (UI format) into what the server runs (API format)."""

from __future__ import annotations

NOTES = ("Note", "MarkdownNote")


def to_prompt(workflow: dict, object_info: dict) -> dict:
    """API-format graph. Raises KeyError on a node that the server does not have."""
    source = {link[0]: [str(link[1]), link[2]] for link in workflow["links"]}
    prompt = {}
    for node in workflow["nodes"]:
        if node["type"] in NOTES:
            continue
        known = object_info[node["type"]]["input"]
        options = {**known.get("required", {}), **known.get("optional", {})}
        values = iter(node.get("widgets_values", []))
        inputs = {}
        for slot in node.get("inputs", []):
            name = slot["name"]
            if "widget" in slot:
                inputs[name] = next(values)
                if (options[name] + [{}])[1].get("control_after_generate"):
                    next(values)  # the editor's own "fixed" / "randomize"
            if slot.get("link") is not None:
                inputs[name] = source[slot["link"]]
        prompt[str(node["id"])] = {"class_type": node["type"], "inputs": inputs}
    return prompt
