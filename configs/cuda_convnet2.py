"""The one-GPU ImageNet net of cuda-convnet2 (2014), with the layer sizes of "One weird trick".

Command: alexnet train --config cuda_convnet2 --workdir runs/cuda_convnet2 \
             --config.data.path=/data/imagenet
Cost:    90 epochs of 1,281,167 images: 900,800 steps of 128.
Expect:  42.55 % top-1, 19.81 % top-5 error and 1.864 nats on the validation images of 2012, center
         crop; 40.42 %, 18.15 % and 1.734 nats with ten views (wiki of cuda-convnet2, TrainingExample).

Values are from layers-imagenet-1gpu.cfg and layer-params-imagenet-1gpu.cfg, unless a comment says otherwise.
"""

from . import krizhevsky2012

FEATURES = dict(conv1=64, conv2=192, conv3=384, conv4=256, conv5=256)


def get_config():
    config = krizhevsky2012.get_config()
    config.name = "cuda_convnet2"

    model = config.model
    model.towers = 1
    for name, features in FEATURES.items():
        model.convs[name].update(features=features, groups=1)
    model.convs.conv2.then = ("act", "lrn", "pool")  # no spatial normalization
    model.fcs.fc8.bias = -7.0

    # Unlike 2012, data.py of 2014 draws a crop for each image (not checked against its source).
    config.augment.crop_chunk = 1
    config.augment.color_off_epoch = None  # color noise of 0.1 to the end

    schedule = config.schedule
    schedule.weights = dict(kind="dexp", learning_rate=0.01, target=250.0, plateaus=4)
    schedule.biases = dict(kind="dexp", learning_rate=0.02, target=10.0, plateaus=2)
    del schedule.layer_factors.conv1
    config.train.epochs = 90.0
    return config
