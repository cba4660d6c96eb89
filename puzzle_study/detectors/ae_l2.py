"""An autoencoder with each pixel's squared error (Bergmann et al. 2019); `autoencoders.py` has its network."""

from __future__ import annotations

from puzzle_study.detectors.autoencoders import SOURCE, Autoencoder, AutoencoderSettings


class AEL2(Autoencoder):
    """An image's error is its mean square difference from its reconstruction by a convolutional autoencoder."""

    name = "ae_l2"
    title = "AE-L2"
    source = SOURCE
    Settings = AutoencoderSettings
