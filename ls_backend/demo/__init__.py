"""A complete installation on one machine, started by one command: for trying the product and for its tests."""
