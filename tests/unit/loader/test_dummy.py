"""Random weights."""

import torch

from fastserve.loader.dummy import DummyWeights


def filled(seed: int, name: str, *shape: int) -> torch.Tensor:
    out = torch.empty(shape)
    DummyWeights(seed).read_into(name, out)
    return out


def test_values_depend_on_seed_and_name_only() -> None:
    first = filled(1, "q.weight", 8, 8)
    assert torch.equal(first, filled(1, "q.weight", 8, 8))
    assert not torch.equal(first, filled(2, "q.weight", 8, 8))
    assert not torch.equal(first, filled(1, "k.weight", 8, 8))


def test_any_seed_is_accepted() -> None:
    for seed in (0, -1, 2**63 - 1, 2**70):
        assert filled(seed, "q.weight", 4, 4).isfinite().all()


def test_a_matrix_keeps_the_size_of_what_it_multiplies() -> None:
    x = torch.randn(64, 512, generator=torch.Generator().manual_seed(0))
    y = x @ filled(0, "q.weight", 512, 512).T
    assert 0.9 < y.std().item() < 1.1


def test_norms_are_one_and_biases_small() -> None:
    assert torch.equal(filled(0, "norm.weight", 16), torch.ones(16))
    assert 0.0 < filled(0, "q_proj.bias", 16).abs().max().item() <= 0.02


def test_a_slice_has_the_values_of_the_whole() -> None:
    weights = DummyWeights(3)
    for shape in ((6, 10), (6,)):
        name = "q.weight" if len(shape) == 2 else "q.bias"
        whole = filled(3, name, *shape)
        weights.expect(name, shape)
        rows = torch.empty(2, *shape[1:])
        weights.read_into(name, rows, rows=range(3, 5))
        assert torch.equal(rows, whole[3:5])
    whole, part = filled(3, "q.weight", 6, 10), torch.empty(4, 3)
    weights.read_into("q.weight", part, rows=range(1, 5), columns=range(6, 9))
    assert torch.equal(part, whole[1:5, 6:9])
