"""Text to token ids and back: Hugging Face tokenizers, chat templates, incremental detokenisation."""

from fastserve.tokenizer.chat_template import ChatTemplates
from fastserve.tokenizer.detokenizer import Delta, IncrementalDetokenizer
from fastserve.tokenizer.load import load_tokenizer
from fastserve.tokenizer.tokenizer import Tokenizer

__all__ = ["ChatTemplates", "Delta", "IncrementalDetokenizer", "Tokenizer", "load_tokenizer"]
