"""The places at which a detector is attacked, one module each."""
