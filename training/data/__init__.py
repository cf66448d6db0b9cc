"""Prompts, and the files that a run reads."""
