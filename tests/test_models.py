"""Networks: their shapes, their size, and what they are before the first step."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from paperlib import models
from paperlib.models import SpeedNet
from paperlib.models._common import Conv1x1

IMAGE = (3, 32, 32)


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("name, shape, settings", [
    ("mlp", (2,), {}), ("mlp", (16, 16, 1), {"width": 8, "depth": 3}), ("mlp", (5,), {"depth": 0}),
    ("polynomial", (2,), {"depth": 4}), ("polynomial", (1, 3, 3), {}),
    ("resnet18", IMAGE, {"width": 4}), ("resnet18", (1, 16, 16), {"width": 4}),
    ("wrn", IMAGE, {"width": 1, "depth": 10}), ("wrn", (1, 16, 16), {"width": 2, "depth": 16}),
    ("densenet", IMAGE, {"width": 4, "depth": 10}), ("densenet", (1, 20, 12), {"width": 3, "depth": 16}),
    ("speednet", IMAGE, {"width": 8}), ("speednet", IMAGE, {"width": 8, "depth": 2}),
    ("speednet", (1, 9, 9), {"width": 8}), ("speednet", (3, 24, 32), {"width": 8}),
])
def test_one_row_of_float32_logits_a_sample_also_under_bfloat16(name, shape, settings):
    model = models.build(name, shape, 7, seed=0, **settings)
    inputs = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0))
    full = model(inputs)
    assert full.shape == (3, 7) and full.dtype == torch.float32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = model(inputs)
    assert half.shape == (3, 7) and half.dtype == torch.float32
    # Not merely cast at the end: logits of bfloat16 would survive a round trip through it.
    assert not torch.equal(half, half.bfloat16().float())
    assert full.isfinite().all() and full.std() > 0


@pytest.mark.parametrize("name, shape, classes, settings, expected", [
    ("mlp", (2,), 5, {}, 2 * 64 + 64 + 64 * 5 + 5),
    ("mlp", (2,), 5, {"width": 3, "depth": 2}, (2 * 3 + 3) + (3 * 3 + 3) + (3 * 5 + 5)),
    ("mlp", (4,), 5, {"depth": 0}, 4 * 5 + 5),
    ("polynomial", (2,), 5, {"depth": 3}, (2 + 3 + 4) * 5 + 5),  # x, y, xx, xy, yy, xxx, ...
    ("polynomial", (4,), 5, {}, (4 + 10) * 5 + 5),
    ("resnet18", IMAGE, 10, {}, 11_173_962),  # the well-known size of the CIFAR ResNet-18
    ("resnet18", IMAGE, 100, {}, 11_220_132),
    # 3 x 3 convolutions and as many batch norms a group, the frozen 2 x 2 whitening, a head without bias.
    ("speednet", IMAGE, 100, {}, 24 * 12 + 9 * (24 * 32 + 2 * 32 * 32) + 9 * (32 * 128 + 2 * 128 * 128)
     + 9 * (128 * 256 + 2 * 256 * 256) + 6 * (32 + 128 + 256) + 256 * 100),
    ("speednet", IMAGE, 100, {"depth": 2}, 24 * 12 + 9 * (24 * 32 + 32 * 32) + 9 * (32 * 128 + 128 * 128)
     + 9 * (128 * 256 + 256 * 256) + 4 * (32 + 128 + 256) + 256 * 100),
])
def test_sizes(name, shape, classes, settings, expected):
    assert parameters(models.build(name, shape, classes, **settings)) == expected


@pytest.mark.parametrize("name, settings, classes, millions", [
    # In millions, as the tables of the two papers give them.
    ("wrn", {}, 10, 36.5), ("wrn", {"depth": 28, "width": 10}, 100, 36.5), ("wrn", {"depth": 40, "width": 4}, 10, 8.9),
    ("wrn", {"depth": 16, "width": 8}, 10, 11.0), ("wrn", {"depth": 22, "width": 8}, 10, 17.2),
    ("wrn", {"depth": 40, "width": 1}, 10, 0.6), ("wrn", {"depth": 40, "width": 2}, 10, 2.2),
    ("densenet", {}, 10, 0.8), ("densenet", {"depth": 100, "width": 12}, 100, 0.8),
    ("densenet", {"depth": 250, "width": 24}, 10, 15.3), ("densenet", {"depth": 190, "width": 40}, 10, 25.6),
])
def test_sizes_are_those_of_the_literature(name, settings, classes, millions):
    with torch.device("meta"):
        model = models.build(name, IMAGE, classes, **settings)
    assert round(parameters(model) / 1e6, 1) == millions


@pytest.mark.parametrize("name, settings, convolutions", [
    ("wrn", {"depth": 28, "width": 2}, 28), ("wrn", {"depth": 16, "width": 1}, 16),
    ("densenet", {"depth": 100}, 100), ("densenet", {"depth": 40, "width": 6}, 40)])
def test_depth_counts_layers_with_weights(name, settings, convolutions):
    """The head is one of them; in wide networks the 1 x 1 shortcuts, which lie beside the path, make up for it."""
    with torch.device("meta"):
        model = models.build(name, IMAGE, 10, **settings)
    layers = [n for n, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    on_path = [n for n in layers if "shortcut" not in n]
    assert len(on_path) == convolutions - (2 if name == "wrn" else 0)
    assert len(layers) - len(on_path) == (3 if name == "wrn" and settings["width"] > 1 else 2 if name == "wrn" else 0)


def test_wide_and_dense_networks_end_with_8_by_8_features():
    for name, channels in (("wrn", 128), ("densenet", None)):
        net = models.build(name, IMAGE, 10, width=2, depth=10, seed=0).eval()
        features = net.blocks(net.stem(torch.zeros(1, *IMAGE)))
        assert features.shape[2:] == (8, 8) and channels in (None, features.shape[1])


def test_a_dense_layer_keeps_what_it_was_given():
    net = models.build("densenet", IMAGE, 10, width=4, depth=10, seed=0)
    x = torch.randn(2, 8, 6, 6)
    out = net.blocks[0](x)
    assert out.shape[1] == 8 + 4 and torch.equal(out[:, :8], x)


def test_the_same_seed_gives_the_same_weights_and_leaves_the_global_generator_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    for name in models.MODELS:
        settings = {"depth": 1} if name == "polynomial" else {"width": 8}
        shape = (2,) if name == "polynomial" else IMAGE
        one, same, other = (models.build(name, shape, 10, seed=seed, **settings) for seed in (1, 1, 2))
        weights = dict(same.named_parameters())
        assert all(torch.equal(value, weights[key]) for key, value in one.named_parameters()), name
        assert not torch.equal(one.head.weight, other.head.weight), name
    assert torch.equal(torch.get_rng_state(), before)


def test_without_a_seed_the_global_generator_decides():
    torch.manual_seed(5)
    one, other = models.build("mlp", (2,), 3), models.build("mlp", (2,), 3)
    torch.manual_seed(5)
    assert torch.equal(models.build("mlp", (2,), 3).head.weight, one.head.weight)
    assert not torch.equal(one.head.weight, other.head.weight)


@pytest.mark.parametrize("name, shape, settings, message", [
    ("speadnet", IMAGE, {}, "unknown model 'speadnet': did you mean 'speednet'.* Valid models: mlp, poly"),
    ("speednet", IMAGE, {"depth": 4}, "model 'speednet' with depth=4: expected 2 or 3 convolutions a group"),
    ("resnet18", IMAGE, {"depth": 34}, "model 'resnet18' takes no depth: expected None, got 34"),
    ("wrn", IMAGE, {"depth": 20}, r"model 'wrn' with depth=20: expected 6 n \+ 4"),
    ("wrn", IMAGE, {"depth": 4}, "model 'wrn' with depth=4"),
    ("densenet", IMAGE, {"depth": 101}, "model 'densenet' with depth=101: expected 6 n"),
    ("speednet", (3, 8, 32), {}, r"at least 9 x 9 pixels, got shape \(3, 8, 32\)"),
    ("speednet", (2,), {}, r"takes images: expected an input shape \(channels, H, W\), got \(2,\); .*'mlp'"),
    ("polynomial", (2,), {"width": 3}, "model 'polynomial' takes no width: expected None, got 3"),
    ("polynomial", (2,), {"depth": 0}, "depth=0: expected a degree of at least 1"),
    ("polynomial", IMAGE, {}, "degree 2 in 3072 inputs has 4,723,200 features: expected at most 2,000"),
    ("wrn", IMAGE, {"width": 0}, "model 'wrn' with width=0: expected a whole number of at least 1"),
    ("densenet", IMAGE, {"width": 1.5}, "model 'densenet' with width=1.5: expected a whole number"),
    ("densenet", (3, 3, 8), {}, r"at least 4 x 4 pixels, got shape \(3, 3, 8\)"),
    ("mlp", (2,), {"depth": -1}, "model 'mlp' with depth=-1: expected a whole number of at least 0"),
    ("resnet18", (32, 32), {}, r"takes images: .*got \(32, 32\)"),
])
def test_what_cannot_be_built_is_named(name, shape, settings, message):
    with pytest.raises(ValueError, match=message):
        models.build(name, shape, 10, **settings)


# Speednet before its first step.


@pytest.fixture(scope="module")
def pictures():
    """Smooth random images, whose neighbouring pixels and channels are correlated as in photographs."""
    noise = torch.randn(400, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    smooth = nn.functional.avg_pool2d(noise, 3, stride=1)
    mixed = torch.einsum("ij,bjhw->bihw", torch.tensor([[1.0, 0.5, 0.2], [0.5, 1.0, 0.1], [0.1, 0.4, 1.0]]), smooth)
    return mixed / mixed.std()


def whitened(net: SpeedNet, images: torch.Tensor) -> torch.Tensor:
    """Outputs of the first layer, one row a patch, float64."""
    return net.whiten(images).movedim(1, -1).reshape(-1, net.whiten.out_channels).double()


def test_the_first_layer_whitens_patches(pictures):
    net = models.build("speednet", (3, 10, 10), 10, width=8, seed=0)
    models.prepare(net, pictures)
    out = whitened(net, pictures)
    positive, negative = out[:, :12], out[:, 12:]
    assert torch.equal(positive, -negative)
    second_moments = positive.T @ positive / len(positive)
    torch.testing.assert_close(second_moments, torch.eye(12, dtype=torch.float64), atol=0.05, rtol=0)
    # Correlated before: otherwise there was nothing to whiten.
    patches = pictures.unfold(2, 2, 1).unfold(3, 2, 1).permute(0, 2, 3, 1, 4, 5).reshape(-1, 12)
    assert patches.T.cov()[0, 1] > 0.3 * patches.var()


def test_directions_in_which_patches_do_not_vary_stay_quiet(pictures):
    flat = pictures.clone()
    flat[:, 2] = flat[:, 1]  # two equal channels: four directions of no variance
    net = SpeedNet((3, 10, 10), 10, width=8)
    net.prepare(flat)
    moments = whitened(net, flat)[:, :12].square().mean(dim=0).sort().values
    assert (moments[:4] < 1e-6).all() and (moments[4:] > 0.9).all()
    assert net.whiten.weight.isfinite().all() and net.whiten.weight.abs().max() < 1 / 5e-4**0.5 + 1e-3


def test_whitening_is_frozen_and_everything_else_has_a_gradient(pictures):
    net = models.build("speednet", (3, 10, 10), 10, width=8, seed=0)
    models.prepare(net, pictures)
    nn.functional.cross_entropy(net(pictures[:50]), torch.arange(50) % 10).backward()
    assert [name for name, value in net.named_parameters() if value.grad is None] == ["whiten.weight"]
    assert all(value.grad.any() for name, value in net.named_parameters() if value.grad is not None)


@pytest.mark.parametrize("width", [8, 64])
def test_convolutions_start_as_the_identity_on_their_first_inputs(width):
    net = models.build("speednet", IMAGE, 10, width=width, seed=0)
    for conv in (module for module in net.groups.modules() if isinstance(module, nn.Conv2d)):
        passed = min(conv.in_channels, conv.out_channels)
        images = torch.randn(2, conv.in_channels, 5, 5)
        torch.testing.assert_close(conv(images)[:, :passed], images[:, :passed])
        if conv.out_channels > conv.in_channels:  # the others are drawn at random
            assert conv.weight[passed:].std() > 0


def test_a_third_convolution_comes_with_a_shortcut(pictures):
    for depth, shortcut in ((2, False), (3, True)):
        group = models.build("speednet", (3, 10, 10), 10, width=8, depth=depth, seed=0).groups[1]
        nn.init.zeros_(group.rest[-1].weight)  # the batch norm before the shortcut: only that is left
        features = torch.randn(4, 4, 8, 8)
        expected = group.first(features) if shortcut else torch.zeros(4, 16, 4, 4)
        torch.testing.assert_close(group(features), expected)


def test_preparation_leaves_models_without_such_a_layer_alone():
    net = models.build("mlp", IMAGE, 10, seed=0)
    before = net.head.weight.clone()
    models.prepare(net, torch.randn(5, *IMAGE))
    assert torch.equal(net.head.weight, before)


@pytest.mark.parametrize("inputs, stride", [(4, 2), (8, 2), (16, 2), (4, 1)])
def test_a_pointwise_convolution_is_right_with_few_channels(inputs, stride):
    """Where oneDNN is wrong by itself it also writes where it must not, so this is not tried without the detour."""
    layer = Conv1x1(inputs, 2 * inputs, stride).to(memory_format=torch.channels_last)
    plain = nn.Conv2d(inputs, 2 * inputs, 1, stride=stride, bias=False).double()
    plain.load_state_dict(layer.state_dict())
    x = torch.randn(8, inputs, 16, 16).to(memory_format=torch.channels_last)
    for function, given in ((layer, x), (plain, x.double())):
        function(given).square().sum().backward()
    torch.testing.assert_close(layer(x).double(), plain(x.double()), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(layer.weight.grad.double(), plain.weight.grad, rtol=1e-4, atol=1e-3)


def test_resnet_halves_the_image_three_times():
    net = models.build("resnet18", IMAGE, 10, width=4).eval()
    features = net.stem(torch.zeros(1, *IMAGE))
    sides = [features.shape[-1]]
    for block in net.blocks:
        features = block(features)
        sides.append(features.shape[-1])
    assert sides == [32, 32, 32, 16, 16, 8, 8, 4, 4] and features.shape[1] == 32


def test_speednet_refuses_images_that_were_scaled_down_too_far():
    model = models.build("speednet", (3, 32, 32), 10, width=8)
    with pytest.raises(ValueError, match=r"at least 9 x 9 pixels, got shape \(3, 8, 8\)"):
        model(torch.zeros(2, 3, 8, 8))
    assert model(torch.zeros(2, 3, 9, 9)).shape == (2, 10)
