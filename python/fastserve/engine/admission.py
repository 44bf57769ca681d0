"""From a user's request to the sequences the engine runs: check the prompt, fan out n completions."""

from array import array
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from fastserve.engine.request import pack_token_ids, unpack_token_ids
from fastserve.errors import InvalidArgumentError
from fastserve.tokenizer import Tokenizer
from fastserve.types import EngineInfo, SamplingParams

_MASK_64 = 2**64 - 1


def check_prompt(token_ids: Sequence[int], info: EngineInfo) -> "array[int]":
    """Return the prompt as array('i').

    Raises:
        InvalidArgumentError: empty, longer than max_model_len - 1, or with an id outside the vocabulary.
    """
    num_tokens = len(token_ids)
    if num_tokens == 0:
        raise InvalidArgumentError("the prompt must have at least one token, got none")
    if num_tokens >= info.max_model_len:
        raise InvalidArgumentError(
            f"the prompt must leave room for one token in max_model_len ({info.max_model_len}), got {num_tokens} tokens;"
            " shorten it or raise max_model_len"
        )
    packed = pack_token_ids(token_ids)
    ids = np.frombuffer(packed, np.int32)
    low, high = int(ids.min()), int(ids.max())
    if low < 0 or high >= info.vocab_size:
        bad = low if low < 0 else high
        raise InvalidArgumentError(f"prompt token ids must be between 0 and {info.vocab_size - 1}, got {bad}")
    return unpack_token_ids(packed)


def sequence_sampling(sampling: SamplingParams, index: int) -> SamplingParams:
    """Return the parameters of one of the n completions, as the engine gets them.

    Stop strings and bad words stay in the frontend: the engine knows no text. Completion 0 keeps the seed, so that it is
    the same for every n. It alone has the log-probabilities of the prompt, which are the same for all.
    """
    seed = sampling.seed if sampling.seed is None or index == 0 else _derived_seed(sampling.seed, index)
    prompt_logprobs = sampling.prompt_logprobs if index == 0 else None
    return replace(sampling, n=1, seed=seed, stop=(), bad_words=(), prompt_logprobs=prompt_logprobs)


def check_sampling(sampling: SamplingParams, info: EngineInfo) -> None:
    """Refuse what no output of the model can follow.

    Raises:
        InvalidArgumentError: `logit_bias` or `allowed_token_ids` names a token outside the vocabulary.
    """
    named = {"logit_bias": tuple(sampling.logit_bias), "allowed_token_ids": sampling.allowed_token_ids or ()}
    for name, token_ids in named.items():
        if token_ids and max(token_ids) >= info.vocab_size:
            raise InvalidArgumentError(
                f"{name} must name token ids between 0 and {info.vocab_size - 1}, got {max(token_ids)}"
            )


def bad_word_ids(words: Sequence[str], tokenizer: Tokenizer, vocab_size: int) -> tuple[tuple[int, ...], ...]:
    """Return the sequences of tokens that the model could write for words, at the beginning of a text and within it.

    As vLLM does: each word as it is, and after a space where that gives another first token and no more tokens. Sequences
    with a token outside the vocabulary cannot be written and are left out.
    """
    found: list[tuple[int, ...]] = []
    for word in words:
        bare = tuple(tokenizer.encode(word.lstrip(), add_special_tokens=False))
        spaced = tuple(tokenizer.encode(" " + word.lstrip(), add_special_tokens=False))
        found.append(bare)
        if len(spaced) == len(bare) and spaced[:1] != bare[:1]:
            found.append(spaced)
    return tuple(ids for ids in dict.fromkeys(found) if ids and max(ids) < vocab_size)


def _derived_seed(seed: int, index: int) -> int:
    """Mix seed and index by splitmix64's finaliser (Steele, Lea, Flood 2014), as a signed 64-bit integer."""
    z = (seed + index * 0x9E3779B97F4A7C15) & _MASK_64
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK_64
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK_64
    z ^= z >> 31
    return z - 2**64 if z >= 2**63 else z
