"""The models: the network, and the builders a user calls."""
