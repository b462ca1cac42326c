"""What notebooks on this host may import, and the server's configuration beside it."""
