"""The subcommands of ``zennit-isnet``."""
