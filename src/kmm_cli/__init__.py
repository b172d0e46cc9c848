"""The command line for users, also as a kubectl plug-in."""
