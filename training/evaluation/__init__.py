"""Paired measurements: methods against D = 0 on the same prompts and noises."""
