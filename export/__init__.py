"""Export recipes: one TOML file a recipe; see README.md."""
