"""The study engine: what to train next, who trains it, and which configuration wins."""
