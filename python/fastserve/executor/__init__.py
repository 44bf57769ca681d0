"""Executors run plans on the workers: in this process, or on ranks in processes of their own. The only room that spawns workers."""
