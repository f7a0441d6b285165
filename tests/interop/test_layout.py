import numpy as np
import pytest

from alexnet_jax.interop import layout


def draw(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def test_kernels_of_convolutions_turn_around_and_back():
    kernel = draw(2, 3, 4, 5)
    weight = layout.hwio_to_oihw(kernel)
    assert weight.shape == (5, 4, 2, 3) and weight[4, 3, 1, 2] == kernel[1, 2, 3, 4]
    assert np.array_equal(layout.oihw_to_hwio(weight), kernel)
    turned = layout.swap_red_and_blue(draw(2, 2, 3, 4))
    assert np.array_equal(turned[:, :, 0], draw(2, 2, 3, 4)[:, :, 2])
    assert np.array_equal(layout.swap_red_and_blue(turned), draw(2, 2, 3, 4))


@pytest.mark.parametrize("groups", [1, 2])
def test_a_dense_row_sees_the_same_maps_in_either_order(groups):
    """By its definition: maps flattened [c h w] here, [h w c] within each group there."""
    height, width, channels, out = 2, 3, 4, 6
    maps, each = draw(height, width, channels), channels // groups
    ours = [
        maps[y, x, group * each + c]
        for group in range(groups) for y in range(height) for x in range(width) for c in range(each)
    ]  # fmt: skip
    theirs = [maps[y, x, c] for c in range(channels) for y in range(height) for x in range(width)]
    kernel = draw(groups, len(ours) // groups, out // groups)
    parts = np.split(np.array(ours), groups)
    expected = np.concatenate([part @ block for part, block in zip(parts, kernel, strict=True)])
    kernel = kernel if groups > 1 else kernel[0]
    order = layout.channels_first(height, width, channels, groups)
    weight = layout.dense_to_rows(kernel, order)
    assert weight.shape == (out, height * width * channels)
    np.testing.assert_allclose(weight @ np.array(theirs), expected, rtol=1e-5)
    assert np.array_equal(layout.rows_to_dense(weight, groups, order), kernel)


def test_weights_between_groups_are_not_dropped():
    weight = layout.dense_to_rows(draw(2, 3, 4))
    assert weight.shape == (8, 6) and np.count_nonzero(weight) == 24
    weight[7, 0] = 1e-30
    with pytest.raises(ValueError, match="between different groups"):
        layout.rows_to_dense(weight, 2)
