"""Text alignment of sampling methods: prompt sets, graphs of ComfyUI, pictures, scores."""
