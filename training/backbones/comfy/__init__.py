"""A workflow of ComfyUI's as the model to train on; the only room of the trainer that needs it."""
