"""What KMM costs and how fast it is, as figures; `make bench` prints them."""
