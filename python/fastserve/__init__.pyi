from fastserve.engine.async_engine import AsyncEngine as AsyncEngine
from fastserve.engine.llm import LLM as LLM
from fastserve.types import SamplingParams as SamplingParams

__version__: str
