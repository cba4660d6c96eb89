"""Natural changes of images, each at five severities: lamps dim, cameras move, lenses go out of focus."""
