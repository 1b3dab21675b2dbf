"""Whatever can be asked of one graph, of whole architectures. Reference: plain
autograd on the original, float64."""

import copy
import threading

import pytest
import torch

from compare import near, square

pytestmark = pytest.mark.usefixtures("hazard")

IMAGES = ["revnet", "revvit", "revmlp", "invlinear", "realnvp", "glow"]


@pytest.mark.parametrize("name", IMAGES)
def test_everything_asked_of_one_graph(archives, name):
    """Of one forward: twice the same, a part of the inputs, second derivatives,
    then the rest; on another thread; and once more after a copy was made."""
    models = [torch.jit.load(p).train(False)
              for p in archives(name, "scripted", "float64")]
    torch.manual_seed(4)
    images = torch.randn(2, 1, 8, 8)

    def body(model):
        leaves = [images.clone().requires_grad_(), *model.parameters()]
        loss = square(model(leaves[0]))
        found = []

        def ask(value, wanted, **how):
            found.extend(torch.autograd.grad(value, wanted, allow_unused=True,
                                             **how))

        ask(loss, leaves, retain_graph=True)
        ask(loss, leaves[2::3], retain_graph=True)
        g, = torch.autograd.grad(loss, leaves[:1], create_graph=True)
        ask((g * g).sum(), leaves, retain_graph=True)
        copy.deepcopy(model)
        thread = threading.Thread(target=ask, args=(loss, leaves))
        thread.start()
        thread.join()
        with pytest.raises(RuntimeError, match="a second time"):
            ask(loss, leaves)
        return found

    near(body(models[1]), body(models[0]), 1e-9)


@pytest.mark.parametrize("name", IMAGES)
def test_vmap_over_images(archives, name):
    models = [torch.jit.load(p).train(False)
              for p in archives(name, "scripted", "float64")]
    torch.manual_seed(4)
    images = torch.randn(3, 1, 8, 8)

    def values(model):
        one = torch.func.grad(lambda t: square(model(t[None])))
        return [torch.func.vmap(one)(images)]

    near(values(models[1]), values(models[0]), 1e-9)
