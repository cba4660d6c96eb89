"""Where each attack gets at a detector, one module each."""
