"""The run folder: its record, and its samples again."""
