"""The pretend GPU fails where a real one fails, and changes no number."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tests.devices.pretend import CPU, PRETEND, Generator, PretendDevice, pretend_device
from tests.tiny import tiny_pipeline


@pytest.fixture
def pretend() -> Iterator[PretendDevice]:
    with pretend_device() as found:
        yield found


def there(*shape: int, **more: Any) -> Tensor:
    return torch.ones(shape, device="cuda", **more)


MIXED: dict[str, Callable[[], Any]] = {
    "add": lambda: there(3) + torch.ones(3),
    "add to the right": lambda: torch.ones(3) + there(3),
    "product": lambda: there(3, 3) @ torch.ones(3, 3),
    "concatenation": lambda: torch.cat([there(3), torch.ones(3)]),
    "stack of numbers": lambda: torch.stack([there(), torch.ones(())]),
    "where": lambda: torch.where(torch.ones(3).bool(), there(3), 0.0),
    "mask": lambda: there(3).masked_fill(torch.ones(3).bool(), 0.0),
    "embedding": lambda: nn.functional.embedding(torch.zeros(1, dtype=torch.long), there(2, 2)),
    "layer": lambda: nn.Linear(3, 3)(there(2, 3)),
    "convolution": lambda: nn.Conv2d(1, 1, 1).to("cuda")(torch.ones(1, 1, 2, 2)),
    "in place": lambda: torch.ones(3).add_(there(3)),
    "in place on a number": lambda: torch.zeros(()).add_(there()),
    "index on the device": lambda: torch.ones(3)[there(1).long()],
    "values on the CPU": lambda: there(3).index_put_((torch.tensor([0, 1]),), torch.ones(2)),
    "rows by select": lambda: there(3).index_select(0, torch.tensor([0])),
    "equality": lambda: torch.equal(there(3), torch.ones(3)),
    "attention": lambda: nn.functional.scaled_dot_product_attention(
        there(1, 1, 2, 4), torch.ones(1, 1, 2, 4), there(1, 1, 2, 4)
    ),
}


@pytest.mark.usefixtures("pretend")
@pytest.mark.parametrize("name", list(MIXED))
def test_mixed_devices_are_refused(name: str) -> None:
    with pytest.raises(RuntimeError, match="same device|on cpu"):
        MIXED[name]()


@pytest.mark.usefixtures("pretend")
def test_numbers_and_indices_may_lie_on_the_cpu() -> None:
    number = torch.tensor(2.0)
    found = [there(3) * number, number - there(3), there(3).masked_fill(there(3).bool(), number)]
    found += [
        there(3)[torch.tensor([0, 2])],
        there(3)[torch.tensor([True, False, True])],
        there(3)[[0, 1]],
        there(3)[1],
    ]
    found += [there(3).index_put_((torch.tensor([0, 1]),), number), torch.where(there(3) > 0, there(3), 0.0)]
    assert {one.device for one in found} == {PRETEND}


MAKERS: dict[str, Callable[..., Tensor]] = {
    "zeros": lambda **how: torch.zeros(3, **how),
    "full": lambda **how: torch.full((3,), 2.0, **how),
    "arange": lambda **how: torch.arange(3, **how),
    "linspace": lambda **how: torch.linspace(0, 1, 3, **how),
    "eye": lambda **how: torch.eye(3, **how),
    "empty": lambda **how: torch.empty(3, **how),
    "randn": lambda **how: torch.randn(3, **how),
    "randint": lambda **how: torch.randint(3, (3,), **how),
    "tensor": lambda **how: torch.tensor([1.0, 2.0], **how),
    "as_tensor of a list": lambda **how: torch.as_tensor([1.0, 2.0], **how),
    "as_tensor of a tensor": lambda **how: torch.as_tensor(torch.ones(3), **how),
    "as_tensor of an array": lambda **how: torch.as_tensor(np.ones(3), **how),
    "zeros_like": lambda **how: torch.zeros_like(torch.ones(3), **how),
    "new_zeros": lambda **how: torch.ones(3).new_zeros(3, **how),
}


@pytest.mark.usefixtures("pretend")
@pytest.mark.parametrize("name", list(MAKERS))
def test_new_tensors_are_where_they_were_wanted(name: str) -> None:
    assert MAKERS[name]().device == CPU
    for device in ("cuda", "cuda:0", PRETEND):
        found = MAKERS[name](device=device)
        assert found.device == PRETEND and found.is_cuda and not found.is_cpu and found.get_device() == 0
    assert MAKERS[name](device="meta").is_meta


@pytest.mark.usefixtures("pretend")
def test_results_are_on_the_device_of_what_they_are_made_from() -> None:
    x = there(4, 4)
    found = [x[0], x.T, x.clone(), x.detach(), x.reshape(2, 8), x.sum(), x.new_zeros(2), torch.zeros_like(x), x > 0]
    found += [*x.split(2), *torch.linalg.eigh(x), torch.quantile(x, 0.5), x.repeat_interleave(2, 0), nn.Parameter(x)]
    found += [x.half(), x.to(torch.bfloat16), x.double(), x.to(x), torch.cov(x), x.type(torch.float16)]
    assert {one.device for one in found} == {PRETEND}
    assert torch.zeros_like(x, device="cpu").device == CPU
    here = torch.zeros(4)
    here.copy_(x[0])
    assert here.device == CPU and here.eq(1).all()


@pytest.mark.usefixtures("pretend")
def test_moving_copies_and_staying_does_not() -> None:
    x = torch.ones(3)
    for moved in (x.to("cuda"), x.to(PRETEND, torch.float16), x.to(device="cuda"), x.to(there(1)), x.cuda()):
        assert moved.device == PRETEND and x.device == CPU
    y = x.to("cuda")
    for back in (y.cpu(), y.to("cpu"), y.to(x), y.type_as(x)):
        back.zero_()
        assert back.device == CPU and y.eq(1).all()
    assert y.to("cuda") is y and x.to("cpu") is x and y.to("cuda", copy=True) is not y
    assert y.to("meta").is_meta
    layer = nn.Linear(2, 2)
    state = {name: value.clone() for name, value in layer.state_dict().items()}
    layer.to("cuda")
    layer.load_state_dict(state)
    assert {value.device for value in layer.state_dict().values()} == {PRETEND}
    assert {value.device for value in layer.cpu().parameters()} == {CPU}


@pytest.mark.usefixtures("pretend")
def test_arrays_are_made_on_the_host_only() -> None:
    for read in (lambda x: x.numpy(), np.asarray):
        with pytest.raises(TypeError, match="can't convert cuda:0"):
            read(there(3))
        assert read(there(3).cpu()).tolist() == [1, 1, 1]


WAITING: dict[str, Callable[[Tensor], Any]] = {
    "item": lambda x: x[0].item(),
    "bool": lambda x: bool(x[0]),
    "float": lambda x: float(x[0]),
    "list": lambda x: x.tolist(),
    "copy": lambda x: x.cpu(),
    "copy into": lambda x: torch.zeros(3).copy_(x),
    "equal": lambda x: torch.equal(x, x),
    "nonzero": lambda x: x.nonzero(),
    "mask": lambda x: x[x > 0],
}


@pytest.mark.parametrize("name", list(WAITING))
def test_reads_make_the_host_wait(pretend: PretendDevice, name: str) -> None:
    WAITING[name](torch.ones(3))
    x = there(3)
    y = (x * 2 + torch.tensor(1.0))[torch.tensor([0, 1, 2])]
    torch.zeros(3).to("cuda")
    assert pretend.waits == []
    WAITING[name](y)
    assert len(pretend.waits) == 1


@pytest.mark.usefixtures("pretend")
def test_generators_draw_on_their_own_device() -> None:
    drawn = torch.randn(3, generator=Generator().manual_seed(1), device="cuda")
    assert drawn.device == PRETEND
    assert torch.equal(drawn.cpu(), torch.randn(3, generator=torch.Generator().manual_seed(1)))
    assert Generator().device == PRETEND and Generator("cpu").device == CPU
    for draw in (
        lambda: torch.randn(3, generator=torch.Generator(), device="cuda"),
        lambda: torch.randn(3, generator=Generator()),
        lambda: there(3).normal_(generator=torch.Generator()),
        lambda: torch.multinomial(there(3), 1, generator=torch.Generator()),
        lambda: nn.init.kaiming_uniform_(there(3, 3), generator=torch.Generator()),
    ):
        with pytest.raises(RuntimeError, match="device type for generator"):
            draw()


@pytest.mark.usefixtures("pretend")
def test_gradients_are_where_their_tensors_are() -> None:
    here, far = torch.ones(2, 3, requires_grad=True), nn.Linear(3, 3).to("cuda")
    optimizer = torch.optim.AdamW(far.parameters(), 0.1)
    before = far.weight.detach().clone()

    def block(x: Tensor) -> Tensor:
        return far(x).relu() + torch.zeros(3, device=x.device)

    found: Any = checkpoint(block, here.to("cuda"), use_reentrant=False)
    found.square().sum().backward()
    assert here.grad is not None and here.grad.device == CPU
    assert {value.grad.device for value in far.parameters() if value.grad is not None} == {PRETEND}
    optimizer.step()
    assert far.weight.device == PRETEND and not torch.equal(far.weight, before)


def test_a_pipeline_draws_the_same_picture_as_on_the_cpu(pretend: PretendDevice) -> None:
    pipeline: Any = tiny_pipeline().to(pretend.device)

    def draw() -> Tensor:
        generator = torch.Generator().manual_seed(0)
        return pipeline("a cat", num_inference_steps=2, output_type="pt", generator=generator).images

    far = draw()
    pipeline.to("cpu")
    here = draw()
    assert far.device == PRETEND and here.device == CPU and torch.equal(far.cpu(), here)


def test_afterwards_there_is_no_device() -> None:
    with pretend_device():
        x = there(3)
    assert x.device == CPU and (x + torch.ones(3)).tolist() == [2, 2, 2]
