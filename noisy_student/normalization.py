"""Batch normalization in one kernel, where the backend has one."""

import keras
from keras import layers, ops

from noisy_student.backend import normalize_batch


@keras.saving.register_keras_serializable(package="noisy_student")
class BatchNormalization(layers.BatchNormalization):
    """Keras' own layer for images (batch, h, w, c), several times faster in training.

    Keras computes the moments and then five elementwise operations, each of which reads and writes
    all of the images. TensorFlow and PyTorch have one kernel for all of it. Weights, gradients and
    running statistics are Keras' to rounding, and so are their names: either layer loads the
    other's.
    """

    def offset(self):
        """What is added after the normalization, (c,), or None."""
        return self.beta

    def call(self, inputs, training=None, mask=None):
        if training and self.trainable:
            outputs, mean, variance = normalize_batch(inputs, self.gamma, self.offset(),
                                                      self.epsilon)
            for moving, now in ((self.moving_mean, mean), (self.moving_variance, variance)):
                moving.assign(moving * self.momentum + now * (1 - self.momentum))
            return outputs
        images = ops.cast(inputs, "float32")
        outputs = ops.batch_normalization(images, self.moving_mean, self.moving_variance, -1,
                                          self.offset(), self.gamma, self.epsilon)
        return ops.cast(outputs, self.compute_dtype)
