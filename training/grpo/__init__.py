"""The training of a TPM: rollout, update, validation, resume, result."""
