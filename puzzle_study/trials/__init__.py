"""One trial, from its specification to its record, in a plain process."""
