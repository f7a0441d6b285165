"""The smallest config with every mechanism in it, for tests: synthetic images, two towers, plateau schedule."""

from configs import paper


def get_config():
    config = paper.get_config()
    config.name = "tiny"
    model = config.model
    model.num_classes = 10
    pool = dict(kind="max", window=3, stride=2, rounding="ceil")
    model.convs = dict(
        conv1=dict(
            kind="conv", features=8, kernel=5, stride=2, pad=(2, 2), groups=1, init_std=0.01, bias=0.0,
            then=("act", "lrn", "pool"), pool=pool,
        ),
        conv2=dict(
            kind="conv", features=8, kernel=3, stride=1, pad=(1, 1), groups=2, init_std=0.1, bias=0.1,
            then=("act",),
        ),
    )  # fmt: skip
    model.fcs = dict(
        fc6=dict(features=16, groups=1, init_std=0.1, bias=0.1, before=(), then=("act", "dropout")),
        fc7=dict(features=None, groups=1, init_std=0.1, bias=0.0, before=(), then=()),
    )
    config.data.update(source="synthetic", image_size=16, validation=0.25, threads=1)
    config.augment.crop_size = 14
    config.schedule.weights.learning_rate = 0.002
    config.schedule.weights.patience = 1
    config.train.update(epochs=4.0, batch_size=32, log_every=4, checkpoint_every=6)
    config.evaluation.update(batch_size=32, final_views=("center", "ten"))
    return config
