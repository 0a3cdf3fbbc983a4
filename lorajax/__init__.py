"""The engine of one replica, and the command line."""
