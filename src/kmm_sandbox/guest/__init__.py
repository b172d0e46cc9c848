"""What runs inside a node: started by path, with nothing but the standard library."""
