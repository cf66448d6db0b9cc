"""What was applied, for people: traces, plots, pictures of masks, the noise meter."""
