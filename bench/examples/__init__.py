"""Programs to start from; docs/scheduling.md explains them."""
