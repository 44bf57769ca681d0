"""Checkpoints: find the folder, read safetensors without trusting them, or make weights up; a decoder comes out."""

from fastserve.loader.load import LoadedModel, ModelOutline, load_model, outline_model
from fastserve.loader.resolve import resolve_model

__all__ = ["LoadedModel", "ModelOutline", "load_model", "outline_model", "resolve_model"]
