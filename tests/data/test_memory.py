import pytest
import torch

from misgiving.data.memory import fresh


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.uint8, torch.bfloat16])
@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (0, 3, 4, 5), (700, 3, 50, 50)])
def test_memory_is_of_the_shape_and_kind_asked_for(shape, dtype):
    tensor = fresh(shape, dtype=dtype, device="cpu").fill_(7)
    assert (tensor.shape, tensor.dtype) == (shape, dtype)
    assert tensor.is_contiguous()
    assert (tensor == 7).all()


def test_memory_is_given_once():
    first, second = (fresh((4, 4), dtype=torch.float32, device="cpu") for _ in range(2))
    first.zero_()
    second.fill_(1)
    assert (first == 0).all()


def test_memory_is_where_it_is_asked_for():
    assert fresh((2, 2), dtype=torch.float32, device="meta").device.type == "meta"
