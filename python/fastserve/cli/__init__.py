"""The `fastserve` command."""
