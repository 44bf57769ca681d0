"""Executors run plans on the workers: submit and stop. The only room that spawns workers."""
