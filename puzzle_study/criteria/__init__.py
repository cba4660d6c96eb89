"""How configurations are compared: label-free criteria, and `oracle`, which uses test labels and says so."""
