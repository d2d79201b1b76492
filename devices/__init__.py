"""Device profiles: one TOML file a device; see README.md."""
