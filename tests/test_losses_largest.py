"""The selection that the top-k losses share finds what torch.topk finds, in rows of any length and content."""

import pytest
import torch
from torch import Tensor

from paperlib.losses._common import competitors, largest, softmax

LENGTHS = (2, 3, 7, 11, 13, 100, 333, 1000, 10007)  # from some length on, rows are cut into blocks


def contents(kind: str, length: int) -> Tensor:
    generator = torch.Generator().manual_seed(length)
    rows = torch.randn(30, length, generator=generator)
    if kind == "ties":
        return rows.round()
    if kind == "largest":
        return (rows.sign() * torch.finfo(torch.float32).max).where(rows.abs() > 1, rows)
    if kind == "masked":
        return rows.masked_fill(torch.rand(rows.shape, generator=generator) < 0.7, -torch.inf)
    if kind == "lowest":  # the lowest number there is stands above a masked entry
        return torch.full_like(rows, torch.finfo(torch.float32).min).masked_fill(rows > 0, -torch.inf)
    return torch.where(rows > 0, 0.0, -0.0) if kind == "zeros" else rows


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("kind", ["plain", "ties", "largest", "masked", "lowest", "zeros"])
def test_largest_is_topk(kind: str, length: int, dtype: torch.dtype) -> None:
    rows = contents(kind, length).to(dtype)
    for count in (1, 2, 6, 16, 17):
        if count <= length:
            values, places = largest(rows, count)
            assert torch.equal(values, rows.topk(count, dim=1).values), count
            assert torch.equal(rows.gather(1, places), values), count
            assert all(len(set(row)) == count for row in places.tolist()), count


def test_competitors_are_the_largest_without_the_label() -> None:
    for length in (8, 14, 1000):
        rows = contents("ties", length)
        labels = rows.argsort(dim=1, descending=True)[torch.arange(30), torch.arange(30) % 8]
        without = rows.scatter(1, labels[:, None], -torch.inf)
        values, places = competitors(rows, labels, 5)
        assert torch.equal(values, without.topk(5, dim=1).values)
        assert torch.equal(rows.gather(1, places), values)
        assert not (places == labels[:, None]).any()


def test_the_values_carry_a_gradient() -> None:
    rows = contents("plain", 1000).requires_grad_()
    values, places = largest(rows, 3)
    values.sum().backward()
    assert torch.equal(rows.grad, torch.zeros_like(rows).scatter(1, places, 1.0))


def test_zeros_survive_a_processor_that_flushes_small_numbers() -> None:
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor does not flush")
    try:
        values, places = largest(torch.zeros(3, 12), 4)
    finally:
        torch.set_flush_denormal(False)
    assert (values == 0).all() and all(len(set(row)) == 4 for row in places.tolist())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("length", LENGTHS[:6])
@pytest.mark.parametrize("kind", ["plain", "ties", "masked", "zeros"])
def test_softmax_is_torchs_and_so_are_its_derivatives(kind: str, length: int, dtype: torch.dtype) -> None:
    rows = contents(kind, length).to(dtype)
    rows[:, 0] = 0.5  # not all masked
    own, torchs = rows.clone().requires_grad_(), rows.clone().requires_grad_()
    vector = torch.randn(rows.shape, generator=torch.Generator().manual_seed(1), dtype=dtype)
    found, expected = softmax(own), torchs.softmax(dim=1)
    torch.testing.assert_close(found, expected)
    assert found.is_contiguous()
    first, wanted = (torch.autograd.grad(value, leaf, vector, create_graph=True)[0]
                     for value, leaf in ((found, own), (expected, torchs)))
    torch.testing.assert_close(first, wanted)
    second, wanted = (torch.autograd.grad(each, leaf, vector)[0] for each, leaf in ((first, own), (wanted, torchs)))
    torch.testing.assert_close(second, wanted)
    assert softmax(rows[:0]).shape == (0, length)
