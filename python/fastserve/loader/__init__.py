"""Checkpoints: find the folder, read safetensors without trusting them, or make weights up; a decoder comes out."""
