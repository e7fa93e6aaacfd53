"""Reference architectures, each a builder key -> module with its parametrization."""

from ntkuq.models.architectures.convolutional import CNN as CNN, cnn as cnn
from ntkuq.models.architectures.dense import mlp as mlp
from ntkuq.models.architectures.residual import ResNet as ResNet, resnet as resnet
from ntkuq.models.architectures.words import describe as describe
