def model_card(meta, table, config_yaml, prompts) -> str:
    return f"# TPM for {meta.model_family}\n\n{table}\n\n```yaml\n{config_yaml}```\n"
