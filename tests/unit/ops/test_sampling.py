"""ops.sample: exact sets and formulas against a float64 oracle, distributions by chi-square."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from fastserve.errors import InvalidArgumentError
from fastserve.types import BAD_LISTS, BAD_SETTINGS
from tests.devices import is_simulated
from tests.unit.ops.sampling_batch import sample, settings


@pytest.fixture
def num_draws(device):
    return 400 if is_simulated(device) else 20_000


def draw_many(row, count, **changes):
    """Sample one row of logits `count` times with the seeds 0, 1, ..."""
    logits = row.expand(count, -1)
    return sample(logits, settings(count, **{"temperature": 1.0, "seeds": np.arange(count), **changes}))


def kept_set(row, *, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0):
    """The tokens the filters keep, by their definition, in float64."""
    order = np.lexsort((np.arange(len(row)), -row.double().cpu().numpy()))
    if top_k > 0:
        order = order[:top_k]
    weights = np.exp((row.double().cpu().numpy()[order] - float(row.max())) / temperature)
    probabilities = weights / weights.sum()
    before = np.cumsum(probabilities) - probabilities
    keep = before < top_p
    keep[0] = True
    return set(order[keep & (weights >= min_p)].tolist())


def assert_distribution(tokens, probabilities):
    """Chi-square with fixed seeds: five standard deviations of the statistic, classes of at least 5 expected draws."""
    count = len(tokens)
    observed = np.bincount(tokens, minlength=len(probabilities)).astype(float)
    assert observed[probabilities == 0].sum() == 0
    expected = probabilities * count
    rare = expected < 5
    observed = np.append(observed[~rare], observed[rare].sum())
    expected = np.append(expected[~rare], expected[rare].sum())
    observed, expected = observed[expected > 0], expected[expected > 0]
    freedom = len(expected) - 1
    statistic = ((observed - expected) ** 2 / expected).sum()
    assert statistic < freedom + 5 * np.sqrt(2 * max(freedom, 1)), (statistic, freedom)


@pytest.mark.parametrize("vocab_size", [1, 5, 63, 64, 65, 1000, 32001])
def test_greedy_takes_the_largest_logit(device, vocab_size):
    logits = torch.randn(9, vocab_size)
    assert sample(logits, settings(9)).tolist() == logits.argmax(1).tolist()


def test_greedy_takes_the_lowest_id_of_equal_logits(device):
    logits = torch.zeros(1, 500)
    assert sample(logits, settings(1)).tolist() == [0]
    logits[0, [130, 131, 400]] = 2.0
    assert sample(logits, settings(1)).tolist() == [130]


def test_top_k_one_and_tiny_values_are_greedy(device):
    logits = torch.randn(20, 300).round(decimals=1)
    greedy = sample(logits, settings(20))
    assert sample(logits, settings(20, temperature=5.0, top_k=1)).tolist() == greedy.tolist()
    assert sample(logits, settings(20, temperature=5.0, top_p=0.0)).tolist() == greedy.tolist()
    assert sample(logits, settings(20, temperature=1e-6)).tolist() == greedy.tolist()
    unique = torch.stack([torch.randperm(300) for _ in range(20)]).float()
    assert sample(unique, settings(20, temperature=5.0, min_p=1.0)).tolist() == unique.argmax(1).tolist()


@pytest.mark.parametrize(
    "filters",
    [
        {"top_k": 7},
        {"top_p": 0.83},
        {"min_p": 0.07},
        {"top_k": 40, "top_p": 0.7},
        {"top_k": 40, "min_p": 0.2},
        {"top_p": 0.95, "min_p": 0.03},
        {"top_k": 100, "top_p": 0.9, "min_p": 0.01, "temperature": 0.6},
        {"top_p": 0.9, "temperature": 2.5},
    ],
    ids=str,
)
def test_filters_keep_exactly_the_set_of_their_definition(device, filters, num_draws):
    row = torch.randn(400) * 3
    drawn = set(draw_many(row, num_draws, **filters).tolist())
    kept = kept_set(row, **filters)
    assert drawn <= kept
    # A token of the set is missed by all draws only when it is very unlikely.
    probabilities = torch.softmax(row.double() / filters.get("temperature", 1.0), 0)
    assert {token for token in kept if probabilities[token] > 20 / num_draws} <= drawn


def test_equal_logits_at_the_edge_of_top_k_are_kept_by_id(device, num_draws):
    row = torch.zeros(300)
    row[200] = 1.0
    assert set(draw_many(row, num_draws, top_k=4).tolist()) == {200, 0, 1, 2}


@pytest.mark.parametrize("top_k", [1000, 20000, 49999])
def test_a_top_k_of_much_of_the_vocabulary(device, top_k):
    row = torch.randn(50000) * 0.01
    tokens = draw_many(row, 40, top_k=top_k)
    assert set(tokens.tolist()) <= kept_set(row, top_k=top_k)


@pytest.mark.parametrize("filters", [{}, {"top_k": 20}, {"top_p": 0.8}, {"min_p": 0.1}, {"temperature": 0.5}], ids=str)
def test_draws_follow_the_distribution(device, filters, num_draws):
    row = torch.randn(200) * 2
    tokens = draw_many(row, num_draws, **filters)
    weights = torch.softmax(row.double() / filters.get("temperature", 1.0), 0).cpu().numpy()
    kept = np.zeros(200, dtype=bool)
    kept[list(kept_set(row, **filters))] = True
    weights = np.where(kept, weights, 0)
    assert_distribution(tokens, weights / weights.sum())


def test_counters_give_draws_as_independent_as_seeds(device, num_draws):
    row = torch.randn(50)
    tokens = draw_many(row, num_draws, seeds=np.full(num_draws, 7), counters=np.arange(num_draws))
    assert_distribution(tokens, torch.softmax(row.double(), 0).cpu().numpy())
    pairs = tokens[:-1] * 50 + tokens[1:]
    p = torch.softmax(row.double(), 0).cpu().numpy()
    assert_distribution(pairs, np.outer(p, p).ravel())


def test_a_draw_depends_on_seed_and_counter_alone(device, set_num_threads):
    logits = torch.randn(64, 5000)
    seeds = np.random.default_rng(1).integers(0, 2**64, 64, dtype=np.uint64)
    batch = settings(64, temperature=1.0, seeds=seeds, counters=np.arange(64) + 2**40, top_k=np.arange(64) % 3 * 40)
    together = sample(logits, batch)
    set_num_threads(1)
    assert sample(logits, batch).tolist() == together.tolist()
    for row in (0, 1, 17, 63):
        alone = settings(1, temperature=1.0, seeds=seeds[row], counters=row + 2**40, top_k=row % 3 * 40)
        assert sample(logits[row : row + 1], alone).tolist() == [together[row]]
    signed = replace(batch, seeds=seeds.view(np.int64))
    assert sample(logits, signed).tolist() == together.tolist()


def test_the_random_numbers_are_philox(device):
    # Known answer of Philox4x32-10 for counter 0, key 0: 6627e8d5 e169c58d ...
    number = (0x6627E8D5E169C58D >> 11) * 2.0**-53
    levels = torch.zeros(1, 1000)
    assert sample(levels, settings(1, temperature=1.0)).tolist() == [int(number * 1000)]


def penalised(row, prompt, output, repetition, presence, frequency):
    expected = row.double().clone()
    for token in {*prompt, *output}:
        expected[token] = expected[token] / repetition if expected[token] > 0 else expected[token] * repetition
    for token in set(output):
        expected[token] -= frequency * output.count(token) + presence
    return expected


def test_penalties_follow_the_formula(device):
    generator = np.random.default_rng(3)
    rows, prompts, outputs = torch.randn(200, 40), [], []
    for _ in range(200):
        prompts.append(generator.integers(0, 40, 12).tolist())
        outputs.append(generator.integers(0, 40, 9).tolist())
    batch = settings(
        200, repetition_penalty=1.4, presence_penalty=0.3, frequency_penalty=0.21, prompts=prompts, outputs=outputs
    )
    expected = [penalised(r, p, o, 1.4, 0.3, 0.21).argmax() for r, p, o in zip(rows, prompts, outputs, strict=True)]
    before = rows.clone()
    assert sample(rows, batch).tolist() == [int(token) for token in expected]
    assert torch.equal(rows, before)


def test_presence_and_frequency_leave_the_prompt_alone(device):
    row = torch.tensor([[2.0, 1.0, 0.0]])
    assert sample(row, settings(1, presence_penalty=5.0, prompts=[[0, 0]])).tolist() == [0]
    assert sample(row, settings(1, presence_penalty=1.5, outputs=[[0, 0]])).tolist() == [1]
    assert sample(row, settings(1, frequency_penalty=0.6, outputs=[[0, 0]])).tolist() == [1]
    assert sample(row, settings(1, frequency_penalty=0.6, outputs=[[0]])).tolist() == [0]
    assert sample(row, settings(1, repetition_penalty=3.0, prompts=[[0, 0]])).tolist() == [1]
    assert sample(row, settings(1, presence_penalty=-3.0, outputs=[[1]])).tolist() == [1]


def test_penalties_do_not_linger_from_row_to_row(device, set_num_threads):
    set_num_threads(1)
    row = torch.tensor([2.0, 1.9, 0.0])
    batch = settings(2, frequency_penalty=0.2, prompts=[[0, 1], []], outputs=[[0, 0], [0]])
    assert sample(row.expand(2, -1), batch).tolist() == [1, 1]


def test_banned_tokens_are_never_sampled(device, num_draws):
    logits = torch.randn(1, 80)
    order = logits[0].argsort(descending=True).tolist()
    assert sample(logits, settings(1, banned=[order[:3]])).tolist() == [order[3]]
    tokens = draw_many(logits[0], num_draws, banned=[order[:3]] * num_draws, top_k=2)
    assert set(tokens.tolist()) == set(order[3:5])
    assert sample(logits, settings(1, banned=[list(range(80))])).tolist() == [-1]


def test_a_banned_sequence_is_banned_where_the_output_ends_in_its_beginning(device):
    rows, order = torch.linspace(1.0, 0.0, 9).expand(7, -1), [[~7, ~8, 0]] * 7
    prompts = [[], [], [7], [7, 8], [], [], []]
    outputs = [[7, 8], [1, 7, 8], [8], [], [7, 8, 1], [8], []]
    assert sample(rows, settings(7, banned=order, prompts=prompts, outputs=outputs)).tolist() == [1, 1, 0, 0, 0, 0, 0]
    several = [[1, ~7, 0, ~8, 2, 3], [~8, 0, ~7, 1]]
    assert sample(rows[:2], settings(2, banned=several, outputs=[[7], [7]])).tolist() == [2, 0]


def test_biases_are_added_before_the_penalties(device):
    row = torch.tensor([[2.0, 1.0, 0.0, -1.0]])
    assert sample(row, settings(1, biases=[{1: 1.5}])).tolist() == [1]
    assert sample(row, settings(1, biases=[{0: -100, 1: -100}])).tolist() == [2]
    assert sample(row, settings(1, biases=[{3: 3.5}], outputs=[[3]], frequency_penalty=0.4)).tolist() == [3]
    assert sample(row, settings(1, biases=[{3: 3.5}], outputs=[[3]], repetition_penalty=2.0)).tolist() == [0]
    assert sample(row, settings(1, biases=[{0: -100, 4: 100, -1: 100, 2**31 - 1: 100}])).tolist() == [1]


def test_where_only_biased_tokens_may_be_sampled_no_others_are(device, num_draws):
    rows = torch.randn(3, 80)
    best = rows.argmax(1).tolist()
    only = settings(3, biases=[{5: 0.0, 70: 0.0}, {}, {5: 0.0}], only_biased=[1, 1, 0])
    assert sample(rows, only).tolist() == [70 if rows[0, 70] > rows[0, 5] else 5, *best[1:]]
    draws = draw_many(rows[0], num_draws, biases=[{5: 1.0, 70: 0.0}] * num_draws, only_biased=1, temperature=2.0)
    pair = torch.softmax(torch.tensor([rows[0, 5] + 1.0, rows[0, 70]]).double() / 2.0, 0).cpu().numpy()
    assert_distribution((draws == 70).astype(int), pair)
    assert set(draws.tolist()) == {5, 70}
    assert sample(rows[:1], settings(1, biases=[{5: 0.0}], only_biased=1, banned=[[5]])).tolist() == [-1]


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("filters", [{}, {"temperature": 1.0}, {"temperature": 1.0, "top_k": 5, "top_p": 0.9}], ids=str)
def test_logits_that_are_not_finite_are_never_sampled(device, bad, filters):
    logits = torch.full((40, 130), bad)
    assert sample(logits, settings(40, seeds=np.arange(40), **filters)).tolist() == [-1] * 40
    logits[:, 77] = -3.0
    assert sample(logits, settings(40, seeds=np.arange(40), **filters)).tolist() == [77] * 40
    logits[:, 128] = -3.5
    assert set(sample(logits, settings(40, seeds=np.arange(40), **filters)).tolist()) <= {77, 128}


def test_extreme_finite_logits_stay_in_range(device):
    largest = torch.finfo(torch.float32).max
    logits = torch.tensor([[largest, -largest, 0.0], [-largest, -largest, -largest]])
    for temperature in (1e-4, 1.0, 1e30):
        tokens = sample(logits, settings(2, temperature=temperature, seeds=[5, 6]))
        assert all(0 <= token < 3 for token in tokens)


def test_empty_batches_and_strided_rows(device):
    assert sample(torch.empty(0, 100), settings(0)).shape == (0,)
    assert sample(torch.empty(2, 0), settings(2)).tolist() == [-1, -1]
    wide = torch.randn(4, 300)
    assert sample(wide[:, 50:250], settings(4)).tolist() == wide[:, 50:250].argmax(1).tolist()
    assert sample(wide.cpu().numpy(), settings(4)).tolist() == wide.argmax(1).tolist()


@pytest.mark.parametrize(
    "changes",
    [
        {"temperature": -1.0},
        {"temperature": np.nan},
        {"temperature": np.inf},
        {"top_p": 1.5},
        {"top_p": np.nan},
        {"min_p": -0.1},
        {"repetition_penalty": 0.0},
        {"repetition_penalty": np.inf},
        {"presence_penalty": np.nan},
        {"frequency_penalty": -np.inf},
    ],
    ids=str,
)
def test_a_row_with_a_setting_out_of_range_fails_alone(device, changes):
    logits, ((name, bad),) = torch.randn(3, 10, device=device), changes.items()
    healthy = sample(logits, settings(3))
    batch = settings(3, **{name: [getattr(settings(1), name)[0], bad, getattr(settings(1), name)[0]]})
    assert sample(logits, batch).tolist() == [healthy[0], BAD_SETTINGS, healthy[2]]


@pytest.mark.parametrize("bad", [{"prompts": [10]}, {"outputs": [-1]}], ids=str)
def test_a_row_with_a_history_outside_the_vocabulary_fails_alone(bad):
    logits = torch.randn(3, 10)
    batch = settings(3, **{name: [[], tokens, []] for name, tokens in bad.items()})
    healthy = sample(logits, settings(3))
    assert sample(logits, batch).tolist() == [healthy[0], BAD_LISTS, healthy[2]]


@pytest.mark.parametrize(
    ("name", "values", "bad_rows"),
    [
        ("history_start", [0, -1, 0, 0], [0, 1]),
        ("history_start", [0, 0, 9, 0], [1, 2]),
        ("banned_start", [0, 1, 0, 0], [1]),
        ("bias_start", [0, 0, 9, 0], [1, 2]),
        ("bias_start", [0, -1, 0, 0], [0, 1]),
        ("history_prompt_len", [0, 1, 0], [1]),
        ("history_prompt_len", [0, -1, 0], [1]),
    ],
)
def test_rows_whose_lists_do_not_fit_fail_alone(name, values, bad_rows):
    logits = torch.randn(3, 10)
    healthy = sample(logits, settings(3))
    batch = replace(settings(3), banned_tokens=np.array([9], np.int32), **{name: np.array(values, dtype=np.int32)})
    tokens = sample(logits, batch)
    assert np.flatnonzero(tokens == BAD_LISTS).tolist() == bad_rows
    assert all(tokens[row] == healthy[row] for row in set(range(3)) - set(bad_rows) if healthy[row] != 9)


def test_bans_of_tokens_outside_the_vocabulary_have_no_effect():
    logits = torch.linspace(1.0, 0.0, 10)[None]
    assert sample(logits, settings(1, banned=[[0, -1, 10, 2**31 - 1]])).tolist() == [1]


def test_arrays_that_do_not_fit_are_refused():
    good = settings(2)
    for name in ("temperature", "top_k", "seeds", "history_start", "history_prompt_len", "bias_start", "only_biased"):
        with pytest.raises(InvalidArgumentError, match=name.removesuffix("_start")):
            sample(torch.zeros(2, 10), replace(good, **{name: getattr(good, name)[:-1]}))
    with pytest.raises(InvalidArgumentError, match="bias_values"):
        sample(torch.zeros(2, 10), replace(good, bias_values=np.zeros(1, np.float32)))
    with pytest.raises(InvalidArgumentError, match="logits must be float32"):
        sample(torch.zeros(2, 10, dtype=torch.float64).half(), good)
