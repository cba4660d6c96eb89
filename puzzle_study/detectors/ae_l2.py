"""An autoencoder with the squared error of each pixel (Bergmann et al. 2019); `autoencoders.py` has its network."""

from __future__ import annotations

from puzzle_study.detectors.autoencoders import SOURCE, Autoencoder, AutoencoderSettings


class AEL2(Autoencoder):
    """The error of an image is the mean square difference between it and what a convolutional autoencoder rebuilds."""

    name = "ae_l2"
    title = "AE-L2"
    source = SOURCE
    Settings = AutoencoderSettings
