"""ops.token_logprobs against log_softmax in float64."""

from dataclasses import fields

import numpy as np
import pytest
import torch

from fastserve import ops
from fastserve.errors import InvalidArgumentError


def token_logprobs(logits, tokens, num_top):
    """ops.token_logprobs with the tokens where the logits are, and arrays as results."""
    if not logits.is_cuda:
        return ops.token_logprobs(logits, tokens, num_top)
    result = ops.token_logprobs(logits, torch.from_numpy(tokens).to(logits.device), num_top)
    return ops.TokenLogprobs(*(getattr(result, field.name).cpu().numpy() for field in fields(result)))


@pytest.mark.parametrize("vocab_size", [1, 63, 65, 1000, 32001])
@pytest.mark.parametrize("num_top", [0, 1, 5, 100])
def test_logprobs_ranks_and_top_tokens_match_float64(device, vocab_size, num_top):
    logits = (torch.randn(6, vocab_size) * 4).round(decimals=2)
    tokens = torch.randint(vocab_size, (6,), dtype=torch.int32)
    result = token_logprobs(logits, tokens.cpu().numpy(), num_top)
    truth = logits.double().log_softmax(1)
    chosen = logits.gather(1, tokens.long()[:, None])
    expected = truth.gather(1, tokens.long()[:, None])[:, 0].cpu().numpy()
    # A sum of up to 32001 fp32 exponentials, each within 2e-7, and one rounding of a value below 64.
    np.testing.assert_allclose(result.token_logprobs, expected, rtol=0, atol=5e-6)
    assert result.ranks.tolist() == (logits > chosen).sum(1).add(1).tolist()
    listed = min(num_top, vocab_size)
    order = np.lexsort((np.broadcast_to(np.arange(vocab_size), logits.shape), -logits.cpu().numpy()), axis=1)
    assert result.top_ids[:, :listed].tolist() == order[:, :listed].tolist()
    np.testing.assert_allclose(
        result.top_logprobs[:, :listed],
        np.take_along_axis(truth.cpu().numpy(), order[:, :listed], 1),
        rtol=0,
        atol=5e-6,
    )
    assert (result.top_ids[:, listed:] == -1).all()
    assert (result.top_logprobs[:, listed:] == -np.inf).all()


def test_logits_that_are_not_finite_have_no_probability(device):
    logits = torch.tensor([[torch.nan, 1.0, torch.inf, 0.0], [torch.nan] * 4, [-torch.inf, 2.0, 2.0, -torch.inf]])
    result = token_logprobs(logits, np.array([2, 1, 2], dtype=np.int32), 3)
    assert result.token_logprobs.tolist()[:2] == [-np.inf, -np.inf]
    assert result.token_logprobs[2] == pytest.approx(-np.log(2))
    assert result.ranks.tolist() == [3, 1, 1]
    assert result.top_ids.tolist() == [[1, 3, -1], [-1, -1, -1], [1, 2, -1]]
    assert result.top_logprobs[0, 0] == pytest.approx(-np.log1p(np.exp(-1)))


def test_no_token_has_no_rank(device):
    result = token_logprobs(torch.zeros(2, 5), np.array([-1, 5], dtype=np.int32), 0)
    assert result.ranks.tolist() == [0, 0]
    assert (result.token_logprobs == -np.inf).all()


def test_empty_batches(device):
    result = token_logprobs(torch.empty(0, 10), np.empty(0, dtype=np.int32), 2)
    assert result.top_ids.shape == (0, 2)


def test_arrays_that_do_not_fit_are_refused():
    with pytest.raises(InvalidArgumentError, match="tokens"):
        token_logprobs(torch.zeros(2, 5), np.zeros(3, dtype=np.int32), 0)
    with pytest.raises(InvalidArgumentError, match="tokens must be int32"):
        token_logprobs(torch.zeros(2, 5), np.zeros(2, dtype=np.int64), 0)
