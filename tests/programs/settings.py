"""Says what Keras is set to once the package is imported, and what a network then is."""

import keras

import cifar10_resnet50 as step1
from noisy_student import backend  # noqa: F401

network = step1.build_resnet(14, 0.03)
print(keras.config.image_data_format(), keras.config.floatx(), keras.config.dtype_policy().name,
      network.get_layer("pool").output.shape[1], network.get_layer("logits").kernel.dtype)
