"""The coupling kernels on a GPU: bit-equal to ATen's operators there."""

import itertools

import pytest
import torch

pytestmark = pytest.mark.gpu
DTYPES = [torch.float32, torch.float64]
LAYOUTS = {
    "contiguous": lambda t: t,
    "piece of a chunk": lambda t: torch.cat([t, t], 1).chunk(2, 1)[1],
    "transposed": lambda t: t.transpose(0, -1).contiguous().transpose(0, -1),
    "channels last": lambda t: t.contiguous(memory_format=torch.channels_last),
}


def operands(dtype, layout, shape=(5, 6, 7, 9)):
    g = torch.Generator("cuda").manual_seed(1)
    x, f = (torch.randn(shape, dtype=dtype, device="cuda", generator=g)
            for _ in range(2))
    return LAYOUTS[layout](x), LAYOUTS[layout](f)


def cases(function):
    for decorator in (
            pytest.mark.parametrize("scales", [(1.0, 1.0), (1.0, -1.0),
                                               (0.7, 1.0)]),
            pytest.mark.parametrize("layout", LAYOUTS),
            pytest.mark.parametrize("dtype", DTYPES)):
        function = decorator(function)
    return function


@cases
def test_scaled_add_is_bit_equal_to_mul_and_add(dtype, layout, scales):
    x, f = operands(dtype, layout)
    y = torch.ops.inv.scaled_add(x, f, *scales)
    assert torch.equal(y, scales[0] * x + scales[1] * f)


@cases
def test_inverse_undoes_in_place(dtype, layout, scales):
    x, f = operands(dtype, layout)
    y = torch.ops.inv.scaled_add(x, f, *scales)
    expected = (y - scales[1] * f) / scales[0]
    undone = torch.ops.inv.scaled_add_inverse_(y, f, *scales)
    assert undone.data_ptr() == y.data_ptr()
    assert torch.equal(y, expected)
    bound = 8 * torch.finfo(dtype).eps * max(1, 1 / scales[0])
    scale = torch.maximum(x.abs(), f.abs()).max()
    assert (y - x).abs().max() <= bound * scale


def test_near_miss_other_scale_is_not_equal():
    x, f = operands(torch.float32, "contiguous")
    assert not torch.equal(torch.ops.inv.scaled_add(x, f, 1.0, 1.0),
                           x + 0.999 * f)


def test_empty_and_odd_sizes():
    for shape in itertools.chain([(0,), (1,), (3, 0, 2)],
                                 [(n,) for n in (31, 33, 1025, 100_003)]):
        x, f = torch.randn(shape).cuda(), torch.randn(shape).cuda()
        assert torch.equal(torch.ops.inv.scaled_add(x, f, 1.0, 1.0), x + f)
