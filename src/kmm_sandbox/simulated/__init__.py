"""Nodes whose kernel is simulated: for machines without root or without User-Mode Linux."""
