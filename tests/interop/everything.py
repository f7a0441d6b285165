"""A small net with every operation that a row can have, both kinds of pools, groups, and pads of two sizes."""

from configs import paper


def get_config():
    config = paper.get_config()
    config.name = "everything"
    model = config.model
    model.num_classes = 7
    for name in ("conv3", "conv4", "conv5"):
        del model.convs[name]
    average = dict(kind="average", window=3, stride=2, rounding="ceil")
    model.convs.conv1.update(
        features=8, kernel=5, stride=2, pad=(0, 3), then=("batch_norm", "lrn", "pool", "act")
    )
    model.convs.conv2.update(
        features=12, kernel=4, pad=(1, 2), then=("act", "lrn", "spatial_norm", "pool"), pool=average
    )
    model.spatial_norm.update(size=4, alpha=0.05)
    model.lrn_constants.update(n=3, alpha=0.01)
    model.fcs.fc6.update(features=16, groups=2, before=("batch_norm", "dropout"))
    model.fcs.fc7.update(features=8, groups=2, then=("act", "dropout", "batch_norm"))
    config.data.source = "synthetic"
    config.data.image_size = 36
    config.augment.crop_size = 31
    config.augment.update(scale=1 / 64, color_std=0.0)
    return config
