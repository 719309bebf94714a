"""Settings: what an operator can choose, read once from flags, environment and a TOML file."""
